"""A histogram of seconds."""

from __future__ import annotations

from prometheus_client.core import HistogramMetricFamily

from aiohttp_jobs.prometheus_times import Times


def test_seconds_are_counted_in_the_buckets_that_they_fit() -> None:
    """Up to and including the bound, as in Prometheus; and beyond the last one."""
    times = Times((0.5, 1.0, 10.0))
    for seconds in (0.1, 0.5, 0.6, 1.5, 60.0):
        times.add(seconds)
    family = HistogramMetricFamily("x_seconds", "", labels=["who"])
    times.show(family, ["me"])
    found = {
        (sample.name, sample.labels.get("le")): sample.value for sample in family.samples
    }
    assert found == {
        ("x_seconds_bucket", "0.5"): 2,
        ("x_seconds_bucket", "1.0"): 3,
        ("x_seconds_bucket", "10.0"): 4,
        ("x_seconds_bucket", "+Inf"): 5,
        ("x_seconds_count", None): 5,
        ("x_seconds_sum", None): 62.7,
    }
