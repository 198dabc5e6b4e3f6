"""The metrics of all workers in one scrape. Needs the extra ``prometheus``.

Each sends the samples of its registry, and the worker that is scraped shows them side by
side, told apart by the label ``worker``. Nothing is added up here: Prometheus does that,
since it knows when a counter was reset.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from .prometheus_lines import APART, WORKER, written
from .share.asking import Trouble
from .share.member import Member
from .share.others import Others

__all__ = ("AllWorkers", "Families", "Format")

# A process of the application that shows no metrics need not show any.
_NOT_OURS: Final = (Trouble.APPLICATION, Trouble.NOTHING)

# The directories that a registry is shown in: showing it twice would double each sample.
_shown: Final = WeakKeyDictionary[CollectorRegistry, set[str]]()

_END: Final = b"# EOF\n"


@dataclass(frozen=True)
class Format:
    """The format that the scraper asked for: one of the library's encoders, and its type.

    An encoder takes any object that has a registry's ``collect()``.
    """

    content_type: str
    encode: Callable[[Any], bytes] = field(compare=False)

    @property
    def is_openmetrics(self) -> bool:
        return self.content_type.startswith("application/openmetrics-text")

    def encoded(self, metric: Metric) -> bytes:
        """Encode one family, without the end mark."""
        return self.encode(_One(metric)).removesuffix(_END)


class _One:
    """A registry with one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]


class _Family:
    """A name, and what all workers have under it."""

    def __init__(self, name: str, documentation: str, kind: str, unit: str) -> None:
        # Refused here if there is no such kind.
        Metric(name, documentation, kind, unit)
        self.name = name
        self.kind = kind
        self._about = documentation, kind, unit
        self.blocks: list[bytes] = []
        # Whether there is a sample that the older format has in a family of its own.
        self.has_apart = False
        # Samples that the library has to write.
        self.rest: list[Any] = []

    def encoded(self, format: Format) -> list[bytes]:
        head = _head(format, self.name, *self._about)
        blocks, apart = self.blocks, list[bytes]()
        if self.has_apart and not format.is_openmetrics:
            blocks, apart = self._split(format)
        if self.rest:
            metric = Metric(self.name, *self._about)
            for sample in self.rest:
                metric.add_sample(*sample)
            # First, as it may end with a family of its own.
            return [head, *blocks, format.encoded(metric).removeprefix(head), *apart]
        return [head, *blocks, *apart]

    def _split(self, format: Format) -> tuple[list[bytes], list[bytes]]:
        """Return the lines of this family, and those of families of their own."""
        found: dict[bytes, list[bytes]] = {
            f"{self.name}{suffix}{{".encode(): [] for suffix in APART
        }
        lines: list[bytes] = []
        for line in b"".join(self.blocks).splitlines(keepends=True):
            found.get(line[: line.index(b"{") + 1], lines).append(line)
        apart: list[bytes] = []
        for start, those in found.items():
            if those:
                name = start[:-1].decode()
                apart += [_head(format, name, self._about[0], "gauge", ""), *those]
        return lines, apart


@functools.lru_cache(maxsize=1000)  # heads are the same at each scrape
def _head(format: Format, name: str, documentation: str, kind: str, unit: str) -> bytes:
    return format.encoded(Metric(name, documentation, kind, unit))


class Families:
    """The metrics of all workers, as lines of text."""

    def __init__(self) -> None:
        self._families: dict[tuple[str, str], _Family] = {}
        self._up = _Family(
            "aiohttp_jobs_worker_up",
            "1 if the worker answers, else 0, and then its other series are missing.",
            "gauge",
            "",
        )

    def add(self, number: int, data: object) -> None:
        """Add what a worker sent.

        Raises:
            ValueError, TypeError, AttributeError: it is not what
                :func:`.prometheus_lines.written` makes, or is another worker's.
        """
        if not isinstance(data, bytes):
            raise TypeError("a worker tells its metrics as lines of text")
        told, _, text = data.partition(b"\n")
        own, heads = json.loads(told)
        if own != number:
            raise ValueError("the worker has another number by now")
        # All is read before any is added: half of a worker's metrics would be wrong.
        found: list[tuple[_Family, bytes, bool, list[Any]]] = []
        start = 0
        for *about, length, has_apart, rest in heads:
            block = text[start : start + length]
            start += length
            found.append((_Family(*about), block, has_apart, [*rest]))
        if start != len(text):
            raise ValueError("the lines are not as long as they should be")
        for family, block, has_apart, rest in found:
            same = self._families.setdefault((family.name, family.kind), family)
            same.blocks.append(block)
            same.has_apart |= has_apart
            same.rest += rest

    def tell(self, number: int, is_up: bool) -> None:
        """Note whether a worker answers."""
        line = f'{self._up.name}{{{WORKER}="{number}"}} {is_up:d}.0\n'
        self._up.blocks.append(line.encode())

    def encoded(self, format: Format) -> bytes:
        """Put all of it together."""
        told: list[bytes] = []
        seen = set[str]()
        for family in (*self._families.values(), self._up):
            # Each name is written once, with one type. Another worker's other type is
            # left out, or no server would accept the whole.
            if family.name not in seen:
                seen.add(family.name)
                told += family.encoded(format)
        if format.is_openmetrics:
            told.append(_END)
        return b"".join(told)


class AllWorkers:
    """Shows a registry to the other workers, and theirs next to it.

    Args:
        share: the directory of the workers.
        registry: what this worker shows.
        ask: awaited before the registry is collected.

    Raises:
        TypeError, ValueError, RuntimeError: as :class:`.share.worker.Worker`.
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
        """Be open while the application runs: one of its clean-up contexts."""
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
        """Return the metrics of all workers that answer, including this one."""
        families = Families()
        number = self._member.number
        await self._ask()
        families.add(number, written(self._registry, number))
        families.tell(number, True)
        told = {number}
        answers = [] if self._others is None else await self._others.ask()
        # Live ones first: a dead worker's number may already be another's, which answers.
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

    async def _show(self, request: web.BaseRequest) -> web.Response:
        await self._ask()
        return web.Response(body=written(self._registry, self._member.number))
