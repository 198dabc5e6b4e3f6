"""Samples, taken in turns, and their ratios."""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ("Samples", "Spread", "make_runner", "take")


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Samples:
    """What each variant measured, round by round."""

    by_variant: Mapping[str, list[float]]

    def median(self, variant: str) -> float:
        return statistics.median(self.by_variant[variant])

    def ratio(self, variant: str, base: str) -> Spread:
        """Return the ratio of `variant` to `base`, each in the same round."""
        pairs = zip(self.by_variant[variant], self.by_variant[base], strict=True)
        return Spread.of([mine / other for mine, other in pairs])


def take(
    variants: Mapping[str, Callable[[], float]],
    rounds: int,
    before: Callable[[], object] = gc.collect,
) -> Samples:
    """Call all variants in each round, every round starting with the next one.

    Args:
        variants: functions that take one sample and return it, by name.
        rounds: how many samples of each. A warm-up round comes first and is dropped.
        before: called before each sample.
    """
    names = list(variants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            before()
            sample = variants[name]()
            if number:
                samples[name].append(sample)
    return Samples(samples)


def make_runner(*, uvloop: bool) -> asyncio.Runner:
    """Return a runner for the variants, with plain asyncio or with uvloop."""
    if not uvloop:
        return asyncio.Runner()
    from uvloop import new_event_loop

    return asyncio.Runner(loop_factory=new_event_loop)
