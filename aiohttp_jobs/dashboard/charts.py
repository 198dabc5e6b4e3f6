"""Charts: the figures of the last minutes as bars of an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .history import PERIOD, Point
from .words import duration

__all__ = ("Bar", "Chart", "run_times", "throughput")

# A bar is as wide as a period is long, so the chart is as wide as it has seconds.
HEIGHT: Final = 60
GAP: Final = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of the drawing."""

    kind: str
    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and what it says in words, for those who do not see it."""

    bars: tuple[Bar, ...]
    width: int
    top: str  # what a bar of full height means
    says: str
    height: int = HEIGHT
    bar_width: int = PERIOD - GAP


def throughput(points: Sequence[Point]) -> Chart:
    """Ends per second, each period's outcomes on top of each other."""
    most = max((point.closed for point in points), default=0)
    top = _round_up(most / PERIOD)
    bars: list[Bar] = []
    for number, point in enumerate(points):
        y = float(HEIGHT)
        for kind in ("failed", "cancelled", "hung_up", "succeeded"):
            count: int = getattr(point, kind)
            if count:
                height = max(1.0, round(count / PERIOD / top * HEIGHT, 1))
                y -= height
                bars.append(Bar(kind, number * PERIOD, round(max(y, 0), 1), height))
    total = sum(point.closed for point in points)
    failed = sum(point.failed for point in points)
    says = f"{total:,} ended, {failed:,} failed, at most {most / PERIOD:,.1f}/s"
    return Chart(tuple(bars), len(points) * PERIOD, f"{top:,.10g}/s", says)


def run_times(points: Sequence[Point]) -> Chart:
    """How long jobs ran: the median before the slowest tenth."""
    slowest = max((point.slowest_tenth or 0 for point in points), default=0)
    top = _round_up(slowest)
    bars: list[Bar] = []
    for number, point in enumerate(points):
        for kind, value in (("slowest", point.slowest_tenth), ("median", point.median)):
            if value is not None:
                height = max(1.0, round(value / top * HEIGHT, 1))
                bars.append(Bar(kind, number * PERIOD, round(HEIGHT - height, 1), height))
    last = next((point for point in reversed(points) if point.median is not None), None)
    if last is None:
        says = "none ended"
    else:
        median, slow = duration(last.median), duration(last.slowest_tenth)
        says = f"latest median {median}, slowest tenth from {slow}"
    return Chart(tuple(bars), len(points) * PERIOD, duration(top), says)


def _round_up(value: float) -> float:
    """The next of …, 0.1, 0.2, 0.5, 1, 2, 5, 10, …: a scale that seldom changes."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    step = next((s for s in (1, 2, 5) if value <= s * power * 1.0001), 10)
    return float(step * power)
