"""Accepting jobs (rules A1 to A9), and looking at the scheduler (L5)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from aiohttp_jobs import Job, JobCancelled, Scheduler, SchedulerClosed, SchedulerFull
from aiohttp_jobs.core import scheduler as scheduler_module
from aiohttp_jobs.core.job import stop
from aiohttp_jobs.core.states import SchedulerState
from tests.loops import settle
from tests.work import give, nothing, wait_for

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


# -- A1: spawn ---------------------------------------------------------------------------


async def test_spawn_with_a_free_slot_is_active_at_once() -> None:
    """A1: spawn returns the job as soon as it is accepted, active if a slot is free."""
    async with Scheduler(limit=1) as scheduler:
        job = await scheduler.spawn(give(3), "three")
        assert isinstance(job, Job)
        assert job.active or job.closed  # closed at once under an eager task factory
        assert job.get_name() == "three"
        assert await job.wait() == 3


async def test_spawn_without_a_free_slot_is_pending() -> None:
    """A1: otherwise it is pending, and becomes active when a slot is free."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        first = await scheduler.spawn(wait_for(go))
        second = await scheduler.spawn(wait_for(go))
        assert (first.active, first.pending) == (True, False)
        assert (second.active, second.pending) == (False, True)
        assert (scheduler.active_count, scheduler.pending_count) == (1, 1)
        go.set()
        await first
        await settle()
        assert not second.pending


async def test_spawn_does_not_start_before_one_that_waits() -> None:
    """A1: a newcomer does not get a free slot while others wait ahead of it."""
    go, log = asyncio.Event(), list[int]()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(go, log, 0))
        await scheduler.spawn(wait_for(go, log, 1))
        go.set()
        await settle()
        await scheduler.spawn(wait_for(go, log, 2))
    assert log == [0, 1, 2]


# -- A2, A3: the order and the room ------------------------------------------------------


async def test_jobs_and_callers_are_served_in_their_order() -> None:
    """A2: first in, first out, for pending jobs and for callers that wait for room."""
    go, log = asyncio.Event(), list[int]()
    async with Scheduler(limit=1, pending_limit=2) as scheduler:
        callers = []
        for n in range(9):
            callers.append(asyncio.create_task(scheduler.spawn(wait_for(go, log, n))))
            await settle()
        assert (scheduler.active_count, scheduler.pending_count) == (1, 2)
        assert [caller.done() for caller in callers] == [True] * 3 + [False] * 6
        go.set()
        await asyncio.gather(*callers)
    assert log == list(range(9))


@pytest.mark.in_order
async def test_newcomer_in_the_turn_of_the_wake_up_does_not_overtake() -> None:
    """A2: nobody is overtaken, whatever arrives in the same turn of the loop."""
    gates = [asyncio.Event() for _ in range(5)]
    log = list[int]()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        first = await scheduler.spawn(wait_for(gates[0], log, 0))
        await scheduler.spawn(wait_for(gates[1], log, 1))
        waiting = asyncio.create_task(scheduler.spawn(wait_for(gates[2], log, 2)))
        await settle()
        for gate in gates:
            gate.set()
        await first  # the room has just been given to the caller, who has not run yet
        with pytest.raises(SchedulerFull):
            scheduler.spawn_nowait(wait_for(gates[4], log, 4))
        newcomer = asyncio.create_task(scheduler.spawn(wait_for(gates[3], log, 3)))
        await asyncio.gather(waiting, newcomer)
    assert log == [0, 1, 2, 3]


async def test_spawn_nowait_refuses_when_full_and_closes_the_coroutine() -> None:
    """A3: with pending_limit reached spawn_nowait raises SchedulerFull."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        job = scheduler.spawn_nowait(wait_for(go), "active", timeout=9)
        scheduler.spawn_nowait(wait_for(go))
        coro = wait_for(go)
        with pytest.raises(SchedulerFull, match="1 jobs are pending"):
            scheduler.spawn_nowait(coro)
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await coro
        assert job.get_name() == "active"
        go.set()


@pytest.mark.big
@pytest.mark.parametrize("pending_limit", [0, None])
async def test_no_pending_limit_never_waits(pending_limit: int | None) -> None:
    """A3: 0 means no cap."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=pending_limit) as scheduler:
        for _ in range(11_000):
            scheduler.spawn_nowait(wait_for(go))
        assert scheduler.pending_count == 10_999
        go.set()


async def test_spawn_waits_for_room_and_goes_on_when_there_is() -> None:
    """A3: with pending_limit reached spawn waits for room."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        pending = await scheduler.spawn(wait_for(go))
        waiting = asyncio.create_task(scheduler.spawn(give("room")))
        await settle()
        assert not waiting.done()
        assert len(scheduler) == 2
        await pending.close()
        job = await waiting
        assert job.pending
        go.set()
        assert await job == "room"


# -- A4: closing -------------------------------------------------------------------------


async def test_closed_scheduler_refuses() -> None:
    """A4: on a closed scheduler both raise SchedulerClosed."""
    scheduler = Scheduler()
    await scheduler.close()
    with pytest.raises(SchedulerClosed, match="closed"):
        await scheduler.spawn(nothing())
    with pytest.raises(SchedulerClosed, match="closed"):
        scheduler.spawn_nowait(nothing())
    with pytest.raises(SchedulerClosed, match="closed"):
        scheduler.shield(nothing())


async def test_closing_wakes_callers_that_wait_for_room() -> None:
    """A4: callers that wait for room when it closes are woken with SchedulerClosed."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=1, pending_limit=1)
    await scheduler.spawn(wait_for(go))
    await scheduler.spawn(wait_for(go))
    callers = [asyncio.create_task(scheduler.spawn(wait_for(go))) for _ in range(3)]
    await settle()
    await scheduler.close()
    for caller in callers:
        with pytest.raises(SchedulerClosed):
            await caller


async def test_closing_refuses_a_caller_that_was_just_given_room() -> None:
    """A4: even one that got its place in the same turn, and has not run yet."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=1, pending_limit=1)
    await scheduler.spawn(wait_for(go))
    pending = await scheduler.spawn(wait_for(go))
    caller = asyncio.create_task(scheduler.spawn(wait_for(go)))
    await settle()
    stop(pending, None)  # gives its room to the caller
    await scheduler.close()
    with pytest.raises(SchedulerClosed):
        await caller


async def test_draining_scheduler_still_accepts() -> None:
    """A4: while it only drains, jobs and others may still spawn."""
    go, log = asyncio.Event(), list[Any]()
    scheduler = Scheduler(limit=1)

    async def parent() -> None:
        await go.wait()
        await scheduler.spawn(wait_for(go, log, "child"))

    await scheduler.spawn(parent())
    drain = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    assert scheduler.state is SchedulerState.DRAINING
    assert not scheduler.closed
    await scheduler.spawn(wait_for(go, log, "other"))
    go.set()
    await drain
    assert log == ["other", "child"]
    assert scheduler.closed


# -- A5: what is refused -----------------------------------------------------------------


async def test_cancelled_spawn_closes_the_coroutine_and_leaves_no_trace() -> None:
    """A5: a coroutine whose spawn is cancelled is closed, and never ran."""
    go, log = asyncio.Event(), list[int]()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        await scheduler.spawn(wait_for(go))
        caller = asyncio.create_task(scheduler.spawn(wait_for(go, log, 1)))
        await settle()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert len(scheduler) == 2
        go.set()
    assert log == []


async def test_spawn_is_cancelled_in_the_turn_in_which_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A5, L5: it gets no place, and its job never belongs to the scheduler."""
    made: list[Job[Any]] = []
    make = scheduler_module.make_job  # type: ignore[attr-defined]

    def note(*arguments: Any) -> Job[Any]:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(scheduler_module, "make_job", note)
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        go = asyncio.Event()
        active = await scheduler.spawn(wait_for(go))
        pending = await scheduler.spawn(nothing())
        caller = asyncio.create_task(scheduler.spawn(nothing()))
        await settle()
        caller.cancel()
        await pending.close()
        assert not caller.done()
        assert [job for job in made if job in scheduler] == list(scheduler) == [active]
        with pytest.raises(asyncio.CancelledError):
            await caller
        go.set()


async def test_spawn_cancelled_when_just_given_room_never_ran() -> None:
    """A5: even if it got its place in the same turn; the next caller gets that."""
    go, log = asyncio.Event(), list[int]()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        pending = await scheduler.spawn(wait_for(go))
        first = asyncio.create_task(scheduler.spawn(wait_for(go, log, 1)))
        second = asyncio.create_task(scheduler.spawn(wait_for(go, log, 2)))
        await settle()
        await pending.close()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await second
        assert scheduler.pending_count == 1
        go.set()
    assert log == [2]


@pytest.mark.parametrize(
    ("what", "hint"),
    [
        (nothing, "call the coroutine function"),
        (3, "A coroutine is expected, not 3"),
        (None, "A coroutine is expected"),
        (lambda: asyncio.get_running_loop().create_future(), "A coroutine is expected"),
        ((n for n in "abc"), "A coroutine is expected"),
    ],
)
async def test_no_coroutine_is_refused_at_once(what: Any, hint: str) -> None:
    """A5: anything but a coroutine is refused with TypeError, before it is queued."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        await scheduler.spawn(wait_for(go))
        with pytest.raises(TypeError, match=hint):
            await scheduler.spawn(what)
        with pytest.raises(TypeError, match=hint):
            scheduler.spawn_nowait(what)
        assert len(scheduler) == 2
        go.set()


async def test_future_is_refused_with_a_hint() -> None:
    """A5: a future runs by itself; the error says what to do."""
    async with Scheduler() as scheduler:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(TypeError, match=r"shield\(\)"):
            await scheduler.spawn(future)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": 3}, TypeError, "name"),
        ({"timeout": "1"}, TypeError, "timeout"),
        ({"timeout": True}, TypeError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"context": {}}, TypeError, "context"),
    ],
)
async def test_bad_arguments_close_the_coroutine(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    """A5, A7: a refused coroutine is closed, and the error names the argument."""
    async with Scheduler() as scheduler:
        with pytest.raises(error, match=says):
            await scheduler.spawn(nothing(), **options)
        with pytest.raises(error, match=says):
            scheduler.spawn_nowait(nothing(), **options)


# -- A6: context variables ---------------------------------------------------------------


async def test_queued_job_runs_in_its_own_spawners_context() -> None:
    """A6: in a copy of the spawner's context, not that of the job whose end starts it."""
    go, seen = asyncio.Event(), list[str]()

    async def look() -> None:
        seen.append(var.get())
        await go.wait()

    async def request(user: str) -> None:
        var.set(user)
        await scheduler.spawn(look())
        var.set("changed later")

    async with Scheduler(limit=1) as scheduler:
        for user in ("ann", "bob", "cid"):
            await asyncio.create_task(request(user))
        go.set()
    assert seen == ["ann", "bob", "cid"]


async def test_job_that_waited_for_room_runs_in_its_spawners_context() -> None:
    """A6: the context is copied when spawn is called, even if that waits for room."""
    go, seen = asyncio.Event(), list[str]()

    async def look() -> None:
        seen.append(var.get())
        await go.wait()

    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        var.set("one")
        await scheduler.spawn(look())
        await scheduler.spawn(look())
        var.set("two")
        caller = asyncio.create_task(scheduler.spawn(look()))
        await settle()
        var.set("three")
        go.set()
        await caller
    assert seen == ["one", "one", "two"]


@pytest.mark.not_on("contextless")  # there a task runs in a copy of the context
@pytest.mark.parametrize("limit", [1, None])
async def test_context_argument_overrides(limit: int | None) -> None:
    """A6: context= is the context itself, as in asyncio.create_task."""
    context = contextvars.copy_context()
    context.run(var.set, "given")

    async def look() -> str:
        value = var.get()
        var.set("left behind")
        return value

    async with Scheduler(limit=limit) as scheduler:
        await scheduler.spawn(nothing())
        job = await scheduler.spawn(look(), context=context)
        assert await job == "given"
    assert context[var] == "left behind"
    assert var.get() == "unset"


# -- A7: arguments of the scheduler ------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("limit", 0, ValueError),
        ("limit", -1, ValueError),
        ("limit", 1.5, TypeError),
        ("limit", True, TypeError),
        ("limit", "9", TypeError),
        ("pending_limit", -1, ValueError),
        ("pending_limit", 1.5, TypeError),
        ("close_timeout", -0.1, ValueError),
        ("close_timeout", "1", TypeError),
        ("wait_timeout", -1, ValueError),
        ("wait_timeout", [], TypeError),
        ("wait_timeout", float("nan"), ValueError),
        ("exception_handler", 1, TypeError),
        ("exception_handler", nothing, TypeError),
    ],
)
def test_bad_option_is_refused_by_name(
    option: str, value: Any, error: type[Exception]
) -> None:
    """A7: arguments are checked when the scheduler is made, and the error names them."""
    with pytest.raises(error, match=option):
        Scheduler(**{option: value})


def test_good_options_are_kept() -> None:
    """A7 and compatibility: the defaults and properties are the same as in aiojobs."""
    scheduler = Scheduler()
    assert scheduler.limit == 100
    assert scheduler.pending_limit == 10000
    assert scheduler.close_timeout == 0.1
    assert scheduler.wait_timeout == 60
    assert scheduler.exception_handler is None
    assert (scheduler.active_count, scheduler.pending_count) == (0, 0)
    assert not scheduler.closed
    assert repr(scheduler) == "<Scheduler jobs=0>"

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        pass

    scheduler = Scheduler(
        limit=None,
        pending_limit=0,
        close_timeout=None,
        wait_timeout=None,
        exception_handler=handler,
    )
    assert scheduler.limit is None
    assert scheduler.pending_limit == 0
    assert scheduler.close_timeout is None
    assert scheduler.wait_timeout is None
    assert scheduler.exception_handler is handler


# -- A8: one loop ------------------------------------------------------------------------


def test_scheduler_is_made_without_a_loop_and_used_later() -> None:
    """A8: it may be made with no loop running, and belongs to the first that uses it."""
    scheduler = Scheduler()

    async def use() -> int:
        job: Job[int] = await scheduler.spawn(give(3))
        return await job

    assert asyncio.run(use()) == 3
    with pytest.raises(RuntimeError, match="bound to a different event loop"):
        asyncio.run(use())

    async def close() -> None:
        await scheduler.close()

    with pytest.raises(RuntimeError, match="bound to a different event loop"):
        asyncio.run(close())


def test_closed_scheduler_is_closed_again_in_another_loop() -> None:
    """A8: nothing is left to do, so the first loop does not matter; each application in a
    module's tests may close the module's scheduler."""
    scheduler = Scheduler()

    async def close() -> None:
        await scheduler.close()
        await scheduler.wait_and_close()

    asyncio.run(close())
    asyncio.run(close())
    assert scheduler.closed


async def test_use_from_another_thread_is_refused() -> None:
    """A8: use from another thread is refused with a RuntimeError that says so."""
    async with Scheduler() as scheduler:
        errors = list[BaseException]()

        def use() -> None:
            try:
                scheduler.spawn_nowait(nothing())
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert "run_coroutine_threadsafe" in str(errors[0])
        assert len(scheduler) == 0


# -- A9 ----------------------------------------------------------------------------------


async def test_job_that_ends_in_its_first_step_is_accounted() -> None:
    """A9: also under an eager task factory, where it ends inside spawn."""
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        jobs = [await scheduler.spawn(give(n)) for n in range(50)]
        assert [await job for job in jobs] == list(range(50))
        assert len(scheduler) == 0
        assert scheduler.active_count == 0


async def test_task_factory_that_refuses_fails_the_job(
    loop_errors: list[dict[str, Any]],
) -> None:
    """R2: whatever kept the task from being made is the job's failure."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no more tasks")

    async with Scheduler(limit=1) as scheduler:
        loop.set_task_factory(refuse)
        try:
            job = await scheduler.spawn(nothing())
        finally:
            loop.set_task_factory(factory)
        assert job.closed
        assert len(scheduler) == 0
        with pytest.raises(OSError, match="no more tasks"):
            await job
        assert await (await scheduler.spawn(give(1))) == 1
    assert loop_errors == []


# -- L5 ----------------------------------------------------------------------------------


async def test_iteration_goes_over_a_snapshot() -> None:
    """L5: iteration, len() and `in` work at any time."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=2) as scheduler:
        jobs = [await scheduler.spawn(wait_for(go)) for _ in range(3)]
        refused = asyncio.create_task(scheduler.spawn(wait_for(go)))
        await settle()
        seen = []
        for job in scheduler:
            seen.append(job)
            await job.close()
        assert seen == jobs
        assert all(job not in scheduler for job in jobs)
        last = await refused
        assert last in scheduler
        assert list(scheduler) == [last]
        assert len(scheduler) == 1
        assert 3 not in scheduler  # type: ignore[comparison-overlap]
        assert repr(scheduler) == "<Scheduler jobs=1>"
        go.set()
    assert repr(scheduler) == "<Scheduler closed jobs=0>"


# -- for integrations --------------------------------------------------------------------


async def test_spawn_at_once_takes_no_slot() -> None:
    """W5: it starts at once whatever the limit, and is counted and listed."""
    go, log = asyncio.Event(), list[str]()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(go, log, "job"))
        waiting = await scheduler.spawn(wait_for(go, log, "pending"))
        job = scheduler.spawn_at_once(wait_for(go, log, "at once"), "name")
        assert job.active
        assert job in scheduler
        assert (scheduler.active_count, scheduler.pending_count) == (2, 1)
        await settle()
        assert sorted(log) == ["at once", "job"]
        go.set()
        await job
        await waiting
        assert scheduler._parts.slots.free == 1


async def test_spawn_at_once_job_may_wait_for_children() -> None:
    """L2: a job without a slot has none to lend."""

    async def parent() -> None:
        await asyncio.gather(*[(await scheduler.spawn(give(n))).wait() for n in "ab"])

    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn_at_once(parent())
        assert scheduler._parts.slots.free == 1


async def test_spawn_after_holds_the_job_back() -> None:
    """W8: pending until the future is done, then at the end of the queue."""
    go, log = asyncio.Event(), list[str]()
    async with Scheduler(limit=1, pending_limit=3) as scheduler:
        future = asyncio.get_running_loop().create_future()
        held = scheduler.spawn_after(future, wait_for(go, log, "held"), "held", timeout=9)
        dropped = scheduler.spawn_after(future, wait_for(go, log, "dropped"))
        assert held.pending
        assert scheduler.pending_count == 2
        first = await scheduler.spawn(wait_for(go, log, "first"))
        assert first.active
        scheduler.spawn_nowait(wait_for(go, log, "second"))
        with pytest.raises(SchedulerFull):
            scheduler.spawn_after(future, nothing())
        await dropped.close()
        future.cancel()
        go.set()
        await held
    assert log == ["first", "second", "held"]


async def test_drain_does_not_wait_for_what_ends_with_something_else() -> None:
    """W2: jobs at once and held jobs are left alone; the scheduler stays open."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        future = asyncio.get_running_loop().create_future()
        held = scheduler.spawn_after(future, nothing())
        at_once = scheduler.spawn_at_once(wait_for(go))
        background = await scheduler.spawn(wait_for(go))
        assert not await scheduler.drain(1)
        await background.close()
        assert await scheduler.drain(1)
        assert held.pending
        assert at_once.active
        assert not scheduler.closed
        future.set_result(None)
        go.set()


async def test_drain_from_inside_a_job_does_not_wait_for_it() -> None:
    """E3: from inside a job it does not wait for that job."""

    async def job() -> bool:
        await scheduler.spawn(nothing())
        return await scheduler.drain(1)

    async with Scheduler() as scheduler:
        assert await (await scheduler.spawn(job()))


async def test_scheduler_that_is_thrown_away_with_jobs_says_so() -> None:
    """A leaked scheduler raises a ResourceWarning, and closes its coroutines."""
    future = asyncio.get_running_loop().create_future()
    scheduler = Scheduler()
    scheduler.spawn_after(future, nothing())
    future.cancel()
    with pytest.warns(ResourceWarning, match="was never closed"):
        scheduler.__del__()
    await scheduler.close()


async def test_spawn_returns_a_closed_job_that_somebody_closed_meanwhile() -> None:
    """A1: a job that was accepted is returned, even if closed in the same turn."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        pending = await scheduler.spawn(wait_for(go))
        caller = asyncio.create_task(scheduler.spawn(wait_for(go)))
        await settle()
        stop(pending, None)
        (admitted,) = [job for job in scheduler if job.pending]
        stop(admitted, None)
        job = await caller
        assert job is admitted
        with pytest.raises(JobCancelled):
            await job
        go.set()
