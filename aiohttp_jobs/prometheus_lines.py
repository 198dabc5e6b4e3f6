"""Samples as lines of text, told apart by the label of their worker. Needs the extra
``prometheus``.

In both of Prometheus's formats a sample is the same line, and only what stands above the
lines of a family differs. So each worker that is asked writes its own lines, and the one
that is scraped joins them. Samples that the library has to write in another way are sent
as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric, Sample
from prometheus_client.utils import (
    floatToGoString,  # pyright: ignore[reportUnknownVariableType]
)

__all__ = ("APART", "WORKER", "Family", "Series", "acceptable", "written")

WORKER: Final = "worker"

# Names that both formats write as they are; others are quoted, or escaped.
_is_plain: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*").fullmatch
_is_plain_label: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*").fullmatch
# Suffixes of samples that the older format has in families of their own.
APART: Final = ("_created", "_gcount", "_gsum")


# The ways of escaping names that change even plain ones.
_CHANGING: Final = re.compile(r"(escaping\s*=\s*)(?:dots|values)", re.IGNORECASE)


def acceptable(accept: str) -> str:
    """Return the header ``Accept``, changed to ask for plain names as they are.

    The header is only a wish: the answer says what it is.
    """
    return _CHANGING.sub(r"\1underscores", accept)


def _own_label(labels: dict[str, str], worker: str) -> dict[str, str]:
    """Add the label of the worker, and rename a label that already has this name."""
    if WORKER not in labels:
        return {**labels, WORKER: worker}
    # As Prometheus does if a target has a label that Prometheus adds, too.
    own = {}
    for name, value in labels.items():
        if name == WORKER:
            name = f"exported_{WORKER}"
            while name in labels:
                name = f"exported_{name}"
        own[name] = value
    return {**own, WORKER: worker}


class Series:
    """The samples of one thing: names and labels, which stay the same, and values.

    Args:
        heads: the name and the labels of each value.
        values: returns the values.
    """

    __slots__ = ("_heads", "_values", "_worker", "_written")

    def __init__(
        self,
        heads: Sequence[tuple[str, dict[str, str]]],
        values: Callable[[], Iterable[float]],
    ) -> None:
        self._heads = heads
        self._values = values
        # The heads are written once: a scrape has thousands of them.
        self._worker = ""
        self._written: list[str] = []

    def samples(self) -> Iterable[Sample]:
        """Make the library's samples."""
        for (name, labels), value in zip(self._heads, self._values(), strict=True):
            yield Sample(name, labels, value)

    def lines(self, worker: str) -> Iterable[str]:
        """Write the lines."""
        if self._worker != worker:
            self._written = [
                _head(name, _own_label(labels, worker)) for name, labels in self._heads
            ]
            self._worker = worker
        return [
            f"{head} {_number(value)}\n"
            for head, value in zip(self._written, self._values(), strict=True)
        ]


class Family(Metric):
    """A family whose samples are only made when somebody wants them.

    Args:
        name, documentation, kind, unit: as in the library's class.
    """

    def __init__(self, name: str, documentation: str, kind: str, unit: str = "") -> None:
        super().__init__(name, documentation, kind, unit)
        del self.samples
        self.series: list[Series] = []

    def __getattr__(self, name: str) -> Any:
        if name != "samples":
            raise AttributeError(name)
        self.samples = [sample for each in self.series for sample in each.samples()]
        return self.samples


def written(registry: CollectorRegistry, number: int) -> bytes:
    """Write what a registry has just now, for :meth:`.prometheus_workers.Families.add`.

    Args:
        registry: the registry.
        number: the worker's number.
    """
    heads: list[Any] = []
    blocks: list[bytes] = []
    worker = str(number)
    for metric in registry.collect():
        lines, rest, is_apart = _written(metric, worker)
        block = "".join(lines).encode()
        blocks.append(block)
        heads.append(
            (
                *(metric.name, metric.documentation, metric.type, metric.unit),
                *(len(block), is_apart, rest),
            )
        )
    # One line of JSON says what is in the lines that follow.
    return b"".join((json.dumps([number, heads]).encode(), b"\n", *blocks))


def _written(metric: Metric, worker: str) -> tuple[list[str], list[Any], bool]:
    """Return the lines; the samples that are not plain; and whether any is in `APART`."""
    if isinstance(metric, Family):
        return [line for each in metric.series for line in each.lines(worker)], [], False
    if not _is_plain(metric.name):
        return [], [_told(sample, worker) for sample in metric.samples], False
    lines: list[str] = []
    rest: list[Any] = []
    apart = {metric.name + suffix for suffix in APART}
    is_apart = False
    for sample in metric.samples:
        labels = _own_label(sample.labels, worker)
        if sample.timestamp is not None or not all(map(_is_plain_label, labels)):
            rest.append(_told(sample, worker))
        else:
            is_apart |= sample.name in apart
            lines.append(f"{_head(sample.name, labels)} {_number(sample.value)}\n")
    return lines, rest, is_apart


def _told(sample: Sample, worker: str) -> Any:
    # A timestamp has the library's own class; as a number it is in seconds.
    return (
        sample.name,
        _own_label(sample.labels, worker),
        float(sample.value),
        None if sample.timestamp is None else float(sample.timestamp),
    )


def _head(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(
        [f'{label}="{_escaped(labels[label])}"' for label in sorted(labels)]
    )
    return f"{name}{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    # A short cut for nearly all values, which are counts.
    if type(value) is int and -1_000_000 < value < 1_000_000:
        return f"{value}.0"
    return floatToGoString(value)  # type: ignore[no-any-return, no-untyped-call]
