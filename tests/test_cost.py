"""Costs per job do not grow with the number of jobs, counted in executed lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import pytest

import aiohttp_jobs
from aiohttp_jobs import Scheduler
from tests.work import nothing, wait_for

PACKAGE = aiohttp_jobs.__name__
Scenario = Callable[[int], Coroutine[Any, Any, None]]


def lines_of(scenario: Scenario, count: int) -> int:
    """Return how many lines of the package are executed."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if not str(frame.f_globals.get("__name__")).startswith(PACKAGE):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        asyncio.run(scenario(count))
    finally:
        sys.settrace(before)
    return lines


async def jobs_that_drain(count: int) -> None:
    scheduler, go = Scheduler(limit=None), asyncio.Event()

    async def work() -> None:
        await go.wait()
        await scheduler.drain()

    for _ in range(count):
        await scheduler.spawn(work())
    go.set()
    await scheduler.wait_and_close()


async def jobs_that_close(count: int) -> None:
    scheduler, go = Scheduler(limit=None), asyncio.Event()

    async def work() -> None:
        try:
            await go.wait()
        finally:
            await scheduler.close()

    for _ in range(count):
        await scheduler.spawn(work())
    await asyncio.sleep(0)
    go.set()
    await scheduler.close()


async def jobs_that_wait_for_one(count: int) -> None:
    scheduler, go = Scheduler(limit=None), asyncio.Event()
    one = await scheduler.spawn(wait_for(go))

    async def work() -> None:
        await one

    for _ in range(count):
        await scheduler.spawn(work())
    await asyncio.sleep(0)
    go.set()
    await scheduler.wait_and_close()


async def children_in_the_slot_of_their_parent(count: int) -> None:
    async with Scheduler(limit=1) as scheduler:

        async def parent() -> None:
            jobs = [await scheduler.spawn(nothing()) for _ in range(count)]
            await asyncio.gather(*(job.wait() for job in jobs))

        await (await scheduler.spawn(parent()))


async def pending_jobs_that_are_closed(count: int) -> None:
    async with Scheduler(limit=1) as scheduler:
        go = asyncio.Event()
        await scheduler.spawn(wait_for(go))
        for job in reversed([await scheduler.spawn(nothing()) for _ in range(count)]):
            await job.close()
        go.set()


async def callers_that_wait_for_room(count: int) -> None:
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await asyncio.gather(*(scheduler.spawn(nothing()) for _ in range(count)))


async def handlers_that_wait_for_pending_jobs(count: int) -> None:
    async with Scheduler(limit=1) as scheduler:

        async def handler() -> None:
            await (await scheduler.spawn(nothing()))

        async def parent() -> None:
            handlers = [scheduler.spawn_at_once(handler()) for _ in range(count)]
            await asyncio.gather(*(job.wait() for job in handlers))

        await (await scheduler.spawn(parent()))


@asynccontextmanager
async def jobs_wait(
    count: int, *, more_slots: int = 0, pending_limit: int = 0
) -> AsyncIterator[Scheduler]:
    """Let jobs wait for a job that takes no slot."""
    go, limit = asyncio.Event(), count + more_slots
    async with Scheduler(limit=limit, pending_limit=pending_limit) as scheduler:
        one = scheduler.spawn_at_once(wait_for(go))

        async def work() -> None:
            await one

        for _ in range(count):
            await scheduler.spawn(work())
        await asyncio.sleep(0)
        yield scheduler
        go.set()


async def pending_jobs_while_all_who_have_a_slot_wait(count: int) -> None:
    async with jobs_wait(count) as scheduler:
        for _ in range(count):
            await scheduler.spawn(nothing())
            await asyncio.sleep(0)


async def callers_that_wait_for_room_while_jobs_wait(count: int) -> None:
    async with jobs_wait(4 * count, more_slots=1, pending_limit=1) as scheduler:
        await asyncio.gather(*(scheduler.spawn(asyncio.sleep(0)) for _ in range(count)))


async def jobs_held_back_while_jobs_wait(count: int) -> None:
    async with jobs_wait(count, more_slots=1) as scheduler:
        go, loop = asyncio.Event(), asyncio.get_running_loop()
        await scheduler.spawn(wait_for(go))
        futures = [loop.create_future() for _ in range(count)]
        for future in futures:
            scheduler.spawn_after(future, nothing())
        for future in futures:
            future.set_result(None)
            await asyncio.sleep(0)
        go.set()


async def statistics_of_jobs_that_are_held_back(count: int) -> None:
    async with Scheduler() as scheduler:
        future = asyncio.get_running_loop().create_future()
        for _ in range(count):
            scheduler.spawn_after(future, nothing())
            scheduler.statistics()
        future.set_result(None)


@pytest.mark.parametrize(
    "scenario",
    [
        jobs_that_drain,
        jobs_that_close,
        jobs_that_wait_for_one,
        children_in_the_slot_of_their_parent,
        pending_jobs_that_are_closed,
        callers_that_wait_for_room,
        handlers_that_wait_for_pending_jobs,
        pending_jobs_while_all_who_have_a_slot_wait,
        callers_that_wait_for_room_while_jobs_wait,
        jobs_held_back_while_jobs_wait,
        statistics_of_jobs_that_are_held_back,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_twice_as_many_cost_twice_as_much(scenario: Scenario) -> None:
    """L3: the cost of a job does not depend on how many others there are."""
    once, twice = lines_of(scenario, 50), lines_of(scenario, 100)
    assert twice < 2.2 * once
