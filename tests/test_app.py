"""setup: what it refuses, and when the scheduler of an application drains."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, web

from aiohttp_jobs import (
    SCHEDULER,
    Job,
    Scheduler,
    SchedulerClosed,
    atomic,
    setup,
    shield,
    spawn,
)
from aiohttp_jobs.core.states import SchedulerState
from tests.clients import (
    Failures,
    Gate,
    draining,
    one_route,
    resource,
    serving,
    turns,
)
from tests.work import nothing, stubborn


class Work:
    """Jobs and handlers that the test holds at a gate, and a log of how they ended."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = Gate()

    async def do(self, name: str = "job") -> None:
        try:
            await self.gate.pass_through()
        except BaseException as error:
            self.log.append(f"{name}: {type(error).__name__}")
            raise
        self.log.append(f"{name} done")

    async def handler(self, request: web.Request) -> web.Response:
        await self.do("handler")
        return web.Response(text="done")

    def close(self, name: str) -> Callable[[web.Application], Awaitable[None]]:
        """Make an `on_cleanup` handler."""

        async def close(app: web.Application) -> None:
            self.log.append(f"{name} closed")

        return close


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The messages that the package has logged."""

    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "aiohttp_jobs"
        ]

    with caplog.at_level("WARNING", "aiohttp_jobs"):
        yield messages


# -- setup ------------------------------------------------------------------------------


class Observer:
    def job_closed(self, job: Job[Any]) -> None:
        pass


def test_setup_returns_the_scheduler_and_stores_it() -> None:
    """W1: setup makes the scheduler at once, stores it under SCHEDULER, installs the
    middleware, and returns the scheduler."""
    app = web.Application()
    failures = Failures()
    scheduler = setup(
        app,
        close_timeout=1,
        wait_timeout=2,
        limit=3,
        pending_limit=4,
        exception_handler=failures,
        observers=[Observer()],
    )
    assert isinstance(scheduler, Scheduler)
    assert app[SCHEDULER] is scheduler
    assert len(app.middlewares) == 1
    assert (scheduler.close_timeout, scheduler.wait_timeout) == (1, 2)
    assert (scheduler.limit, scheduler.pending_limit) == (3, 4)
    assert scheduler.exception_handler is failures


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"limits": 5}, TypeError, r"unexpected .* 'limits'"),
        ({"limit": 0}, ValueError, "limit takes at least 1"),
        ({"observers": [3]}, TypeError, "observer takes an object"),
        ({"wait_timeout": -1}, ValueError, "wait_timeout takes at least 0"),
        ({"wait_timeout": 10**400}, ValueError, "wait_timeout takes at most 1.79"),
        ({"exception_handler": nothing}, TypeError, "exception_handler takes a plain"),
        ({"atomic_methods": "POST"}, TypeError, r"as \{'POST'\}, not 'POST'"),
        ({"atomic_methods": None}, TypeError, r"as \{'POST'\}, not None"),
        ({"atomic_methods": iter(["POST"])}, TypeError, "takes a collection"),
        ({"atomic_methods": [b"POST"]}, TypeError, r"not \[b'POST'\]"),
        ({"atomic_methods": {"*"}}, ValueError, r"each by its name, not '\*'"),
        ({"atomic_methods": ["GET,PUT"]}, ValueError, "not 'GET,PUT'"),
        ({"atomic_methods": [""]}, ValueError, "not ''"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_option_cannot_be_right_nothing_is_installed(
    options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    """W1: misspelt and invalid options are refused at the call, each with its own
    sentence, and leave the application as it was; A7."""
    app = web.Application()
    with pytest.raises(error, match=sentence):
        setup(app, **options)
    assert SCHEDULER not in app
    assert [len(app.middlewares), len(app.on_cleanup), len(app.cleanup_ctx)] == [0, 1, 0]
    setup(app)


@pytest.mark.parametrize("something", [None, web.Application, web.AppRunner])
def test_something_else_than_an_application_is_refused(something: Any) -> None:
    """W1: setup takes an application, and says so."""
    with pytest.raises(TypeError, match=r"takes an aiohttp\.web\.Application, not"):
        setup(something)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
@pytest.mark.parametrize("when", ["before", "after"])
def test_tool_puts_a_subclass_in_the_place_of_the_class_both_are_set_up(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W1: an application counts as one whether it was made before or after a tool
    replaced aiohttp.web.Application by a subclass."""
    original = web.Application
    instrumented = type("_Instrumented", (original,), {})
    app = original() if when == "before" else instrumented()
    monkeypatch.setattr(web, "Application", instrumented)
    assert setup(app) is app[SCHEDULER]


@pytest.mark.parametrize("name", ["Request", "View", "HTTPException", "StreamResponse"])
async def test_tool_puts_subclasses_in_the_place_of_classes_requests_are_answered(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W6: the same goes for the other classes that handlers use."""

    class Redirecting(web.View):
        @atomic
        async def get(self) -> web.StreamResponse:
            await spawn(self.request, nothing())
            raise web.HTTPFound("/elsewhere")

    app = one_route(Redirecting)
    failures = Failures()
    setup(app, exception_handler=failures)
    monkeypatch.setattr(web, name, type("_Instrumented", (getattr(web, name),), {}))
    async with serving(app) as server:
        assert (await server.get()).status == 302
    assert failures == []


def test_extension_methods_may_be_atomic() -> None:
    """W1: methods that HTTP itself does not define can have routes, and be atomic."""
    setup(web.Application(), atomic_methods={"PROPFIND", "m-search"})


def test_second_setup_is_refused_and_the_first_stays() -> None:
    """W1: a second setup of an application is refused, and says what there is."""
    app = web.Application()
    scheduler = setup(app)
    with pytest.raises(RuntimeError, match=r"already been called .* app\[SCHEDULER\]"):
        setup(app, limit=5)
    assert app[SCHEDULER] is scheduler
    assert len(app.middlewares) == 1


async def test_application_runs_already_setup_is_refused() -> None:
    """W1: a frozen application is refused at the call, and nothing is installed; also in
    its own start-up handlers, when it is half frozen."""
    app = web.Application()

    async def too_late(app: web.Application) -> None:
        with pytest.raises(RuntimeError, match=r"is frozen: call it before .*run_app"):
            setup(app)

    async def context(app: web.Application) -> AsyncIterator[None]:
        await too_late(app)
        yield
        await too_late(app)

    app.on_startup.append(too_late)
    app.cleanup_ctx.append(context)
    async with serving(app):
        await too_late(app)
    assert SCHEDULER not in app
    assert len(app.middlewares) == 0


def test_application_was_added_to_its_parent_setup_is_refused() -> None:
    """W1: a sub-application is frozen by add_subapp, and the sentence says so."""
    parent, child = web.Application(), web.Application()
    parent.add_subapp("/child", child)
    with pytest.raises(RuntimeError, match=r"is frozen: call it before add_subapp\(\)"):
        setup(child)
    assert SCHEDULER not in child
    setup(parent)


async def test_application_is_never_run_its_scheduler_works_and_is_forgotten() -> None:
    """W1, L4: the scheduler of an application that is set up but never run can be used
    and closed like any other; one that was never used needs no closing."""
    setup(web.Application())
    gc.collect()
    app = web.Application()
    scheduler = setup(app)
    job = await scheduler.spawn(nothing())
    await scheduler.wait_and_close()
    assert job.closed
    del app, scheduler
    gc.collect()


# -- jobs end before what they use ------------------------------------------------------


@pytest.mark.parametrize("setup_first", [True, False], ids=["setup-first", "setup-last"])
async def test_application_shuts_down_jobs_end_before_every_other_clean_up(
    setup_first: bool,
) -> None:
    """W2: the scheduler drains before every other clean-up, whether setup was called
    before or after the database's cleanup_ctx and the on_cleanup handlers were added."""
    work = Work()
    app = web.Application()
    if setup_first:
        setup(app)
    app.on_cleanup.append(work.close("mailer"))
    app.cleanup_ctx.append(resource("database", work.log))
    app.cleanup_ctx.append(resource("cache", work.log))
    if not setup_first:
        setup(app)
    scheduler = app[SCHEDULER]
    async with serving(app) as server:
        await scheduler.spawn(work.do())
        closing = asyncio.create_task(server.close())
        await draining(scheduler)
        await turns()
        assert work.log == []
        work.gate.open()
        await closing
    closed = ["cache closed", "database closed", "mailer closed"]
    assert work.log == ["job done", *closed]
    assert scheduler.state is SchedulerState.CLOSED


async def test_handlers_end_before_the_scheduler_drains() -> None:
    """W2: the scheduler drains after the handlers have ended: until then they spawn as
    usual, and their jobs are drained."""
    work, slow = Work(), Work()

    async def handler(request: web.Request) -> web.Response:
        await slow.do("handler")
        await spawn(request, work.do())
        work.log.append("handler done")
        return web.Response(text="done")

    app = one_route(handler)
    scheduler = setup(app)
    app.cleanup_ctx.append(resource("database", work.log))
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await slow.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await turns()
        assert scheduler.state is SchedulerState.OPEN
        slow.gate.open()
        await draining(scheduler)
        assert (await client.receive()).text == "done"
        assert work.log == ["handler done"]
        work.gate.open()
        await closing
    assert work.log == ["handler done", "job done", "database closed"]


async def test_shutdown_handlers_spawn_their_jobs_are_drained() -> None:
    """W2: handlers of on_shutdown, before or after setup, may spawn."""
    work = Work()
    work.gate.open()

    async def say_goodbye(app: web.Application) -> None:
        await app[SCHEDULER].spawn(work.do("goodbye"))

    app = web.Application()
    app.on_shutdown.append(say_goodbye)
    app.cleanup_ctx.append(resource("database", work.log))
    setup(app)
    app.on_shutdown.append(say_goodbye)
    async with serving(app):
        pass
    assert work.log == ["goodbye done", "goodbye done", "database closed"]


async def test_jobs_spawn_jobs_while_the_scheduler_drains_all_end_first() -> None:
    """W2: jobs spawned by jobs during the drain are drained too (A4), even queued
    ones."""
    work = Work()
    app = web.Application()
    scheduler = setup(app, limit=1)
    app.cleanup_ctx.append(resource("database", work.log))

    async def chain(left: int) -> None:
        await work.do(f"job {left}")
        if left:
            await scheduler.spawn(chain(left - 1))
            scheduler.spawn_nowait(nothing())

    async with serving(app) as server:
        await scheduler.spawn(chain(2))
        closing = asyncio.create_task(server.close())
        await draining(scheduler)
        work.gate.open()
        await closing
    assert work.log == ["job 2 done", "job 1 done", "job 0 done", "database closed"]


async def test_clean_up_comes_after_the_jobs_and_finds_the_scheduler_closed() -> None:
    """W2: when the other clean-up begins no job is left, and none is accepted (A4)."""
    found: list[object] = []
    app = web.Application()
    scheduler = setup(app)

    async def context(app: web.Application) -> AsyncIterator[None]:
        yield
        found.append((len(scheduler), scheduler.closed))
        with pytest.raises(SchedulerClosed):
            await scheduler.spawn(nothing())

    app.cleanup_ctx.append(context)
    async with serving(app):
        await scheduler.spawn(turns())
    assert found == [(0, True)]


@pytest.mark.parametrize("setup_first", [True, False], ids=["setup-first", "setup-last"])
async def test_start_up_spawns_in_whatever_order_it_was_added(setup_first: bool) -> None:
    """W2: because the scheduler exists from setup on, on_startup handlers and clean-up
    contexts can spawn, in whatever order they were added."""
    work = Work()
    work.gate.open()

    async def warm_up(app: web.Application) -> None:
        await app[SCHEDULER].spawn(work.do("warm-up"))

    async def context(app: web.Application) -> AsyncIterator[None]:
        app[SCHEDULER].spawn_nowait(work.do("import"))
        yield
        work.log.append("database closed")

    app = web.Application()
    if setup_first:
        setup(app)
    app.on_startup.append(warm_up)
    app.cleanup_ctx.append(context)
    if not setup_first:
        setup(app)
    async with serving(app):
        await turns()
        assert sorted(work.log) == ["import done", "warm-up done"]
    assert work.log[2:] == ["database closed"]


async def test_jobs_spawned_before_the_start_are_drained_too() -> None:
    """W2: setup is enough to spawn; the application need not run yet."""
    work = Work()
    app = web.Application()
    app.cleanup_ctx.append(resource("database", work.log))
    scheduler = setup(app)
    await scheduler.spawn(work.do())
    async with serving(app) as server:
        closing = asyncio.create_task(server.close())
        await draining(scheduler)
        work.gate.open()
        await closing
    assert work.log == ["job done", "database closed"]


async def test_runner_is_cleaned_up_twice_the_second_time_does_nothing() -> None:
    """W2: whatever can be closed can be closed twice."""
    work = Work()
    work.gate.open()
    app = web.Application()
    app.cleanup_ctx.append(resource("database", work.log))
    scheduler = setup(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await scheduler.spawn(work.do())
    await runner.cleanup()
    await runner.cleanup()
    assert work.log == ["job done", "database closed"]
    assert scheduler.state is SchedulerState.CLOSED


async def test_job_cleans_the_runner_up_and_is_not_waited_for() -> None:
    """W2, E3: a job may shut its own application down; the others are drained."""
    work = Work()
    app = web.Application()
    app.cleanup_ctx.append(resource("database", work.log))
    scheduler = setup(app)
    runner = web.AppRunner(app)
    await runner.setup()

    async def shut_down() -> None:
        await runner.cleanup()
        work.log.append("shut down")

    other = await scheduler.spawn(work.do())
    job = await scheduler.spawn(shut_down())
    await draining(scheduler)
    work.gate.open()
    await asyncio.gather(job, other)
    assert work.log == ["job done", "database closed", "shut down"]


async def test_two_applications_in_one_loop_each_ends_its_own_jobs() -> None:
    """W2: the end of one application does not affect the jobs of another."""
    work, app, other = Work(), web.Application(), web.Application()
    scheduler, other_scheduler = setup(app), setup(other)
    runner, other_runner = web.AppRunner(app), web.AppRunner(other)
    await runner.setup()
    await other_runner.setup()
    await scheduler.spawn(turns())
    job = await other_scheduler.spawn(work.do())
    await runner.cleanup()
    assert scheduler.state is SchedulerState.CLOSED
    assert other_scheduler.state is SchedulerState.OPEN
    assert job.active
    work.gate.open()
    await other_runner.cleanup()
    assert work.log == ["job done"]


# -- deadlines --------------------------------------------------------------------------


async def test_jobs_swallow_every_cancellation_shutdown_ends_on_time(
    records: Callable[[], list[str]],
) -> None:
    """E0: every timeout is a hard deadline for application shutdown too, even if jobs,
    shielded awaitables and atomic handlers swallow every cancellation; E1: they are
    cancelled once; W2: the other clean-up does take place."""
    log: list[str] = []
    may_end = asyncio.Event()
    cancelled: tuple[list[float], ...] = ([], [], [])
    job, shielded, in_handler = (stubborn(may_end, each) for each in cancelled)
    begun = asyncio.Event()

    @atomic
    async def handler(request: web.Request) -> web.Response:
        begun.set()
        await in_handler
        return web.Response()

    app = one_route(handler)
    failures = Failures()
    scheduler = setup(
        app, wait_timeout=0.01, close_timeout=0.01, exception_handler=failures
    )
    app.cleanup_ctx.append(resource("database", log))
    async with serving(app, shutdown_timeout=0.01) as server:
        await scheduler.spawn(job)
        scheduler.shield(shielded)
        await server.send("GET", "/")
        await begun.wait()
        await server.close()
        assert log == ["database closed"]
        assert scheduler.state is SchedulerState.CLOSED
        assert [len(times) for times in cancelled] == [1, 1, 1]
        may_end.set()
        await turns()
    assert sorted(context["message"] for context in failures) == [
        "Job closing timed out",
        "Job closing timed out",
        "Shielded awaitable closing timed out",
    ]
    (record,) = records()
    assert "2 cancelled" in record
    assert "1 shielded cancelled" in record


async def test_deadline_passes_one_record_names_what_is_left(
    records: Callable[[], list[str]],
) -> None:
    """E5: one log record tells what shutdown cancelled or never started, with counts and
    names; W2: and all of it has ended before the other clean-up."""
    work = Work()
    app = web.Application()
    scheduler = setup(app, limit=1, wait_timeout=0.01)
    app.cleanup_ctx.append(resource("database", work.log))
    async with serving(app) as server:
        await scheduler.spawn(work.do("first"), "first")
        await scheduler.spawn(work.do("second"), "second")
        await scheduler.spawn(work.do("third"), "third")
        await server.close()
    assert work.log == ["first: CancelledError", "database closed"]
    (record,) = records()
    assert "1 cancelled (first); 2 never started (second, third)" in record


async def test_cleaning_up_is_cancelled_the_scheduler_closes_at_once(
    records: Callable[[], list[str]],
) -> None:
    """E4: a clean-up that is cancelled half-way, as by a second signal, closes at once
    and then raises: no job is left running."""
    work = Work()
    app = web.Application()
    scheduler = setup(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await scheduler.spawn(work.do(), "report")
    closing = asyncio.create_task(runner.cleanup())
    await draining(scheduler)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert work.log == ["job: CancelledError"]
    assert scheduler.state is SchedulerState.CLOSED
    (record,) = records()
    assert "1 cancelled (report)" in record


async def await_job(request: web.Request, coro: Coroutine[Any, Any, None]) -> None:
    await (await spawn(request, coro, "work"))


async def await_shield(request: web.Request, coro: Coroutine[Any, Any, None]) -> None:
    await shield(request, coro)


@pytest.mark.parametrize("in_time", [True, False], ids=["in-time", "late"])
@pytest.mark.parametrize("wait_for", [await_job, await_shield])
async def test_server_cancels_its_handler_what_that_waits_for_is_drained(
    wait_for: Callable[..., Awaitable[None]], in_time: bool
) -> None:
    """W2: a handler that awaits a job or a shield is cancelled at shutdown when its time
    is over; the job or shielded awaitable is drained, and cancelled when the scheduler
    closes."""
    work = Work()

    async def handler(request: web.Request) -> web.Response:
        try:
            await wait_for(request, work.do("work"))
        except asyncio.CancelledError:
            work.log.append("handler cancelled")
            raise
        return web.Response()

    app = one_route(handler)
    scheduler = setup(app, wait_timeout=None if in_time else 0.01)
    app.cleanup_ctx.append(resource("database", work.log))
    async with serving(app, shutdown_timeout=0.01) as server:
        await server.send("GET", "/")
        await work.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await draining(scheduler)
        assert work.log == ["handler cancelled"]
        if in_time:
            work.gate.open()
        await closing
    assert work.log[1:] == [
        "work done" if in_time else "work: CancelledError",
        "database closed",
    ]


async def test_shutdown_timeout_is_zero_handlers_are_waited_for_without_a_bound() -> None:
    """W2: aiohttp takes a shutdown_timeout of 0 for none; the drain comes after that."""
    work = Work()
    app = one_route(work.handler)
    scheduler = setup(app)
    app.cleanup_ctx.append(resource("database", work.log))
    async with serving(app, shutdown_timeout=0) as server:
        client = await server.send("GET", "/")
        await work.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await turns(100)
        assert scheduler.state is SchedulerState.OPEN
        work.gate.open()
        assert (await client.receive()).text == "done"
        await closing
    assert work.log == ["handler done", "database closed"]


async def test_web_sockets_are_closed_in_on_shutdown_their_atomic_handlers_end() -> None:
    """W2, W6: a handler of on_shutdown closes the web sockets; their atomic handlers end
    then, and what they do last comes before the clean-up."""
    log: list[str] = []
    sockets: set[web.WebSocketResponse] = set()

    @atomic
    async def chat(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sockets.add(socket)
        async for message in socket:
            await socket.send_str(message.data)
        await turns()
        log.append("talk stored")
        return socket

    async def close_sockets(app: web.Application) -> None:
        for socket in sockets:
            await socket.close()

    app = one_route(chat)
    setup(app)
    app.on_shutdown.append(close_sockets)
    app.cleanup_ctx.append(resource("database", log))
    async with serving(app) as server, ClientSession() as session:
        async with session.ws_connect(server.make_url("/")) as client:
            await client.send_str("hello")
            assert (await client.receive()).data == "hello"
            closing = asyncio.create_task(server.close())
            assert (await client.receive()).type is WSMsgType.CLOSE
        await closing
    assert log == ["talk stored", "database closed"]


# -- sub-applications -------------------------------------------------------------------


class Family:
    """A parent with a database, and an application below it that has a scheduler.

    Args:
        parent: whether the parent is set up "before" or "after" the other one is added to
            it; None if it is not set up.
        depth: how many applications are between the parent and the one below.
        handler: the handler of the application below, at ``/below/``.
        options: for the setup of the application below.
    """

    def __init__(
        self,
        *,
        parent: str | None,
        depth: int = 0,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
        **options: Any,
    ) -> None:
        self.above, self.below = Work(), Work()
        self.log = self.above.log = self.below.log
        child = one_route(handler or self.below.handler)
        child.cleanup_ctx.append(resource("cache", self.log))
        self.scheduler = setup(child, **options)
        for _ in range(depth):
            between = web.Application()
            between.add_subapp("/between", child)
            child = between
        self.path = "/below" + "/between" * depth + "/"
        self.app = web.Application()
        self.app.cleanup_ctx.append(resource("database", self.log))
        if parent == "before":
            setup(self.app)
        self.app.add_subapp("/below", child)
        if parent == "after":
            setup(self.app)
        self.parents = self.app.get(SCHEDULER)


depths = pytest.mark.parametrize("depth", [0, 2], ids=["child", "nested"])


@depths
@pytest.mark.parametrize("parent", ["before", "after"])
async def test_parent_is_set_up_both_schedulers_end_before_its_resources(
    parent: str, depth: int
) -> None:
    """W2: a sub-application's own scheduler ends before the parent's resources too,
    whether it was added before or after the parent's setup; the parent drains both at
    the same time."""
    family = Family(parent=parent, depth=depth)
    assert family.parents is not None
    async with serving(family.app) as server:
        await family.parents.spawn(family.above.do("parent's job"))
        await family.scheduler.spawn(family.below.do("child's job"))
        closing = asyncio.create_task(server.close())
        await draining(family.parents)
        await draining(family.scheduler)
        assert family.parents.state is SchedulerState.DRAINING
        assert family.log == []
        family.above.gate.open()
        await turns()
        assert family.log == ["parent's job done"]
        family.below.gate.open()
        await closing
    jobs = ["parent's job done", "child's job done"]
    assert family.log == [*jobs, "database closed", "cache closed"]
    assert family.scheduler.state is SchedulerState.CLOSED


@depths
@pytest.mark.parametrize("parent", ["before", "after"])
async def test_parent_is_set_up_requests_of_the_child_end_before_the_drain(
    parent: str, depth: int
) -> None:
    """W2: the scheduler of a sub-application, too, drains after the handlers have ended,
    if its parent was set up."""
    family = Family(parent=parent, depth=depth)
    async with serving(family.app) as server:
        client = await server.send("GET", family.path)
        await family.below.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await turns()
        assert family.scheduler.state is SchedulerState.OPEN
        family.below.gate.open()
        assert (await client.receive()).status == 200
        await closing
    assert family.log == ["handler done", "database closed", "cache closed"]


async def test_parent_is_set_up_each_scheduler_has_its_own_deadline(
    records: Callable[[], list[str]],
) -> None:
    """W2: each scheduler has its own wait_timeout; the longest one counts."""
    family = Family(parent="before", wait_timeout=0.01)
    assert family.parents is not None
    async with serving(family.app) as server:
        await family.parents.spawn(family.above.do("parent's job"))
        job = await family.scheduler.spawn(family.below.do("child's job"), "late")
        closing = asyncio.create_task(server.close())
        with pytest.raises(asyncio.CancelledError):
            await job
        assert family.parents.state is SchedulerState.DRAINING
        family.above.gate.open()
        await closing
    jobs = ["child's job: CancelledError", "parent's job done"]
    assert family.log == [*jobs, "database closed", "cache closed"]
    (record,) = records()
    assert "1 cancelled (late)" in record


async def test_three_generations_are_set_up_all_end_before_the_oldest_resources() -> None:
    """W2: so do the schedulers of several applications, one below the other."""
    family = Family(parent="before")
    assert family.parents is not None
    oldest = web.Application()
    oldest.cleanup_ctx.append(resource("archive", family.log))
    schedulers = [setup(oldest), family.parents, family.scheduler]
    oldest.add_subapp("/family", family.app)
    async with serving(oldest) as server:
        for scheduler in schedulers:
            await scheduler.spawn(family.below.do())
        closing = asyncio.create_task(server.close())
        for scheduler in schedulers:
            await draining(scheduler)
        family.below.gate.open()
        await closing
    closed = ["archive closed", "database closed", "cache closed"]
    assert family.log == ["job done"] * 3 + closed


@pytest.mark.parametrize("parent", ["before", "after"])
@pytest.mark.parametrize("upwards", [True, False], ids=["upwards", "downwards"])
async def test_job_spawns_into_another_applications_scheduler_it_is_drained_too(
    parent: str, upwards: bool
) -> None:
    """W2, A4: while one of the schedulers drains, the others still take jobs even if they
    have none left; and these jobs end before the resources, too."""
    family = Family(parent=parent)
    assert family.parents is not None
    one, other = family.scheduler, family.parents
    if not upwards:
        one, other = other, one

    async def hand_over() -> None:
        await family.above.do("first job")
        await other.spawn(hand_back())

    async def hand_back() -> None:
        await family.below.do("second job")
        one.spawn_nowait(turns())

    async with serving(family.app) as server:
        await one.spawn(hand_over())
        closing = asyncio.create_task(server.close())
        await draining(one)
        await turns()
        family.above.gate.open()
        await family.below.gate.reached.wait()
        await turns()
        family.below.gate.open()
        await closing
    assert family.log == [
        "first job done",
        "second job done",
        "database closed",
        "cache closed",
    ]


async def test_parent_makes_requests_atomic_they_spawn_into_the_childs_scheduler() -> (
    None
):
    """W2, W4: an atomic request that the parent drains is a handler of the child, and may
    spawn until it ends."""
    work = Work()

    async def handler(request: web.Request) -> web.Response:
        await work.do("handler")
        await spawn(request, nothing())
        work.log.append("spawned")
        return web.Response()

    child, app = one_route(handler), web.Application()
    app.cleanup_ctx.append(resource("database", work.log))
    setup(child)
    above = setup(app, atomic_methods={"POST"})
    app.add_subapp("/child", child)
    async with serving(app, shutdown_timeout=0.01) as server:
        await server.send("POST", "/child/")
        await work.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await draining(above)
        await turns()
        work.gate.open()
        await closing
    assert work.log == ["handler done", "spawned", "database closed"]


@depths
async def test_parent_is_not_set_up_background_jobs_end_before_its_resources(
    depth: int,
) -> None:
    """W2: a sub-application's own scheduler has to end before the parent's resources too:
    it begins to drain in on_shutdown, and finishes in clean-up."""
    family = Family(parent=None, depth=depth)
    async with serving(family.app) as server:
        await family.scheduler.spawn(family.below.do())
        closing = asyncio.create_task(server.close())
        await draining(family.scheduler)
        await turns()
        assert family.log == []
        family.below.gate.open()
        await closing
    assert family.log == ["job done", "database closed", "cache closed"]
    assert family.scheduler.state is SchedulerState.CLOSED


async def test_oldest_is_not_set_up_jobs_of_all_below_end_before_its_resources() -> None:
    """W2: a sub-application that was set up, below one that is not, also drains those
    below it in on_shutdown."""
    family = Family(parent="before")
    assert family.parents is not None
    oldest = web.Application()
    oldest.cleanup_ctx.append(resource("archive", family.log))
    oldest.add_subapp("/family", family.app)
    async with serving(oldest) as server:
        for scheduler in (family.scheduler, family.parents):
            await scheduler.spawn(family.below.do())
        closing = asyncio.create_task(server.close())
        for scheduler in (family.scheduler, family.parents):
            await draining(scheduler)
        family.below.gate.open()
        await closing
    closed = ["archive closed", "database closed", "cache closed"]
    assert family.log == ["job done"] * 2 + closed


@depths
async def test_parent_is_not_set_up_handlers_run_and_spawn_during_the_drain(
    depth: int,
) -> None:
    """W2: handlers may still run during the drain in on_shutdown, and may spawn; what
    they spawn while it lasts ends before the parent's resources."""
    waiting = Gate()

    async def handler(request: web.Request) -> web.Response:
        await waiting.pass_through()
        await spawn(request, family.below.do("second job"))
        return web.Response()

    family = Family(parent=None, depth=depth, handler=handler)
    async with serving(family.app) as server:
        await family.scheduler.spawn(family.below.do("first job"))
        client = await server.send("GET", family.path)
        await waiting.reached.wait()
        closing = asyncio.create_task(server.close())
        await draining(family.scheduler)
        waiting.open()
        assert (await client.receive()).status == 200
        family.below.gate.open()
        await closing
    assert family.log == [
        "first job done",
        "second job done",
        "database closed",
        "cache closed",
    ]


async def test_parent_is_not_set_up_atomic_handlers_are_given_the_servers_time() -> None:
    """W2: the drain in on_shutdown waits neither for atomic handlers nor for jobs that
    are held back; those end in the time that the server gives handlers."""

    @atomic
    async def handler(request: web.Request) -> web.Response:
        await spawn(request, family.above.do("held job"), after_response=True)
        await family.below.do("handler")
        return web.Response()

    family = Family(parent=None, handler=handler)
    family.above.gate.open()
    shut_down = asyncio.Event()

    async def note(app: web.Application) -> None:
        shut_down.set()

    family.app.on_shutdown.append(note)  # after those of the child
    async with serving(family.app) as server:
        client = await server.send("GET", family.path)
        await family.below.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        await shut_down.wait()
        assert (family.scheduler.active_count, family.scheduler.pending_count) == (1, 1)
        family.below.gate.open()
        assert (await client.receive()).status == 200
        await closing
    # The held back job may or may not end before the parent's resources are closed.
    family.log.remove("database closed")
    assert family.log == ["handler done", "held job done", "cache closed"]


async def test_parent_is_not_set_up_time_is_over_scheduler_closes_at_once(
    records: Callable[[], list[str]],
) -> None:
    """W2: if jobs are left when the time of the drain in on_shutdown is over, everything
    is closed before the parent's resources, atomic handlers too. Their clients get 503,
    as do those of handlers that spawn later (W7)."""
    waiting = Gate()

    async def handler(request: web.Request) -> web.Response:
        if request.method == "POST":
            return await atomic(family.below.handler)(request)
        await waiting.pass_through()
        await spawn(request, nothing())
        return web.Response()

    family = Family(parent=None, handler=handler, wait_timeout=0.01)
    async with serving(family.app) as server:
        await family.scheduler.spawn(family.below.do(), "late")
        client = await server.send("GET", family.path)
        of_atomic = await server.send("POST", family.path)
        await waiting.reached.wait()
        await turns()
        assert family.scheduler.active_count == 2
        closing = asyncio.create_task(server.close())
        assert (await of_atomic.receive()).status == 503
        waiting.open()
        assert (await client.receive()).status == 503
        await closing
    assert sorted(family.log[:2]) == ["handler: CancelledError", "job: CancelledError"]
    assert family.log[2:] == ["database closed", "cache closed"]
    (record,) = records()
    assert "2 cancelled" in record


async def test_parent_is_not_set_up_jobs_of_late_handlers_are_drained_in_clean_up() -> (
    None
):
    """W2: jobs that handlers spawn after the drain in on_shutdown are drained in
    clean-up, when the parent's resources are closed already, but not the
    sub-application's own."""
    waiting = Gate()

    async def handler(request: web.Request) -> web.Response:
        await waiting.pass_through()
        await spawn(request, family.below.do())
        return web.Response()

    family = Family(parent=None, handler=handler)
    shut_down = asyncio.Event()

    async def note(app: web.Application) -> None:
        shut_down.set()

    family.app.on_shutdown.append(note)
    async with serving(family.app) as server:
        client = await server.send("GET", family.path)
        await waiting.reached.wait()
        closing = asyncio.create_task(server.close())
        await shut_down.wait()
        waiting.open()
        assert (await client.receive()).status == 200
        await family.below.gate.reached.wait()
        family.below.gate.open()
        await closing
    assert sorted(family.log[:2]) == ["database closed", "job done"]
    assert family.log[2:] == ["cache closed"]


async def test_application_is_below_two_parents_its_jobs_end_before_either() -> None:
    """W2: one sub-application that is added twice is drained once."""
    family = Family(parent=None)
    child = web.Application()
    child.cleanup_ctx.append(resource("child", family.log))
    scheduler = setup(child)
    setup(family.app)
    family.app.add_subapp("/once", child)
    family.app.add_subapp("/twice", child)
    async with serving(family.app) as server:
        await scheduler.spawn(family.below.do())
        closing = asyncio.create_task(server.close())
        await draining(scheduler)
        family.below.gate.open()
        await closing
    assert family.log[:2] == ["job done", "database closed"]


async def test_parent_is_reached_by_its_domain_childs_jobs_end_first() -> None:
    """W2: a sub-application may also be added by add_domain."""
    work = Work()
    child, app = web.Application(), web.Application()
    scheduler = setup(child)
    app.cleanup_ctx.append(resource("database", work.log))
    setup(app)
    app.add_domain("child.example", child)
    async with serving(app) as server:
        await scheduler.spawn(work.do())
        closing = asyncio.create_task(server.close())
        await draining(scheduler)
        work.gate.open()
        await closing
    assert work.log == ["job done", "database closed"]


# -- when the start-up fails ------------------------------------------------------------


class Broken(Exception):
    """The exception that a start-up fails with."""


async def break_down(app: web.Application) -> None:
    raise Broken


async def broken_context(app: web.Application) -> AsyncIterator[None]:
    await break_down(app)
    yield


async def fail_to_start(app: web.Application) -> None:
    """Start the application with a runner of its own, and clean up."""
    runner = web.AppRunner(app)
    with pytest.raises(Broken):
        await runner.setup()
    await runner.cleanup()


@pytest.mark.parametrize("place", ["context", "handler"])
async def test_start_up_fails_jobs_are_closed_before_what_they_use(
    place: str, records: Callable[[], list[str]]
) -> None:
    """W2: if the start-up fails, runner.cleanup() closes the scheduler before those
    clean-up contexts that were added before setup; E5."""
    work = Work()

    async def start_jobs(app: web.Application) -> AsyncIterator[None]:
        await app[SCHEDULER].spawn(work.do(), "import")
        await work.gate.reached.wait()
        yield
        work.log.append("database closed")

    app = web.Application()
    app.cleanup_ctx.append(start_jobs)
    scheduler = setup(app)
    if place == "context":
        app.cleanup_ctx.append(broken_context)
    else:
        app.on_startup.append(break_down)
    await fail_to_start(app)
    assert work.log == ["job: CancelledError", "database closed"]
    assert scheduler.state is SchedulerState.CLOSED
    (record,) = records()
    assert "1 cancelled (import)" in record


async def test_start_up_fails_before_setups_own_place_jobs_are_closed() -> None:
    """W2: the scheduler is also closed if a context fails that was added before setup."""
    work = Work()

    async def start_jobs(app: web.Application) -> AsyncIterator[None]:
        await app[SCHEDULER].spawn(work.do())
        await work.gate.reached.wait()
        yield
        work.log.append("database closed")

    app = web.Application()
    app.cleanup_ctx.append(start_jobs)
    app.cleanup_ctx.append(broken_context)
    scheduler = setup(app)
    await fail_to_start(app)
    assert work.log == ["database closed", "job: CancelledError"]
    assert scheduler.state is SchedulerState.CLOSED


@depths
@pytest.mark.parametrize("parent", ["before", "after"])
async def test_start_up_of_the_parent_fails_the_childs_jobs_are_closed(
    parent: str, depth: int
) -> None:
    """W2: if the start-up fails, the parent's clean-up closes the schedulers below too,
    before its own resources, however far the start-up got."""
    family = Family(parent=parent, depth=depth)
    app = family.app
    app.on_startup.insert(1, break_down)
    await family.scheduler.spawn(family.below.do())
    await family.below.gate.reached.wait()
    await fail_to_start(app)
    assert family.below.log[0] == "job: CancelledError"
    assert family.scheduler.state is SchedulerState.CLOSED


async def test_start_up_of_the_child_fails_the_parents_jobs_are_closed() -> None:
    """W2: the same when it is the sub-application that fails."""
    work = Work()
    child, app = web.Application(), web.Application()
    child.on_startup.append(break_down)
    below = setup(child)
    app.cleanup_ctx.append(resource("database", work.log))
    above = setup(app)
    app.add_subapp("/child", child)
    for scheduler in (above, below):
        await scheduler.spawn(work.do())
    await turns()
    await fail_to_start(app)
    assert work.log == ["job: CancelledError"] * 2 + ["database closed"]
    assert above.closed
    assert below.closed


async def test_application_is_started_again_the_sentence_says_so() -> None:
    """W2: an application that was shut down has closed its scheduler for good: a second
    start is refused, instead of answering 503 to everything."""
    app = web.Application()
    setup(app)
    async with serving(app):
        pass
    runner = web.AppRunner(app)
    with pytest.raises(RuntimeError, match=r"cannot run again .* make another one"):
        await runner.setup()
    await runner.cleanup()


async def test_scheduler_was_used_in_another_loop_start_up_fails_at_once() -> None:
    """W2, A8: the scheduler has to belong to the loop of its application, which is
    checked at the start and not at the end."""
    work = Work()
    app = web.Application()
    app.cleanup_ctx.append(resource("database", work.log))
    scheduler = setup(app)

    async def use() -> None:
        await scheduler.spawn(nothing())

    await asyncio.to_thread(asyncio.run, use())
    runner = web.AppRunner(app)
    with pytest.raises(RuntimeError, match="bound to a different event loop"):
        await runner.setup()
    await runner.cleanup()
    assert work.log == []  # nothing was opened
