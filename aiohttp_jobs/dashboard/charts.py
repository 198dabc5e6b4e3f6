"""Charts: the figures of the last minutes as bars and lines of an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from . import data
from .history import PERIOD, POINTS
from .part import ended_in
from .words import count_of, duration

__all__ = ("Bar", "Chart", "backlog", "run_times", "throughput")

# A bar is as wide as its period has seconds, and so is the chart.
HEIGHT: Final = 60
WIDTH: Final = POINTS * PERIOD
GAP: Final = 1

_OUTCOMES: Final = ("failed", "cancelled", "hung_up", "succeeded")
_Percentile = Literal["p50", "p90"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of the drawing."""

    kind: str
    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and what it says in words, for people who cannot see it."""

    bars: tuple[Bar, ...]
    top: str  # what a bar of full height means
    says: str
    line: str = ""  # the points of a line before the bars
    line_top: str = ""  # what its top means
    width: int = WIDTH
    height: int = HEIGHT
    bar_width: int = PERIOD - GAP


def throughput(points: Sequence[data.Point]) -> Chart:
    """Draw ends per second, each period's outcomes stacked."""
    most = max(map(ended_in, points), default=0)
    top = _round_up(most / PERIOD)
    bars: list[Bar] = []
    for x, point in _placed(points):
        y = float(HEIGHT)
        for kind in _OUTCOMES:
            count = point[kind]
            if count:
                height = max(1.0, round(count / PERIOD / top * HEIGHT, 1))
                y -= height
                bars.append(Bar(kind, x, round(max(y, 0), 1), height))
    total = sum(map(ended_in, points))
    failed = sum(point["failed"] for point in points)
    says = f"{total:,} ended, {failed:,} failed, peak {most / PERIOD:,.1f}/s"
    return Chart(tuple(bars), f"{top:,.10g}/s", says)


def run_times(points: Sequence[data.Point]) -> Chart:
    """Draw how long jobs ran: p50 in front of p90."""
    top = _round_up(max((point["p90"] or 0 for point in points), default=0))
    bars: list[Bar] = []
    kinds: tuple[_Percentile, ...] = ("p90", "p50")
    for x, point in _placed(points):
        for kind in kinds:
            value = point[kind]
            if value is not None:
                height = max(1.0, round(value / top * HEIGHT, 1))
                bars.append(Bar(kind, x, round(HEIGHT - height, 1), height))
    last = next((point for point in reversed(points) if point["p50"] is not None), None)
    if last is None:
        says = "none ended"
    else:
        says = f"latest p50 {duration(last['p50'])}, p90 {duration(last['p90'])}"
    return Chart(tuple(bars), duration(top), says)


def backlog(points: Sequence[data.Point], now: int) -> Chart:
    """Draw how many jobs were waiting (bars), and for how long the first one (line).

    Args:
        now: how many are waiting now.
    """
    most = max((point["pending"] for point in points), default=0)
    longest = max((point["waited"] for point in points), default=0.0)
    top, line_top = _round_up(most), _round_up(longest)
    bars: list[Bar] = []
    line: list[str] = []
    for x, point in _placed(points):
        if point["pending"]:
            height = max(1.0, round(point["pending"] / top * HEIGHT, 1))
            bars.append(Bar("pending", x, round(HEIGHT - height, 1), height))
        y = HEIGHT - point["waited"] / line_top * HEIGHT
        line.append(f"{x + PERIOD / 2:g},{round(y, 1):g}")
    says = f"now {now:,} waiting" if now else "nothing waits"
    says += f", peak {most:,}"
    if longest:
        says += f" and {duration(longest)}"
    return Chart(
        tuple(bars),
        count_of(round(top), "job"),
        says,
        " ".join(line) if longest else "",
        duration(line_top) if longest else "",
    )


def _placed(points: Sequence[data.Point]) -> list[tuple[int, data.Point]]:
    """Return each point with its place: the latest is at the right end."""
    first = POINTS - len(points)
    return [((first + number) * PERIOD, point) for number, point in enumerate(points)]


def _round_up(value: float) -> float:
    """Return the next of …, 0.1, 0.2, 0.5, 1, 2, 5, …: a scale that seldom changes."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    step = next((s for s in (1, 2, 5) if value <= s * power * 1.0001), 10)
    return float(step * power)
