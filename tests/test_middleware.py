"""The middleware that setup installs: 503 on overload, and atomic HTTP methods."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, web

from aiohttp_jobs import (
    SCHEDULER,
    Job,
    JobCancelled,
    SchedulerClosed,
    SchedulerFull,
    atomic,
    get_scheduler,
    setup,
    shield,
    spawn,
    spawn_nowait,
)
from tests.clients import (
    Answer,
    Failures,
    Gate,
    Handler,
    Server,
    one_route,
    serving,
    turns,
)
from tests.work import nothing


def is_overload(answer: Answer) -> bool:
    return answer.status == 503 and int(answer.headers["retry-after"]) >= 1


# -- 503 --------------------------------------------------------------------------------


async def by_spawn_after(request: web.Request) -> None:
    await spawn(request, nothing(), after_response=True)


async def by_spawn_nowait(request: web.Request) -> None:
    spawn_nowait(request, nothing())


async def by_spawn_nowait_after(request: web.Request) -> None:
    spawn_nowait(request, nothing(), after_response=True)


async def by_spawn(request: web.Request) -> None:
    await spawn(request, nothing())


async def by_shield(request: web.Request) -> None:
    await shield(request, nothing())


async def by_the_scheduler_itself(request: web.Request) -> None:
    get_scheduler(request).spawn_nowait(nothing())


kinds_of_handlers = pytest.mark.parametrize("kind", ["plain", "atomic"])


def as_kind(kind: str, handler: Any) -> Any:
    return atomic(handler) if kind == "atomic" else handler


@kinds_of_handlers
@pytest.mark.parametrize(
    "way_in",
    [by_spawn_after, by_spawn_nowait, by_spawn_nowait_after, by_the_scheduler_itself],
    ids=lambda way: way.__name__,
)
async def test_scheduler_is_full_client_gets_503_with_retry_after(
    kind: str, way_in: Callable[[web.Request], Awaitable[None]]
) -> None:
    """W7: SchedulerFull that a handler lets through becomes 503 with Retry-After."""
    slot = Gate()

    async def handler(request: web.Request) -> web.Response:
        await way_in(request)
        return web.Response()

    app = one_route(as_kind(kind, handler))
    failures = Failures()
    scheduler = setup(app, limit=1, pending_limit=1, exception_handler=failures)
    async with serving(app) as server:
        await scheduler.spawn(slot.pass_through())
        await scheduler.spawn(slot.pass_through())
        assert is_overload(await server.get())
        slot.open()
        await turns()
        assert (await server.get()).status == 200
        gc.collect()
    assert failures == []


@kinds_of_handlers
@pytest.mark.parametrize(
    "way_in",
    [by_spawn, by_spawn_after, by_spawn_nowait, by_spawn_nowait_after, by_shield],
    ids=lambda way: way.__name__,
)
async def test_scheduler_is_closed_client_gets_503_with_retry_after(
    kind: str, way_in: Callable[[web.Request], Awaitable[None]]
) -> None:
    """W7: SchedulerClosed that a handler lets through becomes 503 with Retry-After, also
    when it closes while the handler runs."""
    gate = Gate()

    async def handler(request: web.Request) -> web.Response:
        await gate.pass_through()
        await way_in(request)
        return web.Response()

    app = one_route(as_kind(kind, handler))
    failures = Failures()
    scheduler = setup(app, exception_handler=failures)
    async with serving(app) as server:
        if kind == "atomic":
            # The close would cancel its job, so close before the job is made.
            await scheduler.close()
        client = await server.send("GET", "/")
        if kind == "plain":
            await gate.reached.wait()
            await scheduler.close()
            gate.open()
        assert is_overload(await client.receive())
        gc.collect()
    assert failures == []


async def test_scheduler_closes_while_the_handler_waits_for_room_client_gets_503() -> (
    None
):
    """W7: a handler that waits in spawn when the scheduler closes answers 503 (A4)."""
    slot, waiting = Gate(), Gate()

    async def handler(request: web.Request) -> web.Response:
        waiting.reached.set()
        await spawn(request, nothing())
        return web.Response()

    app = one_route(handler)
    scheduler = setup(app, limit=1, pending_limit=1)
    async with serving(app) as server:
        await scheduler.spawn(slot.pass_through())
        await scheduler.spawn(slot.pass_through())
        client = await server.send("GET", "/")
        await waiting.reached.wait()
        await scheduler.close()
        assert is_overload(await client.receive())


@pytest.mark.parametrize("error", [SchedulerFull(1), SchedulerClosed()])
@pytest.mark.parametrize("place", ["subapp", "middleware", "view"])
async def test_refusal_in_a_subapp_middleware_or_view_becomes_503(
    place: str, error: Exception
) -> None:
    """W7: whatever code inside setup's middleware lets it through."""

    class View(web.View):
        async def get(self) -> web.StreamResponse:
            raise error

    async def handler(request: web.Request) -> web.Response:
        if place == "subapp":
            raise error
        return web.Response()

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        raise error

    below = one_route(View if place == "view" else handler)
    if place == "middleware":
        below.middlewares.append(refuse)
    app = web.Application()
    setup(app)
    app.add_subapp("/below", below)
    async with serving(app) as server:
        assert is_overload(await server.get("/below/"))


async def test_outer_middleware_sees_503_as_an_http_exception() -> None:
    """W7: a middleware outside setup's sees the 503 like any other answer."""
    seen: list[BaseException | None] = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPServiceUnavailable as error:
            seen.append(error.__cause__)
            raise

    async def handler(request: web.Request) -> web.Response:
        raise SchedulerFull(1)

    app = one_route(handler)
    app.middlewares.append(note)
    setup(app)
    async with serving(app) as server:
        assert is_overload(await server.get())
    assert [type(error) for error in seen] == [SchedulerFull]


@kinds_of_handlers
async def test_handler_catches_the_refusal_its_own_answer_is_given(kind: str) -> None:
    """W7: only a refusal that is let through becomes 503."""

    async def handler(request: web.Request) -> web.Response:
        try:
            raise SchedulerFull(1)
        except SchedulerFull:
            return web.Response(status=202)

    app = one_route(as_kind(kind, handler))
    setup(app)
    async with serving(app) as server:
        assert (await server.get()).status == 202


@kinds_of_handlers
@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
async def test_other_errors_stay_500(kind: str, error: type[Exception]) -> None:
    """W7: 503 is only for refusals of the scheduler, and for no other RuntimeError."""

    async def handler(request: web.Request) -> web.Response:
        raise error("boom")

    app = one_route(as_kind(kind, handler))
    setup(app)
    async with serving(app) as server:
        answer = await server.get()
    assert answer.status == 500
    assert "retry-after" not in answer.headers


@kinds_of_handlers
@pytest.mark.parametrize("written", [True, False], ids=["written", "prepared"])
async def test_response_has_begun_a_refusal_does_not_replace_it(
    kind: str, written: bool
) -> None:
    """W7: what has been sent stays: the connection breaks off, as with other errors."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        if written:
            await response.write(b"the first part")
        raise SchedulerFull(1)

    app = one_route(as_kind(kind, handler))
    setup(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        received = ""
        while some := await client.receive_some():
            received += some
    assert received.startswith("HTTP/1.1 200 OK")
    assert "503" not in received
    assert ("the first part" in received) is written


@kinds_of_handlers
async def test_client_was_told_to_continue_a_refusal_is_503_all_the_same(
    kind: str,
) -> None:
    """W7: "100 Continue", which big uploads wait for, is not yet the response."""

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        raise SchedulerFull(1)

    app = one_route(as_kind(kind, handler))
    setup(app)
    async with serving(app) as server:
        client = await server.connect()
        await client.send("POST", "/", length=4, headers="Expect: 100-continue\r\n")
        assert (await client.receive()).status == 100
        await client.send_more("body")
        assert is_overload(await client.receive())


@kinds_of_handlers
async def test_client_was_refused_it_may_try_again_on_the_same_connection(
    kind: str,
) -> None:
    """W7: the 503 is an answer like others: the connection stays open."""
    refusals = [SchedulerFull(1), SchedulerClosed()]

    async def handler(request: web.Request) -> web.Response:
        if refusals:
            raise refusals.pop()
        return web.Response()

    app = one_route(as_kind(kind, handler))
    setup(app)
    async with serving(app) as server:
        client = await server.connect()
        for expected in (503, 503, 200):
            await client.send("GET", "/")
            assert (await client.receive()).status == expected


# -- 503 for a job that somebody else cancelled -----------------------------------------


async def waiting_for_a_job(request: web.Request, job: Job[Any]) -> None:
    await job


async def in_a_task(request: web.Request, job: Job[Any]) -> None:
    await asyncio.ensure_future(job.wait())


async def through_gather(request: web.Request, job: Job[Any]) -> None:
    await asyncio.gather(job.wait(), asyncio.sleep(0))


async def in_time(request: web.Request, job: Job[Any]) -> None:
    async with asyncio.timeout(3600):
        await job


async def with_wait_for(request: web.Request, job: Job[Any]) -> None:
    await asyncio.wait_for(job.wait(), 3600)


async def shielded(request: web.Request, job: Job[Any]) -> None:
    await shield(request, job)


class Export:
    """A handler that waits for a job of its own, and lets its exception through."""

    def __init__(
        self, wait: Callable[[web.Request, Job[Any]], Awaitable[None]], kind: str
    ) -> None:
        self._wait = wait
        self.work = Gate()
        self.jobs: list[Job[Any]] = []
        self.failures = Failures()
        self.app = one_route(as_kind(kind, self.handler))
        self.scheduler = setup(self.app, exception_handler=self.failures)

    async def handler(self, request: web.Request) -> web.Response:
        job = await spawn(request, self.work.pass_through())
        self.jobs.append(job)
        await self._wait(request, job)
        return web.Response()


@kinds_of_handlers
@pytest.mark.parametrize(
    "wait",
    [waiting_for_a_job, in_a_task, through_gather, in_time, with_wait_for, shielded],
)
async def test_job_is_closed_that_the_handler_waits_for_client_gets_503(
    kind: str, wait: Any
) -> None:
    """W7: the JobCancelled of a job that somebody else cancelled becomes 503, too; R2:
    and is not reported."""
    export = Export(wait, kind)
    async with serving(export.app) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send("GET", "/")
            await export.work.reached.wait()
            await export.jobs[-1].close()
            export.work.reached.clear()
            assert is_overload(await client.receive())
    assert export.failures == []


@kinds_of_handlers
async def test_scheduler_closes_the_job_that_the_handler_waits_for_client_gets_503(
    kind: str,
) -> None:
    """W7: also if all jobs are closed, and the atomic handler with them."""
    export = Export(waiting_for_a_job, kind)
    async with serving(export.app) as server:
        client = await server.send("GET", "/")
        await export.work.reached.wait()
        await export.scheduler.close()
        assert is_overload(await client.receive())
    assert export.failures == []


async def test_atomic_handler_is_closed_itself_client_gets_503() -> None:
    """W7: an operator may close the very job that answers."""
    gate = Gate()

    @atomic
    async def handler(request: web.Request) -> web.Response:
        await gate.pass_through()
        return web.Response()

    app = one_route(handler)
    failures = Failures()
    scheduler = setup(app, exception_handler=failures)
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send("GET", "/")
            await gate.reached.wait()
            gate.reached.clear()
            (job,) = scheduler
            await job.close()
            assert is_overload(await client.receive())
    assert failures == []


async def test_handler_is_cancelled_itself_while_it_waits_the_connection_ends() -> None:
    """W7: a handler that the server cancels at shutdown was not refused anything, even if
    the job that it waits for was cancelled as well."""
    seen: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async def wait(request: web.Request, job: Job[Any]) -> None:
        try:
            await job
        finally:
            await job.close()
            await job

    export = Export(wait, "plain")
    export.app.middlewares.insert(0, note)
    async with serving(export.app, shutdown_timeout=0.01) as server:
        client = await server.send("GET", "/")
        await export.work.reached.wait()
        await server.close()
        with pytest.raises((EOFError, ConnectionError)):
            await client.receive()
    assert seen == ["JobCancelled"]


@kinds_of_handlers
async def test_response_has_begun_when_the_job_is_cancelled_it_breaks_off(
    kind: str,
) -> None:
    """W7: what has been sent stays."""

    async def begin(request: web.Request, job: Job[Any]) -> None:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the first part")
        await job

    export = Export(begin, kind)
    async with serving(export.app) as server:
        client = await server.send("GET", "/")
        await export.work.reached.wait()
        await turns()
        await export.jobs[0].close()
        received = ""
        while some := await client.receive_some():
            received += some
    assert received.startswith("HTTP/1.1 200 OK")
    assert "503" not in received


async def test_outer_middleware_sees_503_for_a_job_that_was_cancelled() -> None:
    """W7: as an HTTPException, not as a cancellation, which a deadline would take for its
    own."""
    seen: list[BaseException | None] = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(3600):
                return await handler(request)
        except web.HTTPServiceUnavailable as error:
            seen.append(error.__cause__)
            raise

    export = Export(waiting_for_a_job, "plain")
    export.app.middlewares.insert(0, note)
    async with serving(export.app) as server:
        client = await server.send("GET", "/")
        await export.work.reached.wait()
        await export.jobs[0].close()
        assert is_overload(await client.receive())
    assert [type(error) for error in seen] == [JobCancelled]


async def test_subapp_is_full_its_parent_is_not_each_refuses_for_itself() -> None:
    """W7, W3: the scheduler of the nearest application is the one that needs room."""
    slot = Gate()

    async def handler(request: web.Request) -> web.Response:
        spawn_nowait(request, nothing())
        return web.Response()

    app, below = one_route(handler), one_route(handler)
    setup(app)
    full = setup(below, limit=1, pending_limit=1)
    app.add_subapp("/below", below)
    async with serving(app) as server:
        await full.spawn(slot.pass_through())
        await full.spawn(slot.pass_through())
        assert is_overload(await server.get("/below/"))
        assert (await server.get("/")).status == 200
        slot.open()


async def test_websocket_is_open_a_refusal_breaks_it_off() -> None:
    """W7: a web socket cannot become a 503."""

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        raise SchedulerFull(1)

    app = one_route(handler)
    setup(app)
    async with (
        serving(app) as server,
        ClientSession() as session,
        session.ws_connect(server.make_url("/")) as socket,
    ):
        assert (await socket.receive()).data == "hello"
        closed = await socket.receive()
        assert closed.type in (WSMsgType.CLOSED, WSMsgType.CLOSE, WSMsgType.ERROR)


# -- atomic methods ---------------------------------------------------------------------


class Counting:
    """A handler that records how many jobs it runs in, and then waits at a gate."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.counts: list[tuple[str, int]] = []
        self.ended: list[str] = []

    async def handler(self, request: web.Request) -> web.Response:
        count = get_scheduler(request).active_count
        self.counts.append((request.method, count))
        await self.gate.pass_through()
        self.ended.append(request.method)
        return web.Response(text=str(count))

    def view(self) -> type[web.View]:
        handler = self.handler

        class View(web.View):
            async def get(self) -> web.StreamResponse:
                return await handler(self.request)

            async def post(self) -> web.StreamResponse:
                return await handler(self.request)

        return View


@pytest.mark.parametrize("methods", [{"post"}, ["POST"], ("PUT", "Post")])
@pytest.mark.parametrize("kind", ["function", "view", "subapp"])
async def test_methods_are_atomic_client_hangs_up_their_handlers_run_to_their_end(
    methods: Any, kind: str
) -> None:
    """W6: setup(app, atomic_methods=...) makes every handler of those HTTP methods
    atomic, in sub-applications too, and no other; upper case or lower."""
    counting = Counting()
    app = one_route(counting.view() if kind == "view" else counting.handler)
    root, path = app, "/"
    if kind == "subapp":
        root, path = web.Application(), "/below/"
        root.add_subapp("/below", app)
    setup(root, atomic_methods=methods)
    async with serving(root, handler_cancellation=True) as server:
        for method in ("GET", "POST"):
            counting.gate.reached.clear()
            client = await server.send(method, path)
            await counting.gate.reached.wait()
            await client.hang_up()
        counting.gate.open()
        await turns()
        assert counting.ended == ["POST"]
    assert counting.counts == [("GET", 0), ("POST", 1)]


async def test_marked_handler_of_an_atomic_method_is_one_job() -> None:
    """W6: both ways together make one job, as do those of parent and child together."""
    counting = Counting()
    counting.gate.open()
    app = one_route(atomic(counting.handler))
    below = setup(app, atomic_methods={"POST"})
    root = web.Application()
    above = setup(root, atomic_methods={"POST"})
    jobs: list[int] = []

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        jobs.append(len(above) + len(below))
        return await handler(request)

    app.middlewares.append(count)
    root.add_subapp("/below", app)
    async with serving(root) as server:
        assert (await server.request("POST", "/below/")).status == 200
        assert (await server.request("PUT", "/below/")).status == 200
    assert jobs == [1, 1]


async def test_atomic_method_without_a_route_is_404_or_405() -> None:
    """W6: answers that are not from a handler of the application stay the same."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handler)
    failures = Failures()
    setup(app, atomic_methods={"POST"}, exception_handler=failures)
    async with serving(app) as server:
        assert (await server.request("POST", "/nowhere")).status == 404
        assert (await server.request("POST", "/")).status == 405
    assert failures == []


async def test_many_requests_at_once_every_one_is_answered_and_no_job_is_left() -> None:
    """W5, W6: atomic requests do not wait for each other, however many there are."""
    count = 50
    arrived = 0
    all_are_here = asyncio.Event()

    @atomic
    async def handler(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            all_are_here.set()
        await all_are_here.wait()
        return web.Response(text=str(request.app[SCHEDULER].active_count > 0))

    async def ask(server: Server) -> Answer:
        return await server.get()

    app = one_route(handler)
    scheduler = setup(app, limit=1, pending_limit=1)
    async with serving(app) as server:
        answers = await asyncio.gather(*(ask(server) for _ in range(count)))
        assert {(answer.status, answer.text) for answer in answers} == {(200, "True")}
        assert scheduler.active_count == 0
