"""Sentry's asyncio and aiohttp integrations, with a transport that keeps the events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

import sentry_sdk
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.aiohttp import AioHttpIntegration
from sentry_sdk.integrations.asyncio import AsyncioIntegration
from sentry_sdk.transport import Transport

from aiohttp_jobs import Scheduler, atomic, setup, spawn
from tests.work import Boom, fail, give, wait_for

EVENTS: list[dict[str, Any]] = []


class Collector(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            EVENTS.append(dict(event))


def captured() -> list[Any]:
    """Return the type of each failure, with the user and the request of its scope."""
    found = [
        [
            event["exception"]["values"][-1]["type"],
            event.get("tags", {}).get("who"),
            event.get("transaction"),
        ]
        for event in EVENTS
        if "exception" in event
    ]
    EVENTS.clear()
    return found


async def jobs_that_succeed() -> dict[str, Any]:
    async with Scheduler(limit=1) as scheduler:
        go = asyncio.Event()
        running = await scheduler.spawn(wait_for(go), "invoice 7")
        jobs = [await scheduler.spawn(give(n)) for n in range(3)]
        await asyncio.sleep(0)
        named = [task.get_name() for task in asyncio.all_tasks()]
        name = running.get_name()
        go.set()
        results = [await running] + [await job for job in jobs]
    return {
        "results": results,
        "succeeded": scheduler.statistics().succeeded,
        "name": name,
        "tasks": sorted(named),
    }


async def jobs_that_fail() -> list[Any]:
    """One starts at once, and one from the queue; nobody waits for either."""

    async def request(who: str) -> None:
        with sentry_sdk.isolation_scope() as scope:
            scope.set_tag("who", who)
            await scheduler.spawn(fail(go))

    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        for who in ("alice", "bob"):
            await request(who)
        go.set()
    return captured()


async def job_that_is_waited_for() -> list[Any]:
    """Its failure is received."""
    async with Scheduler(limit=1) as scheduler:
        job = await scheduler.spawn(fail(), "received")
        with contextlib.suppress(Boom):
            await job
    return captured()


async def job_that_is_cancelled() -> list[Any]:
    scheduler = Scheduler(limit=1)
    jobs = [await scheduler.spawn(wait_for(asyncio.Event())) for _ in range(2)]
    await jobs[0].close()
    await scheduler.close()
    return [[job.state.name for job in jobs], captured()]


async def requests() -> dict[str, Any]:
    @web.middleware
    async def log_in(request: web.Request, handler: Handler) -> web.StreamResponse:
        sentry_sdk.set_tag("who", request.query["who"])
        return await handler(request)

    @atomic
    async def atomic_handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0)
        raise Boom

    async def spawning_handler(request: web.Request) -> web.Response:
        await spawn(request, fail())
        return web.Response(text="spawned")

    @atomic
    async def working_handler(request: web.Request) -> web.Response:
        return web.Response(text="worked")

    app = web.Application(middlewares=[log_in])
    scheduler = setup(app, limit=1)
    app.router.add_get("/atomic", atomic_handler)
    app.router.add_get("/spawn", spawning_handler)
    app.router.add_get("/work", working_handler)
    found: dict[str, Any] = {}
    async with TestClient(TestServer(app)) as client:
        for path in ("/work", "/atomic", "/spawn"):
            async with client.get(path, params={"who": f"user of {path}"}) as response:
                found[path] = [response.status]
            await scheduler.drain()
            found[path] += captured()
    return found


async def main() -> None:
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=Collector,
        integrations=[AsyncioIntegration(), AioHttpIntegration()],
        auto_enabling_integrations=False,
        shutdown_timeout=0,
    )
    found = {
        function.__name__: await function()
        for function in (
            jobs_that_succeed,
            jobs_that_fail,
            job_that_is_waited_for,
            job_that_is_cancelled,
            requests,
        )
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
