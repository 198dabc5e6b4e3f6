"""Limits and progress (rules L1 to L4)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiohttp_jobs import Job, Scheduler
from tests.inside import kept_by
from tests.loops import later, settle
from tests.work import nothing, wait_for

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


# -- L1 ----------------------------------------------------------------------------------


async def test_limit_is_kept_and_counts_are_exact() -> None:
    """L1: at most limit jobs run at once, and the counts are exact at every moment."""
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
            assert scheduler.active_count <= 3
        running -= 1

    async with Scheduler(limit=3) as scheduler:
        jobs = [await scheduler.spawn(work()) for _ in range(20)]
        while left := sum(not job.closed for job in jobs):
            assert (
                scheduler.active_count + scheduler.pending_count == left == len(scheduler)
            )
            assert scheduler.pending_count >= 0
            await asyncio.sleep(0)
    assert most == 3


async def test_closed_pending_job_frees_its_place_at_once() -> None:
    """L1: closing a pending job frees its place at once."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=2) as scheduler:
        await scheduler.spawn(wait_for(go))
        first = await scheduler.spawn(wait_for(go))
        second = await scheduler.spawn(wait_for(go))
        await first.close()
        assert scheduler.pending_count == 1
        third = scheduler.spawn_nowait(wait_for(go))
        assert scheduler.pending_count == 2
        assert list(scheduler)[1:] == [second, third]
        go.set()


# -- L2 ----------------------------------------------------------------------------------

Waits = Callable[[list[Job[Any]]], Coroutine[Any, Any, list[Any]]]


async def by_wait(jobs: list[Job[Any]]) -> list[Any]:
    return [await job.wait() for job in jobs]


async def by_wait_with_timeout(jobs: list[Job[Any]]) -> list[Any]:
    return [await job.wait(timeout=99) for job in jobs]


async def by_await(jobs: list[Job[Any]]) -> list[Any]:
    return [await job for job in jobs]


async def by_gather(jobs: list[Job[Any]]) -> list[Any]:
    return list(await asyncio.gather(*(job.wait() for job in jobs)))


async def by_group(jobs: list[Job[Any]]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job.wait()) for job in jobs]
    return [task.result() for task in tasks]


@pytest.mark.parametrize(
    "wait", [by_wait, by_wait_with_timeout, by_await, by_gather, by_group]
)
async def test_parent_waits_for_its_children_with_one_slot(wait: Waits) -> None:
    """L2: a job that waits for jobs of its own scheduler lends its slot meanwhile."""

    async def child(n: int) -> int:
        await asyncio.sleep(0)
        assert scheduler.active_count <= 2
        return n

    async def parent(depth: int) -> Any:
        if not depth:
            return 1
        jobs: list[Job[Any]] = [await scheduler.spawn(child(n)) for n in range(3)]
        assert await wait(jobs) == [0, 1, 2]
        (result,) = await wait([await scheduler.spawn(parent(0))])
        return result

    async with Scheduler(limit=1) as scheduler:
        job = await scheduler.spawn(parent(1))
        async with asyncio.timeout(10):
            assert await job == 1
        assert scheduler._parts.slots.free == 1


async def test_nested_parents_with_one_slot() -> None:
    """L2: to any depth."""

    async def parent(depth: int) -> int:
        if depth:
            job: Job[int] = await scheduler.spawn(parent(depth - 1))
            return 1 + await job
        return 0

    async with Scheduler(limit=1) as scheduler:
        job = await scheduler.spawn(parent(50))
        assert await job == 50
        assert scheduler._parts.slots.free == 1


async def test_job_that_waits_for_room_lends_its_slot() -> None:
    """L2: also if it waits in spawn() for room in its own scheduler."""
    done = list[int]()

    async def child(n: int) -> None:
        await asyncio.sleep(0)
        done.append(n)

    async def parent() -> None:
        for n in range(10):
            await scheduler.spawn(child(n))

    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(parent())
    assert done == list(range(10))


async def test_room_that_was_made_by_a_loan_is_used_before_the_loan_ends() -> None:
    """L1, L2: a caller that gets room through the slot that it has lent starts its job in
    that slot; the job is not left pending beyond pending_limit."""
    go, log = asyncio.Event(), list[str]()
    future = asyncio.get_running_loop().create_future()

    async def parent() -> None:
        scheduler.spawn_after(future, nothing())
        child = await scheduler.spawn(wait_for(go, log, "child"))
        assert child.active
        assert scheduler.pending_count == 1

    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await (await scheduler.spawn(parent()))
        future.cancel()
        go.set()
    assert log == ["child"]
    assert scheduler._parts.slots.free == 1


async def test_waiter_that_gives_up_goes_on_as_one_too_many() -> None:
    """L2: a job that stops waiting early goes on at once, beyond the limit until the job
    in its slot ends; no other job starts before."""
    child_go, other_go, log = asyncio.Event(), asyncio.Event(), list[str]()

    async def parent() -> None:
        child = await scheduler.spawn(wait_for(child_go, log, "child"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(child.wait()), 1)
        log.append("parent")
        await other_go.wait()

    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(parent())
        other = await scheduler.spawn(wait_for(other_go, log, "other"))
        await later(2)
        assert log == ["child", "parent"]
        assert scheduler.active_count == 2
        child_go.set()
        await settle()
        assert scheduler.active_count == 1
        assert other.pending
        other_go.set()
    assert log == ["child", "parent", "other"]


async def test_cancelled_wait_takes_the_slot_back() -> None:
    """L2: a wait that is cancelled ends the loan."""
    go = asyncio.Event()

    async def parent() -> None:
        job = await scheduler.spawn(wait_for(go))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await job
        await go.wait()

    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(parent())
        await later(2)
        assert scheduler.active_count == 2
        last = await scheduler.spawn(nothing())
        await settle()
        assert last.pending
        go.set()
    assert scheduler._parts.slots.free == 1


async def test_job_spawned_while_all_slots_drain_gets_one_of_them() -> None:
    """L2: a drain from inside a job lends its slot, even to jobs that come later."""
    go = asyncio.Event()

    async def part_of_a_request() -> Job[None]:
        await go.wait()
        return await scheduler.spawn(nothing())

    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(scheduler.drain())
        shield = scheduler.shield(part_of_a_request())
        await settle()
        go.set()
        late = await shield
        await settle()
        assert late.closed


async def test_caller_that_is_cancelled_after_it_was_let_in_keeps_nobody_waiting() -> (
    None
):
    """A2, L1: a free slot goes to the next one in the queue."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        for _ in range(2):
            await scheduler.spawn(wait_for(go))
        caller = asyncio.create_task(scheduler.spawn(wait_for(go)))
        await later(1)
        scheduler.pending_limit = 3  # lets the caller in
        next_one = scheduler.spawn_nowait(wait_for(go))
        scheduler.limit = 4
        caller.cancel()
        await settle()
        assert next_one.active
        go.set()


async def test_caller_that_is_cancelled_just_before_there_is_room_is_not_counted() -> (
    None
):
    """L1: the counts are never negative."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=2) as scheduler:
        for _ in range(3):
            await scheduler.spawn(wait_for(go))
        caller = asyncio.create_task(scheduler.spawn(wait_for(go)))
        await later(1)
        caller.cancel()
        scheduler.pending_limit = 3
        await settle()
        assert scheduler.pending_count == 2
        go.set()


async def test_dropped_jobs_in_the_queue_keep_nobody_from_a_free_slot() -> None:
    """A1: a job is active at once if a slot is free and no job waits ahead of it."""
    first, second = asyncio.Event(), asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(first))
        job = await scheduler.spawn(wait_for(second))
        dropped = await scheduler.spawn(nothing())
        await dropped.close()
        first.set()
        await settle()
        second.set()
        await job
        assert not (await scheduler.spawn(nothing())).pending


async def test_jobs_held_back_that_fill_the_room_lock_nobody_out() -> None:
    """L2: all jobs with a slot wait for one that waits for room."""
    response = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    async def child(parent: Job[None]) -> None:
        await go.wait()
        await parent.wait()

    async def parent() -> None:
        await asyncio.sleep(0)
        await scheduler.spawn(child(job), "child")
        await scheduler.spawn(nothing(), "waits for room")

    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        scheduler.spawn_after(response, nothing(), "held back")
        job = await scheduler.spawn(parent(), "parent")
        await settle()
        go.set()
        await settle()
        assert job.closed
        response.set_result(None)


async def test_waiting_for_another_schedulers_job_lends_nothing() -> None:
    """L2: only a wait for a job of its own scheduler lends."""
    go = asyncio.Event()

    async def parent() -> None:
        await (await other.spawn(wait_for(go)))

    async with Scheduler(limit=1) as other, Scheduler(limit=1) as scheduler:
        await scheduler.spawn(parent())
        second = await scheduler.spawn(nothing())
        await settle()
        assert second.pending
        go.set()


# -- L3 ----------------------------------------------------------------------------------


@pytest.mark.big
async def test_chain_of_pending_jobs_that_end_at_once() -> None:
    """L3: 100,000 pending jobs that each end at once: no deep recursion, no long hold."""
    # In debug mode asyncio records the stack for every task.
    count = 10_000 if asyncio.get_running_loop().get_debug() else 100_000
    ended = 0
    turns = 0

    async def work() -> None:
        nonlocal ended
        ended += 1

    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=0) as scheduler:
        await scheduler.spawn(wait_for(go))
        for _ in range(count):
            scheduler.spawn_nowait(work())
        go.set()
        while len(scheduler):
            turns += 1
            await asyncio.sleep(0)
    assert ended == count
    assert turns >= count // 1000  # other tasks got their turns


async def test_dropped_jobs_do_not_stay_in_the_queue() -> None:
    """L3, L4: a queue whose jobs are closed one by one does not keep them."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=0) as scheduler:
        await scheduler.spawn(wait_for(go))
        await scheduler.spawn(wait_for(go))
        for _ in range(1000):
            job = await scheduler.spawn(wait_for(go))
            await job.close()
        assert len(scheduler._parts.pending.queue) <= 4
        assert scheduler.pending_count == 1
        go.set()


# -- L4 ----------------------------------------------------------------------------------


async def test_finished_job_keeps_only_its_outcome() -> None:
    """L4: a finished job keeps nothing alive but its own result or exception."""

    class Thing:
        pass

    used, result = Thing(), Thing()
    used_ref, result_ref = weakref.ref(used), weakref.ref(result)
    context = contextvars.copy_context()
    context_var: contextvars.ContextVar[Thing] = contextvars.ContextVar("context_var")
    context.run(context_var.set, used)

    async def work(used: Thing, result: Thing) -> Thing:
        await asyncio.sleep(0)
        return result

    scheduler = Scheduler()
    job = await scheduler.spawn(work(used, result), context=context)
    del used, result, context
    await job
    await scheduler.wait_and_close()
    scheduler_ref = weakref.ref(scheduler)
    del scheduler
    await settle()
    gc.collect()
    assert used_ref() is None
    assert scheduler_ref() is None
    assert result_ref() is await job
    assert job.waiters is None
    job_ref = weakref.ref(job)
    del job
    gc.collect()
    assert job_ref() is None
    assert result_ref() is None


async def test_failed_job_is_freed_without_the_collector() -> None:
    """L4: a failure makes no reference cycle through the job."""

    class Thing:
        pass

    async def fail(thing: Thing) -> None:
        # Not in its first step: an eager task runs that on top of its spawner's frames,
        # which a traceback refers to.
        await asyncio.sleep(0)
        raise ValueError("failed")

    gc.collect()
    gc.disable()
    try:
        async with Scheduler() as scheduler:
            thing = Thing()
            ref = weakref.ref(thing)
            job = await scheduler.spawn(fail(thing))
            del thing
            with contextlib.suppress(ValueError):
                await job.wait()
            del job
            await settle()
            assert ref() is None
    finally:
        gc.enable()


async def test_nothing_grows_in_a_scheduler_that_runs_long() -> None:
    """L4: nothing grows in a scheduler that runs for a year."""

    async def fail() -> None:
        raise ValueError

    scheduler = Scheduler(limit=2, pending_limit=3, exception_handler=lambda *_: None)

    for _ in range(300):
        await scheduler.spawn(nothing())
        await scheduler.spawn(fail())
        await (await scheduler.spawn(nothing())).close()
        await scheduler.shield(nothing())
        job = await scheduler.spawn(nothing())
        await job
    await later(1)
    assert kept_by(scheduler) == {}
    await scheduler.close()
