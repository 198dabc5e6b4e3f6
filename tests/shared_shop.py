"""An application whose workers share a dashboard, under gunicorn or by itself.

``AIOHTTP_JOBS_SHARE`` is the shared directory. By itself it serves on a port of its own,
which it prints, and ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from aiohttp_jobs import SCHEDULER, setup, spawn
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.dashboard.process import address_of
from aiohttp_jobs.prometheus import setup_metrics
from tests.loops import settle
from tests.work import Reports, fail, nothing


async def make_report(name: str) -> None:
    """Run until cancelled, and note the name then."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if path := os.environ.get("SHOP_CANCELLED"):
            with open(path, "a") as file:  # noqa: ASYNC230 (a line)
                file.write(f"{name}\n")
        raise


def begin(kind: str, name: str) -> Coroutine[Any, Any, None]:
    match kind:
        case "fail":
            return fail()
        case "nothing":
            return nothing()
        case _:
            return make_report(name)


async def work(request: web.Request) -> web.Response:
    await spawn(request, nothing())
    return web.Response(text=str(os.getpid()))


async def spawn_jobs(request: web.Request) -> web.Response:
    """Spawn jobs, unless there are `most` already; answer with their addresses."""
    query = request.query
    scheduler = request.app[SCHEDULER]
    if len(scheduler) >= int(query.get("most", "1000")):
        return web.json_response([])
    jobs = [
        await scheduler.spawn(
            begin(query.get("kind", "wait"), query.get("name", "")), query.get("name")
        )
        for _ in range(int(query.get("count", "1")))
    ]
    await settle()
    return web.json_response([address_of(job.id) for job in jobs])


async def show_states(request: web.Request) -> web.Response:
    """Answer with the jobs that run or wait here, by address, and the process."""
    scheduler = request.app[SCHEDULER]
    jobs = {address_of(job.id): job.state.name.lower() for job in scheduler}
    return web.json_response(
        {
            "process": os.getpid(),
            "jobs": jobs,
            "held": scheduler.held,
            "limit": scheduler.limit,
        }
    )


async def authorize(request: web.Request) -> tuple[Access, str]:
    """Let every visitor but bob manage, under the name that they give."""
    name = request.headers.get("Visitor", "ann")
    return (Access.READ if name == "bob" else Access.MANAGE), name


def make() -> web.Application:
    app = web.Application()
    wait = float(os.environ.get("SHOP_WAIT", "1"))
    setup(app, limit=10, wait_timeout=wait, exception_handler=Reports())
    setup_metrics(app)
    setup_dashboard(app, "/jobs", authorize=authorize, title="Shop")
    setup_dashboard(app, "/again", authorize=authorize, title="Again")
    app.router.add_get("/work", work)
    app.router.add_get("/spawn", spawn_jobs)
    app.router.add_get("/states", show_states)
    return app


# gunicorn's --preload imports this in its first process, before it forks.
app = make()

if __name__ == "__main__":
    # Print the log, in which the owner of a job says who has asked for what.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("log: %(message)s"))
    logging.getLogger("aiohttp_jobs").addHandler(handler)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    told = json.dumps({"port": listening.getsockname()[1], "process": os.getpid()})

    def ready(*_: object) -> None:
        print(f"ready: {told}", flush=True)  # noqa: T201

    web.run_app(app, sock=listening, print=ready)
