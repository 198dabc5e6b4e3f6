"""CPU time per job, from spawn to drained."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import aiojobs

import aiohttp_jobs

from .measure import Samples, take
from .report import Table, at_least, at_most, spread

__all__ = ("many", "per_job")

Work = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Work, int], Awaitable[None]]


async def ends_at_once() -> None:
    pass


async def yields_once() -> None:
    await asyncio.sleep(0)


# -- the variants: start `count` times the same work, and return when all of it is over --


async def raw(work: Work, count: int) -> None:
    """What asyncio's documentation tells to write by hand."""
    tasks: set[asyncio.Task[None]] = set()
    for _ in range(count):
        task = asyncio.create_task(work())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:  # noqa: ASYNC110 (some turns for thousands of tasks: next to nothing)
        await asyncio.sleep(0)


async def ours(limit: int | None, work: Work, count: int) -> None:
    scheduler = aiohttp_jobs.Scheduler(limit=limit, pending_limit=0)
    for _ in range(count):
        await scheduler.spawn(work())
    await scheduler.wait_and_close()


async def theirs(limit: int | None, work: Work, count: int) -> None:
    scheduler = aiojobs.Scheduler(limit=limit, pending_limit=0)
    for _ in range(count):
        await scheduler.spawn(work())
    await scheduler.wait_and_close()


async def theirs_without_drain(limit: int | None, work: Work, count: int) -> None:
    """Leave out aiojobs' drain, which makes two tasks more for each job that is left.

    A server that has run for long drains few of its jobs, so this is the ratio that
    matters to it. Ours drains here too.
    """
    scheduler = aiojobs.Scheduler(limit=limit, pending_limit=0)
    for _ in range(count):
        await scheduler.spawn(work())
    while len(scheduler):  # noqa: ASYNC110
        await asyncio.sleep(0)
    await scheduler.close()


LIMIT = 100
RAW, OURS, THEIRS, NO_DRAIN = "asyncio", "aiohttp_jobs", "aiojobs", "aiojobs, not drained"
VARIANTS: dict[tuple[str, int | None], Run] = {
    (RAW, None): raw,
    (OURS, None): partial(ours, None),
    (OURS, LIMIT): partial(ours, LIMIT),
    (THEIRS, None): partial(theirs, None),
    (THEIRS, LIMIT): partial(theirs, LIMIT),
    (NO_DRAIN, None): partial(theirs_without_drain, None),
    (NO_DRAIN, LIMIT): partial(theirs_without_drain, LIMIT),
}


def _name(who: str, limit: int | None) -> str:
    return who if limit is None else f"{who}, limit={limit}"


async def _cpu_time(run: Run, work: Work, count: int) -> float:
    start = time.process_time()
    await run(work, count)
    return time.process_time() - start


def per_job(runner: asyncio.Runner, count: int, rounds: int) -> Table:
    """Compare all variants, for two kinds of coroutines."""
    table = Table(
        "CPU time per job",
        f"{count:,} jobs from the first spawn to the end of the drain; medians of "
        f"{rounds} rounds, in brackets the quartiles. “Not drained” leaves out aiojobs’ "  # noqa: RUF001
        "wait_and_close(), which is slow; ours is always included.",
        ("Coroutine", "Variant", "µs per job", "of asyncio", "of aiojobs",
         "of aiojobs, not drained", "Target"),
    )  # fmt: skip
    for title, work in (("ends at once", ends_at_once), ("yields once", yields_once)):
        samples = take(
            {
                _name(*key): lambda run=run, work=work: runner.run(  # type: ignore[misc]
                    _cpu_time(run, work, count)
                )
                for key, run in VARIANTS.items()
            },
            rounds,
        )
        for who, limit in VARIANTS:
            table.add(title, *_cells(samples, who, limit, count))
    return table


def _cells(samples: Samples, who: str, limit: int | None, count: int) -> tuple[str, ...]:
    name = _name(who, limit)
    to_raw = samples.ratio(name, _name(RAW, None))
    to_theirs = samples.ratio(name, _name(THEIRS, limit))
    to_no_drain = samples.ratio(name, _name(NO_DRAIN, limit))
    verdict = ""
    if who == OURS:
        # Ratios of medians of the inverse: five times faster is a fifth of the time.
        verdict = "; ".join(
            (
                at_most(1.25 if limit is None else 1.0, to_raw.median, "of asyncio"),
                at_least(5, 1 / to_theirs.median, "× as fast as aiojobs")  # noqa: RUF001
                + f" ({1 / to_theirs.median:.1f}; {1 / to_no_drain.median:.1f} "
                "not drained)",
            )
        )
    return (
        name,
        f"{samples.median(name) / count * 1e6:.2f}",
        spread(to_raw) if who != RAW else "1",
        f"{to_theirs.median:.3f}" if who == OURS else "",
        f"{to_no_drain.median:.3f}" if who == OURS else "",
        verdict,
    )


# -- many jobs --------------------------------------------------------------------------


class Heart:
    """Beats in every turn of the loop, and remembers the longest time between two beats.

    In CPU time: a gap in which another process ran is no fault of this one's. What the
    garbage collector held is told apart: it looks at every object there is, and a million
    pending coroutines are many, whoever keeps them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._beating = True
        self._collector = 0.0
        self._collector_at_last_beat = 0.0
        self._collection_start = 0.0
        self.longest = 0.0
        self.longest_but_for_collector = 0.0
        gc.callbacks.append(self._on_collection)
        self._last = time.process_time()
        loop.call_soon(self._beat)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_start = time.process_time()
        else:
            self._collector += time.process_time() - self._collection_start

    def _beat(self) -> None:
        now = time.process_time()
        gap = now - self._last
        collector = self._collector - self._collector_at_last_beat
        self.longest = max(self.longest, gap)
        self.longest_but_for_collector = max(
            self.longest_but_for_collector, gap - collector
        )
        self._last, self._collector_at_last_beat = now, self._collector
        if self._beating:
            self._loop.call_soon(self._beat)

    def stop(self) -> None:
        self._beating = False
        gc.callbacks.remove(self._on_collection)


# The spawner gives way after so many, as one that reads from somewhere does. Without it
# the longest stall would be the benchmark's own loop.
PORTION = 100


async def _many(limit: int, count: int) -> tuple[float, Heart]:
    scheduler = aiohttp_jobs.Scheduler(limit=limit, pending_limit=0, wait_timeout=None)
    gate = asyncio.Event()
    for _ in range(limit):  # all slots are taken until every job is pending
        await scheduler.spawn(_passes(gate))
    await asyncio.sleep(0)
    start = time.process_time()
    heart = Heart(asyncio.get_running_loop())
    for number in range(count):
        if number % PORTION == 0:
            await asyncio.sleep(0)
        await scheduler.spawn(yields_once())
    assert scheduler.pending_count == count
    gate.set()
    await scheduler.wait_and_close()
    heart.stop()
    return time.process_time() - start, heart


async def _passes(gate: asyncio.Event) -> None:
    await gate.wait()


async def _many_raw(count: int) -> tuple[float, Heart]:
    """As many tasks of asyncio, spawned in the same portions, which all wait first."""
    tasks: set[asyncio.Task[None]] = set()
    start = time.process_time()
    heart = Heart(asyncio.get_running_loop())
    for number in range(count):
        if number % PORTION == 0:
            await asyncio.sleep(0)
        task = asyncio.create_task(yields_once())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:  # noqa: ASYNC110
        await asyncio.sleep(0)
    heart.stop()
    return time.process_time() - start, heart


def many(runner: asyncio.Runner, counts: tuple[int, ...], chain: int) -> Table:
    """Does a job cost the same among many? And does the loop go on meanwhile?"""
    return Table(
        "Many pending jobs",
        "All jobs are pending before the first one starts; each yields once. The stall "
        "is the longest CPU time between two turns of the loop, with and without the "
        "garbage collector’s part. Flat means: at most twice the cost of the row above "  # noqa: RUF001
        "with the same limit.",
        ("Jobs", "Limit", "µs per job", "µs without collector", "Longest stall, ms",
         "Without collector, ms", "Flat"),
    )  # fmt: skip
