"""Durable jobs in an application: spawned, run, retried, given back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from time import time
from typing import Any
from unittest import mock

import pytest
from aiohttp import web

from aiohttp_jobs import SCHEDULER, every, setup
from aiohttp_jobs.durable import (
    DURABLE,
    CurrentDurable,
    Delivery,
    Envelope,
    GiveUp,
    SQLiteStore,
    StoreUnavailable,
    Task,
    current_durable,
    durable,
    run_worker,
    setup_durable,
    spawn_durable,
    upkeep,
)
from aiohttp_jobs.durable import periodic as periodic_module
from aiohttp_jobs.durable.attempt import Attempt
from tests.clients import Failures, resource, serving, turns
from tests.envelopes import MemoryStore, envelope, look, opened, started
from tests.processes import needs_signals, running

# Seconds after which waiting is a failure; a passing test never waits this long.
PATIENCE = 30.0

LOG = web.AppKey("LOG", list[Any])
GATE = web.AppKey("GATE", asyncio.Event)
BEGUN = web.AppKey("BEGUN", asyncio.Semaphore)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@durable("note")
async def note(app: web.Application, *values: Any) -> None:
    app[LOG].append((*values, current_durable()))
    app[BEGUN].release()


@durable("wait", backoff=lambda attempt: 0)
async def wait(app: web.Application, name: str) -> None:
    app[LOG].append(f"{name} begins")
    app[BEGUN].release()
    try:
        await app[GATE].wait()
    except asyncio.CancelledError:
        app[LOG].append(f"{name} cancelled")
        raise
    app[LOG].append(f"{name} ends")


@durable("fail", max_attempts=3, backoff=lambda attempt: 0)
async def fail(app: web.Application, error: str, times: int = 100) -> None:
    current = current_durable()
    assert current is not None
    app[LOG].append((current.id, current.attempt))
    app[BEGUN].release()
    if current.attempt <= times:
        raise {"give up": GiveUp, "exit": SystemExit}.get(error, ValueError)(error)


@durable("slow", max_attempts=1, timeout=0.01)
async def slow(app: web.Application) -> None:
    app[BEGUN].release()
    await asyncio.Event().wait()


TASKS: list[Task[..., Any]] = [note, wait, fail, slow]


def prepare(app: web.Application) -> None:
    app[LOG], app[GATE], app[BEGUN] = [], asyncio.Event(), asyncio.Semaphore(0)


def make(
    store: Any, tasks: Any = TASKS, wait_timeout: float = PATIENCE, **options: Any
) -> web.Application:
    app = web.Application()
    prepare(app)
    setup(app, exception_handler=Failures(), wait_timeout=wait_timeout)
    setup_durable(app, store, tasks=tasks, **options)
    return app


def failures_of(app: web.Application) -> list[dict[str, Any]]:
    handler: Any = app[SCHEDULER].exception_handler
    assert isinstance(handler, Failures)
    return handler


@contextlib.asynccontextmanager
async def run(app: web.Application) -> AsyncIterator[web.AppRunner]:
    """Start the application, without a server, and clean it up."""
    runner = web.AppRunner(app)
    async with asyncio.timeout(PATIENCE):
        await runner.setup()
        try:
            yield runner
        finally:
            await runner.cleanup()


async def begun(app: web.Application, times: int = 1) -> None:
    for _ in range(times):
        await app[BEGUN].acquire()


async def is_empty(path: Path) -> None:
    """Return when nothing waits or runs."""
    while look(path, "SELECT 1 FROM aiohttp_jobs WHERE state < 3"):  # noqa: ASYNC110
        await asyncio.sleep(0)


# -- to spawn and to run ----------------------------------------------------------------


async def test_job_runs_with_its_arguments_and_knows_its_id(path: Path) -> None:
    """The id that spawn_durable returns is the one that the task sees."""
    app = make(path)
    async with run(app):
        number = await spawn_durable(app, note, "ada", {"a": [1, None]})
        await begun(app)
        assert current_durable() is None
        await is_empty(path)
    expected = CurrentDurable(number, 1, "note", None)
    assert app[LOG] == [("ada", {"a": [1, None]}, expected)]


async def test_handler_s_job_is_on_the_disk_before_the_answer(path: Path) -> None:
    """Its origin is the route; the job has the name of the task, everywhere."""
    seen = list[Any]()

    class Observer:
        def job_running(self, job: Any) -> None:
            seen.append((job.label, job.coro_name, job.origin, job.takes_slot))

    async def sign_up(request: web.Request) -> web.Response:
        return web.Response(text=await spawn_durable(request, note, "ada"))

    app = make(path)
    app.router.add_post("/users/{name}", sign_up)
    app[SCHEDULER].add_observer(Observer())
    async with serving(app) as server:
        number = (await server.request("POST", "/users/ada")).text
        await begun(app)
    assert app[LOG] == [("ada", CurrentDurable(number, 1, "note", None))]
    assert seen == [("note", "note", "POST /users/{name}", False)]


async def test_job_survives_the_process_that_has_spawned_it(path: Path) -> None:
    """Another application on the same file runs it."""
    app = make(path, worker=False)
    async with run(app):
        number = await spawn_durable(app, note, "ada")
    assert app[LOG] == []
    app = make(path)
    async with run(app):
        await begun(app)
    assert app[LOG] == [("ada", CurrentDurable(number, 1, "note", None))]


async def test_sub_application_spawns_with_the_parent_s_store(path: Path) -> None:
    """The nearest application with a store counts; the task gets that application."""

    async def handler(request: web.Request) -> web.Response:
        await spawn_durable(request, note, "below")
        return web.Response()

    app, below = make(path), web.Application()
    below.router.add_get("/", handler)
    app.add_subapp("/below", below)
    async with serving(app) as server:
        assert (await server.get("/below/")).status == 200
        await begun(app)
    assert [entry[0] for entry in app[LOG]] == ["below"]


async def test_options_reach_the_store(path: Path) -> None:
    """Delay, priority and key."""
    app = make(path, worker=False)
    async with run(app):
        first = await spawn_durable(app, note.options(delay=60, key="k", priority=3), 1)
        assert await spawn_durable(app, note.options(key="k"), 2) == first
        [(due, priority, arguments)] = look(
            path, "SELECT due, priority, arguments FROM aiohttp_jobs"
        )
        assert 50 < due - time() <= 60
        assert (priority, arguments) == (3, "[[1],{}]")


# -- what is refused --------------------------------------------------------------------


async def test_task_that_was_not_listed_is_refused(path: Path) -> None:
    """Nobody would run it. Another task of the same name is refused, too."""

    @durable("note")
    async def impostor(app: web.Application) -> None:
        pass

    @durable("other")
    async def other(app: web.Application) -> None:
        pass

    app = make(path)
    async with run(app):
        for task in (impostor, other):
            with pytest.raises(ValueError, match="is not one of this application's"):
                await spawn_durable(app, task)
        with pytest.raises(TypeError, match="takes a task, made by @durable"):
            await spawn_durable(app, note.function)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="Argument number 1 of note has a set"):
            await spawn_durable(app, note, {1})
        assert look(path, "SELECT * FROM aiohttp_jobs") == []


async def test_option_that_the_store_cannot_keep_is_refused() -> None:
    """With the names of store and option, before anything is put."""
    store = MemoryStore()
    app = make(store, worker=False)
    async with run(app):
        await spawn_durable(app, note.options(delay=5))
        for options in ({"key": "k"}, {"priority": 1}, {"connection": object()}):
            [name] = options
            with pytest.raises(ValueError, match=f"MemoryStore cannot keep .* {name}="):
                await spawn_durable(app, note.options(**options))
        assert len(store.waiting) == 1


async def test_application_without_durable_jobs_is_named(path: Path) -> None:
    """By each function that takes one."""
    app = web.Application()
    setup(app)
    with pytest.raises(RuntimeError, match=r"call setup_durable\(app"):
        await spawn_durable(app, note)
    with pytest.raises(RuntimeError, match=r"setup_durable\(app, \.\.\.\) first"):
        run_worker(app)
    await app[SCHEDULER].close()


@pytest.mark.parametrize(
    ("options", "does_something"),
    [
        ({}, True),
        ({"worker": False}, False),
        ({"worker": False, "periodic": True}, True),
        ({"worker": False, "periodic": True, "put_periodic": False}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_below", [False, True])
def test_worker_that_would_do_nothing_is_refused(
    path: Path, options: dict[str, Any], does_something: bool, is_below: bool
) -> None:
    """It would wait for a signal for ever. Jobs of a sub-application are enough."""
    if "periodic" in options:
        options = {**options, "periodic": {durable("tick")(digest_of): every(60)}}
    app = make(path, **options)
    if is_below:
        app, below = web.Application(), app
        app.add_subapp("/below", below)
    with mock.patch.object(asyncio, "run") as ran:
        if does_something:
            run_worker(app)
            ran.call_args.args[0].close()
        else:
            with pytest.raises(RuntimeError, match="leave out worker=False"):
                run_worker(app)
    assert ran.called is does_something


def test_setup_is_checked(path: Path) -> None:
    """Each with its own sentence."""

    def refuse(match: str, app: web.Application, **options: Any) -> None:
        with pytest.raises((RuntimeError, TypeError, ValueError), match=match):
            setup_durable(app, options.pop("store", path), **{"tasks": TASKS, **options})

    tick: Any = durable("tick")(digest_of)
    app = web.Application()
    refuse(r"aiohttp_jobs\.setup\(app\) first", app)
    setup(app)
    refuse("limit", app, limit=0)
    refuse("limit", app, limit=None)
    refuse("tasks takes what @durable", app, tasks=[note.function])
    refuse("two tasks named 'note'", app, tasks=[note, durable("note")(digest_of)])
    refuse("wait cannot be called like that", app, periodic={wait: every(60)})
    refuse(r"periodic takes every\(…\) or cron\(…\), not 60", app, periodic={tick: 60})
    refuse("periodic takes .* as a dict, not", app, periodic=[tick])
    refuse("tasks takes a list or the like, not <Task 'note'>", app, tasks=note)
    refuse("worker takes True or False, not '0'", app, worker="0")
    refuse("catch_up takes True or False", app, catch_up=1)
    refuse("put_periodic takes True or False", app, put_periodic="no")
    refuse("store takes a path", app, store=7)
    setup_durable(app, path, tasks=TASKS)
    refuse("has already been called", app)
    app = web.Application()
    setup(app)
    web.Application().add_subapp("/below", app)
    refuse("is frozen", app)


async def test_store_that_another_application_has_started_goes_on(path: Path) -> None:
    """The second application is refused, and does not stop the store at its own end."""
    store = SQLiteStore(path)
    first, second = make(store), make(store)
    async with run(first):
        async with run(second):
            with pytest.raises(StoreUnavailable, match="give each application one"):
                await spawn_durable(second, note, "lost")
        await spawn_durable(first, note, "kept")
        await begun(first)
    assert [each[0] for each in first[LOG]] == ["kept"]


async def test_spawn_from_another_loop_is_refused(path: Path) -> None:
    """A8: that loop would never learn that the job is kept."""

    def spawn_in_a_thread() -> None:
        coro = spawn_durable(app, note, "never")
        with pytest.raises(RuntimeError, match="bound to a different event loop"):
            asyncio.run(asyncio.wait_for(coro, PATIENCE))

    app = make(path)
    async with run(app):
        await asyncio.to_thread(spawn_in_a_thread)
        await spawn_durable(app, note, "kept")
        await begun(app)
    assert [each[0] for each in app[LOG]] == ["kept"]


def test_spawn_before_the_start_does_not_choose_the_loop(path: Path) -> None:
    """A8: it is refused, and the application may start in another loop."""

    async def spawn_too_early() -> None:
        with pytest.raises(StoreUnavailable, match="is not open yet"):
            await spawn_durable(app, note, "early")

    async def start() -> None:
        async with run(app):
            await spawn_durable(app, note, "kept")
            await begun(app)

    app = make(path)
    asyncio.run(spawn_too_early())
    asyncio.run(start())
    assert [each[0] for each in app[LOG]] == ["kept"]


async def test_spawn_after_the_end_is_refused_and_promises_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is not down but closed: it will not be tried again."""
    app, refused = make(path), list[str]()

    async def context(app: web.Application) -> AsyncIterator[None]:
        yield
        with pytest.raises(StoreUnavailable) as caught:
            await spawn_durable(app, note)
        refused.append(str(caught.value))

    app.cleanup_ctx.append(context)
    async with run(app):
        pass
    [sentence] = refused
    assert sentence.endswith("their store is closed: the application has ended")
    assert caplog.messages == []


async def digest_of(app: web.Application) -> None:
    app[LOG].append(("digest", current_durable()))
    app[BEGUN].release()


# -- attempts that fail -----------------------------------------------------------------


async def test_job_that_fails_is_tried_again_then_buried(path: Path) -> None:
    """R2: Each failed attempt is a failed job, reported once. The id stays the same."""
    app = make(path)
    async with run(app):
        number = await spawn_durable(app, fail, "boom")
        await begun(app, 3)
        await is_empty(path)
    assert app[LOG] == [(number, 1), (number, 2), (number, 3)]
    names = [context["job"].label for context in failures_of(app)]
    assert names == ["fail", "fail (attempt 2)", "fail (attempt 3)"]
    [(state, reason)] = look(path, "SELECT state, reason FROM aiohttp_jobs")
    assert state == 3
    assert "in fail" in reason
    assert reason.endswith("ValueError: boom\n")


async def test_job_that_succeeds_at_last_is_done(path: Path) -> None:
    """Nothing is left of it."""
    app = make(path)
    async with run(app):
        await spawn_durable(app, fail, "boom", 2)
        await begun(app, 3)
        await is_empty(path)
    assert [attempt for _, attempt in app[LOG]] == [1, 2, 3]
    assert app[DURABLE].attempts == {"retried": 2, "succeeded": 1}
    assert app[DURABLE].attempts_of["fail"] == app[DURABLE].attempts
    assert app[DURABLE].attempts_of["note"] == {}
    assert look(path, "SELECT * FROM aiohttp_jobs") == []


async def test_job_that_gives_up_is_buried_at_once(path: Path) -> None:
    """Trying again would not help."""
    app = make(path)
    async with run(app):
        await spawn_durable(app, fail, "give up")
        await begun(app)
        await is_empty(path)
    assert len(app[LOG]) == 1
    [(reason,)] = look(path, "SELECT reason FROM aiohttp_jobs WHERE state = 3")
    assert reason.endswith("GiveUp: give up\n")


async def test_attempt_that_takes_too_long_has_failed(path: Path) -> None:
    """With a TimeoutError that names the task."""
    app = make(path)
    async with run(app):
        await spawn_durable(app, slow)
        await begun(app)
        await is_empty(path)
    [(reason,)] = look(path, "SELECT reason FROM aiohttp_jobs WHERE state = 3")
    assert reason.endswith("TimeoutError: Job slow ran longer than 0.01 s\n")
    [error] = failures_of(app)
    assert isinstance(error["exception"], TimeoutError)


async def test_waits_for_a_backoff_between_attempts(path: Path) -> None:
    """As long as the task says."""
    store = MemoryStore()
    app = make(store, [durable("fail", backoff=lambda n: n * 1000)(fail.function)])
    async with run(app):
        task: Any = app[DURABLE].tasks["fail"]
        await spawn_durable(app, task, "boom")
        await begun(app)
        while not store.waiting:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        [waiting] = store.waiting
        assert waiting.attempt == 2
        assert 990 < (waiting.due or 0) - time() <= 1000


async def test_job_whose_backoff_fails_is_buried_with_both(path: Path) -> None:
    """Otherwise it would never come back."""
    store = MemoryStore()
    app = make(store, [durable("fail", backoff=lambda n: 1 / 0)(fail.function)])
    async with run(app):
        await spawn_durable(app, app[DURABLE].tasks["fail"], "boom")
        await begun(app)
    [(_, reason)] = store.dead
    assert "ValueError: boom" in reason
    assert "Its backoff(1) failed: ZeroDivisionError" in reason


@pytest.mark.parametrize("pause", [float("nan"), float("inf"), -float("inf")])
async def test_job_whose_backoff_is_no_moment_is_buried(path: Path, pause: float) -> None:
    """SQLite keeps NaN as NULL: the job would always come first and block all others."""
    app = make(path, [note, durable("fail", backoff=lambda n: pause)(fail.function)])
    async with run(app):
        await spawn_durable(app, app[DURABLE].tasks["fail"], "boom")
        await begun(app)
        await spawn_durable(app, note.options(delay=0.01), "delayed")
        await begun(app)
    [reason] = look(path, "SELECT reason FROM aiohttp_jobs")[0]
    assert "ValueError: boom" in reason
    assert f"Its backoff(1) failed: ValueError: it returned {pause}, which" in reason


async def test_job_with_arguments_that_cannot_be_read_is_not_lost(path: Path) -> None:
    """It is tried like any other job, and buried with the reason."""
    store = MemoryStore()
    app = make(store)
    async with run(app):
        await store.put(Envelope("7", "fail", "no JSON", time(), attempt=3))
        while not store.dead:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
    [(_, reason)] = store.dead
    assert "The arguments of job 7 cannot be read" in reason


async def test_job_that_lets_another_one_s_cancellation_through_has_failed(
    path: Path,
) -> None:
    """R7: It was not cancelled itself, so it is not given back uncounted."""

    @durable("let through", max_attempts=1)
    async def let_through(app: web.Application) -> None:
        job = await app[SCHEDULER].spawn(asyncio.Event().wait())
        await job.close()
        await job.wait()

    store = MemoryStore()
    app = make(store, [let_through])
    async with run(app):
        await spawn_durable(app, let_through)
        while not store.dead:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
    assert "JobCancelled" in store.dead[0][1]
    assert "give_back" not in store.calls


# -- cancelled is not failed ------------------------------------------------------------


async def test_job_whose_coroutine_is_closed_goes_back_uncounted() -> None:
    """As when its event loop is thrown away: that says nothing about the task."""

    @durable("closed", max_attempts=1)
    async def closed(app: web.Application) -> None:
        await asyncio.Event().wait()

    store, ended = MemoryStore(), list[Attempt]()
    delivery = Delivery(envelope("closed"), None)
    attempt = Attempt(web.Application(), closed, delivery, store, ended.append)
    running = attempt.run()
    running.send(None)
    running.close()
    assert store.calls == ["give_back"]
    assert ended == [attempt]


async def test_cancelled_job_goes_back_uncounted_and_at_once(path: Path) -> None:
    """Whoever cancelled it."""
    app = make(path)
    async with run(app):
        await spawn_durable(app, wait, "it")
        for _ in range(3):
            await begun(app)
            [job] = app[SCHEDULER]
            assert job.label == "wait"
            await job.close()
        await begun(app)
        app[GATE].set()
        await is_empty(path)
    assert app[LOG] == ["it begins", "it cancelled"] * 3 + ["it begins", "it ends"]
    assert failures_of(app) == []


async def test_job_that_is_cancelled_before_its_first_step_goes_back(path: Path) -> None:
    """Its coroutine never runs, so something else has to give it back."""
    app = make(path)

    class Closer:
        left = 2

        def job_started(self, job: Any) -> None:
            if self.left:
                self.left -= 1
                closing.append(asyncio.create_task(job.close()))

    closing = list[asyncio.Task[None]]()
    app[SCHEDULER].add_observer(Closer())
    async with run(app):
        await spawn_durable(app, note, "it")
        await begun(app)
        await asyncio.gather(*closing)
        await is_empty(path)
    assert [values[0] for values in app[LOG]] == ["it"]


# -- beside the scheduler's own ---------------------------------------------------------


async def test_at_most_limit_of_them_run(path: Path) -> None:
    """The next one begins when one has ended."""
    app = make(path, limit=3)
    async with run(app):
        for number in range(7):
            await spawn_durable(app, wait, str(number))
        await begun(app, 3)
        assert app[DURABLE].running_count == 3
        assert look(path, "SELECT COUNT(*) FROM aiohttp_jobs WHERE state = 2") == [(3,)]
        app[GATE].set()
        await is_empty(path)
    assert [line for line in app[LOG] if line.endswith("ends")] == [
        f"{number} ends" for number in range(7)
    ]


async def test_backlog_and_jobs_of_requests_do_not_delay_each_other(path: Path) -> None:
    """Each has slots of its own."""
    app = make(path, limit=1)
    scheduler = app[SCHEDULER]
    scheduler.limit = 1
    async with run(app):
        await spawn_durable(app, wait, "it")
        await begun(app)
        job = await scheduler.spawn(asyncio.sleep(0, "through"))
        assert await job.wait() == "through"
        app[GATE].set()
        await is_empty(path)
        gate = asyncio.Event()
        await scheduler.spawn(gate.wait())
        await spawn_durable(app, note, "through")
        await begun(app)
        gate.set()


# -- the life of the application --------------------------------------------------------


async def test_jobs_end_before_what_they_use(path: Path) -> None:
    """W2: Whether that was added before or after; and then the store is closed."""
    log = list[str]()
    app = web.Application()
    prepare(app)
    app.cleanup_ctx.append(resource("first", log))
    setup(app)
    setup_durable(app, path, tasks=TASKS)
    app.cleanup_ctx.append(resource("second", log))
    async with run(app) as runner:
        await spawn_durable(app, wait, "it")
        await begun(app)
        cleaning = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0)
        app[GATE].set()
        await cleaning
    assert app[LOG] == ["it begins", "it ends"]
    assert look(path, "SELECT * FROM aiohttp_jobs") == []
    assert look(path, "SELECT * FROM aiohttp_jobs_owners") == []


async def test_drain_that_is_too_short_loses_nothing(path: Path) -> None:
    """Running jobs are cancelled and given back; the others wait as before."""
    app = make(path, limit=2, wait_timeout=0.01)
    async with run(app):
        for name in "abc":
            await spawn_durable(app, wait, name)
        await begun(app, 2)
    lines = app[LOG]
    assert sorted(lines) == ["a begins", "a cancelled", "b begins", "b cancelled"]
    found = look(path, "SELECT state, attempt, crashes, owner FROM aiohttp_jobs")
    assert found == [(1, 1, 0, None)] * 3


async def test_nothing_begins_once_the_application_shuts_down(path: Path) -> None:
    """It would have to be cancelled. Jobs that a handler still spawns are kept."""

    async def shut_down(app: web.Application) -> None:
        await spawn_durable(app, wait, "second")
        app[GATE].set()

    app = make(path)
    app.on_shutdown.append(shut_down)
    async with run(app):
        await spawn_durable(app, wait, "first")
        await begun(app)
    assert app[LOG] == ["first begins", "first ends"]
    assert look(path, "SELECT arguments FROM aiohttp_jobs") == [('[["second"],{}]',)]


async def test_stubborn_job_is_let_go_and_runs_again_later(path: Path) -> None:
    """It swallows its cancellation; the store gives it back all the same."""

    @durable("stubborn")
    async def stubborn(app: web.Application) -> None:
        app[BEGUN].release()
        while not app[GATE].is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await app[GATE].wait()

    app = make(path, [stubborn], wait_timeout=0.01)
    async with run(app):
        await spawn_durable(app, stubborn)
        await begun(app)
    assert look(path, "SELECT state, attempt FROM aiohttp_jobs") == [(1, 1)]
    app[GATE].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_start_up_that_fails_closes_the_store(path: Path) -> None:
    """And nothing is left running."""

    async def break_down(app: web.Application) -> None:
        await spawn_durable(app, note, "kept")
        raise OSError("no database")

    app = make(path)
    app.on_startup.append(break_down)
    with pytest.raises(OSError, match="no database"):
        async with run(app):
            pass
    runner = web.AppRunner(app)
    await runner.cleanup()
    await app.cleanup()
    assert look(path, "SELECT state FROM aiohttp_jobs") == [(1,)]


async def test_jobs_of_a_sub_application_end_before_the_parent_s_resources(
    path: Path,
) -> None:
    """aiohttp cleans the parent up first."""
    log = list[str]()
    app, below = web.Application(), make(path)
    app.cleanup_ctx.append(resource("the parent's", log))
    app.add_subapp("/below", below)
    async with run(app) as runner:
        await spawn_durable(below, wait, "it")
        await begun(below)
        cleaning = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0)
        below[GATE].set()
        await cleaning
        assert below[LOG] == ["it begins", "it ends"]
    assert look(path, "SELECT * FROM aiohttp_jobs") == []


# -- a store that is down ---------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pauses between two tries short."""
    monkeypatch.setattr(upkeep, "SHORTEST", 0.001)
    monkeypatch.setattr(upkeep, "LONGEST", 0.01)


def about_store(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "aiohttp_jobs"
    ]


@pytest.mark.usefixtures("quick")
async def test_store_is_down_at_the_start_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W7: The application runs; its clients get 503 until then. The log says both."""

    async def handler(request: web.Request) -> web.Response:
        await spawn_durable(request, note, "it")
        return web.Response()

    store = MemoryStore()
    store.fault = StoreUnavailable("the broker is away")
    app = make(store)
    app.router.add_get("/", handler)
    async with serving(app) as server:
        for _ in range(5):
            answer = await server.get()
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        assert store.calls.count("start") >= 2
        assert "fetch" not in store.calls
        store.fault = None
        while app[DURABLE].fault is not None:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        assert (await server.get()).status == 200
        await begun(app)
    assert about_store(caplog) == [
        "Durable jobs cannot be kept: the broker is away. It will be tried again",
        "Durable jobs can be kept again",
    ]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", [StoreUnavailable("it is away"), OSError("it is away")])
async def test_store_is_lost_and_comes_back(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error of the store does not end the worker either."""
    store = MemoryStore()
    app = make(store)
    async with run(app):
        await spawn_durable(app, note, "before")
        await begun(app)
        store.fault = fault
        while app[DURABLE].fault is None:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        with pytest.raises((StoreUnavailable, OSError)):
            await spawn_durable(app, note, "meanwhile")
        store.fault = None
        await spawn_durable(app, note, "after")
        await begun(app)
    assert [values[0] for values in app[LOG]] == ["before", "after"]
    assert len(about_store(caplog)) == 2


def test_pauses_grow_up_to_half_a_minute() -> None:
    """No busy loop, and no thundering herd."""
    for tries in (1, 2, 3, 50, 10_000):
        pauses = [upkeep.pause_after(tries) for _ in range(100)]
        longest = min(0.5 * 2 ** min(tries - 1, 20), 30)
        assert longest * 0.75 <= min(pauses) < max(pauses) <= longest


@pytest.mark.usefixtures("quick")
async def test_store_that_never_comes_back_does_not_hold_up_the_end() -> None:
    """Whatever is going on then."""
    store = MemoryStore()
    store.fault = StoreUnavailable("it is away")
    app = make(store, periodic={durable("digest")(digest_of): every(60)})
    async with run(app):
        with pytest.raises(StoreUnavailable, match="it is away"):
            await spawn_durable(app, note)
    assert "stop" not in store.calls  # a store that never started need not stop


async def test_start_does_not_wait_for_a_store_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The application serves; puts are refused with a sentence."""
    monkeypatch.setattr(upkeep, "LONGEST_START", 0.01)

    async def hang(*args: Any, **options: Any) -> None:
        await asyncio.Event().wait()

    store = MemoryStore()
    with mock.patch.object(store, "start", hang):
        app = make(store)
        async with run(app):
            with pytest.raises(StoreUnavailable, match="is not open yet"):
                await spawn_durable(app, note)


# -- periodic ---------------------------------------------------------------------------

digest = durable("digest")(digest_of)


class Soon:
    """A schedule with a tick every `seconds`, however short."""

    def __init__(self, seconds: float) -> None:
        self._schedule = every(seconds)

    def next_after(self, moment: float) -> float:
        return self._schedule.next_after(moment)


async def test_each_tick_runs_once_however_many_share_the_file(path: Path) -> None:
    """Its id is made of the task's name and its moment."""
    apps = [make(path, periodic={digest: Soon(0.1)}) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(run(app))
        log = [app[LOG] for app in apps]
        while sum(map(len, log)) < 10:  # noqa: ASYNC110 (three tell)
            await asyncio.sleep(0)
    ids = [current.id for lines in log for _, current in lines]
    assert len(ids) == len(set(ids))
    ticks = {periodic_module.tick_id("digest", k * 0.1) for k in _near(time())}
    assert set(ids) <= ticks


def _near(now: float) -> range:
    return range(round(now / 0.1) - 400, round(now / 0.1) + 2)


@pytest.mark.parametrize("catch_up", [True, False])
async def test_ticks_that_were_missed_run_once_at_the_start_or_not(
    path: Path, catch_up: bool
) -> None:
    """As the option says, however many they were."""
    async with started(path, "digest", worker=False) as store:
        ten_hours_ago = time() - 36_000
        assert await store.last_tick("digest", ten_hours_ago) == ten_hours_ago
    apps = [make(path, periodic={digest: every(3600)}, catch_up=catch_up) for _ in "ab"]
    for app in apps:
        async with run(app):
            if catch_up and app is apps[0]:
                await begun(app)
            await app[DURABLE].store.last_tick("a question", 0)
            await is_empty(path)
    assert [len(app[LOG]) for app in apps] == ([1, 0] if catch_up else [0, 0])


@pytest.mark.parametrize(("put_periodic", "puts"), [(None, False), (True, True)])
async def test_store_that_does_not_remember_ticks_needs_one_who_puts_them(
    put_periodic: bool | None, puts: bool
) -> None:
    """Otherwise each process would put each tick, and all of them would run."""
    store = MemoryStore()
    app = make(store, periodic={digest: Soon(0.05)}, put_periodic=put_periodic)
    async with run(app):
        if puts:
            await begun(app, 2)
        else:
            await turns()
    assert ("last_tick" in store.calls) is puts


@pytest.mark.usefixtures("quick")
async def test_tick_that_could_not_be_put_is_put_when_the_store_is_back() -> None:
    """It is late, and runs once."""
    store = MemoryStore()
    app = make(store, periodic={digest: Soon(0.05)}, put_periodic=True)
    async with run(app):
        await begun(app)
        store.fault = StoreUnavailable("it is away")
        before = store.calls.count("put_tick")
        while store.calls.count("put_tick") < before + 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        count = len(app[LOG])
        store.fault = None
        await begun(app, 2)
        assert len(app[LOG]) > count
    ids = [current.id for _, current in app[LOG]]
    assert len(ids) == len(set(ids))


class Broken:
    """A schedule that returns an invalid next tick, or raises."""

    def __init__(self, tick: Any) -> None:
        self._tick = tick

    def next_after(self, moment: float) -> Any:
        if isinstance(self._tick, Exception):
            raise self._tick
        return moment + self._tick if isinstance(self._tick, float) else self._tick


BROKEN = [KeyError("x"), -5.0, 0.0, float("nan"), None, "soon"]


@pytest.mark.parametrize("tick", BROKEN, ids=repr)
async def test_schedule_that_fails_is_told_and_is_not_the_store_s_fault(
    path: Path, tick: Any
) -> None:
    """It is no longer followed, like that of repeat(), and does not spin."""
    broken: Any = durable("broken")(note.function)
    app = make(path, periodic={broken: Broken(tick), digest: Soon(0.05)})
    async with run(app):
        await begun(app, 2)
        assert app[DURABLE].fault is None
    [context] = failures_of(app)
    assert context["message"] == (
        "Durable job broken is no longer spawned here, since its schedule failed"
    )
    assert isinstance(context["exception"], KeyError | ValueError | TypeError)


async def test_schedule_may_tell_numbers_of_any_kind(path: Path) -> None:
    """Even kinds that a store cannot keep, such as fractions and NumPy's."""

    class Fractions:
        def next_after(self, moment: float) -> Any:
            return Fraction(moment) + Fraction(1, 20)

    tick: Any = durable("tick")(note.function)
    app = make(path, periodic={tick: Fractions()})
    async with run(app):
        await begun(app, 2)
        assert app[DURABLE].fault is None


# -- a machine that only works ----------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_without_a_server_runs_jobs_until_it_is_told_to_end(
    path: Path, number: signal.Signals
) -> None:
    """It drains like a server."""
    with running("tests.worker", str(path)) as command:
        command.read_until(lambda line: "begins" in line)
        command.send(number)
        command.read_until(lambda line: "shutting down" in line)
        command.tell("go")
        status, errors = command.end()
    assert command.lines == ["it begins", "shutting down", "it ends", "cleaned up"]
    assert (status, errors) == (0, "")
    assert look(path, "SELECT * FROM aiohttp_jobs") == []


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_whose_start_up_hangs_ends_at_the_second_signal(
    path: Path, number: signal.Signals
) -> None:
    """The first signal waits for the start-up to end, which this one never does."""
    with running("tests.worker", str(path), number.name) as command:
        command.read_until(lambda line: "hangs" in line)
        command.send(number)
        command.read_until(lambda line: "told" in line)
        command.send(number)
        status, _ = command.end()
    assert status == -number


async def test_how_long_it_takes_to_keep_a_job_is_told(path: Path) -> None:
    """Only for jobs that are kept when the call returns; a listener that raises does no
    harm."""
    told = list[float]()

    def broken(seconds: float) -> None:
        raise ValueError("no")

    store = MemoryStore()
    app = make(store, worker=False)
    app[DURABLE].when_kept += [broken, told.append]
    async with run(app):
        await spawn_durable(app, note, 1)
        store.fault = StoreUnavailable("lost")
        with pytest.raises(StoreUnavailable):
            await spawn_durable(app, note, 2)
    [seconds] = told
    assert 0 <= seconds < PATIENCE
    app = make(path, worker=False)
    app[DURABLE].when_kept.append(told.append)
    async with run(app):
        with opened(path) as connection:
            connection.execute("BEGIN")
            await spawn_durable(app, note.options(connection=connection), 1)
            connection.execute("COMMIT")
    assert told == [seconds]
