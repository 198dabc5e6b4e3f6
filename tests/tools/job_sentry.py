"""JobSentry beside Sentry's own integrations, and a transport that keeps the events."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

import sentry_sdk
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.aiohttp import AioHttpIntegration
from sentry_sdk.integrations.asyncio import AsyncioIntegration
from sentry_sdk.transport import Transport

from aiohttp_jobs import Repeat, Scheduler, atomic, every, repeat, setup, spawn
from aiohttp_jobs.durable import durable, setup_durable, spawn_durable
from aiohttp_jobs.sentry import JobSentry
from tests.processes import until
from tests.work import Boom, fail, give, hang_up, nothing, stubborn, wait_for

SENT: list[dict[str, Any]] = []


class Collector(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        SENT.extend(json.loads(item.get_bytes()) for item in envelope.items)


def sent() -> list[dict[str, Any]]:
    """Return the events sent since the last call."""
    found = [
        {
            "type": "failure" if "exception" in event else event.get("type", "event"),
            "name": event.get("transaction"),
            "status": event.get("contexts", {}).get("trace", {}).get("status"),
            "op": event.get("contexts", {}).get("trace", {}).get("op"),
            "trace": event.get("contexts", {}).get("trace", {}).get("trace_id"),
            "job": event.get("contexts", {}).get("aiohttp_jobs"),
            "user": event.get("user", {}).get("id"),
            "tags": event.get("tags", {}),
            "error": [each["type"] for each in event["exception"]["values"]]
            if "exception" in event
            else None,
            "mechanism": event["exception"]["values"][-1]["mechanism"]["type"]
            if "exception" in event
            else None,
            "spans": [span["description"] for span in event.get("spans", [])],
            "check_in": {
                name: event.get(name)
                for name in (
                    "monitor_slug",
                    "check_in_id",
                    "status",
                    "monitor_config",
                    "duration",
                )
            }
            if "monitor_slug" in event
            else None,
        }
        for event in SENT
    ]
    SENT.clear()
    return found


def ignore(scheduler: Scheduler, context: dict[str, Any]) -> None:
    """An exception handler that logs nothing."""


async def fails(scheduler: Scheduler, who: str, go: asyncio.Event) -> None:
    with sentry_sdk.isolation_scope() as scope:
        scope.set_user({"id": who})
        await scheduler.spawn(fail(go))


async def failures() -> dict[str, Any]:
    """Nobody waits: with the event loop's handler, which logs, and with another one."""
    found = {}
    for name, handler in ("logged", None), ("handled", ignore):
        scheduler = Scheduler(limit=1, exception_handler=handler, observers=[JobSentry()])
        go = asyncio.Event()
        for who in "ann", "bob":
            await fails(scheduler, who, go)
        go.set()
        await scheduler.wait_and_close()
        found[name] = sent()
    return found


async def one_scope() -> list[Any]:
    """The spawner goes on in its scope and changes it, as do the jobs in theirs."""

    async def work(number: int) -> None:
        sentry_sdk.set_tag(f"of_job_{number}", "yes")
        await asyncio.sleep(0)
        raise Boom

    scheduler = Scheduler(limit=1, exception_handler=ignore, observers=[JobSentry()])
    with sentry_sdk.isolation_scope():
        for number in range(3):
            sentry_sdk.set_user({"id": f"user {number}"})
            await scheduler.spawn(work(number))
        await scheduler.wait_and_close()
        sentry_sdk.capture_message("after them")
    return sent()


async def received() -> list[Any]:
    """A failure that a waiter receives, which is then the waiter's business."""
    async with Scheduler(observers=[JobSentry()]) as scheduler:
        job = await scheduler.spawn(fail())
        with contextlib.suppress(Boom):
            await job
    return sent()


async def outcomes() -> dict[str, Any]:
    found = {}
    go = asyncio.Event()

    async def spawn_and(
        outcome: str, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> None:
        scheduler = Scheduler(
            exception_handler=ignore, observers=[JobSentry()], close_timeout=0
        )
        await scheduler.spawn(coro, **options)
        await asyncio.sleep(0)
        if outcome != "timed_out":
            await scheduler.wait_and_close(timeout=0.01)
        else:
            await scheduler.wait_and_close()
        found[outcome] = sent()

    await spawn_and("succeeded", give(1), name="give it")
    await spawn_and("cancelled", wait_for(go))
    await spawn_and("hung_up", hang_up())
    await spawn_and("let_go", stubborn(go))
    await spawn_and("timed_out", wait_for(go), timeout=0.01)
    go.set()
    return found


async def one_context() -> list[Any]:
    """A job in a context that its spawner still uses: what the job sets goes with it."""
    async with Scheduler(observers=[JobSentry()]) as scheduler:
        with sentry_sdk.isolation_scope() as scope:
            scope.set_user({"id": "ann"})
            context = contextvars.copy_context()
            job = await scheduler.spawn(give(1), context=context)
            await job
            context.run(sentry_sdk.capture_message, "after it")
    return sent()


async def spans() -> list[Any]:
    """The spans of a job are in its own transaction, in the trace of its spawner."""

    async def work() -> None:
        with sentry_sdk.start_span(op="smtp", name="send"):
            await asyncio.sleep(0)

    async with Scheduler(observers=[JobSentry()]) as scheduler:
        with sentry_sdk.start_transaction(name="spawner", op="test"):
            await scheduler.spawn(work())
    return sent()


async def requests() -> dict[str, Any]:
    @web.middleware
    async def log_in(request: web.Request, handler: Handler) -> web.StreamResponse:
        sentry_sdk.set_user({"id": request.query["who"]})
        return await handler(request)

    @atomic
    async def atomic_handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0)
        raise Boom

    async def spawning_handler(request: web.Request) -> web.Response:
        await spawn(request, fail(), key="report")
        return web.Response(text="spawned")

    async def waiting_handler(request: web.Request) -> web.Response:
        await (await spawn(request, fail()))
        raise AssertionError

    app = web.Application(middlewares=[log_in])
    scheduler = setup(app, limit=1, observers=[JobSentry()])
    app.router.add_get("/atomic", atomic_handler)
    app.router.add_get("/spawn", spawning_handler)
    app.router.add_get("/wait", waiting_handler)
    found: dict[str, Any] = {}
    async with TestClient(TestServer(app)) as client:
        for path in ("/atomic", "/spawn", "/wait"):
            async with client.get(path, params={"who": f"user of {path}"}):
                pass
            await scheduler.drain()
            found[path] = sent()
    return found


@durable("mail.welcome", max_attempts=1)
async def mail(app: web.Application, number: int) -> None:
    sentry_sdk.set_tag(f"of_job_{number}", "yes")
    raise Boom("boom")


async def durable_jobs() -> list[Any]:
    app = web.Application()
    setup(app, observers=[JobSentry()], exception_handler=ignore)
    with tempfile.TemporaryDirectory() as folder:
        made = setup_durable(app, f"{folder}/jobs.sqlite", tasks=[mail])
        async with TestServer(app):
            for number in range(2):
                await spawn_durable(app, mail, number)
            await until(lambda: made.attempts["buried"] == 2)
    return sent()


async def one_job(scheduler: Scheduler, again: Repeat) -> None:
    """Wait until the first job has come and gone."""
    while again.job is None:  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(0)
    await scheduler.drain()
    again.cancel()


async def monitors() -> dict[str, Any]:
    found = {}
    functions: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (nothing, fail)
    for function in functions:
        async with Scheduler(
            exception_handler=ignore, observers=[JobSentry()]
        ) as scheduler:
            for _ in range(2):
                again = repeat(
                    scheduler,
                    every(7200),
                    function,
                    name="Clean <up>",
                    timeout=90,
                    jitter=30,
                    at_once=True,
                )
                await one_job(scheduler, again)
        found[function.__name__] = sent()
    async with Scheduler(observers=[JobSentry(monitors=False)]) as scheduler:
        again = repeat(scheduler, every(60), nothing, at_once=True)
        await one_job(scheduler, again)
    found["none"] = sent()
    return found


async def main() -> None:
    # asyncio logs the failures, which is of no interest here.
    logging.getLogger("asyncio").addHandler(logging.NullHandler())
    logging.getLogger("asyncio").propagate = False
    scheduler = Scheduler(observers=[JobSentry()])
    await (await scheduler.spawn(nothing()))
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=Collector,
        integrations=[AsyncioIntegration(), AioHttpIntegration()],
        auto_enabling_integrations=False,
        shutdown_timeout=0,
        traces_sample_rate=1.0,
    )
    await scheduler.close()
    found: dict[str, Any] = {"before": sent()}
    for function in (
        failures,
        one_scope,
        received,
        outcomes,
        one_context,
        spans,
        requests,
        durable_jobs,
        monitors,
    ):
        found[function.__name__] = await function()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
