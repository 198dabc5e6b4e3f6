"""CPU time per job, from spawn to drained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import aiojobs

import aiohttp_jobs

from .measure import take
from .report import Table, spread

__all__ = ("WORKS", "ends_at_once", "name_of", "per_job", "yields_once")

Work = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Work, int], Coroutine[Any, Any, None]]


async def ends_at_once() -> None:
    pass


async def yields_once() -> None:
    await asyncio.sleep(0)


WORKS: dict[str, Work] = {"ends at once": ends_at_once, "yields once": yields_once}


# -- the variants: start the same work `count` times, and return when all of it is over --


async def raw(work: Work, count: int) -> None:
    """Do by hand what asyncio's documentation recommends."""
    tasks: set[asyncio.Task[None]] = set()
    for _ in range(count):
        task = asyncio.create_task(work())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:  # noqa: ASYNC110 (a few turns for thousands of tasks cost next to nothing)
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
    """Leave out aiojobs' drain, which creates two more tasks for each job that is left.

    A server that runs for a long time drains few of its jobs, so this is the ratio that
    matters to it. Our variant always includes the drain.
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


def name_of(what: str, limit: int | None) -> str:
    return what if limit is None else f"{what}, limit={limit}"


async def _cpu_time(run: Run, work: Work, count: int) -> float:
    start = time.process_time()
    await run(work, count)
    return time.process_time() - start


def per_job(runner: asyncio.Runner, count: int, rounds: int) -> Table:
    """Compare all variants, for two kinds of coroutines."""
    table = Table(
        "CPU time per job",
        f"{count:,} jobs from the first spawn to the end of the drain; medians of "
        f"{rounds} rounds, in brackets the quartiles. 'Not drained' leaves out aiojobs' "
        "wait_and_close(), which is slow; ours is always included.",
        ("Coroutine", "Variant", "µs per job", "of asyncio", "of aiojobs",
         "of aiojobs, not drained"),
    )  # fmt: skip
    for title, work in WORKS.items():
        samples = take(
            {
                name_of(*key): lambda run=run, work=work: runner.run(  # type: ignore[misc]
                    _cpu_time(run, work, count)
                )
                for key, run in VARIANTS.items()
            },
            rounds,
        )
        for who, limit in VARIANTS:
            name = name_of(who, limit)
            to_raw = samples.ratio(name, name_of(RAW, None))
            to_theirs = samples.ratio(name, name_of(THEIRS, limit))
            to_no_drain = samples.ratio(name, name_of(NO_DRAIN, limit))
            table.add(
                title,
                name,
                f"{samples.median(name) / count * 1e6:.2f}",
                spread(to_raw),
                spread(to_theirs) if who == OURS else "",
                spread(to_no_drain) if who == OURS else "",
            )
            if who == OURS:
                job = name_of(f"job that {title}", limit)
                table.target(f"Time per {job}, of aiojobs'", 0.2, to_theirs)
    return table
