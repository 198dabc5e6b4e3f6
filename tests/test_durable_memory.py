"""Durable jobs in tests of applications: MemoryStore, and drain_jobs beside stores."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import every, setup
from aiohttp_jobs.durable import (
    DURABLE,
    GiveUp,
    SQLiteStore,
    Store,
    StoreUnavailable,
    current_durable,
    durable,
    periodic,
    setup_durable,
    spawn_durable,
)
from aiohttp_jobs.testing import (
    FailedJobs,
    MemoryStore,
    Recording,
    drain_jobs,
    durable_in_memory,
)
from tests.clients import Failures, turns

DONE = web.AppKey("DONE", list[Any])
GO = web.AppKey("GO", asyncio.Event)


@durable("note")
async def note(app: web.Application, *values: Any) -> None:
    app[DONE].append(*values)


@durable("hang")
async def hang(app: web.Application, name: str) -> None:
    await app[GO].wait()
    app[DONE].append(name)


@durable("fail", max_attempts=3)
async def fail(app: web.Application, times: int) -> None:
    """Fail that often; the pauses in between are the default, a second and more."""
    current = current_durable()
    assert current is not None
    app[DONE].append(current.attempt)
    if current.attempt <= times:
        raise ValueError(f"attempt {current.attempt}")


@durable("give up")
async def give_up(app: web.Application) -> None:
    raise GiveUp("never")


@durable("chain")
async def chain(app: web.Application, depth: int) -> None:
    app[DONE].append(depth)
    if depth:
        await spawn_durable(app, chain, depth - 1)


TASKS = (note, hang, fail, give_up, chain)


def make(store: Any = None, **options: Any) -> web.Application:
    app = web.Application()
    app[DONE], app[GO] = [], asyncio.Event()
    setup(app, exception_handler=Failures())
    setup_durable(app, store or MemoryStore(), tasks=TASKS, **options)
    return app


def store_of(app: web.Application) -> MemoryStore:
    store = app[DURABLE].store
    assert isinstance(store, MemoryStore)
    return store


@contextlib.asynccontextmanager
async def run(app: web.Application) -> AsyncIterator[web.Application]:
    runner = web.AppRunner(app)
    async with asyncio.timeout(30):
        await runner.setup()
        try:
            yield app
        finally:
            app[GO].set()
            await runner.cleanup()


# -- at once, in memory ------------------------------------------------------------------


async def test_jobs_run_at_once_and_are_waited_for() -> None:
    """Even those spawned by other jobs; nothing is left."""
    async with run(make()) as app:
        await spawn_durable(app, chain, 3)
        await drain_jobs(app)
        assert app[DONE] == [3, 2, 1, 0]
        store = store_of(app)
        assert [job.task for job in store.spawned] == ["chain"] * 4
        assert store.spawned[0].unpack() == ([3], {})
        assert (store.waiting, store.dead) == ([], [])
        assert repr(store) == "<MemoryStore ['chain', 'chain', 'chain', 'chain']>"
        await drain_jobs(app)


async def test_delays_are_kept_and_not_waited_for() -> None:
    """A reminder for tomorrow runs now; `due` says when it was meant to run."""
    async with run(make()) as app:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        await spawn_durable(app, note.options(at=tomorrow), "at")
        await spawn_durable(app, note.options(delay=1000), "delay")
        await drain_jobs(app)
        assert app[DONE] == ["at", "delay"]
        assert store_of(app).spawned[0].due == tomorrow.timestamp()


async def test_higher_priority_comes_first_and_keys_are_joined() -> None:
    """Among waiting jobs, as with other stores."""
    async with run(make(limit=1)) as app:
        await spawn_durable(app, hang, "first")
        await turns(5)
        one = await spawn_durable(app, note.options(key="k"), "one")
        await spawn_durable(app, note.options(priority=1), "high")
        assert await spawn_durable(app, note.options(key="k"), "two") == one
        await spawn_durable(app, hang.options(key="k"), "other task")
        app[GO].set()
        await drain_jobs(app)
        assert app[DONE] == ["first", "high", "one", "other task"]
        assert len(store_of(app).spawned) == 4


async def test_option_connection_is_refused() -> None:
    """With a sentence: there is no database."""
    async with run(make()) as app:
        with pytest.raises(ValueError, match=r"MemoryStore cannot keep .* connection="):
            await spawn_durable(app, note.options(connection=object()), 1)


async def test_periodic_jobs_are_not_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the time of day, even if every moment is a tick."""
    put = asyncio.Event()

    class Watched(MemoryStore):
        async def put_tick(self, *args: Any) -> bool:
            put.set()
            return await super().put_tick(*args)

    times = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(periodic, "time", lambda: next(times))
    async with run(make(Watched(), periodic={give_up: every(60)})) as app:
        await put.wait()
        await drain_jobs(app)
        assert store_of(app).spawned == []


async def test_what_was_fetched_waits_again_after_a_stop() -> None:
    """Every store promises this; here it is for tests that look at the store
    afterwards."""
    store: Store = MemoryStore()
    app = make(store)
    async with run(app):
        await spawn_durable(app, hang, "a")
        await turns(5)
        [job] = store_of(app).spawned
        delivery = next(iter(store_of(app)._running))
        await store.stop()
        assert store_of(app).waiting == [job]
        store.ack(delivery)  # by the job, which goes on
        await store.stop()
        assert store_of(app).waiting == [job]


# -- failures ----------------------------------------------------------------------------


async def test_attempts_follow_at_once_and_only_the_last_failure_is_raised() -> None:
    """R2: the exception handler is called for each of them, as usual."""
    async with run(make()) as app:
        await spawn_durable(app, fail, 2)
        await drain_jobs(app)
        assert app[DONE] == [1, 2, 3]
        failures: Any = app[DURABLE].scheduler.exception_handler
        assert failures.exceptions() == [f"ValueError('attempt {n}')" for n in (1, 2)]

        await spawn_durable(app, fail, 3)
        with pytest.raises(ExceptionGroup, match="A job has failed: fail") as caught:
            await drain_jobs(app)
        assert [str(error) for error in caught.value.exceptions] == ["attempt 3"]
        [(job, reason)] = store_of(app).dead
        assert (job.task, job.attempt) == ("fail", 3)
        assert "ValueError: attempt 3" in reason
        await drain_jobs(app)


async def test_job_that_gives_up_is_raised() -> None:
    """It is buried at its first attempt."""
    async with run(make()) as app:
        await spawn_durable(app, give_up)
        with pytest.raises(ExceptionGroup) as caught:
            await drain_jobs(app)
        assert caught.group_contains(GiveUp)
        assert len(store_of(app).dead) == 1


@pytest.mark.parametrize("is_eager", [False, True])
async def test_attempt_that_is_followed_by_another_is_no_failure(is_eager: bool) -> None:
    """R2: neither for watchers of all schedulers, such as the plugin."""
    if is_eager and sys.version_info < (3, 12):
        pytest.skip("eager task factories came with Python 3.12")
    if is_eager and sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    failed = FailedJobs()
    recording = Recording(failed)
    recording.start()
    try:
        async with run(make()) as app:
            await spawn_durable(app, fail, 1)
            await drain_jobs(app)
            assert failed.take() == []
            await spawn_durable(app, give_up)
            with pytest.raises(ExceptionGroup):
                await drain_jobs(app)
            await spawn_durable(app, give_up)
            await turns(20)
            [job] = failed.take()
            assert job.label == "give up"
    finally:
        recording.stop()


# -- to hold ----------------------------------------------------------------------------


async def test_held_jobs_do_not_run() -> None:
    """They are dropped at the end of the block; jobs before and after it run."""
    async with run(make(limit=1)) as app:
        await spawn_durable(app, hang, "before")
        await spawn_durable(app, note, "waits")
        await turns(5)
        with store_of(app).held():
            await spawn_durable(app, note, "held")
            app[GO].set()
            await turns(20)
            assert [job.task for job in store_of(app).waiting] == ["note", "note"]
            assert app[DONE] == ["before"]
            with pytest.raises(RuntimeError, match="held already"), store_of(app).held():
                pass
            with pytest.raises(TimeoutError, match="not ended: note x2"):
                await drain_jobs(app, timeout=0.01)
        await drain_jobs(app)
        await spawn_durable(app, note, "after")
        await drain_jobs(app)
        assert app[DONE] == ["before", "waits", "after"]
        assert len(store_of(app).spawned) == 4


# -- drain_jobs --------------------------------------------------------------------------


async def test_drain_does_not_wait_for_what_this_process_does_not_run() -> None:
    """Because it only spawns, or is shutting down."""
    async with run(make(worker=False)) as app:
        await spawn_durable(app, note, 1)
        await drain_jobs(app, timeout=1)
        assert app[DONE] == []
    await drain_jobs(app, timeout=1)
    with pytest.raises(StoreUnavailable):
        await spawn_durable(make(), note, 1)


async def test_drain_finds_the_durable_jobs_of_sub_applications() -> None:
    """Where a job of one application spawns into another."""
    parent, below = make(), make()

    async def back_and_forth() -> None:
        await spawn_durable(below, chain, 2)

    parent.add_subapp("/below", below)
    async with run(parent):
        await parent[DURABLE].scheduler.spawn(back_and_forth())
        await drain_jobs(parent)
        assert below[DONE] == [2, 1, 0]
        below[GO].set()


async def test_drain_waits_for_jobs_in_a_file(tmp_path: Path) -> None:
    """For all jobs that are due, in the file or on their way, and for no others."""
    async with run(make(tmp_path / "jobs.sqlite", limit=2)) as app:
        await spawn_durable(app, note.options(delay=1000), "later")
        for number in range(5):
            await spawn_durable(app, chain, number % 2)
        await drain_jobs(app)
        done = app[DONE]
        assert sorted(done) == [0, 0, 0, 0, 0, 1, 1]


async def test_drain_waits_only_for_jobs_that_run_where_a_store_tells_nothing() -> None:
    """A broker does not say what waits in it."""

    class Silent:
        """A store that inherits from nothing."""

        def __init__(self) -> None:
            self._store = MemoryStore()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    async with run(make(Silent())) as app:
        await spawn_durable(app, hang, "a")
        await turns(5)
        asyncio.get_running_loop().call_soon(app[GO].set)
        await drain_jobs(app)
        assert app[DONE] == ["a"]


# -- in the place of another store -----------------------------------------------------


async def test_stores_are_replaced_inside_the_block(tmp_path: Path) -> None:
    """A path, or a store; each application has its own; no file is made."""
    path = tmp_path / "jobs.sqlite"
    with durable_in_memory() as stores:
        apps = [make(path), make(SQLiteStore(path))]
        with pytest.raises(TypeError, match="store takes a path or a store"):
            make(object())
    for app in apps:
        async with run(app):
            await spawn_durable(app, note, 1)
            await drain_jobs(app)
            assert app[DONE] == [1]
    assert [store_of(app) for app in apps] == stores
    assert list(tmp_path.iterdir()) == []
    assert isinstance(make(path)[DURABLE].store, SQLiteStore)


def test_memory_store_is_a_store() -> None:
    """For type checkers, which read this."""
    make_store: Callable[[], Store] = MemoryStore
    assert make_store().remembers_ticks
