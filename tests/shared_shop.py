"""The application whose workers test_prometheus_workers.py looks at, for gunicorn."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from aiohttp_jobs import setup, spawn
from aiohttp_jobs.prometheus import setup_metrics


async def make_report() -> None:
    await asyncio.sleep(0)


async def work(request: web.Request) -> web.Response:
    await spawn(request, make_report())
    return web.Response(text=str(os.getpid()))


def make() -> web.Application:
    app = web.Application()
    setup(app)
    setup_metrics(app)  # AIOHTTP_JOBS_SHARE says where
    app.router.add_get("/work", work)
    return app


# gunicorn's --preload imports this in its first process, before it forks.
app = make()
