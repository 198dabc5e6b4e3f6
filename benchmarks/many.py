"""Up to a million jobs at a time: what each costs, and how long the loop stalls."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import aiohttp_jobs

from .jobs import LIMIT, OURS, RAW, Work, ends_at_once, yields_once
from .measure import Spread
from .report import Table

__all__ = ("many",)


@dataclass(frozen=True)
class Course:
    """The measurements of a run, in seconds of CPU time."""

    total: float
    collector: float
    stall: float
    stall_but_for_collector: float


class Heart:
    """Beats in every turn of the loop, and notes the longest time between two beats.

    In CPU time: a gap in which another process ran does not count. The time of the
    garbage collector is also reported separately: it visits every object there is, and a
    million pending coroutines are many, whoever keeps them.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._collector = 0.0
        self._collector_at_last_beat = 0.0
        self._collection_start = 0.0
        self._stall = self._stall_but_for_collector = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._on_collection)
        self._start = self._last = time.process_time()
        self._next = self._loop.call_soon(self._beat)
        return self

    def __exit__(self, *error: object) -> None:
        self._next.cancel()
        gc.callbacks.remove(self._on_collection)
        self.course = Course(
            time.process_time() - self._start,
            self._collector,
            self._stall,
            self._stall_but_for_collector,
        )

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_start = time.process_time()
        else:
            self._collector += time.process_time() - self._collection_start

    def _beat(self) -> None:
        now = time.process_time()
        gap = now - self._last
        collector = self._collector - self._collector_at_last_beat
        self._stall = max(self._stall, gap)
        self._stall_but_for_collector = max(
            self._stall_but_for_collector, gap - collector
        )
        self._last, self._collector_at_last_beat = now, self._collector
        self._next = self._loop.call_soon(self._beat)


# The spawner yields to the loop after this many jobs, as one that reads from somewhere
# does. Otherwise the longest stall would be the benchmark's own loop.
PORTION = 100


async def _raw(work: Work, count: int) -> Course:
    """Run asyncio tasks, which nothing keeps waiting."""
    tasks: set[asyncio.Task[None]] = set()
    with Heart() as heart:
        for number in range(count):
            if number % PORTION == 0:
                await asyncio.sleep(0)
            task = asyncio.create_task(work())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
    return heart.course


async def _ours(limit: int, work: Work, count: int) -> Course:
    """Run jobs that are all pending before the first one starts."""
    scheduler = aiohttp_jobs.Scheduler(limit=limit, pending_limit=0, wait_timeout=None)
    gate = asyncio.Event()
    for _ in range(limit):
        await scheduler.spawn(_passes(gate))
    with Heart() as heart:
        for number in range(count):
            if number % PORTION == 0:
                await asyncio.sleep(0)
            await scheduler.spawn(work())
        assert scheduler.pending_count == count
        gate.set()
        await scheduler.wait_and_close()
    return heart.course


async def _passes(gate: asyncio.Event) -> None:
    await gate.wait()


def many(runner: asyncio.Runner, counts: tuple[int, ...]) -> Table:
    """Measure with each of these numbers of jobs, which are in ascending order."""
    table = Table(
        "Many jobs",
        "All jobs are pending before the first one starts, but for asyncio's, which "
        "nothing holds back. The stall is the longest CPU time between two turns of the "
        "loop. What the garbage collector takes is told apart: it visits whatever there "
        "is. In the chain, each job is started by the end of the one before, in a turn "
        "of its own.",
        ("Variant", "Jobs", "µs per job", "without collector", "Longest stall, ms",
         "without collector"),
    )  # fmt: skip
    variants: dict[str, Callable[[int], Awaitable[Course]]] = {
        RAW: partial(_raw, yields_once),
        f"{OURS}, limit={LIMIT}": partial(_ours, LIMIT, yields_once),
        f"{OURS}, limit=1, a chain": partial(_ours, 1, ends_at_once),
    }
    for name, run in variants.items():
        costs: list[float] = []
        for count in counts:
            course = _median_course(runner, run, count)
            costs.append(course.total / count)
            table.add(
                name,
                f"{count:,}",
                f"{course.total / count * 1e6:.2f}",
                f"{(course.total - course.collector) / count * 1e6:.2f}",
                f"{course.stall * 1e3:.1f}",
                f"{course.stall_but_for_collector * 1e3:.1f}",
            )
        if name != RAW:
            growth = Spread.of([costs[-1] / costs[0]])
            table.target(
                f"{name}: time per job among {counts[-1]:,}, of that among {counts[0]:,}",
                2,
                growth,
            )
    return table


def _median_course(
    runner: asyncio.Runner, run: Callable[[int], Awaitable[Course]], count: int
) -> Course:
    """Return the median of several runs; of one run if there are many jobs."""

    async def sample() -> Course:
        return await run(count)

    courses: list[Course] = []
    for _ in range(max(1, min(31, 50_000 // count))):
        gc.collect()
        courses.append(runner.run(sample()))
    return sorted(courses, key=lambda course: course.total)[len(courses) // 2]
