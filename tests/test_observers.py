"""Observers, and what jobs and schedulers know about themselves."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Generator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from aiohttp_jobs import Job, JobState, Scheduler, SchedulerClosed, Statistics
from tests.loops import settle
from tests.work import Boom, Reports, fail, give, nothing, stubborn, wait_for

Events = list[tuple[str, str | None]]


class Recorder:
    """Records each event with the job's name."""

    def __init__(self) -> None:
        self.events: Events = []

    def job_spawned(self, job: Job[Any]) -> None:
        assert job.spawned_at is not None
        assert job.started_at in (None, job.spawned_at)
        assert job.closed_at is None
        self.events.append(("spawned", job.get_name()))

    def job_started(self, job: Job[Any]) -> None:
        assert job.active
        self.events.append(("started", job.get_name()))

    def job_closed(self, job: Job[Any]) -> None:
        assert job.closed
        self.events.append((job.state.name.lower(), job.get_name()))


# -- who is told -------------------------------------------------------------------------


async def test_observer_is_told_of_each_event_in_its_order() -> None:
    """For a job that starts at once, and one that is pending first."""
    go, recorder = asyncio.Event(), Recorder()
    async with Scheduler(limit=1, observers=[recorder]) as scheduler:
        await scheduler.spawn(wait_for(go), "a")
        await scheduler.spawn(wait_for(go), "b")
        assert recorder.events == [("spawned", "a"), ("started", "a"), ("spawned", "b")]
        go.set()
    assert recorder.events[3:] == [
        ("succeeded", "a"),
        ("started", "b"),
        ("succeeded", "b"),
    ]


async def test_each_outcome_has_its_state() -> None:
    """Succeeded, failed, cancelled, and let go; a job's TimeoutError is a failure."""
    go, recorder = asyncio.Event(), Recorder()
    scheduler = Scheduler(
        close_timeout=1, observers=[recorder], exception_handler=Reports()
    )
    await scheduler.spawn(give(1), "result")
    await scheduler.spawn(fail(), "error")
    await scheduler.spawn(wait_for(go), "time", timeout=0.5)
    await scheduler.spawn(wait_for(go), "closed")
    await scheduler.spawn(stubborn(go), "stubborn")
    await scheduler.wait_and_close(timeout=1)
    ends = {name: event for event, name in recorder.events}
    assert ends == {
        "result": "succeeded",
        "error": "failed",
        "time": "failed",
        "closed": "cancelled",
        "stubborn": "let_go",
    }
    go.set()
    await settle()


async def test_job_that_never_starts_is_spawned_and_closed() -> None:
    """If a pending job is closed, there are no events of a start."""
    go, recorder = asyncio.Event(), Recorder()
    async with Scheduler(limit=1, observers=[recorder]) as scheduler:
        await scheduler.spawn(wait_for(go), "active")
        pending = await scheduler.spawn(nothing(), "pending")
        await pending.close()
        assert pending.started_at is None
        assert recorder.events[-2:] == [("spawned", "pending"), ("cancelled", "pending")]
        go.set()


async def test_what_was_never_accepted_is_not_told() -> None:
    """A caller that waits for room has no job yet; the event comes when it has."""
    go, recorder = asyncio.Event(), Recorder()
    scheduler = Scheduler(limit=1, pending_limit=1, observers=[recorder])
    await scheduler.spawn(wait_for(go), "active")
    pending = await scheduler.spawn(nothing(), "pending")
    cancelled = asyncio.create_task(scheduler.spawn(nothing(), "cancelled"))
    await settle()
    admitted = asyncio.create_task(scheduler.spawn(nothing(), "admitted"))
    await settle()
    refused = asyncio.create_task(scheduler.spawn(nothing(), "refused"))
    await settle()
    cancelled.cancel()
    await settle()
    await pending.close()
    await settle()
    await scheduler.close()
    with pytest.raises(SchedulerClosed):
        await refused
    await admitted
    assert scheduler.statistics().closed == 3
    names = [name for _, name in recorder.events]
    assert names.count("admitted") == 2
    assert "cancelled" not in names
    assert "refused" not in names


class Inside:
    """Sets a variable in each running job, and records the task it is called in."""

    variable = contextvars.ContextVar[str | None]("variable", default=None)

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any] | None] = []

    def job_running(self, job: Job[Any]) -> None:
        assert job.active
        self.tasks.append(asyncio.current_task())
        self.variable.set(f"in {job.label}")


async def look_inside() -> tuple[str | None, asyncio.Task[Any] | None]:
    return Inside.variable.get(), asyncio.current_task()


async def test_running_is_told_in_the_job_itself() -> None:
    """In its task and context: a variable set there is seen by this job only."""
    inside = Inside()
    async with Scheduler(limit=1, observers=[inside]) as scheduler:
        first = await scheduler.spawn(look_inside(), "first")
        second = await scheduler.spawn(look_inside(), "second")
        assert await first == ("in first", inside.tasks[0])
        assert await second == ("in second", inside.tasks[1])
        assert inside.variable.get() is None
    assert len(inside.tasks) == 2


class Variables:
    """Records the variable's value wherever it is told of a job."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def job_spawned(self, job: Job[Any]) -> None:
        self.seen.append(("spawned", Inside.variable.get()))

    def job_started(self, job: Job[Any]) -> None:
        self.seen.append(("started", Inside.variable.get()))

    def job_closed(self, job: Job[Any]) -> None:
        self.seen.append((job.state.name.lower(), Inside.variable.get()))


class Blind(Variables):
    """May be told in any context, as it does not look at variables."""

    needs_context = False


@pytest.mark.parametrize("blind_comes", ["never", "before", "after"])
async def test_observer_is_told_in_the_context_of_the_job(blind_comes: str) -> None:
    """A6: even if another observer does not need it, and whoever closes the job."""
    variables, go = Variables(), asyncio.Event()
    observers: list[object] = [variables]
    if blind_comes != "never":
        observers.insert(0 if blind_comes == "before" else 1, Blind())
    scheduler = Scheduler(limit=1, observers=observers)

    async def spawn(name: str) -> Job[None]:
        Inside.variable.set(name)
        return await scheduler.spawn(wait_for(go), name)

    first = await asyncio.create_task(spawn("first"))
    second = await asyncio.create_task(spawn("second"))
    third = await asyncio.create_task(spawn("third"))
    await third.close()
    go.set()
    await first
    await second
    assert variables.seen == [
        ("spawned", "first"),
        ("started", "first"),
        ("spawned", "second"),
        ("spawned", "third"),
        ("cancelled", "third"),
        ("succeeded", "first"),
        ("started", "second"),
        ("succeeded", "second"),
    ]
    await scheduler.close()


async def test_observer_that_needs_no_context_is_told_where_that_is() -> None:
    """For the package's own observers, whose cost every job pays."""
    blind = Blind()
    async with Scheduler(observers=[blind]) as scheduler:
        context = contextvars.copy_context()
        context.run(Inside.variable.set, "of the job")
        await scheduler.spawn(nothing(), context=context)
    assert blind.seen[:2] == [("spawned", None), ("started", None)]


async def test_running_is_not_told_of_a_job_that_made_no_step() -> None:
    """Such a job was cancelled before it started, or in the turn of its start."""
    go, inside = asyncio.Event(), Inside()
    async with Scheduler(limit=1, observers=[inside]) as scheduler:
        first = await scheduler.spawn(wait_for(go), "first")
        told = list(inside.tasks)
        pending = await scheduler.spawn(nothing(), "pending")
        await pending.close()
        await first.close()
    # Under an eager task factory the first step comes at once.
    assert inside.tasks == told


async def test_observer_of_running_that_raises_harms_no_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is dropped like others."""

    class Broken:
        def job_running(self, job: Job[Any]) -> None:
            raise Boom("broken observer")

    async with Scheduler(observers=[Broken()]) as scheduler:
        assert await (await scheduler.spawn(give(1))) == 1
        assert await (await scheduler.spawn(give(2))) == 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "event", ["job_spawned", "job_started", "job_running", "job_closed"]
)
async def test_observer_needs_one_method_only(event: str) -> None:
    """A missing method is not called."""
    told = list[str]()
    observer = type("Observer", (), {event: lambda self, job: told.append(event)})()
    async with Scheduler(observers=[observer]) as scheduler:
        await scheduler.spawn(nothing())
    assert told == [event]


async def test_observer_is_added_and_removed_while_jobs_run() -> None:
    """Even after jobs have started; adding it twice counts once."""
    go, recorder = asyncio.Event(), Recorder()
    async with Scheduler() as scheduler:
        await scheduler.spawn(wait_for(go), "early")
        scheduler.add_observer(recorder)
        scheduler.add_observer(recorder)
        await scheduler.spawn(wait_for(go), "late")
        assert recorder.events == [("spawned", "late"), ("started", "late")]
        scheduler.remove_observer(recorder)
        scheduler.remove_observer(recorder)
        go.set()
    assert len(recorder.events) == 2


async def test_observer_that_raises_is_logged_and_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Others are still told, and no job is harmed."""
    recorder, calls = Recorder(), list[int]()

    class Broken:
        def job_started(self, job: Job[Any]) -> None:
            calls.append(1)
            raise Boom("broken observer")

    async with Scheduler(observers=[Broken(), recorder]) as scheduler:
        assert await (await scheduler.spawn(give(1), "a")) == 1
        assert await (await scheduler.spawn(give(2), "b")) == 2
    assert calls == [1]
    assert len(recorder.events) == 6
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "job_started() and is disabled" in record.getMessage()


class Waits:
    async def job_closed(self, job: Job[Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("observer", "says"),
    [(object(), "has none"), (Waits(), "plain methods"), (None, "has none")],
)
def test_bad_observer_is_refused(observer: object, says: str) -> None:
    """A7: the error names the argument and says what it takes."""
    with pytest.raises(TypeError, match=f"observer takes .*{says}"):
        Scheduler(observers=[observer])
    with pytest.raises(TypeError, match=says):
        Scheduler().add_observer(observer)


# -- what a job knows of itself ----------------------------------------------------------


async def test_job_knows_where_and_when() -> None:
    """It has a number of its own, names, states, and times in order."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        first = await scheduler.spawn(wait_for(go), origin="GET /")
        second = await scheduler.spawn(give(1), "second")
        assert first.id != second.id
        assert first.id == first.id
        assert first.origin == "GET /"
        assert second.origin is None
        assert (first.label, first.coro_name) == ("wait_for", "wait_for")
        assert (second.label, second.coro_name) == ("second", "give")
        assert (first.state, second.state) == (JobState.ACTIVE, JobState.PENDING)
        go.set()
        await second
        assert second.state is JobState.SUCCEEDED
        times = (second.spawned_at, second.started_at, second.closed_at)
        assert None not in times
        assert list(times) == sorted(times)  # type: ignore[type-var]


async def test_origin_of_the_wrong_type_is_refused() -> None:
    """A5, A7: by name, and the coroutine is closed."""
    async with Scheduler() as scheduler:
        with pytest.raises(TypeError, match="origin"):
            await scheduler.spawn(nothing(), origin=3)  # type: ignore[arg-type]


async def test_exception_can_be_looked_at_without_receiving_it() -> None:
    """R2: the exception handler is told all the same."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        good, bad = await scheduler.spawn(give(1)), await scheduler.spawn(fail(go))
        assert bad.exception() is None
        go.set()
        await settle()
        assert isinstance(bad.exception(), Boom)
        assert good.exception() is None
    assert len(reports.contexts) == 1


async def test_object_that_is_a_coroutine_is_called_by_its_class() -> None:
    """Never by its address: a new name for each job would be no use in metrics."""

    class Wrapped(Coroutine[Any, Any, int]):
        def __init__(self) -> None:
            self._coro = give(1)

        def __await__(self) -> Generator[Any, Any, int]:
            return self._coro.__await__()

        def send(self, value: Any) -> Any:
            return self._coro.send(value)

        def throw(self, *error: Any) -> Any:
            return self._coro.throw(*error)

        def close(self) -> None:
            self._coro.close()

    async with Scheduler() as scheduler:
        job: Job[int] = await scheduler.spawn(Wrapped())
        assert job.coro_name.endswith("Wrapped")
        assert await job == 1


# -- statistics --------------------------------------------------------------------------


async def test_statistics_count_everything_once() -> None:
    """A frozen snapshot: counts, totals by outcome, the longest times."""
    go = asyncio.Event()
    scheduler = Scheduler(
        limit=2, pending_limit=9, close_timeout=1, exception_handler=Reports()
    )
    before = scheduler.statistics()
    assert before.active == before.pending == before.closed == 0
    assert before.longest_waiting == before.longest_running == 0
    assert before.waiting_since is before.running_since is None
    await scheduler.spawn(give(1))
    await scheduler.spawn(fail())
    await settle()
    await scheduler.spawn(stubborn(go))
    await scheduler.spawn(wait_for(go))
    dropped = await scheduler.spawn(nothing())
    await scheduler.spawn(nothing())
    shielded = scheduler.shield(asyncio.create_task(wait_for(go)))
    await dropped.close()
    await settle()
    now = scheduler.statistics()
    assert (now.active, now.pending, now.shielded) == (2, 1, 1)
    assert (now.limit, now.pending_limit) == (2, 9)
    assert (now.succeeded, now.failed, now.cancelled, now.let_go) == (1, 1, 1, 0)
    assert now.longest_running >= now.longest_waiting > 0
    (oldest, _), (pending,) = scheduler.active_jobs(), scheduler.pending_jobs()
    assert now.running_since == oldest.started_at
    assert now.waiting_since == pending.spawned_at
    await scheduler.close()
    end = scheduler.statistics()
    assert (end.succeeded, end.failed, end.cancelled, end.let_go) == (1, 1, 3, 1)
    assert end.closed == 6
    with pytest.raises(FrozenInstanceError):
        end.active = 3  # type: ignore[misc]
    assert isinstance(end, Statistics)
    go.set()
    await asyncio.wait([shielded])


async def test_neither_observer_nor_failure_can_be_told_of_and_no_job_is_harmed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2, R5: the failure is reported, and the next job starts."""

    class Hostile:
        def job_closed(self, job: Job[Any]) -> None:
            raise Boom

        def __repr__(self) -> str:
            raise asyncio.CancelledError

    monkeypatch.setattr(logging, "raiseExceptions", False)
    reports = Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports, observers=[Hostile()])
    await scheduler.spawn(fail())
    last = await scheduler.spawn(give("next"))
    assert await last == "next"
    await settle()
    assert reports.messages == ["Job processing failed"]
    assert "An observer failed in job_closed() and is disabled" in caplog.text
    await scheduler.close()


async def test_statistics_tell_slots_from_jobs_and_who_has_no_room() -> None:
    """L2, W5: an active job may take no slot, or lend its own."""
    go = asyncio.Event()

    async def parent() -> None:
        await (await scheduler.spawn(wait_for(go)))

    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(parent())
        scheduler.spawn_at_once(wait_for(go))
        await settle()
        pending = await scheduler.spawn(nothing())
        caller = asyncio.create_task(scheduler.spawn(nothing()))
        await settle()
        now = scheduler.statistics()
        assert (now.active, now.slots_taken) == (3, 1)
        assert sum(job.takes_slot for job in scheduler) == 1
        assert (now.pending, now.callers_waiting) == (1, 1)
        await pending.close()
        assert scheduler.callers_waiting == 0
        go.set()
        await caller
        await scheduler.drain()
        assert scheduler.slots_taken == 0


async def test_held_job_may_be_the_one_that_has_waited_longest() -> None:
    """Jobs that wait for something else than a slot count as pending."""
    async with Scheduler() as scheduler:
        future = asyncio.get_running_loop().create_future()
        held = scheduler.spawn_after(future, nothing())
        assert scheduler.statistics().longest_waiting > 0
        assert scheduler.statistics().waiting_since == held.spawned_at
        future.cancel()


async def test_first_jobs_are_looked_at_without_going_over_the_others() -> None:
    """L5: a snapshot of active or pending jobs; without a count, all of them."""
    go = asyncio.Event()
    async with Scheduler(limit=2, pending_limit=0) as scheduler:
        jobs = [await scheduler.spawn(wait_for(go), str(n)) for n in range(6)]
        assert scheduler.active_jobs(9) == scheduler.active_jobs() == jobs[:2]
        assert scheduler.active_jobs(1) == jobs[:1]
        assert scheduler.pending_jobs(3) == jobs[2:5]
        assert scheduler.pending_jobs(9) == scheduler.pending_jobs() == jobs[2:]
        await jobs[3].close()
        assert scheduler.pending_jobs(2) == [jobs[2], jobs[4]]
        go.set()
    assert scheduler.active_jobs() == scheduler.pending_jobs() == []
