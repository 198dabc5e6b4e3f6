"""@atomic: the handler runs to its end, whatever happens to the client or the server."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, web
from aiohttp.test_utils import make_mocked_request

from aiohttp_jobs import Job, atomic, get_scheduler, setup, spawn
from tests.clients import (
    Answer,
    Failures,
    Gate,
    Handler,
    Server,
    both_cancellations,
    draining,
    one_route,
    resource,
    serving,
    turns,
)


def noting(name: str, log: list[str]) -> Any:
    """Make a middleware that logs how the inner call ended."""

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except BaseException as error:
            log.append(f"{name}: {type(error).__name__}")
            raise
        log.append(f"{name}: done")
        return response

    return note


class Order:
    """An atomic handler that the test holds half-way, between two middlewares."""

    def __init__(self, **options: Any) -> None:
        self.log: list[str] = []
        self.gate = Gate()
        self.failures = Failures()
        self.app = one_route(atomic(self.handler))
        self.app.middlewares.append(noting("outside", self.log))
        self.scheduler = setup(self.app, exception_handler=self.failures, **options)
        self.app.middlewares.append(noting("inside", self.log))

    async def handler(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.gate.pass_through()
        except BaseException as error:
            self.log.append(f"handler: {type(error).__name__}")
            raise
        self.log.append("handler: done")
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ordered")


@pytest.fixture
def server_errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The handler errors that aiohttp's server has logged."""

    def errors() -> list[str]:
        return [
            repr(record.exc_info[1])
            for record in caplog.records
            if record.name == "aiohttp.server" and record.exc_info
        ]

    with caplog.at_level(logging.ERROR, "aiohttp.server"):
        yield errors


# -- clients that hang up ---------------------------------------------------------------


async def test_client_hangs_up_plain_handler_is_cancelled() -> None:
    """W4: without @atomic the handler does not run to its end. (The baseline for the
    other tests.)"""
    order = Order()
    app = one_route(order.handler)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
        assert order.log == ["handler: CancelledError"]
    await order.scheduler.close()


@both_cancellations
async def test_client_hangs_up_atomic_handler_runs_to_its_end(
    handler_cancellation: bool,
) -> None:
    """W4: an atomic handler runs to its end whatever happens to the client."""
    order = Order()
    async with serving(order.app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        assert order.scheduler.active_count == 1
        order.gate.open()
        await turns()
        assert "handler: done" in order.log
        assert order.scheduler.active_count == 0
    assert order.failures == []


async def test_client_hangs_up_middlewares_inside_of_setups_run_to_their_end() -> None:
    """W4: every middleware inside setup's own runs to its end too, and those outside it
    are cancelled as without @atomic."""
    order = Order()
    async with serving(order.app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        assert order.log == ["outside: JobCancelled"] or order.log == [
            "outside: CancelledError"
        ]
        order.gate.open()
        await turns()
        assert order.log[1:] == ["handler: done", "inside: done"]


async def test_client_hangs_up_session_is_saved_after_the_handler() -> None:
    """W4: a session that a middleware saves after the handler is saved, even if saving
    has to wait, and in a sub-application."""
    log: list[str] = []
    gate, saving = Gate(), Gate()

    @web.middleware
    async def session(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        await saving.pass_through()
        log.append("saved")
        return response

    @atomic
    async def handler(request: web.Request) -> web.Response:
        await gate.pass_through()
        return web.Response()

    app, below = web.Application(), one_route(handler)
    setup(app)
    app.middlewares.append(session)
    below.middlewares.append(noting("below", log))
    app.add_subapp("/below", below)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/below/")
        await gate.reached.wait()
        gate.open()
        await saving.reached.wait()
        await client.hang_up()
        saving.open()
        await turns()
        assert log == ["below: done", "saved"]


@both_cancellations
async def test_error_after_the_client_has_gone_is_reported_once(
    handler_cancellation: bool, server_errors: Callable[[], list[str]]
) -> None:
    """W4: an error that nobody is left to receive is reported (R2), once. Without handler
    cancellation the server is still there to receive it, and logs it."""

    class Failing(Order):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            raise ValueError("boom")

    order = Failing()
    async with serving(order.app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
        gc.collect()
        told = order.failures.exceptions()
        logged = server_errors()
        if handler_cancellation:
            assert (told, logged) == (["ValueError('boom')"], [])
            (context,) = order.failures
            assert context["message"] == "Job processing failed"
            assert isinstance(context["job"], Job)
        else:
            assert (told, logged) == ([], ["ValueError('boom')"])


async def test_error_in_an_inner_middleware_after_the_client_has_gone_is_reported() -> (
    None
):
    """W4: the middlewares are part of the job, and so are their failures (R2)."""
    order = Order()

    @web.middleware
    async def fail(request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        raise ValueError("not saved")

    order.app.middlewares.append(fail)
    async with serving(order.app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
    assert order.failures.exceptions() == ["ValueError('not saved')"]


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "returned"])
@both_cancellations
@pytest.mark.filterwarnings("ignore:returning HTTPException object is deprecated")
async def test_http_exception_after_the_client_has_gone_is_no_failure(
    handler_cancellation: bool, raised: bool, server_errors: Callable[[], list[str]]
) -> None:
    """W4: an HTTPException is an answer, not an error to report."""

    class Redirecting(Order):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            if raised:
                raise web.HTTPSeeOther("/thanks")
            return web.HTTPSeeOther("/thanks")

    order = Redirecting()
    async with serving(order.app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
        assert "handler: done" in order.log
    assert order.failures == []
    assert server_errors() == []


async def test_error_while_the_client_waits_is_received_and_not_reported(
    server_errors: Callable[[], list[str]],
) -> None:
    """W4: an error that the server receives becomes 500, and is not reported (R2)."""

    class Failing(Order):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            raise ValueError("boom")

    order = Failing()
    order.gate.open()
    async with serving(order.app) as server:
        assert (await server.get()).status == 500
    assert order.failures == []
    assert server_errors() == ["ValueError('boom')"]


class Stops:
    """The awaits along the way of a request; the test holds it at one of them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.gate = Gate()
        self.passed: list[str] = []

    async def pass_by(self, name: str) -> None:
        if name == self.where:
            await self.gate.pass_through()
        self.passed.append(name)

    def middleware(self, name: str) -> Any:
        @web.middleware
        async def stop(request: web.Request, handler: Handler) -> web.StreamResponse:
            await self.pass_by(f"{name}, going in")
            response = await handler(request)
            await self.pass_by(f"{name}, going out")
            return response

        return stop


WAY = (
    "outside, going in",
    "inside, going in",
    "below, going in",
    "handler, charging",
    "handler, recording",
    "below, going out",
    "inside, going out",
    "outside, going out",
)


@both_cancellations
@pytest.mark.parametrize("where", WAY)
async def test_client_hangs_up_anywhere_the_job_is_done_in_full_or_not_at_all(
    where: str, handler_cancellation: bool
) -> None:
    """W4: wherever the client hangs up, everything inside setup's middleware runs to its
    end, once it has begun."""
    stops = Stops(where)

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        await stops.pass_by("handler, charging")
        await stops.pass_by("handler, recording")
        return web.Response(text="ordered")

    app, below = web.Application(), one_route(handler)
    app.middlewares.append(stops.middleware("outside"))
    failures = Failures()
    scheduler = setup(app, exception_handler=failures)
    app.middlewares.append(stops.middleware("inside"))
    below.middlewares.append(stops.middleware("below"))
    app.add_subapp("/below", below)
    async with serving(app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/below/")
        await stops.gate.reached.wait()
        await client.hang_up()
        stops.gate.open()
        await turns()
        assert len(scheduler) == 0
    if not handler_cancellation:
        assert stops.passed == list(WAY)
    elif where == "outside, going in":
        assert stops.passed == []
    else:
        assert stops.passed == list(WAY[:-1])
    assert failures == []


async def test_client_hangs_up_and_the_handler_fails_in_the_same_turn() -> None:
    """W4: an error in the very turn of the loop in which its receiver is cancelled is
    reported, once (R2)."""
    gate = Gate()
    tasks: list[asyncio.Task[Any]] = []

    @web.middleware
    async def outside(request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return await handler(request)

    @atomic
    async def handler(request: web.Request) -> web.Response:
        await gate.pass_through()
        for task in tasks:
            task.cancel()
        raise ValueError("boom")

    app = one_route(handler)
    app.middlewares.append(outside)
    failures = Failures()
    setup(app, exception_handler=failures)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        gate.open()
        with pytest.raises((EOFError, ConnectionError)):
            await client.receive()
    assert failures.exceptions() == ["ValueError('boom')"]


@both_cancellations
@pytest.mark.parametrize("length", [4, 8], ids=["received", "half-received"])
async def test_client_hangs_up_before_its_body_is_read_the_server_alone_says_so(
    length: int, handler_cancellation: bool, server_errors: Callable[[], list[str]]
) -> None:
    """W4: aiohttp does not let a handler read the request of a client that has gone, not
    even the part that has arrived. That is no failure of the job; the server logs it if
    it still waits for the handler."""
    gate = Gate()

    @atomic
    async def handler(request: web.Request) -> web.Response:
        await gate.pass_through()
        await request.read()
        raise AssertionError("the body was read")

    app = one_route(handler)
    failures = Failures()
    setup(app, exception_handler=failures)
    async with serving(app, handler_cancellation=handler_cancellation) as server:
        client = await server.connect()
        await client.send("POST", "/", "half", length=length)
        await gate.reached.wait()
        await client.hang_up()
        gate.open()
        await turns()
    logged = [] if handler_cancellation else ["ConnectionResetError('Connection lost')"]
    assert server_errors() == logged
    assert failures == []


async def test_outer_middleware_gives_up_the_job_goes_on_and_its_error_is_reported() -> (
    None
):
    """W4: a timeout outside setup's middleware answers the request; the job goes on, and
    its error, which nobody is left to receive, is reported (R2)."""
    order = Order()

    @web.middleware
    async def give_up(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(0.01):
                return await handler(request)
        except TimeoutError:
            return web.Response(status=202)

    async def fail(request: web.Request) -> web.StreamResponse:
        raise ValueError("boom")

    order.app.middlewares.insert(0, give_up)
    order.answer = fail  # type: ignore[method-assign]
    async with serving(order.app) as server:
        assert (await server.get()).status == 202
        assert order.scheduler.active_count == 1
        order.gate.open()
        await turns()
    assert "handler: done" in order.log
    assert order.failures.exceptions() == ["ValueError('boom')"]


async def test_outer_middleware_swallows_the_cancellation_the_job_goes_on() -> None:
    """W4: an outer middleware may swallow its cancellation without affecting the job."""
    order = Order()

    @web.middleware
    async def swallow(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except asyncio.CancelledError:
            order.log.append("swallowed")
            return web.Response()

    order.app.middlewares.insert(0, swallow)
    async with serving(order.app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
    assert order.log[1:] == ["swallowed", "handler: done", "inside: done"]
    assert order.failures == []


async def test_scheduler_closes_inner_middleware_answers_for_the_handler() -> None:
    """W4, W5: a middleware inside the job may answer when the job is cancelled."""
    order = Order()

    @web.middleware
    async def apologize(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except asyncio.CancelledError:
            return web.Response(status=202)

    order.app.middlewares.append(apologize)
    async with serving(order.app) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await order.scheduler.close()
        assert (await client.receive()).status == 202


async def test_outer_middleware_tries_again_in_time_each_try_is_a_job() -> None:
    """W4: a request that is handled again while the first job goes on is two jobs, and
    both run to their end."""
    gates = [Gate(), Gate()]
    begun: list[int] = []
    log: list[str] = []

    @web.middleware
    async def try_again(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(0.01):
                return await handler(request)
        except TimeoutError:
            return await handler(request)

    @atomic
    async def handler(request: web.Request) -> web.Response:
        number = len(begun)
        begun.append(number)
        await gates[number].pass_through()
        log.append(f"try {number} done")
        return web.Response()

    app = one_route(handler)
    app.middlewares.append(try_again)
    failures = Failures()
    scheduler = setup(app, exception_handler=failures)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await gates[1].reached.wait()
        assert scheduler.active_count == 2
        await client.hang_up()
        for gate in gates:
            gate.open()
        await turns()
        assert log == ["try 0 done", "try 1 done"]
    assert failures == []


async def test_atomic_functions_run_side_by_side_each_is_a_job() -> None:
    """W4: a plain handler may call several atomic functions at once for its request."""
    gate = Gate()
    log: list[str] = []

    @atomic
    async def part(name: str, request: web.Request) -> None:
        await gate.pass_through()
        log.append(name)

    async def handler(request: web.Request) -> web.Response:
        await asyncio.gather(part("charge", request), part("record", request))
        return web.Response()

    app = one_route(handler)
    scheduler = setup(app)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        await turns()
        assert scheduler.active_count == 2
        await client.hang_up()
        gate.open()
        await turns()
        assert log == ["charge", "record"]


@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
async def test_middleware_clones_the_request_it_is_one_job_all_the_same(
    outside: bool,
) -> None:
    """W4: a clone of the request, made inside or outside the job, is the same request."""
    probe = Probe()

    @web.middleware
    async def clone(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(headers={"X-Forwarded-For": "192.0.2.1"}))

    app = one_route(atomic(probe.__call__))
    if outside:
        app.middlewares.append(clone)
    scheduler = setup(app)
    if not outside:
        app.middlewares.append(clone)
    app.middlewares.append(probe.middleware)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await probe.gate.reached.wait()
        assert len(set(probe.tasks)) == 1
        assert scheduler.active_count == 1
        await client.hang_up()
        probe.gate.open()
        await turns()
        assert probe.ended == 2


async def test_atomic_handler_has_a_task_and_a_context_of_its_own() -> None:
    """W4: as the docs say, the handler runs in the job's task, and outer middlewares do
    not see context variables that are set there."""
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[object] = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        seen.extend([variable.get(), asyncio.current_task()])
        return response

    @atomic
    async def handler(request: web.Request) -> web.Response:
        variable.set("inside")
        seen.append(asyncio.current_task())
        return web.Response()

    app = one_route(handler)
    app.middlewares.append(note)
    setup(app)
    app.middlewares.append(note)
    async with serving(app) as server:
        await server.get()
    in_handler, value_inside, inside, value_outside, outside = seen
    assert inside is in_handler
    assert outside is not inside
    assert (value_inside, value_outside) == ("inside", "outside")


# -- answers ----------------------------------------------------------------------------


async def give_text(request: web.Request) -> web.StreamResponse:
    return web.Response(status=201, text=await request.text(), headers={"X-Name": "v"})


async def raise_redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere", headers={"X-Name": "v"})


async def raise_forbidden(request: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden(text="not for you")


async def return_gone(request: web.Request) -> web.StreamResponse:
    return web.HTTPGone(text="no longer here")


async def raise_error(request: web.Request) -> web.StreamResponse:
    raise ValueError("boom")


async def raise_timeout(request: web.Request) -> web.StreamResponse:
    raise TimeoutError


async def return_nothing(request: web.Request) -> Any:
    return None


async def return_text(request: web.Request) -> Any:
    return "text"


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"X-Name": "v"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write(b"!")
    return response


async def stream_and_end(request: web.Request) -> web.StreamResponse:
    response = await stream(request)
    await response.write_eof()
    return response


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (give_text, 201),
        (raise_redirect, 302),
        (raise_forbidden, 403),
        (return_gone, 410),
        (raise_error, 500),
        (raise_timeout, 504),
        (return_nothing, 500),
        (return_text, 500),
        (stream, 200),
        (stream_and_end, 200),
    ],
)
@pytest.mark.parametrize("way", ["marked", "by-method", "unmarked"])
@pytest.mark.filterwarnings("ignore:returning HTTPException object is deprecated")
async def test_answer_of_an_atomic_handler_comes_out_as_without_it(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    status: int,
    way: str,
) -> None:
    """W4: the response, HTTPException and other errors come out as without @atomic."""

    async def plain(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    async def unmarked(request: web.Request) -> web.StreamResponse:
        return await atomic(handler)(request)

    app = web.Application()
    failures = Failures()
    setup(
        app,
        exception_handler=failures,
        atomic_methods={"POST"} if way == "by-method" else (),
    )
    app.router.add_put("/plain", plain)
    as_atomic = {"marked": atomic(handler), "by-method": plain, "unmarked": unmarked}
    app.router.add_post("/atomic", as_atomic[way])
    async with serving(app) as server:
        expected = await answer_or_none(server, "PUT", "/plain")
        answer = await answer_or_none(server, "POST", "/atomic")
    assert failures == []
    if expected is None or answer is None:
        # aiohttp 3.9 breaks off the connection where later releases answer 500.
        assert handler in (return_nothing, return_text)
        assert answer is expected
        return
    assert expected.status == status
    assert (answer.status, answer.text) == (expected.status, expected.text)
    assert {**answer.headers, "date": ""} == {**expected.headers, "date": ""}


async def answer_or_none(server: Server, method: str, path: str) -> Answer | None:
    """Return the answer, or None if the server breaks off the connection."""
    try:
        return await server.request(method, path, "the body")
    except (EOFError, ConnectionError):
        return None


@pytest.mark.parametrize("atomic_handler", [False, True], ids=["plain", "atomic"])
async def test_handler_is_cancelled_by_itself_the_connection_ends(
    atomic_handler: bool, server_errors: Callable[[], list[str]]
) -> None:
    """W4: a CancelledError that the handler raises, for example from a task it waited
    for, comes out as without @atomic: there is no answer, and no failure to report."""

    async def handler(request: web.Request) -> web.Response:
        task = asyncio.ensure_future(turns())
        task.cancel()
        await task
        raise AssertionError("the task was cancelled")

    app = one_route(atomic(handler) if atomic_handler else handler)
    failures = Failures()
    setup(app, exception_handler=failures)
    async with serving(app) as server:
        assert await answer_or_none(server, "GET", "/") is None
    assert failures == []
    assert server_errors() == []


async def test_errors_are_told_apart_by_a_middleware_as_without_atomic() -> None:
    """W4: an outer middleware catches the very exception that the handler raised."""
    error = LookupError("no such order")
    caught: list[BaseException] = []

    @web.middleware
    async def catch(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except LookupError as error:
            caught.append(error)
            return web.Response(status=404)

    @atomic
    async def handler(request: web.Request) -> web.Response:
        raise error

    app = one_route(handler)
    app.middlewares.append(catch)
    setup(app)
    async with serving(app) as server:
        assert (await server.get()).status == 404
    assert caught == [error]


@pytest.mark.parametrize("answer", [give_text, raise_error])
async def test_request_is_over_nothing_waits_for_the_garbage_collector(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """L4: an atomic request, even one that failed, is freed when it ends, as without
    @atomic: it leaves no reference cycle for the garbage collector."""
    caplog.set_level(logging.CRITICAL, "aiohttp.server")  # a record keeps the traceback
    alive = {"plain": 0, "atomic": 0}

    async def plain(request: web.Request) -> web.StreamResponse:
        weakref.finalize(request, freed, request.path.strip("/"))
        return await answer(request)

    def freed(kind: str) -> None:
        alive[kind] -= 1

    app = web.Application()
    setup(app)
    app.router.add_get("/plain", plain)
    app.router.add_get("/atomic", atomic(plain))
    async with serving(app) as server:
        gc.collect()
        gc.disable()
        try:
            for kind in alive:
                for _ in range(5):
                    alive[kind] += 1
                    client = await server.send("GET", f"/{kind}")
                    await client.receive()
                    client.close()
            await turns()
            assert alive["atomic"] == alive["plain"]
        finally:
            gc.enable()


# -- shutting down ----------------------------------------------------------------------


@both_cancellations
async def test_server_cancels_its_task_at_shutdown_atomic_handler_runs_to_its_end(
    handler_cancellation: bool,
) -> None:
    """W4: an atomic handler runs to its end whatever happens to the server's task; W5: it
    is drained with the other jobs; W2: before the clean-up."""
    order = Order()
    order.app.cleanup_ctx.append(resource("db", order.log))
    async with serving(
        order.app, handler_cancellation=handler_cancellation, shutdown_timeout=0.01
    ) as server:
        await server.send("GET", "/")
        await order.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await draining(order.scheduler)
        assert order.log == ["outside: CancelledError"]
        await turns()
        assert order.scheduler.active_count == 1
        order.gate.open()
        await closing
    assert order.log[1:] == ["handler: done", "inside: done", "db closed"]
    assert order.failures == []


async def test_client_hangs_up_and_the_server_shuts_down_handler_runs_to_its_end() -> (
    None
):
    """W4, W5: a handler that goes on for a client that has gone is drained, too."""
    order = Order()
    order.app.cleanup_ctx.append(resource("db", order.log))
    async with serving(order.app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        closing = asyncio.create_task(server.close())
        await draining(order.scheduler)
        order.gate.open()
        await closing
    assert order.log[1:] == ["handler: done", "inside: done", "db closed"]


async def test_error_after_the_server_has_cancelled_its_task_is_reported_once() -> None:
    """W4: also at shutdown, an error that nobody is left to receive is reported (R2)."""

    class Failing(Order):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            raise ValueError("boom")

    order = Failing()
    async with serving(order.app, shutdown_timeout=0.01) as server:
        await server.send("GET", "/")
        await order.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await draining(order.scheduler)
        order.gate.open()
        await closing
    assert order.failures.exceptions() == ["ValueError('boom')"]


async def test_body_never_arrives_reading_it_is_ended_at_shutdown() -> None:
    """W4: at shutdown aiohttp ends the reading of a request, and not the job that reads
    it: an atomic handler may catch that, and runs to its end."""
    log: list[str] = []

    @atomic
    async def handler(request: web.Request) -> web.Response:
        reading.set()
        try:
            await request.read()
        except asyncio.CancelledError:
            log.append("nothing more comes")
        await asyncio.sleep(0)
        log.append("end")
        return web.Response()

    reading = asyncio.Event()
    app = one_route(handler)
    scheduler = setup(app)
    async with serving(app, shutdown_timeout=0.01) as server:
        client = await server.connect()
        await client.send("POST", "/", "half", length=8)
        await reading.wait()
        await server.close()
    assert log == ["nothing more comes", "end"]
    assert scheduler.statistics().succeeded == 1


async def test_deadline_of_the_drain_passes_atomic_handler_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W5: an atomic handler is closed with the other jobs when the drain ends; E5: the
    record names it."""
    order = Order(wait_timeout=0.01)
    order.app.cleanup_ctx.append(resource("db", order.log))
    async with serving(order.app, shutdown_timeout=0.01) as server:
        await server.send("GET", "/")
        await order.gate.reached.wait()
        await server.close()
    assert order.log[1:] == [
        "handler: CancelledError",
        "inside: CancelledError",
        "db closed",
    ]
    (record,) = [each for each in caplog.records if each.name == "aiohttp_jobs"]
    assert "1 cancelled (Order.handler)" in record.getMessage()


async def test_scheduler_is_closed_while_the_client_waits_it_gets_503() -> None:
    """W5: an atomic handler is closed with the scheduler's jobs, even while the server
    still waits for it; W7: the client gets an answer."""
    order = Order()
    async with serving(order.app) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        await order.scheduler.close()
        assert (await client.receive()).status == 503
    assert order.log[:2] == ["handler: CancelledError", "inside: CancelledError"]


# -- the limit --------------------------------------------------------------------------


async def test_no_slot_is_free_atomic_handler_starts_at_once() -> None:
    """W5: an atomic handler starts at once and never waits behind background jobs; it is
    counted and listed with them."""
    order = Order(limit=1, pending_limit=1)
    slot = Gate()
    scheduler = order.scheduler
    async with serving(order.app) as server:
        running = await scheduler.spawn(slot.pass_through())
        waiting = await scheduler.spawn(slot.pass_through())
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        assert (scheduler.active_count, scheduler.pending_count) == (2, 1)
        assert len(scheduler) == 3
        (of_request,) = set(scheduler) - {running, waiting}
        assert of_request.active
        assert of_request in scheduler
        order.gate.open()
        assert (await client.receive()).text == "ordered"
        assert (scheduler.active_count, scheduler.pending_count) == (1, 1)
        assert waiting.pending
        slot.open()
        await waiting


async def test_atomic_handler_runs_background_job_gets_the_slot() -> None:
    """W5: an atomic handler takes no slot of limit, nor gives one when it ends."""
    order = Order(limit=1)
    slot = Gate()
    scheduler = order.scheduler
    async with serving(order.app) as server:
        client = await server.send("GET", "/")
        await order.gate.reached.wait()
        first = await scheduler.spawn(slot.pass_through())
        assert first.active
        second = await scheduler.spawn(slot.pass_through())
        assert second.pending
        order.gate.open()
        await client.receive()
        await turns()
        assert second.pending
        slot.open()
        await asyncio.gather(first, second)


async def test_atomic_handler_waits_for_its_own_job_with_one_slot() -> None:
    """W5, L2: an atomic handler that waits for a job lends no slot that it never had."""
    counts: list[int] = []

    async def job(request: web.Request) -> None:
        other = await spawn(request, turns(1))
        counts.append(get_scheduler(request).pending_count)
        await other

    @atomic
    async def handler(request: web.Request) -> web.Response:
        await (await spawn(request, job(request)))
        return web.Response()

    app = one_route(handler)
    setup(app, limit=1)
    async with serving(app) as server:
        for _ in range(3):
            assert (await server.get()).status == 200
    assert counts == [1, 1, 1]


# -- kinds of handlers ------------------------------------------------------------------


class Probe:
    """Records in which tasks the middlewares and the handler ran, and when they ended.

    The handler waits at a gate, and fails the test if it is cancelled there.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.ended = 0
        self.jobs: list[Job[Any]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.tasks.append(asyncio.current_task())
        self.jobs.extend(get_scheduler(request))
        await self.gate.pass_through()
        self.ended += 1
        return web.Response(text="probed")

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.tasks.append(asyncio.current_task())
            response = await handler(request)
            self.ended += 1
            return response

        return note


def wrapping(handler: Any) -> Any:
    """A decorator as it should be."""

    @functools.wraps(handler)
    async def wrapped(*args: Any) -> Any:
        return await handler(*args)

    return wrapped


def hiding(handler: Any) -> Any:
    """A decorator that forgets functools.wraps."""

    async def hidden(request: web.Request) -> Any:
        return await handler(request)

    return hidden


def function(probe: Probe) -> Any:
    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        return await probe(request)

    return handler


def view_method(probe: Probe) -> Any:
    class View(web.View):
        @atomic
        async def get(self) -> web.StreamResponse:
            return await probe(self.request)

    return View


def view_class(probe: Probe) -> Any:
    @atomic
    class View(web.View):
        async def get(self) -> web.StreamResponse:
            return await probe(self.request)

    return View


def inherited_view_method(probe: Probe) -> Any:
    class Base(web.View):
        async def get(self) -> web.StreamResponse:
            return await probe(self.request)

    @atomic
    class View(Base):
        pass

    assert not hasattr(Base.get, "__wrapped__")
    return View


def method_of_a_plain_class(probe: Probe) -> Any:
    class Orders:
        @atomic
        async def get(self, request: web.Request) -> web.StreamResponse:
            assert isinstance(self, Orders)
            return await probe(request)

    return Orders().get


def class_method(probe: Probe) -> Any:
    class Orders:
        @classmethod
        @atomic
        async def get(cls, request: web.Request) -> web.StreamResponse:
            assert cls is Orders
            return await probe(request)

    return Orders.get


def decorator_outside(probe: Probe) -> Any:
    return wrapping(atomic(probe.__call__))


def decorator_inside(probe: Probe) -> Any:
    return atomic(wrapping(probe.__call__))


def decorators_on_both_sides_of_a_view_method(probe: Probe) -> Any:
    class View(web.View):
        @wrapping
        @atomic
        @wrapping
        async def get(self) -> web.StreamResponse:
            return await probe(self.request)

    return View


def atomic_twice(probe: Probe) -> Any:
    return atomic(wrapping(atomic(probe.__call__)))


def partial(probe: Probe) -> Any:
    async def handler(log: list[str], request: web.Request) -> web.StreamResponse:
        return await probe(request)

    return atomic(functools.partial(handler, []))


def partial_of_an_atomic_handler(probe: Probe) -> Any:
    @atomic
    async def handler(
        log: list[str], request: web.Request, *, name: str
    ) -> web.StreamResponse:
        assert name == "orders"
        return await probe(request)

    return functools.partial(functools.partial(handler, []), name="orders")


def callable_object(probe: Probe) -> Any:
    return atomic(probe)


def static_method(probe: Probe) -> Any:
    class Orders:
        @staticmethod
        @atomic
        async def get(request: web.Request) -> web.StreamResponse:
            return await probe(request)

    return Orders.get


def static_method_inside(probe: Probe) -> Any:
    class Orders:
        @atomic
        @staticmethod
        async def get(request: web.Request) -> web.StreamResponse:
            return await probe(request)

    return Orders().get


def class_method_inside(probe: Probe) -> Any:
    class Orders:
        @atomic
        @classmethod
        async def get(cls, request: web.Request) -> web.StreamResponse:
            assert cls is Orders
            return await probe(request)

    return Orders().get


def view_of_an_atomic_base(probe: Probe) -> Any:
    @atomic
    class Base(web.View):
        async def get(self) -> web.StreamResponse:
            return await probe(self.request)

    class View(Base):
        async def post(self) -> web.StreamResponse:
            raise AssertionError("this is another method")

    return View


@pytest.mark.parametrize("place", ["app", "subapp", "subapp-set-up", "both-set-up"])
@pytest.mark.parametrize(
    "make",
    [
        function,
        view_method,
        view_class,
        inherited_view_method,
        method_of_a_plain_class,
        class_method,
        decorator_outside,
        decorator_inside,
        decorators_on_both_sides_of_a_view_method,
        atomic_twice,
        partial,
        partial_of_an_atomic_handler,
        callable_object,
        static_method,
        static_method_inside,
        class_method_inside,
        view_of_an_atomic_base,
    ],
    ids=lambda make: make.__name__,
)
async def test_client_hangs_up_every_kind_of_handler_runs_to_its_end_as_one_job(
    make: Callable[[Probe], Any], place: str
) -> None:
    """W6: @atomic works for every kind of handler that aiohttp routes to; the middlewares
    inside setup's own and the handler are one job."""
    probe = Probe()
    app = one_route(make(probe))
    root, path = app, "/"
    if place != "app":
        root, path = web.Application(), "/below/"
    set_up = {"subapp": [root], "both-set-up": [root, app]}.get(place, [app])
    schedulers = [setup(each) for each in set_up]
    app.middlewares.append(probe.middleware)
    if root is not app:
        root.add_subapp("/below", app)
    async with serving(root, handler_cancellation=True) as server:
        client = await server.send("GET", path)
        await probe.gate.reached.wait()
        # One task for both, and one job, that of the nearest scheduler.
        assert len(probe.tasks) == 2
        assert len(set(probe.tasks)) == 1
        (job,) = probe.jobs
        assert [list(each) for each in schedulers] == [
            [job] if each is schedulers[-1] else [] for each in schedulers
        ]
        await client.hang_up()
        probe.gate.open()
        await turns()
        assert probe.ended == 2
        assert job.closed
        assert (await server.get(path)).text == "probed"


async def test_decorator_hides_the_mark_handler_is_atomic_all_the_same() -> None:
    """W6: decorators can be stacked, even one that forgets functools.wraps: then the
    handler alone is the job, without the middlewares."""
    probe = Probe()
    app = one_route(hiding(atomic(probe.__call__)))
    scheduler = setup(app)
    app.middlewares.append(probe.middleware)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await probe.gate.reached.wait()
        assert scheduler.active_count == 1
        assert len(set(probe.tasks)) == 2
        await client.hang_up()
        probe.gate.open()
        await turns()
        assert probe.ended == 1
        assert (await server.get()).text == "probed"


async def test_view_method_calls_the_atomic_one_of_its_base_which_runs_to_its_end() -> (
    None
):
    """W6: a View method that overrides an atomic one is plain; the base method that it
    calls is still atomic."""
    probe = Probe()
    log: list[str] = []

    class Base(web.View):
        @atomic
        async def get(self) -> web.StreamResponse:
            return await probe(self.request)

    class View(Base):
        async def get(self) -> web.StreamResponse:
            response = await super().get()
            log.append("after the base")
            return response

    app = one_route(View)
    scheduler = setup(app)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await probe.gate.reached.wait()
        assert scheduler.active_count == 1
        await client.hang_up()
        probe.gate.open()
        await turns()
        assert (probe.ended, log) == (1, [])
        assert (await server.get()).text == "probed"
        assert log == ["after the base"]


async def test_head_request_is_atomic_with_its_handler() -> None:
    """W6: aiohttp routes HEAD to the handler of GET, which is atomic for it too."""
    order = Order()
    app = web.Application()
    app.router.add_get("/", atomic(order.handler))
    setup(app)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("HEAD", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
        assert order.log == ["handler: done"]
        client = await server.send("HEAD", "/")
        answer = await client.receive_some()
        assert answer.startswith("HTTP/1.1 200 OK")
        assert "ordered" not in answer
    await order.scheduler.close()


async def test_requests_are_pipelined_the_second_is_not_begun_for_nobody() -> None:
    """W4: an atomic handler runs to its end when its client has gone; the next request on
    the connection has not begun, and never does."""
    order = Order()
    async with serving(order.app, handler_cancellation=True) as server:
        client = await server.connect()
        await client.send("GET", "/")
        await client.send("GET", "/")
        await order.gate.reached.wait()
        await client.hang_up()
        order.gate.open()
        await turns()
    assert order.log[1:] == ["handler: done", "inside: done"]


async def test_job_is_called_as_its_handler() -> None:
    """W5: an atomic request is listed under its handler's name, whichever kind that
    is."""
    names: list[str] = []

    class Orders(web.View):
        @atomic
        async def get(self) -> web.StreamResponse:
            names.extend(job.label for job in get_scheduler(self.request))
            return web.Response()

    @atomic
    async def order(number: int, request: web.Request) -> web.StreamResponse:
        names.extend(job.label for job in get_scheduler(request))
        return web.Response()

    app = web.Application()
    setup(app)
    app.router.add_view("/view", Orders)
    app.router.add_get("/partial", functools.partial(order, 1))
    async with serving(app) as server:
        assert (await server.get("/view")).status == 200
        assert (await server.get("/partial")).status == 200
    assert [name.rpartition("<locals>.")[2] for name in names] == ["Orders.get", "order"]


async def test_one_method_of_a_view_is_atomic_the_others_are_plain() -> None:
    """W6: a decorated View method makes that one method atomic."""
    counts: list[int] = []

    class View(web.View):
        async def get(self) -> web.Response:
            counts.append(get_scheduler(self.request).active_count)
            return web.Response()

        @atomic
        async def post(self) -> web.Response:
            counts.append(get_scheduler(self.request).active_count)
            return web.Response()

    app = one_route(View)
    setup(app)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        assert (await server.request("POST", "/")).status == 200
        assert (await server.request("DELETE", "/")).status == 405
    assert counts == [0, 1]


async def test_atomic_stream_goes_on_when_its_reader_has_gone() -> None:
    """W6: a streaming handler that is atomic runs to its end without its client."""
    gate = Gate()
    log: list[str] = []

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await gate.pass_through()
        try:
            await response.write(b"second")
        except ConnectionError:
            log.append("reader gone")
        log.append("stored")
        return response

    app = one_route(handler)
    setup(app)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        await client.hang_up()
        gate.open()
        await turns()
    assert log[-1] == "stored"


async def test_atomic_websocket_handler_talks_and_outlives_its_client() -> None:
    """W6: a WebSocket handler can be atomic: it talks as without @atomic, and after the
    socket has closed it still runs to its end."""
    gate = Gate()
    log: list[str] = []

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{message.data}!")
        await gate.pass_through()
        log.append("farewell stored")
        return socket

    app = one_route(handler)
    scheduler = setup(app)
    async with serving(app, handler_cancellation=True) as server:
        async with (
            ClientSession() as session,
            session.ws_connect(server.make_url("/")) as socket,
        ):
            await socket.send_str("hello")
            answer = await socket.receive()
            assert (answer.type, answer.data) == (WSMsgType.TEXT, "hello!")
            assert scheduler.active_count == 1
            lost = server.losses()
            assert socket._response.connection is not None
            assert socket._response.connection.transport is not None
            socket._response.connection.transport.abort()
            await lost
        await gate.reached.wait()
        gate.open()
        await turns()
    assert log == ["farewell stored"]


async def test_request_is_passed_by_keyword_handler_finds_it() -> None:
    """W6: a handler may be called with the request as a keyword argument."""

    @atomic
    async def inner(*, request: web.Request) -> web.Response:
        return web.Response(text=str(get_scheduler(request).active_count))

    async def handler(request: web.Request) -> web.Response:
        return await inner(request=request)

    app = one_route(handler)
    setup(app)
    async with serving(app) as server:
        assert (await server.get()).text == "1"


@pytest.mark.parametrize("parent_only", [True, False], ids=["parent", "own"])
async def test_handler_is_called_without_the_middleware_it_makes_the_job(
    parent_only: bool,
) -> None:
    """W6: for example by a unit test, with a mocked request."""
    counts: list[int] = []

    @atomic
    async def handler(request: web.Request) -> web.Response:
        """The docstring stays."""
        counts.append(get_scheduler(request).active_count)
        return web.Response(text="called")

    app = web.Application()
    scheduler = setup(app)
    request = make_mocked_request("GET", "/", app=app)
    if parent_only:
        below = web.Application()
        app.add_subapp("/below", below)
        request.match_info.add_app(app)
        request = make_mocked_request("GET", "/below/", app=below)
        request.match_info.add_app(app)
    assert (await handler(request)).text == "called"
    assert (await handler(request=request)).text == "called"
    assert counts == [1, 1]
    assert handler.__name__ == "handler"
    assert handler.__doc__ == "The docstring stays."
    await scheduler.close()


async def test_one_request_is_handled_twice_each_time_as_a_job() -> None:
    """W4: a middleware that tries again after an error gets an atomic run each time."""
    gate = Gate()
    runs: list[int] = []

    @web.middleware
    async def try_again(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except LookupError:
            return await handler(request)

    @atomic
    async def handler(request: web.Request) -> web.Response:
        runs.append(get_scheduler(request).active_count)
        if len(runs) == 1:
            raise LookupError("a lock was not to be had")
        await gate.pass_through()
        runs.append(-1)
        return web.Response()

    app = one_route(handler)
    app.middlewares.append(try_again)
    setup(app)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        await client.hang_up()
        gate.open()
        await turns()
        assert runs == [1, 1, -1]


@pytest.fixture
async def eager_tasks() -> AsyncIterator[None]:
    """Let tasks start eagerly in this test."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
    yield
    loop.set_task_factory(None)


@pytest.mark.eager
@pytest.mark.usefixtures("eager_tasks")
async def test_tasks_start_eagerly_request_is_one_job_all_the_same() -> None:
    """A9, W6: under an eager task factory, too, the whole chain is one job."""
    probe = Probe()
    app = one_route(atomic(probe.__call__))
    scheduler = setup(app)
    app.middlewares.append(probe.middleware)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await probe.gate.reached.wait()
        assert scheduler.active_count == 1
        assert len(set(probe.tasks)) == 1
        await client.hang_up()
        probe.gate.open()
        await turns()
        assert probe.ended == 2
        assert (await server.get()).text == "probed"


@pytest.mark.eager
@pytest.mark.usefixtures("eager_tasks")
async def test_tasks_start_eagerly_error_at_once_is_received_and_not_reported(
    server_errors: Callable[[], list[str]],
) -> None:
    """A9, W4: under an eager task factory, too, an error that a handler raises before its
    first await becomes 500, and is not reported (R2)."""
    app = one_route(atomic(raise_error))
    failures = Failures()
    setup(app, exception_handler=failures)
    async with serving(app) as server:
        assert (await server.get()).status == 500
    assert failures == []
    assert server_errors() == ["ValueError('boom')"]


# -- what is refused --------------------------------------------------------------------


async def without_request() -> None:
    """Not a handler."""


@pytest.mark.parametrize("what", [None, 3, "handler", int, dict, web.Application])
def test_atomic_of_something_else_is_refused_at_once(what: Any) -> None:
    """W6: anything but a handler or a View class is refused when it is decorated."""
    with pytest.raises(TypeError, match=r"atomic\(\) takes a handler or a View class"):
        atomic(what)


async def test_handler_is_called_without_a_request_the_sentence_says_so() -> None:
    """W6: an atomic function that gets no request says what it needs."""
    with pytest.raises(TypeError, match="was called without a request"):
        await atomic(without_request)()


async def test_without_setup_atomic_handler_says_what_to_do() -> None:
    """W3, W4: @atomic without a scheduler anywhere is a RuntimeError that names setup."""

    @atomic
    async def handler(request: web.Request) -> web.Response:
        raise AssertionError("it cannot run as a job")

    request = make_mocked_request("GET", "/", app=web.Application())
    with pytest.raises(RuntimeError, match=r"call aiohttp_jobs\.setup"):
        await handler(request)
    gc.collect()
