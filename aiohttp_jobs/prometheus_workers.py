"""The metrics of all workers in one scrape. Needs the extra ``prometheus``.

Each sends the samples of its registry, and whoever is scraped shows them side by side,
told apart by the label ``worker``. Nothing is added up here: that is what Prometheus
does, which knows when a counter began anew.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from .share.asking import Trouble
from .share.member import Member
from .share.others import Others

__all__ = ("AllWorkers", "Families")

_WORKER: Final = "worker"

# A process of the application that shows no metrics is not one that should.
_NOT_OURS: Final = (Trouble.APPLICATION, Trouble.NOTHING)

# In which directories a registry is shown: twice would be each sample twice.
_shown: Final = WeakKeyDictionary[CollectorRegistry, set[str]]()


class Families:
    """Metrics of all workers, as an encoder of prometheus_client takes a registry."""

    def __init__(self) -> None:
        self._families: dict[tuple[str, str], Any] = {}
        self._up = GaugeMetricFamily(
            "aiohttp_jobs_worker_up",
            "1 if the worker answers, else 0, and then its other series are missing.",
            labels=[_WORKER],
        )

    def add(self, number: int, data: Iterable[Any]) -> None:
        """Add what a worker sent.

        Raises:
            ValueError, TypeError: it is not what :func:`_dump` makes.
        """
        # All of it before any: half of a worker's metrics would be wrong ones.
        found = list[Any]()  # of Metric, whose fields have no types
        for name, documentation, kind, unit, samples in data:
            metric: Any = Metric(name, documentation, kind, unit)
            for sample, labels, value, timestamp in samples:
                metric.add_sample(sample, _label(labels, number), value, timestamp)
            found.append(metric)
        for metric in found:
            # One name is told once, with one type: another worker's other type is left
            # out, for no server would take the whole.
            same = self._families.setdefault((metric.name, metric.type), metric)
            if same is not metric:
                same.samples.extend(metric.samples)

    def tell(self, number: int, is_up: bool) -> None:
        self._up.add_metric([str(number)], is_up)

    def collect(self) -> Iterator[Metric]:
        seen = set[str]()
        for metric in self._families.values():
            if metric.name not in seen:
                seen.add(metric.name)
                yield metric
        yield self._up


def _label(labels: dict[str, str], number: int) -> dict[str, str]:
    new = _WORKER
    if new not in labels:
        return {**labels, new: str(number)}
    # As Prometheus does it with a label of its own that a target has, too.
    own = {}
    for name, value in labels.items():
        if name == new:
            name = f"exported_{new}"
            while name in labels:
                name = f"exported_{name}"
        own[name] = value
    return {**own, new: str(number)}


def _dump(registry: CollectorRegistry) -> list[Any]:
    return [
        (
            metric.name,
            metric.documentation,
            metric.type,
            metric.unit,
            [
                # A timestamp is the library's own class; as a number it is in seconds.
                (
                    sample.name,
                    sample.labels,
                    float(sample.value),
                    None if sample.timestamp is None else float(sample.timestamp),
                )
                for sample in metric.samples
            ],
        )
        for metric in registry.collect()
    ]


class AllWorkers:
    """Shows a registry to the other workers, and theirs beside it.

    Args:
        share: the directory of the workers.
        registry: what this worker shows.
        ask: awaited before the registry is collected.

    Raises:
        TypeError, ValueError, RuntimeError: as of :class:`.share.worker.Worker`.
    """

    def __init__(
        self,
        share: str | os.PathLike[str],
        registry: CollectorRegistry,
        ask: Callable[[], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._ask = ask
        self._member = Member(share, "/metrics", {"samples": self._show})
        self._others: Others | None = None

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """Be there while the application runs: one of its clean-up contexts."""
        shown = _shown.setdefault(self._registry, set())
        share = self._member.share
        if share in shown:
            raise RuntimeError(
                f"The registry is already shown in share={share!r}: pass share to one "
                "setup_metrics() of a process, or give each a registry (registry=)"
            )
        shown.add(share)
        try:
            await self._member.open()
            self._others = Others(self._member, f"{self._member.path}/samples")
            yield
        finally:
            shown.discard(share)
            if self._others is not None:
                await self._others.close()
            await self._member.close()

    async def collect(self) -> Families:
        """Return the metrics of all workers that answer, this one's among them."""
        families = Families()
        number = self._member.number
        await self._ask()
        families.add(number, _dump(self._registry))
        families.tell(number, True)
        told = {number}
        answers = [] if self._others is None else await self._others.ask()
        # A dead one's number may be another's already, which answers.
        for answer in sorted(answers, key=lambda answer: answer.trouble is not None):
            other = answer.name.number
            if answer.trouble in _NOT_OURS or other in told:
                continue
            told.add(other)
            is_up = answer.trouble is None
            if is_up:
                try:
                    families.add(other, answer.data)
                except (TypeError, ValueError, AttributeError):
                    is_up = False
            families.tell(other, is_up)
        return families

    async def _show(self, request: web.Request) -> web.Response:
        await self._ask()
        return web.json_response(_dump(self._registry))
