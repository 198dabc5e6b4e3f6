"""CPU time per job with observers: the dashboard's history, metrics, traces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from aiohttp_jobs import Scheduler
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.opentelemetry import JobTracer
from aiohttp_jobs.prometheus import jobs_collector

from .jobs import LIMIT, yields_once
from .measure import take
from .report import Table, spread

__all__ = ("observed",)

NOBODY = "no observer"


def _nobody(scheduler: Scheduler) -> None:
    pass


def _history(scheduler: Scheduler) -> None:
    scheduler.add_observer(History(scheduler))


def _metrics(scheduler: Scheduler) -> None:
    jobs_collector(CollectorRegistry()).add(scheduler)


def _traces(scheduler: Scheduler) -> None:
    scheduler.add_observer(JobTracer(TracerProvider()))


VARIANTS: dict[str, Callable[[Scheduler], None]] = {
    NOBODY: _nobody,
    "history on": _history,
    "metrics on": _metrics,
    "tracing on, spans recorded, none exported": _traces,
}


async def _cpu_time(observe: Callable[[Scheduler], None], count: int) -> float:
    scheduler = Scheduler(limit=LIMIT, pending_limit=0)
    observe(scheduler)
    start = time.process_time()
    for _ in range(count):
        await scheduler.spawn(yields_once())
    await scheduler.wait_and_close()
    return time.process_time() - start


def observed(runner: asyncio.Runner, count: int, rounds: int) -> Table:
    """Compare a scheduler that nobody observes with one that is observed."""
    table = Table(
        "CPU time per job that is observed",
        f"{count:,} jobs that yield once, limit={LIMIT}; medians of {rounds} rounds, in "
        "brackets the quartiles.",
        ("Observer", "µs per job", f"of {NOBODY}"),
    )
    samples = take(
        {
            name: lambda observe=observe: runner.run(  # type: ignore[misc]
                _cpu_time(observe, count)
            )
            for name, observe in VARIANTS.items()
        },
        rounds,
    )
    for name in VARIANTS:
        ratio = samples.ratio(name, NOBODY)
        table.add(name, f"{samples.median(name) / count * 1e6:.2f}", spread(ratio))
        if name == "history on":
            table.target("Time per job with the dashboard's history on", 1.1, ratio)
    return table
