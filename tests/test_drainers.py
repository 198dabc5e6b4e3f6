"""Draining a scheduler (rules E0, E4, E5, E6, E7)."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest

from aiohttp_jobs import JobCancelled, Scheduler
from aiohttp_jobs.core.states import SchedulerState
from tests.loops import later, settle
from tests.work import Boom, Reports, fail, give, nothing, stubborn, wait_for


async def takes(seconds: float, log: list[str], mark: str) -> None:
    await later(seconds)
    log.append(mark)


# -- E4: wait_and_close ------------------------------------------------------------------


async def test_drain_lets_jobs_and_shielded_awaitables_end() -> None:
    """E4: wait_and_close drains jobs, pending ones too, and shielded awaitables."""
    log = list[str]()
    scheduler = Scheduler(limit=1)
    for n in range(3):
        await scheduler.spawn(takes(1, log, f"job {n}"))
    shielded = scheduler.shield(takes(9, log, "shielded"))
    await scheduler.wait_and_close()
    assert log == ["job 0", "job 1", "job 2", "shielded"]
    assert scheduler.state is SchedulerState.CLOSED
    await shielded


async def test_drain_waits_for_what_the_last_job_has_spawned() -> None:
    """E4: jobs may spawn while it drains, to any depth."""
    log = list[str]()

    async def parent(depth: int) -> None:
        await later(1)
        log.append(f"depth {depth}")
        if depth < 3:
            await scheduler.spawn(parent(depth + 1))

    scheduler = Scheduler()
    await scheduler.spawn(parent(0))
    await scheduler.wait_and_close()
    assert log == ["depth 0", "depth 1", "depth 2", "depth 3"]


async def test_who_waits_for_the_last_job_may_spawn_another() -> None:
    """E4: a drain that has just seen the last job end waits for one spawned then."""
    go, log = asyncio.Event(), list[str]()
    scheduler = Scheduler()
    last = await scheduler.spawn(wait_for(go))

    async def follow_up() -> None:
        await last
        await scheduler.spawn(takes(1, log, "followed"))

    following = asyncio.create_task(follow_up())
    await settle()
    drain = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    go.set()
    await asyncio.gather(drain, following)
    assert log == ["followed"]


async def test_what_is_left_at_the_deadline_is_closed() -> None:
    """E4: at the deadline it closes what is left."""
    loop = asyncio.get_running_loop()
    go, log = asyncio.Event(), list[str]()
    scheduler = Scheduler(limit=1, wait_timeout=99)
    quick = await scheduler.spawn(takes(1, log, "quick"))
    slow = await scheduler.spawn(wait_for(go))
    never = await scheduler.spawn(nothing())
    start = loop.time()
    await scheduler.wait_and_close(timeout=3)
    assert loop.time() - start == pytest.approx(3, abs=0.1)
    await quick
    for job in (slow, never):
        with pytest.raises(JobCancelled):
            await job


async def test_drain_uses_wait_timeout_by_default() -> None:
    """E4: timeout=None is the scheduler's wait_timeout."""
    loop = asyncio.get_running_loop()
    go = asyncio.Event()
    scheduler = Scheduler(wait_timeout=7)
    await scheduler.spawn(wait_for(go))
    start = loop.time()
    await scheduler.wait_and_close()
    assert loop.time() - start == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_drain_without_a_bound_waits_as_long_as_it_takes(
    timeout: float | None,
) -> None:
    """E4: wait_timeout=None, or an endless timeout, is no bound."""
    log = list[str]()
    scheduler = Scheduler(wait_timeout=None)
    await scheduler.spawn(takes(1_000, log, "ended"))
    await scheduler.wait_and_close(timeout)
    assert log == ["ended"]


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), ("1", TypeError), (math.nan, ValueError)]
)
async def test_bad_drain_timeout_is_refused_and_nothing_is_closed(
    timeout: float, error: type[Exception]
) -> None:
    """A7: the error names the argument, and the scheduler stays open."""
    async with Scheduler() as scheduler:
        for call in (scheduler.wait_and_close, scheduler.drain):
            with pytest.raises(error, match="timeout"):
                await call(timeout)
        assert scheduler.state is SchedulerState.OPEN
        assert await (await scheduler.spawn(give(1))) == 1


async def test_drain_that_is_cancelled_closes_at_once_and_then_raises() -> None:
    """E4: cancelled half-way, it closes at once and then raises: nothing is left."""
    loop = asyncio.get_running_loop()
    go, log = asyncio.Event(), list[str]()

    async def clean_up() -> None:
        try:
            await go.wait()
        finally:
            await later(1)
            log.append("cleaned up")

    scheduler = Scheduler(close_timeout=5)
    job = await scheduler.spawn(clean_up())
    drain = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    start = loop.time()
    drain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drain
    assert loop.time() - start == pytest.approx(1, abs=0.1)
    assert log == ["cleaned up"]
    assert job.closed
    assert scheduler.state is SchedulerState.CLOSED


async def test_drain_that_is_cancelled_twice_gets_out_at_once() -> None:
    """E2, E4: a second cancellation gets through; the close goes on."""
    cleaned, log = asyncio.Event(), list[str]()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            log.append("cleaned up")

    scheduler = Scheduler(close_timeout=None)
    await scheduler.spawn(clean_up())
    drain = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    drain.cancel()
    await settle()
    assert not drain.done()
    drain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drain
    assert scheduler.closed
    cleaned.set()
    await scheduler.close()
    assert log == ["cleaned up"]


async def test_drain_is_a_hard_deadline() -> None:
    """E0: timeout and close_timeout are the bound, even for jobs that swallow both."""
    loop = asyncio.get_running_loop()
    go, cancelled = asyncio.Event(), list[float]()
    reports = Reports()
    scheduler = Scheduler(close_timeout=2, exception_handler=reports)
    await scheduler.spawn(stubborn(go, cancelled))
    shielded = scheduler.shield(stubborn(go, cancelled))
    await settle()
    start = loop.time()
    await scheduler.wait_and_close(timeout=3)
    assert loop.time() - start == pytest.approx(5, abs=0.1)
    assert len(cancelled) == 2
    assert sorted(reports.messages) == [
        "Job closing timed out",
        "Shielded awaitable closing timed out",
    ]
    go.set()
    assert await shielded == "late"


async def test_shielded_task_has_just_finished_drain_does_not_spin() -> None:
    """E7: it is done, and its callbacks have not run yet: the drain ends all the same."""
    scheduler = Scheduler()
    inner = asyncio.get_running_loop().create_future()
    outer = scheduler.shield(inner)
    inner.set_result("done")
    async with asyncio.timeout(1):
        await scheduler.wait_and_close()
    assert await outer == "done"


async def test_drain_from_inside_a_job_does_not_wait_for_it() -> None:
    """E3, E7: wait_and_close from a job waits for the others only."""
    log = list[str]()

    async def last() -> str:
        await scheduler.wait_and_close()
        return "went on"

    scheduler = Scheduler()
    await scheduler.spawn(takes(2, log, "other"))
    assert await (await scheduler.spawn(last())) == "went on"
    assert log == ["other"]
    assert scheduler.closed


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("takes_slot", [True, False])
async def test_drain_that_a_job_shields_does_not_wait_for_that_job(
    background: bool, takes_slot: bool
) -> None:
    """E4: a drain that a job shields counts as called from inside that job."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:

        async def drain() -> bool:
            await asyncio.sleep(0)
            return await scheduler.drain(5, background=background)

        async def work() -> bool:
            return await scheduler.shield(drain())

        if takes_slot:
            job = await scheduler.spawn(work())
        else:
            job = scheduler.spawn_at_once(work())
        other = await scheduler.spawn(wait_for(go))
        await settle()
        assert not job.closed
        go.set()
        assert await job
        assert other.closed


async def test_drains_from_inside_and_outside_end_together() -> None:
    """E7: they do not wait for each other; the one outside waits for the job as well."""
    log = list[str]()

    async def inside() -> None:
        await asyncio.sleep(0)  # an eager job would run before the others exist
        await scheduler.wait_and_close()
        log.append("inside")

    scheduler = Scheduler(limit=1)
    await scheduler.spawn(inside())
    await scheduler.spawn(takes(1, log, "other"))
    async with asyncio.timeout(9):
        await scheduler.wait_and_close()
    assert log == ["other", "inside"]


async def test_idle_scheduler_is_drained_at_once_and_twice() -> None:
    """E7: whatever can be closed can be closed twice."""
    scheduler = Scheduler()
    await scheduler.wait_and_close()
    await scheduler.wait_and_close()
    await scheduler.close()
    assert scheduler.state is SchedulerState.CLOSED


@pytest.mark.big
async def test_drain_of_very_many_jobs_costs_each_the_same() -> None:
    """L3: a drain of n jobs looks at them n times in all, not n times each."""
    looks = 0
    go = asyncio.Event()
    scheduler = Scheduler(limit=None)
    check = scheduler._parts.ending.check

    def count() -> None:
        nonlocal looks
        looks += 1
        check()

    scheduler._parts.gate.drainers.when_few = count
    for _ in range(2000):
        await scheduler.spawn(wait_for(go))
    drain = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    go.set()
    await drain
    assert looks < 20


# -- E5: a drain that takes long ---------------------------------------------------------


async def test_long_drain_says_how_many_are_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: a drain that takes longer than 5 seconds says so once at WARNING, with names
    and the time that is left, then every few seconds at INFO."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    log = list[str]()
    scheduler = Scheduler(limit=2)
    for n in range(3):
        await scheduler.spawn(takes(8, log, f"{n}"), "job")
    shielded = scheduler.shield(takes(7, log, "shielded"))
    await scheduler.wait_and_close()
    assert [record.getMessage() for record in caplog.records] == [
        f"The scheduler is draining: {left}"
        for left in (
            "2 active, 1 pending, 1 shielded left, 55 s to go (job x3)",
            "1 active, 0 pending, 0 shielded left, 50 s to go (job)",
            "1 active, 0 pending, 0 shielded left, 45 s to go (job)",
        )
    ]
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO", "INFO"]
    await shielded


async def test_jobs_that_come_and_go_do_not_make_the_drain_talkative(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """E5: every few seconds, however often the last job is followed by another one."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    scheduler = Scheduler()

    async def one_after_another() -> None:
        for _ in range(40):
            await (await scheduler.spawn(later(0.2)))

    spawning = asyncio.create_task(one_after_another())
    await settle()
    await scheduler.wait_and_close()
    await spawning
    assert len(caplog.records) == 1


# -- E6: async with ----------------------------------------------------------------------


async def test_async_with_drains_on_the_way_out() -> None:
    """E6: async with Scheduler() drains on the way out."""
    log = list[str]()
    async with Scheduler() as scheduler:
        await scheduler.spawn(takes(5, log, "ended"))
    assert log == ["ended"]
    assert scheduler.state is SchedulerState.CLOSED


async def test_async_with_drains_when_its_body_fails() -> None:
    """E6: also when an exception leaves the block, which then propagates."""
    log = list[str]()
    with pytest.raises(Boom):  # noqa: PT012
        async with Scheduler() as scheduler:
            await scheduler.spawn(takes(5, log, "ended"))
            await fail()
    assert log == ["ended"]


async def test_async_with_that_is_cancelled_leaves_nothing_running() -> None:
    """E4, E6: if cancelled in its body it drains; if cancelled again it closes."""
    go = asyncio.Event()
    jobs = list[object]()

    async def block() -> None:
        async with Scheduler() as scheduler:
            jobs.append(await scheduler.spawn(wait_for(go)))
            await go.wait()

    task = asyncio.create_task(block())
    await settle()
    task.cancel()
    await settle()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    (job,) = jobs
    assert job.closed  # type: ignore[attr-defined]
