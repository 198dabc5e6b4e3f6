"""Prometheus: what schedulers do, as metrics. Needs the extra ``prometheus``.

An observer counts the jobs of each scheduler; one collector per registry shows them all,
told apart by the label ``scheduler``.
"""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from .core.errors import missing_extra

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
except ModuleNotFoundError as error:
    raise missing_extra(error, "prometheus") from error

from ._durable_of import durable_of
from .core.job import Job
from .core.scheduler import Scheduler
from .core.states import SUCCEEDED, JobState
from .prometheus_durable import DurableFamilies, DurableWatch
from .prometheus_lines import Family, Series, acceptable
from .prometheus_times import Times
from .prometheus_workers import AllWorkers, Format
from .share.folder import share_of_environment
from .web.application import check_application
from .web.request import SCHEDULER

__all__ = ("JobsCollector", "jobs_collector", "setup_metrics")

# Upper bounds in seconds: a job may send a mail or make a nightly report.
BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
_OUTCOMES: Final = tuple(state for state in JobState if state >= SUCCEEDED)


def setup_metrics(
    app: web.Application,
    path: str | None = "/metrics",
    *,
    registry: CollectorRegistry | None = None,
    name: str = "default",
    share: str | os.PathLike[str] | None = None,
) -> None:
    """Count the jobs of an application, and serve the metrics of the registry.

    Call it after :func:`aiohttp_jobs.setup`, once. Jobs are counted from then on; their
    scheduler is in the registry from the start of the application to its end. So are the
    durable jobs of the application, if it has any.

    Args:
        app: the application, or sub-application, with a scheduler of its own.
        path: where to serve the metrics; None not to serve them.
        registry: the registry to show the jobs in, and to serve; None for the global
            one, ``prometheus_client.REGISTRY``.
        name: the value of the label ``scheduler``. The application's start fails with
            :exc:`ValueError` if the registry already has another one of this name.
        share: a directory of the processes of this application on this machine: each of
            them then serves the metrics of all, with the label ``worker``; see
            :doc:`workers`. None for the environment variable ``AIOHTTP_JOBS_SHARE``, if
            that is set. Without a ``path`` it has no effect. The application's start
            fails with :exc:`RuntimeError` if the directory belongs to another user, or
            others may use it.

    Raises:
        RuntimeError: the application has no scheduler, already has metrics, or is
            running; ``share`` was given on a platform other than Linux.
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    check_application("setup_metrics", app)
    scheduler = app.get(SCHEDULER)
    if scheduler is None:
        raise RuntimeError(
            "setup_metrics() was called for an application without a scheduler: call "
            "aiohttp_jobs.setup(app) first"
        )
    if path is not None and not isinstance(path, str):
        raise TypeError(f"path takes a str or None, not {path!r}")
    if path is not None and not path.startswith("/"):
        raise ValueError(f"path takes a path such as '/metrics', not {path!r}")
    if _WATCH in app:
        raise RuntimeError(
            "setup_metrics() has already been called for this application: call it once"
        )
    if app.frozen or app.pre_frozen:
        raise RuntimeError(
            "setup_metrics() was called for an application that is running: call it "
            "before run_app() or AppRunner.setup()"
        )
    registry = _registry(registry)
    watch = _Watch(scheduler, name)
    collector = jobs_collector(registry)
    if share is None:
        share = share_of_environment()
    workers = None
    if share is not None and path is not None:
        workers = AllWorkers(share, registry, collector.ask)

    async def show(app: web.Application) -> AsyncIterator[None]:
        # Not before the start: an application that never runs must not stay registered.
        collector._show(watch)
        durable = durable_of(app)
        if durable is not None:
            watch.durable = DurableWatch(durable, name)
        yield
        collector.remove(scheduler)

    if path is not None:
        app.router.add_get(path, _make_handler(registry, collector, workers))
    app[_WATCH] = watch
    app.cleanup_ctx.append(show)
    if workers is not None:
        app.cleanup_ctx.append(workers.context)
    scheduler.add_observer(watch)


def jobs_collector(registry: CollectorRegistry | None = None) -> JobsCollector:
    """Return the collector of this registry, which is added if there is none.

    Args:
        registry: None for the global one, ``prometheus_client.REGISTRY``.
    """
    registry = _registry(registry)
    collector = _collectors.get(registry)
    if collector is None:
        collector = JobsCollector()
    else:
        # Somebody may have unregistered it, and no method tells.
        with suppress(KeyError):
            registry.unregister(collector)
    registry.register(collector)
    _collectors[registry] = collector
    return collector


class JobsCollector:
    """Shows the jobs of schedulers in a registry of prometheus_client.

    Returned by :func:`jobs_collector`, not made by hand: a registry can have only one. It
    may be read from any thread.
    """

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}

    def add(self, scheduler: Scheduler, name: str = "default") -> None:
        """Count the jobs of this scheduler from now on, and show them.

        Args:
            scheduler: the scheduler; it is kept until it is removed.
            name: the value of the label ``scheduler``.

        Raises:
            ValueError: another scheduler has this name, or this one has another name.
        """
        watch = _Watch(scheduler, name)
        self._show(watch)
        scheduler.add_observer(watch)

    def remove(self, scheduler: Scheduler) -> None:
        """Stop showing and counting the jobs of this scheduler, if it was added."""
        for name, watch in list(self._watches.items()):
            if watch.scheduler is scheduler:
                del self._watches[name]
                scheduler.remove_observer(watch)
                if watch.durable is not None:
                    watch.durable.stop()
                    watch.durable = None

    async def ask(self) -> None:
        """Ask the stores of durable jobs for their figures, to be collected right after.

        It takes at most a few tenths of a second. Only the stores of applications in this
        event loop are asked.
        """
        asked = [watch.durable for watch in self._watches.values()]
        await asyncio.gather(*(durable.ask() for durable in asked if durable is not None))

    def _show(self, watch: _Watch) -> None:
        for name, other in self._watches.items():
            if name == watch.name:
                raise ValueError(
                    f"The registry already has a scheduler named {name!r}: give each a "
                    "name of its own (name=), or each application a registry (registry=)"
                )
            if other.scheduler is watch.scheduler:
                raise ValueError(
                    f"The registry already has {watch.scheduler!r}, as {name!r}: add it "
                    "once"
                )
        self._watches[watch.name] = watch

    def describe(self) -> Iterator[Metric]:
        """Tell the registry which names are taken."""
        return iter(_Families())

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this moment."""
        families = _Families()
        for watch in list(self._watches.values()):
            watch.show(families)
        return (family for family in families if _has_samples(family))


def _has_samples(family: Metric) -> bool:
    return bool(family.series if isinstance(family, Family) else family.samples)


# A registry keeps its collector: this need not keep the registry.
_collectors: Final = WeakKeyDictionary[CollectorRegistry, JobsCollector]()


class _Families:
    """The metrics, each with its samples."""

    def __init__(self) -> None:
        self.active = GaugeMetricFamily(
            "aiohttp_jobs_active", "Jobs that run now.", labels=["scheduler"]
        )
        self.pending = GaugeMetricFamily(
            "aiohttp_jobs_pending",
            "Jobs that are accepted but not yet started.",
            labels=["scheduler"],
        )
        self.taken = GaugeMetricFamily(
            "aiohttp_jobs_slots_taken",
            "Jobs that run now and take one of the slots that the limit allows.",
            labels=["scheduler"],
        )
        self.callers = GaugeMetricFamily(
            "aiohttp_jobs_callers_waiting",
            "How many callers of spawn() wait for room among the pending jobs.",
            labels=["scheduler"],
        )
        self.limit = GaugeMetricFamily(
            "aiohttp_jobs_limit",
            "How many jobs may run at once; +Inf if there is no limit.",
            labels=["scheduler"],
        )
        self.held = GaugeMetricFamily(
            "aiohttp_jobs_held",
            "1 while no pending job starts because they are held, else 0.",
            labels=["scheduler"],
        )
        # Most samples are in the three that are a Family.
        self.ended = Family(
            "aiohttp_jobs_jobs",
            "Jobs that have ended, by coroutine and outcome.",
            "counter",
        )
        self.joined = CounterMetricFamily(
            "aiohttp_jobs_joined",
            "How often spawning returned a job that was already there, by its key.",
            labels=["scheduler"],
        )
        self.waited = Family(
            "aiohttp_jobs_wait_seconds",
            "How long jobs were pending before they started.",
            "histogram",
            "seconds",
        )
        self.ran = Family(
            "aiohttp_jobs_run_seconds",
            "How long jobs ran from their start to their end.",
            "histogram",
            "seconds",
        )
        self.durable = DurableFamilies()

    def __iter__(self) -> Iterator[Metric]:
        yield from (self.active, self.pending, self.taken, self.callers, self.limit)
        yield from (self.held, self.joined, self.ended, self.waited, self.ran)
        yield from self.durable


class _Watch:
    """Observes one scheduler, and counts its jobs by the names of their coroutines.

    Never by the names that jobs are given: there may be any number of those, and
    Prometheus keeps each as a series of its own.
    """

    #: For the core, see ``core.observers``.
    needs_context = False

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name takes a str, not {name!r}")
        self.scheduler = scheduler
        self.name = name
        #: While the application runs, its durable jobs, if it has any.
        self.durable: DurableWatch | None = None
        self._counts: dict[str, _Counts] = {}

    def job_started(self, job: Job[Any]) -> None:
        assert job.spawned_at is not None
        assert job.started_at is not None
        self._counts_of(job).waited.add(job.started_at - job.spawned_at)

    def job_closed(self, job: Job[Any]) -> None:
        counts = self._counts_of(job)
        counts.ended[job.state] += 1
        if job.started_at is not None:
            assert job.closed_at is not None
            counts.ran.add(job.closed_at - job.started_at)

    def _counts_of(self, job: Job[Any]) -> _Counts:
        name = job.coro_name
        counts = self._counts.get(name)
        if counts is None:
            counts = self._counts[name] = _Counts(self.name, name)
        return counts

    def show(self, families: _Families) -> None:
        """Add a sample for everything that was counted. May run in another thread."""
        scheduler, name = self.scheduler, self.name
        # Infinite without a limit, so that taken / limit stays a number.
        limit = float("inf") if scheduler.limit is None else scheduler.limit
        families.active.add_metric([name], scheduler.active_count)
        families.pending.add_metric([name], scheduler.pending_count)
        families.taken.add_metric([name], scheduler.slots_taken)
        families.callers.add_metric([name], scheduler.callers_waiting)
        families.limit.add_metric([name], limit)
        families.held.add_metric([name], scheduler.held)
        families.joined.add_metric([name], scheduler.statistics().joined)
        for counts in list(self._counts.values()):
            families.ended.series.append(counts.ended_series)
            families.waited.series.append(counts.waited_series)
            families.ran.series.append(counts.ran_series)
        if self.durable is not None:
            self.durable.show(families.durable)


class _Counts:
    """What is known of the jobs of one coroutine function.

    Args:
        scheduler, job: the values of these labels.
    """

    __slots__ = ("ended", "ended_series", "ran", "ran_series", "waited", "waited_series")

    def __init__(self, scheduler: str, job: str) -> None:
        # All outcomes from the start: rate() does not see a series begin.
        self.ended: dict[JobState, int] = dict.fromkeys(_OUTCOMES, 0)
        self.waited = Times(BUCKETS)
        self.ran = Times(BUCKETS)
        labels = {"scheduler": scheduler, "job": job}
        self.ended_series = Series(
            [
                ("aiohttp_jobs_jobs_total", {**labels, "outcome": state.name.lower()})
                for state in _OUTCOMES
            ],
            self.ended.values,
        )
        self.waited_series = self.waited.series("aiohttp_jobs_wait_seconds", labels)
        self.ran_series = self.ran.series("aiohttp_jobs_run_seconds", labels)


def _registry(registry: CollectorRegistry | None) -> CollectorRegistry:
    if registry is None:
        return REGISTRY
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(
            f"registry takes a prometheus_client.CollectorRegistry or None, "
            f"not {registry!r}"
        )
    return registry


_WATCH: Final = web.AppKey("_WATCH", _Watch)


def _make_handler(
    registry: CollectorRegistry, collector: JobsCollector, workers: AllWorkers | None
) -> Handler:
    async def metrics(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        if workers is not None:
            accept = acceptable(accept)
        try:
            encode, content_type = choose_encoder(accept)
        except Exception:  # the library trips over versions that are not numbers
            encode, content_type = choose_encoder("")
        if workers is None:
            await collector.ask()
            body = encode(registry)
        else:
            families = await workers.collect()
            body = families.encoded(Format(content_type, encode))
        headers = {hdrs.CONTENT_TYPE: content_type}
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower():
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            # At the lowest level: the text is so regular that a higher one takes several
            # times as long for little gain.
            body = gzip.compress(body, 1, mtime=0)
        return web.Response(body=body, headers=headers)

    return metrics
