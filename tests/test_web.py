"""Finding the scheduler of a request, and giving it work: spawn, spawn_nowait, shield."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request

import aiohttp_jobs
from aiohttp_jobs import (
    SCHEDULER,
    Job,
    Scheduler,
    SchedulerClosed,
    SchedulerFull,
    atomic,
    get_scheduler,
    get_scheduler_from_app,
    get_scheduler_from_request,
    setup,
    shield,
    spawn,
    spawn_nowait,
)
from tests.clients import (
    Failures,
    Gate,
    Handler,
    both_cancellations,
    one_route,
    serving,
    turns,
)
from tests.work import nothing

who: contextvars.ContextVar[str] = contextvars.ContextVar("who")


async def spawn_by_function(request: web.Request, coro: Coroutine[Any, Any, Any]) -> None:
    spawn_nowait(request, coro)


async def shield_it(request: web.Request, coro: Coroutine[Any, Any, Any]) -> None:
    await shield(request, coro)


async def spawn_after(request: web.Request, coro: Coroutine[Any, Any, Any]) -> None:
    await spawn(request, coro, after_response=True)


async def spawn_after_by_function(
    request: web.Request, coro: Coroutine[Any, Any, Any]
) -> None:
    spawn_nowait(request, coro, after_response=True)


ways_in = pytest.mark.parametrize(
    "way_in",
    [spawn, spawn_by_function, shield_it, spawn_after, spawn_after_by_function],
    ids=["spawn", "spawn_nowait", "shield", "spawn-after", "spawn_nowait-after"],
)
WayIn = Callable[[web.Request, Coroutine[Any, Any, Any]], Awaitable[object]]


def nested(*, parent: bool, child: bool) -> tuple[web.Application, list[object]]:
    """Make nested applications /a/b/, and a list of what the handler finds."""
    found: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        found.append(get_scheduler_from_request(request))
        found.append(get_scheduler(request))
        return web.Response()

    inner = one_route(handler)
    if child:
        setup(inner)
    middle = web.Application()
    middle.add_subapp("/b", inner)
    outer = web.Application()
    if parent:
        setup(outer)
    outer.add_subapp("/a", middle)
    found.append(get_scheduler_from_app(outer))
    found.append(get_scheduler_from_app(inner))
    return outer, found


# -- which scheduler --------------------------------------------------------------------


@ways_in
async def test_work_given_by_a_handler_runs_in_its_applications_scheduler(
    way_in: WayIn,
) -> None:
    """W3: spawn, spawn_nowait and shield use the scheduler of the application."""
    gate = Gate()
    seen: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        await way_in(request, nothing())
        way = asyncio.ensure_future(way_in(request, gate.pass_through()))
        await turns()
        scheduler = request.app[SCHEDULER]
        seen.append(len(scheduler) + len(scheduler._parts.shields))
        gate.open()
        await way
        return web.Response()

    app = one_route(handler)
    scheduler = setup(app, limit=None)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        await turns()
        assert len(scheduler) == 0
    assert seen[0] >= 1


async def test_subapp_without_scheduler_uses_that_of_its_nearest_parent() -> None:
    """W3: spawn uses the scheduler of the nearest parent that has one."""
    app, found = nested(parent=True, child=False)
    async with serving(app) as server:
        assert (await server.get("/a/b/")).status == 200
    of_parent, of_child, *of_request = found
    assert isinstance(of_parent, Scheduler)
    assert of_child is None
    assert of_request == [of_parent, of_parent]


@pytest.mark.parametrize("parent", [True, False], ids=["parent", "no-parent"])
async def test_subapp_with_scheduler_uses_its_own(parent: bool) -> None:
    """W3: the request's application comes before its parents."""
    app, found = nested(parent=parent, child=True)
    async with serving(app) as server:
        assert (await server.get("/a/b/")).status == 200
    of_parent, of_child, *of_request = found
    assert isinstance(of_child, Scheduler)
    assert of_child is not of_parent
    assert of_request == [of_child, of_child]


@ways_in
async def test_nearest_scheduler_is_given_the_work_of_a_subapp(way_in: WayIn) -> None:
    """W3: each of the functions finds the nearest parent's scheduler."""

    async def handler(request: web.Request) -> web.Response:
        await way_in(request, job())
        return web.Response()

    ran_in: list[bool] = []

    async def job() -> None:
        ran_in.append(len(scheduler) + len(scheduler._parts.shields) == 1)

    outer = web.Application()
    setup(outer)
    middle = web.Application()
    scheduler = setup(middle)
    middle.add_subapp("/b", one_route(handler))
    outer.add_subapp("/a", middle)
    async with serving(outer) as server:
        assert (await server.get("/a/b/")).status == 200
        await turns()
        assert ran_in == [True]


@ways_in
async def test_without_setup_work_is_refused_and_its_coroutine_closed(
    way_in: WayIn,
) -> None:
    """W3: without any scheduler, a RuntimeError says what to do; A5: and there is no
    "never awaited" warning."""
    coro = nothing()
    request = make_mocked_request("GET", "/", app=web.Application())
    with pytest.raises(RuntimeError, match=r"call aiohttp_jobs\.setup"):
        await way_in(request, coro)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
        await coro
    assert get_scheduler_from_request(request) is None
    with pytest.raises(RuntimeError, match="has no scheduler"):
        get_scheduler(request)
    gc.collect()


async def test_without_setup_a_future_that_is_to_be_shielded_is_left_alone() -> None:
    """W3: a shield that is refused closes coroutines only."""
    future = asyncio.get_running_loop().create_future()
    request = make_mocked_request("GET", "/", app=web.Application())
    with pytest.raises(RuntimeError, match="has no scheduler"):
        shield(request, future)
    assert not future.done()


@ways_in
async def test_given_something_else_than_a_request_the_coroutine_is_closed(
    way_in: WayIn,
) -> None:
    """A5: a coroutine that is refused is closed, even if the request is not one."""
    coro = nothing()
    not_a_request: Any = web.Application()
    with pytest.raises((TypeError, AttributeError)):
        await way_in(not_a_request, coro)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
        await coro
    gc.collect()


def test_scheduler_of_an_application_is_its_own_one_or_none() -> None:
    """W3: get_scheduler_from_app looks only at this very application."""
    app, parent = web.Application(), web.Application()
    setup(parent)
    parent.add_subapp("/a", app)
    assert get_scheduler_from_app(app) is None
    assert get_scheduler_from_app(parent) is parent[SCHEDULER]


# -- the arguments and results ----------------------------------------------------------


@both_cancellations
async def test_client_hangs_up_job_runs_to_its_end(handler_cancellation: bool) -> None:
    """W3: a spawned job belongs to the application, not to the request."""
    at_work, waiting = Gate(), Gate()
    jobs: list[Job[str]] = []

    async def job() -> str:
        await at_work.pass_through()
        return "done"

    async def handler(request: web.Request) -> web.Response:
        jobs.append(await spawn(request, job(), "bill"))
        await waiting.pass_through()
        return web.Response()

    app = one_route(handler)
    setup(app)
    async with serving(app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        await waiting.reached.wait()
        await client.hang_up()
        at_work.open()
        assert await jobs[0] == "done"
        assert jobs[0].get_name() == "bill"
        waiting.open()


@both_cancellations
async def test_client_hangs_up_shielded_awaitable_runs_to_its_end(
    handler_cancellation: bool,
) -> None:
    """W3: an awaitable that a handler shields goes on, and shutdown waits for it."""
    gate = Gate()
    log: list[str] = []

    async def pay() -> None:
        await gate.pass_through()
        log.append("paid")

    async def handler(request: web.Request) -> web.Response:
        await shield(request, pay())
        return web.Response()

    app = one_route(handler)
    setup(app)
    async with serving(app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        await client.hang_up()
        closing = asyncio.create_task(server.close())
        await turns()
        assert not closing.done()
        gate.open()
        await closing
        assert log == ["paid"]


async def test_context_and_timeout_and_name_are_passed_on() -> None:
    """W3: spawn and spawn_nowait take the arguments of Scheduler.spawn."""
    jobs: list[Job[str]] = []

    async def job() -> str:
        task = asyncio.current_task()
        assert task is not None
        return f"{task.get_name()} for {who.get()}"

    async def never() -> None:
        await asyncio.Event().wait()

    async def handler(request: web.Request) -> web.Response:
        context = contextvars.copy_context()
        context.run(who.set, "somebody else")
        jobs.append(await spawn(request, job(), "a", context=context))
        jobs.append(spawn_nowait(request, job(), "b", context=context))
        for after_response in True, False:
            with pytest.raises(ValueError, match="timeout"):
                await spawn(request, nothing(), timeout=-1, after_response=after_response)
            with pytest.raises(ValueError, match="timeout"):
                spawn_nowait(
                    request, nothing(), timeout=-1, after_response=after_response
                )
        late = await spawn(request, never(), timeout=0)
        with pytest.raises(TimeoutError):
            await late
        late = spawn_nowait(request, never(), timeout=0)
        with pytest.raises(TimeoutError):
            await late
        jobs.append(
            await spawn(request, job(), "c", context=context, after_response=True)
        )
        jobs.append(
            spawn_nowait(request, job(), "d", context=context, after_response=True)
        )
        return web.Response()

    app = one_route(handler)
    setup(app)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        told = [await job for job in jobs]
    assert told == [f"{name} for somebody else" for name in "abcd"]


async def test_key_is_passed_on() -> None:
    """W3: several requests make one job; each function takes the key."""
    go = asyncio.Event()
    jobs: list[Job[Any]] = []

    async def handler(request: web.Request) -> web.Response:
        for after_response in (False, True):
            options: dict[str, Any] = {"key": "a", "after_response": after_response}
            jobs.append(await spawn(request, go.wait(), **options))
            jobs.append(spawn_nowait(request, go.wait(), **options))
            options["key"] = "b"
            jobs.append(await spawn(request, go.wait(), **options))
        return web.Response()

    app = one_route(handler)
    setup(app)
    async with serving(app) as client:
        await client.get("/")
        await client.get("/")
        assert sorted({(job.id, job.key) for job in jobs}) == [
            (jobs[0].id, "a"),
            (jobs[2].id, "b"),
        ]
        go.set()


async def test_job_knows_the_method_and_route_that_it_comes_from() -> None:
    """But neither the path that the client sent nor its query; W3: in a sub-application,
    too."""
    origins: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        for after_response in (True, False):
            job = await spawn(request, nothing(), after_response=after_response)
            origins.append(job.origin)
            job = spawn_nowait(request, nothing(), after_response=after_response)
            origins.append(job.origin)
        return web.Response()

    @atomic
    async def atomic_handler(request: web.Request) -> web.Response:
        origins.extend(job.origin for job in get_scheduler(request))
        return web.Response()

    app = web.Application()
    app.router.add_get("/bills/{number}", handler)
    app.router.add_post("/bills/{number}", atomic_handler)
    root = web.Application()
    setup(root)
    root.add_subapp("/shop", app)
    async with serving(root) as server:
        await server.get("/shop/bills/3?password=4")
        await turns()
        assert origins == ["GET /shop/bills/{number}"] * 4
        origins.clear()
        await server.request("POST", "/shop/bills/3")
        assert origins == ["POST /shop/bills/{number}"]


async def test_job_of_a_request_without_a_route_says_so() -> None:
    """A middleware may spawn for a 404, too; the requested path is not shown."""
    origins: list[str | None] = []

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        origins.append((await spawn(request, nothing())).origin)
        return await handler(request)

    app = web.Application(middlewares=[audit])
    setup(app)
    async with serving(app) as server:
        assert (await server.get("/secret")).status == 404
    assert origins == ["GET (no route)"]


async def test_queued_job_sees_the_context_variables_of_its_own_request() -> None:
    """A6: a job runs in a copy of the variables of the request that spawned it, even when
    it starts much later from the queue."""
    gate = Gate()
    seen: list[str] = []

    async def block() -> None:
        await gate.pass_through()

    async def note() -> None:
        seen.append(who.get())

    @web.middleware
    async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
        who.set(request.query["user"])
        return await handler(request)

    async def handler(request: web.Request) -> web.Response:
        await spawn(request, note())
        spawn_nowait(request, note())
        await spawn(request, note(), after_response=True)
        who.set("changed after the spawn")
        return web.Response()

    app = one_route(handler)
    scheduler = setup(app, limit=1)
    app.middlewares.append(identify)
    async with serving(app) as server:
        await scheduler.spawn(block())
        for user in ("ann", "bob"):
            assert (await server.get(f"/?user={user}")).status == 200
        gate.open()
    assert seen == ["ann"] * 3 + ["bob"] * 3


async def test_atomic_handler_sees_the_context_variables_of_its_request() -> None:
    """A6: the job of an atomic handler has the variables that middlewares outside setup's
    have set."""

    @web.middleware
    async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
        who.set(request.query["user"])
        return await handler(request)

    @atomic
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=who.get())

    app = one_route(handler)
    app.middlewares.append(identify)
    setup(app)
    async with serving(app) as server:
        assert (await server.get("/?user=ann")).text == "ann"


# -- after the response -----------------------------------------------------------------


class SlowlySent(web.Response):
    """A response whose last bytes wait for a gate."""

    def __init__(self, gate: Gate, log: list[str]) -> None:
        super().__init__(text="in full")
        self._gate = gate
        self._log = log

    async def write_eof(self, data: Any = b"") -> None:
        await self._gate.pass_through()
        await super().write_eof(data)
        self._log.append("sent")


class Late:
    """A handler with a job for after the response, and a log of what happened."""

    def __init__(self, *, atomic_handler: bool = False, **options: Any) -> None:
        self.log: list[str] = []
        self.gate = Gate()
        self.jobs: list[Job[None]] = []
        handler = atomic(self.handler) if atomic_handler else self.handler
        self.app = one_route(handler)
        self.scheduler = setup(self.app, **options)

    @property
    def job(self) -> Job[None]:
        return self.jobs[0]

    async def work(self) -> None:
        self.log.append("job")

    async def spawn(self, request: web.Request) -> None:
        self.jobs.append(await spawn(request, self.work(), after_response=True))

    async def handler(self, request: web.Request) -> web.StreamResponse:
        await self.spawn(request)
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return SlowlySent(self.gate, self.log)


kinds_of_handlers = pytest.mark.parametrize(
    "atomic_handler",
    [pytest.param(False, id="plain"), pytest.param(True, id="atomic")],
)


@kinds_of_handlers
async def test_response_is_being_sent_job_waits_until_it_is_sent_in_full(
    atomic_handler: bool,
) -> None:
    """W8: after_response holds the job back until the response has been sent in full."""
    late = Late(atomic_handler=atomic_handler)
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        assert late.scheduler.pending_count == 1
        late.gate.open()
        assert (await client.receive()).text == "in full"
        await late.job
        assert late.log == ["sent", "job"]
        # The connection is still alive: only the response counts.
        await client.send("GET", "/")
        assert (await client.receive()).text == "in full"


async def in_a_task(answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """Do as asyncio.wait_for() does on Python 3.11."""
    return await asyncio.ensure_future(answer)


async def in_two_tasks(answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    (done,) = await asyncio.gather(in_a_task(answer))
    return done


@pytest.fixture(params=["lazy", pytest.param("eager", marks=pytest.mark.eager)])
async def tasks_start(request: pytest.FixtureRequest) -> None:
    """Let tasks start when they are created, or in the next turn."""
    if request.param == "eager":
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009


@kinds_of_handlers
@pytest.mark.usefixtures("tasks_start")
@pytest.mark.parametrize("pass_on", [asyncio.shield, in_a_task, in_two_tasks])
async def test_middleware_outside_makes_a_task_job_waits_until_the_response_is_sent(
    pass_on: Callable[[Awaitable[web.StreamResponse]], Awaitable[web.StreamResponse]],
    atomic_handler: bool,
) -> None:
    """W8: in whatever task the handler runs, even if it never waits."""

    @web.middleware
    async def outside(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await pass_on(handler(request))

    late = Late(atomic_handler=atomic_handler)
    late.app.middlewares.insert(0, outside)
    async with serving(late.app) as server:
        client = await server.connect()
        for count in (1, 2):
            await client.send("GET", "/")
            await late.gate.reached.wait()
            await turns()
            assert late.jobs[-1].pending
            late.gate.open()
            assert (await client.receive()).text == "in full"
            await late.jobs[-1]
            assert late.log == ["sent", "job"] * count
            late.gate = Gate()


@pytest.mark.usefixtures("tasks_start")
async def test_middleware_outside_spawns_in_a_task_job_waits_for_the_response() -> None:
    """W8: also if no middleware of ours is between it and the server."""
    late = Late()

    @web.middleware
    async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await in_a_task(handler(request))

    @web.middleware
    async def outside(request: web.Request, handler: Handler) -> web.StreamResponse:
        await late.spawn(request)
        return await late.answer(request)

    late.app.middlewares.insert(0, outside)
    late.app.middlewares.insert(0, outermost)
    async with serving(late.app) as server:
        await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        await late.job
        assert late.log == ["sent", "job"]


@kinds_of_handlers
async def test_last_chunk_of_a_stream_is_delayed_job_waits_for_it(
    atomic_handler: bool,
) -> None:
    """W8: a streaming response has been sent in full with its last chunk."""

    class Streaming(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(b"first,")
            await self.gate.pass_through()
            await response.write(b"last")
            self.log.append("last chunk")
            return response

    late = Streaming(atomic_handler=atomic_handler)
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        assert "200 OK" in await client.receive_some()
        await turns()
        assert late.job.pending
        late.gate.open()
        await late.job
        assert late.log == ["last chunk", "job"]


async def test_websocket_is_open_job_waits_until_it_is_closed() -> None:
    """W8: the response of a web socket has been sent in full when the socket closes."""

    class Socket(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for _ in socket:
                self.gate.reached.set()
            self.log.append("socket closed")
            return socket

    late = Socket()
    async with serving(late.app) as server, ClientSession() as session:
        async with session.ws_connect(server.make_url("/")) as socket:
            await socket.send_str("hello")
            await late.gate.reached.wait()
            assert late.job.pending
        await late.job
        assert late.log == ["socket closed", "job"]


@both_cancellations
async def test_client_hangs_up_job_that_waits_for_its_response_starts(
    handler_cancellation: bool,
) -> None:
    """W8: the job also starts when the client has gone before the response."""

    class Interrupted(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            try:
                await self.gate.pass_through()
            finally:
                self.log.append("handler left")
            return web.Response()

    late = Interrupted()
    async with serving(late.app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        assert late.job.pending
        await client.hang_up()
        if not handler_cancellation:
            assert late.job.pending
            late.gate.open()
        await late.job
        assert late.log == ["handler left", "job"]


@kinds_of_handlers
@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, 500), (web.HTTPForbidden, 403)],
    ids=["error", "http-exception"],
)
async def test_handler_raises_job_that_waits_for_its_response_starts(
    atomic_handler: bool, error: type[Exception], status: int
) -> None:
    """W8: the job also starts when the response is an error."""

    class Failing(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            raise error

    late = Failing(atomic_handler=atomic_handler)
    async with serving(late.app) as server:
        assert (await server.get()).status == status
        await late.job
        assert late.log == ["job"]


async def test_atomic_handler_goes_on_after_the_client_job_starts_without_waiting() -> (
    None
):
    """W8: the request of a client that has gone has ended, though its handler runs on."""

    class Interrupted(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            await self.gate.pass_through()
            self.log.append("handler ends")
            return web.Response()

    late = Interrupted(atomic_handler=True)
    async with serving(late.app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        await client.hang_up()
        await late.job
        late.gate.open()
    assert late.log == ["job", "handler ends"]


async def test_handler_is_cancelled_at_shutdown_its_job_still_runs() -> None:
    """W8: a request that the server has cancelled has ended; W2: its job is drained."""

    class Stuck(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            await self.gate.pass_through()
            raise AssertionError("the gate stays shut")

    late = Stuck()
    async with serving(late.app, shutdown_timeout=0.01) as server:
        await server.send("GET", "/")
        await late.gate.reached.wait()
        assert late.job.pending
        await server.close()
        assert late.log == ["job"]


@pytest.mark.parametrize("outer", [True, False], ids=["outer", "inner"])
async def test_middleware_spawns_after_the_response_job_waits_for_it(
    outer: bool,
) -> None:
    """W8: a middleware may ask for it, too, whether inside or outside setup's."""
    late = Late()

    async def handler(request: web.Request) -> web.StreamResponse:
        return await late.answer(request)

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        await late.spawn(request)
        return await handler(request)

    app = one_route(handler)
    if outer:
        app.middlewares.append(audit)
    setup(app)
    app.middlewares.append(audit)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert [job.pending for job in late.jobs] == [True] * (1 + outer)
        late.gate.open()
        await client.receive()
        await asyncio.gather(*late.jobs)
        assert late.log[0] == "sent"


async def test_parent_makes_requests_atomic_subapps_job_waits_for_the_response() -> None:
    """W8: the response that counts is the one the server sends, even if a sub-application
    with a setup of its own handles an atomic request."""
    late = Late()
    parent = web.Application()
    setup(parent, atomic_methods={"GET"})
    parent.add_subapp("/sub", late.app)
    async with serving(parent) as server:
        client = await server.send("GET", "/sub/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        await client.receive()
        await late.job
        assert late.log == ["sent", "job"]


@kinds_of_handlers
async def test_middleware_uses_another_task_job_waits_for_the_response(
    atomic_handler: bool,
) -> None:
    """W8: the response that counts is the one the server sends, even if a middleware
    inside setup's calls the handler in a task of its own, as timeouts may."""
    late = Late(atomic_handler=atomic_handler)

    @web.middleware
    async def in_a_task(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await asyncio.ensure_future(handler(request))

    late.app.middlewares.append(in_a_task)
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        await client.receive()
        await late.job
        assert late.log == ["sent", "job"]


async def test_outer_middleware_has_a_timeout_job_waits_for_the_response() -> None:
    """W8: asyncio.timeout() makes no task: around setup's middleware it changes
    nothing."""
    late = Late()

    @web.middleware
    async def in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with asyncio.timeout(3600):
            return await handler(request)

    late.app.middlewares.insert(0, in_time)
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        await client.receive()
        await late.job
        assert late.log == ["sent", "job"]


async def test_requests_are_pipelined_each_job_waits_for_its_own_response() -> None:
    """W8: what counts is the response to this request, and not the connection."""
    gates = {"first": Gate(), "second": Gate()}
    log: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        name = request.path.strip("/")
        await spawn(request, late_note(log, f"job of the {name}"), after_response=True)
        await gates[name].pass_through()
        log.append(f"{name} answered")
        return web.Response(text=name)

    app = web.Application()
    app.router.add_get("/{name}", handler)
    setup(app)
    async with serving(app) as server:
        client = await server.connect()
        for name in gates:
            await client.send("GET", f"/{name}")
        gates["first"].open()
        await gates["second"].reached.wait()
        await turns()
        assert log == ["first answered", "job of the first"]
        gates["second"].open()
        assert [(await client.receive()).text for _ in gates] == list(gates)
        await turns()
        assert log[2:] == ["second answered", "job of the second"]


async def test_handler_ends_the_response_itself_job_waits_for_the_request() -> None:
    """W8: a handler that has sent its response in full, and goes on, has not ended yet:
    its job starts after it."""

    class Early(Late):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"all")
            await response.write_eof()
            await self.gate.pass_through()
            self.log.append("handler ends")
            return response

    late = Early()
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        assert (await client.receive()).text == "all"
        assert late.job.pending
        late.gate.open()
        await late.job
        assert late.log == ["handler ends", "job"]


@pytest.mark.parametrize("path", ["/nowhere", "/"], ids=["404", "405"])
async def test_no_handler_is_found_job_of_a_middleware_waits_for_the_answer(
    path: str,
) -> None:
    """W8: a middleware may spawn for requests that have no handler, too."""
    late = Late()

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        await late.spawn(request)
        try:
            return await handler(request)
        except web.HTTPException:
            late.log.append("refused")
            return SlowlySent(late.gate, late.log)

    app = web.Application()
    app.router.add_post("/", late.handler)
    setup(app)
    app.middlewares.append(audit)
    async with serving(app) as server:
        client = await server.send("GET", path)
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        assert (await client.receive()).text == "in full"
        await late.job
    assert late.log == ["refused", "sent", "job"]


@kinds_of_handlers
async def test_signal_before_the_response_spawns_its_job_waits_too(
    atomic_handler: bool,
) -> None:
    """W8: a handler of on_response_prepare may ask for it as well."""
    late = Late()

    async def spawn_late(request: web.Request, response: web.StreamResponse) -> None:
        await late.spawn(request)

    answer = atomic(late.answer) if atomic_handler else late.answer
    app = one_route(answer)
    app.on_response_prepare.append(spawn_late)
    setup(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        await client.receive()
        await late.job
        assert late.log == ["sent", "job"]


async def test_middleware_clones_the_request_job_waits_for_the_response() -> None:
    """W8: a clone of the request has the same response."""
    late = Late()

    @web.middleware
    async def clone(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await asyncio.ensure_future(handler(request.clone()))

    late.app.middlewares.append(clone)
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        assert late.job.pending
        late.gate.open()
        await client.receive()
        await late.job
        assert late.log == ["sent", "job"]


async def test_held_job_counts_as_pending_and_is_refused_when_there_is_no_room() -> None:
    """W8: a job that waits for a response is pending: counted, listed, and bounded by
    pending_limit; L1."""
    gate = Gate()
    counts: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        scheduler = get_scheduler(request)
        job = await spawn(request, nothing(), after_response=True)
        counts.append((scheduler.pending_count, scheduler.active_count, len(scheduler)))
        counts.append(list(scheduler) == [job] and job in scheduler)
        for spawn_it in (
            lambda: spawn(request, nothing(), after_response=True),
            lambda: spawn_after_by_function(request, nothing()),
        ):
            with pytest.raises(SchedulerFull):
                await spawn_it()
        counts.append(scheduler.pending_count)
        await job.close()
        counts.append(scheduler.pending_count)
        await spawn(request, nothing(), after_response=True)
        return web.Response()

    app = one_route(handler)
    scheduler = setup(app, pending_limit=1)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        await turns()
        assert len(scheduler) == 0
        gate.open()
    assert counts == [(1, 0, 1), True, 1, 0]


async def test_response_is_sent_job_joins_the_end_of_the_queue() -> None:
    """W8: a job that was held back takes its place behind jobs that wait for a slot."""
    late = Late(limit=1)
    slot = Gate()
    async with serving(late.app) as server:
        await late.scheduler.spawn(slot.pass_through())
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        second = await late.scheduler.spawn(late_note(late.log, "queued before"))
        late.gate.open()
        await client.receive()
        await turns()
        assert late.job.pending
        assert late.scheduler.pending_count == 2
        slot.open()
        await asyncio.gather(late.job, second)
        assert late.log == ["sent", "queued before", "job"]


async def late_note(log: list[str], text: str) -> None:
    log.append(text)


async def test_scheduler_closes_held_job_is_dropped_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W8: a job that is still held back never starts when the scheduler closes; E5: the
    record names it; A5: no "never awaited"."""
    late = Late()
    async with serving(late.app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        await late.scheduler.close()
        assert late.job.closed
        late.gate.open()
        assert (await client.receive()).status == 200
        gc.collect()
    assert late.log == ["sent"]
    (record,) = [each for each in caplog.records if each.name == "aiohttp_jobs"]
    assert "1 never started (Late.work)" in record.getMessage()


async def test_job_asks_for_after_response_when_that_was_sent_long_ago() -> None:
    """W8: after the end of the request nothing is held back any more."""
    gate = Gate()
    late: list[Job[None]] = []

    async def job(request: web.Request) -> None:
        await gate.pass_through()
        late.append(await spawn(request, nothing(), after_response=True))

    async def handler(request: web.Request) -> web.Response:
        await spawn(request, job(request))
        return web.Response()

    app = one_route(handler)
    setup(app)
    async with serving(app) as server:
        await server.get()
        gate.open()
        await turns()
        await late[0]


async def test_held_job_fails_exception_handler_is_told() -> None:
    """W8: a job that was held back reports its failure like others (R2)."""
    failures = Failures()

    async def fail() -> None:
        raise ValueError("boom")

    async def handler(request: web.Request) -> web.Response:
        await spawn(request, fail(), after_response=True)
        return web.Response()

    app = one_route(handler)
    setup(app, exception_handler=failures)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        await turns()
    assert failures.exceptions() == ["ValueError('boom')"]


# -- migrating from aiojobs -------------------------------------------------------------


async def test_calls_as_in_aiojobs_work_unchanged() -> None:
    """Compatibility: the functions take the arguments that aiojobs' do."""
    log: list[str] = []

    async def work(what: str) -> str:
        log.append(what)
        return what

    @atomic
    async def handler(request: web.Request) -> web.Response:
        job = await spawn(request, work("spawned"))
        assert await job.wait() == "spawned"
        assert await shield(request, work("shielded")) == "shielded"
        scheduler = get_scheduler(request)
        assert scheduler is get_scheduler_from_request(request)
        assert scheduler is get_scheduler_from_app(request.app)
        await (await scheduler.spawn(work("direct"))).wait()
        return web.Response()

    def on_error(scheduler: Scheduler, context: dict[str, Any]) -> None:
        log.append(context["message"])

    app = one_route(handler)
    setup(
        app,
        limit=100,
        pending_limit=10000,
        close_timeout=0.1,
        wait_timeout=60.0,
        exception_handler=on_error,
    )
    async with serving(app) as server:
        assert (await server.get()).status == 200
    assert log == ["spawned", "shielded", "direct"]


def test_names_of_aiojobs_are_all_there_with_the_same_defaults() -> None:
    """Compatibility: an application migrates by changing its imports."""
    for name in (
        "Scheduler",
        "Job",
        "setup",
        "spawn",
        "shield",
        "atomic",
        "get_scheduler",
        "get_scheduler_from_app",
        "get_scheduler_from_request",
    ):
        assert name in aiohttp_jobs.__all__
        assert hasattr(aiohttp_jobs, name)
    scheduler = setup(web.Application())
    assert scheduler.limit == 100
    assert scheduler.pending_limit == 10000
    assert scheduler.close_timeout == 0.1
    assert scheduler.wait_timeout == 60
    assert scheduler.exception_handler is None


async def test_scheduler_is_closed_functions_refuse_and_close_the_coroutine() -> None:
    """A4, A5: on a closed scheduler all of them raise SchedulerClosed."""
    app = web.Application()
    scheduler = setup(app)
    await scheduler.close()
    request = make_mocked_request("GET", "/", app=app)
    for way_in in (spawn, spawn_by_function, shield_it, spawn_after):
        with pytest.raises(SchedulerClosed):
            await way_in(request, nothing())
    gc.collect()


@pytest.mark.parametrize("way", ["plain", "atomic", "in the middleware"])
async def test_handler_is_called_without_a_server_job_is_held_back_for_nothing(
    way: str,
) -> None:
    """W8: nobody sends a response, and the handler's caller waits for the job."""
    late = Late(atomic_handler=way == "atomic")
    request = make_mocked_request("GET", "/", app=late.app)
    async with asyncio.timeout(30):
        if way == "plain":
            await late.handler(request)
        elif way == "atomic":
            await atomic(late.handler)(request)
        else:
            [middleware] = late.app.middlewares
            await middleware(request, late.handler)
        assert await late.scheduler.drain() is True
        assert late.log[-1] == "job"
        await late.job
        await late.scheduler.wait_and_close()
    assert late.log == ["job"]


async def test_handler_is_called_without_a_server_by_a_task_of_its_own() -> None:
    """W8: the same if the handler's caller runs it in a task of its own."""
    late = Late()

    async def handler() -> None:
        request = make_mocked_request("GET", "/", app=late.app)
        late.jobs.append(spawn_nowait(request, late.work(), after_response=True))

    await asyncio.create_task(handler())
    await late.job
    await late.scheduler.wait_and_close()
    assert late.log == ["job"]
