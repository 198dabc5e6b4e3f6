"""A histogram of seconds that costs little. Needs the extra ``prometheus``.

The library's own has a lock and looks through all buckets: it costs a job more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily

__all__ = ("Times",)


class Times:
    """Counts seconds in buckets.

    Args:
        buckets: their upper bounds, in seconds; one for what is beyond comes by itself.
    """

    __slots__ = ("_buckets", "_counts", "_sum")

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count it."""
        self._counts[bisect_left(self._buckets, seconds)] += 1
        self._sum += seconds

    def show(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Add the buckets to the metric. May run in another thread."""
        bounds = (*map(str, self._buckets), "+Inf")
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum)
