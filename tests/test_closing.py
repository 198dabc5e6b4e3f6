"""Closing a scheduler (rules E0, E1, E3, E5, E7)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aiohttp_jobs import JobCancelled, Scheduler, SchedulerClosed
from aiohttp_jobs.core.ending import BATCH
from aiohttp_jobs.core.states import SchedulerState
from tests.loops import later, settle
from tests.work import Boom, Reports, fail, give, nothing, stubborn, wait_for

LOGGER = "aiohttp_jobs"


# -- E3: what a close does ---------------------------------------------------------------


async def test_close_cancels_what_is_active_and_shielded() -> None:
    """E3: scheduler.close() cancels all active jobs and shielded awaitables."""
    go = asyncio.Event()
    scheduler = Scheduler()
    job = await scheduler.spawn(wait_for(go))
    shielded = asyncio.create_task(wait_for(go))
    outer = scheduler.shield(shielded)
    await scheduler.close()
    with pytest.raises(JobCancelled):
        await job
    assert shielded.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert scheduler.state is SchedulerState.CLOSED


async def test_close_never_starts_pending_jobs() -> None:
    """E3: pending jobs never start, and callers that wait for them get CancelledError."""
    go, log = asyncio.Event(), list[str]()
    scheduler = Scheduler(limit=1)
    await scheduler.spawn(wait_for(go, log, "active"))
    pending = await scheduler.spawn(wait_for(go, log, "pending"))
    waiter = asyncio.create_task(pending.wait())
    await settle()
    await scheduler.close()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert log == ["active"]
    assert pending.closed
    assert len(scheduler) == 0


async def test_job_that_ends_because_of_the_close_starts_no_pending_one() -> None:
    """E3: when a cancelled job ends, its slot is not passed on."""
    go, log = asyncio.Event(), list[int]()
    scheduler = Scheduler(limit=1)
    for n in range(4):
        await scheduler.spawn(wait_for(go, log, n))
    await settle()
    closing = asyncio.create_task(scheduler.close())
    go.set()
    await closing
    assert log == [0]


async def test_job_that_closes_in_its_first_step_starts_no_pending_one() -> None:
    """E3, A9: an eager job closes the scheduler while pending jobs are being started,
    more of them than one turn closes."""
    go, log = asyncio.Event(), list[int]()
    scheduler = Scheduler(limit=1, pending_limit=0)

    async def closer() -> None:
        await scheduler.close()

    await scheduler.spawn(wait_for(go))
    await scheduler.spawn(closer())
    for n in range(BATCH + 1):
        await scheduler.spawn(wait_for(asyncio.Event(), log, n))
    go.set()
    await settle()
    await scheduler.close()
    assert log == []


async def test_second_close_returns_when_the_first_is_done() -> None:
    """E3: every caller returns only when the close is done, even the second one."""
    go, cleaned = asyncio.Event(), asyncio.Event()

    async def clean_up() -> None:
        try:
            await go.wait()
        finally:
            await cleaned.wait()

    scheduler = Scheduler(close_timeout=None)
    await scheduler.spawn(clean_up())
    await settle()
    closes = [asyncio.create_task(scheduler.close()) for _ in range(2)]
    await settle()
    assert [close.done() for close in closes] == [False, False]
    third = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    assert not third.done()
    cleaned.set()
    await asyncio.gather(*closes, third)
    await scheduler.close()


async def test_close_from_inside_a_job_spares_it() -> None:
    """E3: a close from inside a job spares that job and does not wait for it."""
    go, log = asyncio.Event(), list[str]()

    async def closer() -> str:
        await scheduler.close()
        log.append("closed the others")
        await asyncio.sleep(0)
        return "went on"

    scheduler = Scheduler()
    other = await scheduler.spawn(wait_for(go))
    job = await scheduler.spawn(closer())
    assert await job == "went on"
    assert other.closed
    assert log == ["closed the others"]
    assert scheduler.state is SchedulerState.CLOSED


async def test_close_from_a_child_task_of_a_job_spares_that_job() -> None:
    """E3: the same if it is called from a task that the job has created."""

    async def closer() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(scheduler.close())
        return "went on"

    scheduler = Scheduler()
    assert await (await scheduler.spawn(closer())) == "went on"


async def test_close_from_a_shielded_task_spares_it() -> None:
    """E3: a shielded task may close the scheduler, too."""
    go = asyncio.Event()

    async def closer() -> str:
        await asyncio.sleep(0)  # an eager task is shielded when it first waits
        await scheduler.close()
        return "went on"

    scheduler = Scheduler()
    job = await scheduler.spawn(wait_for(go))
    assert await scheduler.shield(closer()) == "went on"
    assert job.closed


async def test_close_that_a_job_shields_spares_that_job() -> None:
    """E3: a close that a job shields counts as called from inside that job."""
    go = asyncio.Event()
    scheduler = Scheduler()

    async def closer() -> str:
        await asyncio.sleep(0)
        await scheduler.close()
        return "closed"

    async def work() -> str:
        return f"{await scheduler.shield(closer())}, went on"

    other = await scheduler.spawn(wait_for(go))
    job = await scheduler.spawn(work())
    assert await job == "closed, went on"
    assert other.closed
    assert scheduler.state is SchedulerState.CLOSED


async def test_two_jobs_that_close_do_not_wait_for_each_other() -> None:
    """E3, E7: each spares itself; the first one's close reaches the second."""
    scheduler = Scheduler()

    async def closer() -> None:
        await asyncio.sleep(0)
        await scheduler.close()

    jobs = [await scheduler.spawn(closer()) for _ in range(3)]
    async with asyncio.timeout(5):
        await asyncio.wait([asyncio.create_task(job.wait()) for job in jobs])
        await scheduler.close()
    assert all(job.closed for job in jobs)


async def test_close_from_outside_ends_a_job_that_was_spared() -> None:
    """E3: a close from outside cancels the job whose own close had spared it."""
    go = asyncio.Event()

    async def closer() -> None:
        await scheduler.close()
        await go.wait()

    scheduler = Scheduler()
    job = await scheduler.spawn(closer())
    await settle()
    assert job.active
    await scheduler.close()
    with pytest.raises(JobCancelled):
        await job


async def test_failure_while_it_closes_is_reported() -> None:
    """R2, E3: a job that fails when it is cancelled is reported like any other."""
    reports = Reports()

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom("clean-up")

    scheduler = Scheduler(exception_handler=reports)
    await scheduler.spawn(fails_when_cancelled())
    await settle()
    await scheduler.close()
    assert reports.messages == ["Job processing failed"]


async def test_clean_up_of_a_job_cannot_spawn_and_its_coroutine_is_closed() -> None:
    """A4, A5: while the scheduler closes, jobs are refused."""
    refused = list[BaseException]()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await scheduler.spawn(nothing())
            except SchedulerClosed as error:
                refused.append(error)

    scheduler = Scheduler()
    await scheduler.spawn(clean_up())
    await settle()
    await scheduler.close()
    assert len(refused) == 1


async def test_close_whose_caller_is_cancelled_goes_on() -> None:
    """E2, E3: the caller is cancelled at once, and the close goes on without it."""
    cleaned, ended = asyncio.Event(), list[str]()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            ended.append("cleaned up")

    scheduler = Scheduler(close_timeout=None)
    job = await scheduler.spawn(clean_up())
    await settle()
    close = asyncio.create_task(scheduler.close())
    await settle()
    close.cancel()
    with pytest.raises(asyncio.CancelledError):
        await close
    assert job.active
    cleaned.set()
    await scheduler.close()
    assert ended == ["cleaned up"]


# -- E0, E1, E7: deadlines ---------------------------------------------------------------


async def test_close_is_a_hard_deadline_and_cancels_once() -> None:
    """E0, E1: it returns on time, and lets go jobs that swallow their cancellation."""
    loop = asyncio.get_running_loop()
    go, cancelled = asyncio.Event(), list[float]()
    reports = Reports()
    scheduler = Scheduler(close_timeout=3, exception_handler=reports)
    start = loop.time()
    jobs = [await scheduler.spawn(stubborn(go, cancelled), f"n{n}") for n in range(3)]
    await settle()
    await scheduler.close()
    assert loop.time() - start == pytest.approx(3, abs=0.1)
    assert reports.messages == ["Job closing timed out"] * 3
    assert all(job.closed for job in jobs)
    assert len(scheduler) == 0
    assert scheduler.state is SchedulerState.CLOSED
    await later(100)
    assert len(cancelled) == 3
    go.set()
    await settle()


async def test_shielded_awaitable_that_swallows_its_cancellation_is_let_go() -> None:
    """E0, E1: the deadline applies to shielded awaitables, too."""
    loop = asyncio.get_running_loop()
    go, cancelled = asyncio.Event(), list[float]()
    reports = Reports()
    scheduler = Scheduler(close_timeout=3, exception_handler=reports)
    shielded = asyncio.create_task(stubborn(go, cancelled))
    outer = scheduler.shield(shielded)
    await settle()
    start = loop.time()
    await scheduler.close()
    assert loop.time() - start == pytest.approx(3, abs=0.1)
    assert reports.messages == ["Shielded awaitable closing timed out"]
    assert reports.contexts[0]["future"] is shielded
    await later(100)
    assert len(cancelled) == 1
    go.set()
    assert await outer == "late"


async def test_close_with_no_time_at_all_still_lets_a_job_clean_up() -> None:
    """E0, E1: close_timeout=0 reports a job that needs more, and its clean-up goes on."""
    log = list[str]()
    reports = Reports()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await later(1)
            log.append("cleaned up")

    scheduler = Scheduler(close_timeout=0, exception_handler=reports)
    await scheduler.spawn(clean_up())
    await settle()
    await scheduler.close()
    assert reports.messages == ["Job closing timed out"]
    assert log == []
    await later(2)
    assert log == ["cleaned up"]


async def test_close_does_not_cancel_what_is_being_cancelled() -> None:
    """E1: a job that is being closed by job.close() is not cancelled a second time."""
    go, cancelled = asyncio.Event(), list[float]()
    scheduler = Scheduler(close_timeout=5, exception_handler=Reports())
    job = await scheduler.spawn(stubborn(go, cancelled))
    await settle()
    close = asyncio.create_task(job.close(timeout=9))
    await settle()
    closing = asyncio.create_task(scheduler.close())
    await settle()
    assert len(cancelled) == 1
    go.set()
    await asyncio.gather(close, closing)
    assert len(cancelled) == 1


async def test_close_with_an_earlier_deadline_of_one_job() -> None:
    """E0: the earlier of the deadlines of a job and its scheduler counts."""
    loop = asyncio.get_running_loop()
    go, reports = asyncio.Event(), Reports()
    scheduler = Scheduler(close_timeout=9, exception_handler=reports)
    job = await scheduler.spawn(stubborn(go))
    await settle()
    start = loop.time()
    closing = asyncio.create_task(scheduler.close())
    await settle()
    with pytest.raises(TimeoutError):
        await job.close(timeout=2)
    assert loop.time() - start == pytest.approx(2, abs=0.1)
    await closing
    assert loop.time() - start == pytest.approx(2, abs=0.1)
    go.set()
    await settle()


async def test_close_bounds_a_job_that_was_closed_with_more_time() -> None:
    """E0: it returns on time, and does not cancel that job a second time (E1)."""
    loop = asyncio.get_running_loop()
    go, cancelled, reports = asyncio.Event(), list[float](), Reports()
    scheduler = Scheduler(close_timeout=2, exception_handler=reports)
    job = await scheduler.spawn(stubborn(go, cancelled))
    await settle()
    close = asyncio.create_task(job.close(timeout=100))
    await settle()
    start = loop.time()
    await scheduler.close()
    assert loop.time() - start == pytest.approx(2, abs=0.1)
    with pytest.raises(TimeoutError):
        await close
    await settle()
    assert reports.messages == []  # R2: the caller of job.close() has received it
    assert len(cancelled) == 1
    go.set()
    await settle()


async def test_very_many_pending_jobs_are_closed_in_turns() -> None:
    """L3, E7: closing very many holds the loop for no longer than a batch."""
    go, turns = asyncio.Event(), 0
    scheduler = Scheduler(limit=1, pending_limit=0)
    await scheduler.spawn(wait_for(go))
    for _ in range(5_000):
        scheduler.spawn_nowait(wait_for(go))
    close = asyncio.create_task(scheduler.close())
    while not close.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 10
    assert len(scheduler) == 0


# -- E5: the record ----------------------------------------------------------------------


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if record.name == LOGGER and record.levelno == level
    ]


async def test_close_tells_what_it_cancelled_and_never_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: in one log record, with counts and names."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=2)
    await scheduler.spawn(wait_for(go), "mail")
    await scheduler.spawn(wait_for(go), "mail")
    await scheduler.spawn(wait_for(go), "report")
    await scheduler.spawn(wait_for(go))
    outer = scheduler.shield(asyncio.create_task(wait_for(go)))
    await settle()
    await scheduler.close()
    await asyncio.wait([outer])
    (record,) = records(caplog, logging.WARNING)
    told: Any = record
    assert record.getMessage() == (
        "The scheduler was closed before its jobs had ended: "
        "2 cancelled (mail x2); 2 never started (report, wait_for); 1 shielded cancelled"
    )
    assert told.jobs_cancelled == ["mail", "mail"]
    assert told.jobs_never_started == ["report", "wait_for"]
    assert told.shields_cancelled == 1


async def test_close_of_an_idle_scheduler_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: if nothing was lost, nothing is logged; nor by a second close."""
    scheduler = Scheduler()
    assert await (await scheduler.spawn(give(1))) == 1
    await scheduler.close()
    await scheduler.close()
    assert caplog.records == []


async def test_second_close_tells_only_what_the_first_one_spared(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: each job is named once."""
    go = asyncio.Event()

    async def closer() -> None:
        await scheduler.close()
        await go.wait()

    scheduler = Scheduler()
    await scheduler.spawn(wait_for(go), "first")
    await scheduler.spawn(closer(), "second")
    await settle()
    await scheduler.close()
    told = [record.getMessage() for record in records(caplog, logging.WARNING)]
    assert [text.rpartition(": ")[2] for text in told] == [
        "1 cancelled (first)",
        "1 cancelled (second)",
    ]


async def test_job_that_ended_by_itself_in_the_turn_of_the_close_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: a job that has ended was not cancelled."""
    go = asyncio.Event()
    scheduler = Scheduler()
    job = await scheduler.spawn(fail(go))
    waiter = asyncio.create_task(job.wait())
    await settle()
    go.set()
    with pytest.raises(Boom):
        await waiter
    await scheduler.close()
    assert caplog.records == []


async def test_very_many_names_are_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: the message stays readable, and the record as a whole is bounded."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=1, pending_limit=0)
    for n in range(1500):
        await scheduler.spawn(wait_for(go), f"job {n}")
    await scheduler.close()
    (record,) = records(caplog, logging.WARNING)
    told: Any = record
    assert record.getMessage().endswith(", ...)")
    assert "1499 never started" in record.getMessage()
    assert len(told.jobs_never_started) == 1000


async def test_close_beside_a_drain_cancels_what_that_one_waits_for() -> None:
    """E3: a drain does not keep another caller's close from cancelling."""
    go, cancelled = asyncio.Event(), list[str]()

    async def work() -> None:
        try:
            await go.wait()
        except asyncio.CancelledError:
            cancelled.append("work")
            raise

    scheduler = Scheduler(limit=1)
    await scheduler.spawn(work())
    await scheduler.spawn(nothing())
    drains = [
        asyncio.create_task(scheduler.drain()),
        asyncio.create_task(scheduler.wait_and_close()),
    ]
    await settle()
    await scheduler.close()
    assert cancelled == ["work"]
    assert scheduler.state is SchedulerState.CLOSED
    await asyncio.gather(*drains)
