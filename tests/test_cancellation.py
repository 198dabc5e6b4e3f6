"""Cancellation at every point: nothing leaked, nothing half-done, no warning."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from aiohttp_jobs import Job, JobCancelled, Scheduler, SchedulerFull, atomic, setup, spawn
from aiohttp_jobs.core.states import SchedulerState
from tests.inside import kept_by
from tests.interrupt import Interrupt, interrupted
from tests.loops import later, settle
from tests.work import Boom, Reports, fail, give, nothing, stubborn, wait_for


def assert_idle(scheduler: Scheduler, limit: int) -> None:
    """Assert that nothing is left in the scheduler's books."""
    assert (scheduler.active_count, scheduler.pending_count) == (0, 0)
    assert scheduler._parts.slots.free == limit
    assert len(scheduler._parts.shields) == 0
    assert kept_by(scheduler).keys() <= {"gate.strays"}


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_spawn_that_waits_for_room() -> None:
    """A5: if spawn is cancelled anywhere, the coroutine does not run and leaves no trace;
    otherwise it runs. L1: other callers are not disturbed."""

    async def scenario(run: Interrupt) -> None:
        go, log = asyncio.Event(), list[str]()
        async with Scheduler(limit=1, pending_limit=1) as scheduler:
            await scheduler.spawn(wait_for(go, log, "active"))
            pending = await scheduler.spawn(wait_for(go, log, "pending"))
            task = run.start(scheduler.spawn(wait_for(go, log, "third")))
            await turns(1)
            after = asyncio.create_task(scheduler.spawn(wait_for(go, log, "fourth")))
            await turns(1)
            await pending.close()
            end = await run.end(task)
            go.set()
            await after
        assert log == ["active", *(() if end.cancelled else ("third",)), "fourth"]
        assert_idle(scheduler, 1)

    await interrupted(scenario)


async def test_wait() -> None:
    """R3: cancelling a waiter leaves the job alone; another waiter gets the result."""

    async def scenario(run: Interrupt) -> None:
        go = asyncio.Event()
        async with Scheduler() as scheduler:
            job = await scheduler.spawn(wait_for(go))
            task = run.start(job.wait())
            other = asyncio.create_task(job.wait())
            await turns(2)
            go.set()
            end = await run.end(task)
            assert end.cancelled or end.result == "done"
            assert await other == "done"
        assert_idle(scheduler, 100)

    await interrupted(scenario)


async def test_wait_for_a_job_that_fails() -> None:
    """R2: the failure reaches either the waiter or the exception handler, once."""

    async def scenario(run: Interrupt) -> None:
        go, reports = asyncio.Event(), Reports()
        async with Scheduler(exception_handler=reports) as scheduler:
            job = await scheduler.spawn(fail(go))
            task = run.start(job.wait())
            await turns(2)
            go.set()
            end = await run.end(task)
            assert end.cancelled != isinstance(end.error, Boom)
        assert len(reports.contexts) == end.cancelled

    await interrupted(scenario)


async def test_wait_with_a_timeout_that_expires() -> None:
    """R3, E0: if the wait is cancelled before the timeout, the job is left alone; after
    it, the job is cancelled all the same, and once."""

    async def scenario(run: Interrupt) -> None:
        go, cancelled = asyncio.Event(), list[float]()
        reports = Reports()
        async with Scheduler(close_timeout=1, exception_handler=reports) as scheduler:
            job = await scheduler.spawn(stubborn(go, cancelled))
            await settle()
            task = run.start(job.wait(timeout=2))
            end = await run.end(task)
            assert end.cancelled != isinstance(end.error, TimeoutError)
            await later(5)
            assert job.active == (not cancelled)
            assert len(cancelled) <= 1
            assert end.cancelled or cancelled
            go.set()
        assert_idle(scheduler, 100)

    await interrupted(scenario)


async def test_close_of_a_job() -> None:
    """E1, E2: once begun, the close goes on: the job is cancelled once, and cleans up."""

    async def scenario(run: Interrupt) -> None:
        log = list[str]()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                await turns(2)
                log.append("cleaned up")
                raise

        async with Scheduler(close_timeout=9) as scheduler:
            job = await scheduler.spawn(work())
            await settle()
            task = run.start(job.close())
            end = await run.end(task)
            assert end.error is None
            await settle()
            assert log == ["cancelled", "cleaned up"]
            with pytest.raises(JobCancelled):
                await job
        assert_idle(scheduler, 100)

    await interrupted(scenario)


async def test_close_of_a_scheduler() -> None:
    """E2, E3: once begun, the close goes on: all jobs are cancelled once, and pending
    ones never start."""

    async def scenario(run: Interrupt) -> None:
        log = list[str]()

        async def work(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns(2)
                log.append(name)

        scheduler = Scheduler(limit=2, close_timeout=9)
        jobs = [await scheduler.spawn(work(f"job {n}")) for n in range(4)]
        shielded = asyncio.create_task(work("shielded"))
        outer = scheduler.shield(shielded)
        await settle()
        end = await run.end(run.start(scheduler.close()))
        assert end.error is None
        await scheduler.close()
        await asyncio.wait([outer])
        assert sorted(log) == ["job 0", "job 1", "shielded"]
        assert all(job.closed for job in jobs)
        assert scheduler.state is SchedulerState.CLOSED

    await interrupted(scenario)


async def test_drain_and_close_of_a_scheduler() -> None:
    """E4: if cancelled half-way, the drain closes at once and then raises: nothing is
    left running. If cancelled twice, the close goes on by itself."""

    async def scenario(run: Interrupt) -> None:
        go, log = asyncio.Event(), list[str]()
        scheduler = Scheduler(limit=1, close_timeout=9)
        jobs = [await scheduler.spawn(wait_for(go, log, f"job {n}")) for n in range(2)]
        task = run.start(scheduler.wait_and_close())
        await turns(3)
        go.set()
        end = await run.end(task)
        assert end.error is None
        assert end.cancelled or log == ["job 0", "job 1"]
        if run.struck < 2:
            assert all(job.closed for job in jobs)
        await scheduler.close()
        assert all(job.closed for job in jobs)
        assert scheduler.state is SchedulerState.CLOSED

    await interrupted(scenario)


async def test_drain_of_a_scheduler() -> None:
    """A drain that is cancelled leaves the jobs alone."""

    async def scenario(run: Interrupt) -> None:
        go, log = asyncio.Event(), list[str]()
        async with Scheduler(limit=1) as scheduler:
            for n in range(2):
                await scheduler.spawn(wait_for(go, log, f"job {n}"))
            task = run.start(scheduler.drain())
            await turns(3)
            go.set()
            end = await run.end(task)
            assert end.cancelled or end.result is True
        assert log == ["job 0", "job 1"]
        assert_idle(scheduler, 1)

    await interrupted(scenario)


async def test_async_with() -> None:
    """E4, E6: cancelled in its body, it drains; cancelled while draining, it closes."""

    async def scenario(run: Interrupt) -> None:
        go, jobs = asyncio.Event(), list[Job[str]]()

        async def block() -> None:
            async with Scheduler(limit=1, close_timeout=9) as scheduler:
                for _ in range(2):
                    jobs.append(await scheduler.spawn(wait_for(go)))
                await turns(2)

        task = run.start(block())
        await turns(5)
        go.set()
        await run.end(task)
        await settle()
        assert all(job.closed for job in jobs)

    await interrupted(scenario)


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
async def test_shield(fails: bool) -> None:
    """R2: the awaitable ends; its failure reaches the caller or the handler, once."""

    async def scenario(run: Interrupt) -> None:
        go, ended, reports = asyncio.Event(), list[str](), Reports()

        async def work() -> None:
            await go.wait()
            ended.append("ended")
            if fails:
                raise Boom("boom")

        async def caller() -> None:
            await scheduler.shield(work())

        async with Scheduler(exception_handler=reports) as scheduler:
            task = run.start(caller())
            await turns(3)
            go.set()
            end = await run.end(task)
        assert ended == ["ended"]
        assert (end.error is not None) + len(reports.contexts) == fails

    await interrupted(scenario)


async def test_parent_that_waits_for_its_child() -> None:
    """L2: the parent's loan ends with its wait, however that ends."""

    async def scenario(run: Interrupt) -> None:
        go = asyncio.Event()

        async def parent() -> None:
            await run.end(run.start(child()))

        async def child() -> None:
            jobs = [await scheduler.spawn(wait_for(go)) for _ in range(3)]
            await asyncio.gather(*(job.wait() for job in jobs))

        async with Scheduler(limit=1, pending_limit=1) as scheduler:
            job = await scheduler.spawn(parent())
            await turns(6)
            go.set()
            await job
        assert_idle(scheduler, 1)

    await interrupted(scenario)


async def test_atomic_request() -> None:
    """W4: the handler runs to its end, and its job with it, whatever is cancelled."""

    async def scenario(run: Interrupt) -> None:
        go, log = asyncio.Event(), list[str]()

        async def mail() -> None:
            log.append("mailed")

        @atomic
        async def handler(request: web.Request) -> web.Response:
            log.append("charged")
            await go.wait()
            await spawn(request, mail())
            await turns(1)
            log.append("recorded")
            return web.Response(text="ordered")

        app = web.Application()
        scheduler = setup(app)
        task = run.start(handler(make_mocked_request("POST", "/", app=app)))
        await turns(4)
        go.set()
        end = await run.end(task)
        await scheduler.wait_and_close()
        assert end.error is None
        assert end.cancelled or end.result is not None
        assert sorted(log) == ["charged", "mailed", "recorded"]

    await interrupted(scenario)


async def test_spawn_nowait_cannot_be_interrupted() -> None:
    """A3: it does not wait, so it spawns, or is refused and closes the coroutine."""

    async def scenario(run: Interrupt) -> None:
        go = asyncio.Event()

        async def caller() -> None:
            await turns(3)
            scheduler.spawn_nowait(nothing())
            with pytest.raises(SchedulerFull):
                scheduler.spawn_nowait(give(1))

        async with Scheduler(limit=1, pending_limit=1) as scheduler:
            await scheduler.spawn(wait_for(go))
            end = await run.end(run.start(caller()))
            assert scheduler.pending_count == (not end.cancelled)
            go.set()
        assert_idle(scheduler, 1)

    await interrupted(scenario)
