"""The metrics of durable jobs. Needs the extra ``prometheus``.

The store tells how many jobs are in each place, and every process that uses it shows the
same figures. A scrape does not wait for a store that does not answer: then the figures
are missing, and another metric says so. Each process counts what it has done itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from .core.errors import StoreUnavailable
from .prometheus_times import Times

if TYPE_CHECKING:
    from .durable import Durable, DurableStatistics

__all__ = ("DurableFamilies", "DurableWatch")

# Upper bounds in seconds: an enqueue waits for the disk, or for a broker.
BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
# How an attempt may end. All are there from the start: rate() sees no series begin.
_OUTCOMES: Final = ("succeeded", "retried", "buried", "given_back")
# Seconds that a scrape waits for the store: a worker that another one asks has half a
# second for its whole answer. In a thread it may wait longer.
PATIENCE: Final = 0.3
PATIENCE_IN_THREAD: Final = 2.0
# Seconds after which the figures of the store are too old to be shown.
MOST_AGE: Final = 60.0


class DurableFamilies:
    """The metrics, each with its samples."""

    def __init__(self) -> None:
        self.up = GaugeMetricFamily(
            "aiohttp_jobs_durable_up",
            "1 if the store of the durable jobs answers, else 0, and then its other "
            "gauges are missing.",
            labels=["scheduler"],
        )
        self.waiting = GaugeMetricFamily(
            "aiohttp_jobs_durable_waiting",
            "Durable jobs that are due but not begun, in the whole store.",
            labels=["scheduler"],
        )
        self.delayed = GaugeMetricFamily(
            "aiohttp_jobs_durable_delayed",
            "Durable jobs that are not due yet, in the whole store.",
            labels=["scheduler"],
        )
        self.running = GaugeMetricFamily(
            "aiohttp_jobs_durable_running",
            "Durable jobs that run now, in all processes of the store.",
            labels=["scheduler"],
        )
        self.dead = GaugeMetricFamily(
            "aiohttp_jobs_durable_dead",
            "Durable jobs that have failed for good, in the whole store.",
            labels=["scheduler"],
        )
        self.oldest = GaugeMetricFamily(
            "aiohttp_jobs_durable_oldest_waiting_seconds",
            "How long the oldest of the durable jobs that wait has been due.",
            labels=["scheduler"],
            unit="seconds",
        )
        self.attempts = CounterMetricFamily(
            "aiohttp_jobs_durable_attempts",
            "Attempts of durable jobs that have ended in this process, by task and "
            "outcome.",
            labels=["scheduler", "job", "outcome"],
        )
        self.enqueued = HistogramMetricFamily(
            "aiohttp_jobs_durable_enqueue_seconds",
            "How long spawn_durable() took in this process until the job was kept.",
            labels=["scheduler"],
            unit="seconds",
        )

    def __iter__(self) -> Iterator[Metric]:
        yield from (self.up, self.waiting, self.delayed, self.running, self.dead)
        yield from (self.oldest, self.attempts, self.enqueued)


class DurableWatch:
    """Watches the durable jobs of one application, which runs in the current loop.

    Args:
        durable: its durable jobs.
        name: the value of the label ``scheduler``.
    """

    def __init__(self, durable: Durable, name: str) -> None:
        self._durable = durable
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._enqueued = Times(BUCKETS)
        # What the store said last, and when; None if it could say nothing.
        self._figures: tuple[DurableStatistics, float] | None = None
        self._asking: asyncio.Task[None] | None = None
        durable.when_kept.append(self._enqueued.add)

    def stop(self) -> None:
        """Stop watching."""
        self._durable.when_kept.remove(self._enqueued.add)
        if self._asking is not None:
            self._asking.cancel()

    async def ask(self) -> None:
        """Ask the store for its figures, if it can be asked here, and wait a little."""
        is_here = asyncio.get_running_loop() is self._loop
        if is_here and self._durable.inspection.is_possible:
            await asyncio.wait([self._begin()], timeout=PATIENCE)

    def _begin(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="durable jobs: metrics")
        return self._asking

    async def _ask(self) -> None:
        try:
            figures = await self._durable.inspection.statistics()
        except StoreUnavailable:
            self._figures = None
        else:
            self._figures = figures, monotonic()

    def _ask_from_anywhere(self) -> None:
        """Ask, in whatever thread this is called; wait only where that blocks no loop."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            # The application serves the registry by a handler of its own: for next time.
            if self._figures is None or monotonic() - self._figures[1] > PATIENCE:
                self._begin()
            return
        asking = self.ask()
        try:
            future = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError:  # the loop is closed
            asking.close()
            return
        if running is None:
            try:
                future.result(PATIENCE_IN_THREAD)
            except (TimeoutError, asyncio.CancelledError):
                future.cancel()  # the loop is busy, or has ended

    def show(self, families: DurableFamilies) -> None:
        """Add a sample for everything that is known. May run in another thread."""
        durable, name = self._durable, self._name
        is_up = durable.fault is None
        if durable.inspection.is_possible:
            self._ask_from_anywhere()
            known = self._figures
            if known is not None and monotonic() - known[1] <= MOST_AGE:
                figures = known[0]
                families.waiting.add_metric([name], figures.waiting)
                families.delayed.add_metric([name], figures.delayed)
                families.running.add_metric([name], figures.running)
                families.dead.add_metric([name], figures.dead)
                families.oldest.add_metric([name], figures.oldest_waiting)
            else:
                is_up = False
        families.up.add_metric([name], is_up)
        for task, counts in durable.attempts_of.items():
            for outcome in _OUTCOMES:
                labels = [name, task, outcome]
                families.attempts.add_metric(labels, counts[outcome])
        self._enqueued.show(families.enqueued, [name])
