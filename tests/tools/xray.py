"""AWS X-Ray's recorder, whose task factory takes two arguments."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aws_xray_sdk.core import xray_recorder  # type: ignore[import-untyped]
from aws_xray_sdk.core.async_context import (  # type: ignore[import-untyped]
    AsyncContext,
)

from aiohttp_jobs import Scheduler, atomic, setup, spawn
from tests.work import wait_for

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


async def who() -> list[str | None]:
    """Return whose job this is, and in which of X-Ray's segments it runs."""
    await asyncio.sleep(0)
    segment = xray_recorder.current_segment()
    return [user.get(), segment.name if segment is not None else None]


async def request(scheduler: Scheduler, name: str, limited: bool) -> list[str | None]:
    user.set(name)
    with xray_recorder.in_segment(f"segment of {name}"):
        job = await scheduler.spawn(who(), f"job of {name}")
        assert job.pending is limited
        return await job


async def jobs(limited: bool) -> list[Any]:
    go = asyncio.Event()
    async with Scheduler(limit=1 if limited else None) as scheduler:
        await scheduler.spawn(wait_for(go))
        requests = [
            asyncio.create_task(request(scheduler, name, limited))
            for name in ("alice", "bob")
        ]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*requests)


async def requests() -> list[Any]:
    seen = list[Any]()

    async def note(path: str) -> None:
        seen.append([path, (await who())[0]])

    @atomic
    async def atomic_handler(request: web.Request) -> web.Response:
        user.set("carol")
        await spawn(request, note("spawned by an atomic handler"))
        await note("atomic handler")
        return web.Response(text="done")

    app = web.Application()
    scheduler = setup(app, limit=1)
    app.router.add_get("/", atomic_handler)
    async with TestClient(TestServer(app)) as client, client.get("/") as response:
        assert response.status == 200
        await scheduler.drain()
    return sorted(seen)


async def main() -> None:
    context = AsyncContext(loop=asyncio.get_running_loop())
    xray_recorder.configure(
        service="tests", sampling=False, context=context, context_missing="IGNORE_ERROR"
    )
    xray_recorder.emitter.send_entity = lambda entity: None
    found = {
        "at once": await jobs(limited=False),
        "queued": await jobs(limited=True),
        "requests": await requests(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
