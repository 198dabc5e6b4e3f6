"""A histogram of seconds that costs little. Needs the extra ``prometheus``.

The library's own has a lock and looks through all buckets, so it costs each job more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily

from .prometheus_lines import Series

__all__ = ("Times",)


class Times:
    """Counts seconds in buckets.

    Args:
        buckets: their upper bounds, in seconds; a bucket for the rest is added.
    """

    __slots__ = ("_buckets", "_counts", "_sum")

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._buckets, seconds)] += 1
        self._sum += seconds

    def series(self, name: str, labels: dict[str, str]) -> Series:
        """Return its series under this name, with these labels.

        The series shows the counts of the moment, and may be read in another thread.
        """
        return Series(
            [
                *((f"{name}_bucket", {**labels, "le": le}) for le in self._bounds()),
                (f"{name}_count", labels),
                (f"{name}_sum", labels),
            ],
            self._values,
        )

    def _bounds(self) -> tuple[str, ...]:
        return (*map(str, self._buckets), "+Inf")

    def _values(self) -> list[float]:
        counts: list[float] = [*accumulate(self._counts)]
        return [*counts, counts[-1], self._sum]

    def show(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Add the buckets to the metric. May run in another thread."""
        buckets = list(zip(self._bounds(), accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum)
