"""Bytes per job, active and pending."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiojobs

import aiohttp_jobs

from .jobs import OURS, RAW, THEIRS
from .measure import Spread
from .report import Table

__all__ = ("bytes_per_job",)

Gate = asyncio.Future[None]
Spawn = Callable[[], Awaitable[object]]
# A context manager: it yields a function that spawns a job, and at its end opens the
# gate, which lets the jobs end.
Holder = Callable[[int | None, Gate], AbstractAsyncContextManager[Spawn]]


async def passes(gate: Gate) -> None:
    await gate


@asynccontextmanager
async def raw(limit: int | None, gate: Gate) -> AsyncIterator[Spawn]:
    """Run tasks; with a limit, they wait for a semaphore, as in hand-written code."""
    tasks: set[asyncio.Task[None]] = set()
    slots = asyncio.Semaphore(limit or 1)

    async def passes_in_a_slot() -> None:
        async with slots:
            await gate

    async def spawn() -> None:
        task = asyncio.create_task(passes(gate) if limit is None else passes_in_a_slot())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    yield spawn
    gate.set_result(None)
    await asyncio.gather(*tasks)


@asynccontextmanager
async def ours(limit: int | None, gate: Gate) -> AsyncIterator[Spawn]:
    async with aiohttp_jobs.Scheduler(limit=limit, pending_limit=0) as scheduler:
        yield lambda: scheduler.spawn(passes(gate))
        gate.set_result(None)


@asynccontextmanager
async def theirs(limit: int | None, gate: Gate) -> AsyncIterator[Spawn]:
    async with aiojobs.Scheduler(limit=limit, pending_limit=0) as scheduler:
        yield lambda: scheduler.spawn(passes(gate))
        gate.set_result(None)


async def _measure(hold: Holder, limit: int | None, count: int) -> float:
    gate: Gate = asyncio.get_running_loop().create_future()
    async with hold(limit, gate) as spawn:
        # Takes the only slot, if there is a limit; and does any one-time work.
        await spawn()
        await asyncio.sleep(0)
        gc.collect()
        tracemalloc.start()
        for _ in range(count):
            await spawn()
        await asyncio.sleep(0)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return size / count


def bytes_per_job(runner: asyncio.Runner, count: int) -> Table:
    """Compare the memory of jobs that wait in their coroutine, and for a slot."""
    table = Table(
        "Bytes per job",
        f"{count:,} jobs, their coroutines and tasks included. With asyncio, one that is "
        "pending is a task that waits for a semaphore.",
        ("State", "Variant", "Bytes", "of asyncio", "of aiojobs"),
    )
    for state, limit in (("active", None), ("pending", 1)):
        sizes = {
            name: runner.run(_measure(hold, limit, count))
            for name, hold in ((RAW, raw), (OURS, ours), (THEIRS, theirs))
        }
        for name, size in sizes.items():
            table.add(
                state,
                name,
                f"{size:.0f}",
                f"{size / sizes[RAW]:.2f}",
                f"{size / sizes[THEIRS]:.2f}",
            )
        if state == "active":
            table.target_bytes(
                "Bytes per active job, more than asyncio's", 300, sizes[OURS] - sizes[RAW]
            )
        else:
            ratio = Spread.of([sizes[OURS] / sizes[THEIRS]])
            table.target("Bytes per pending job, of aiojobs'", 0.9, ratio)
    return table
