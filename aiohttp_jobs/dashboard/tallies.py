"""Tallies: how many jobs of each coroutine function there are, and how long they run."""

from __future__ import annotations

import base64
import functools
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Final

from .kinds import Raw

__all__ = ("OTHERS", "Tallies", "Tally", "percentiles", "percentiles_of")

# How many run times to keep for each coroutine function, and how many functions to tell
# apart; there are more only if they are made on the fly.
MOST_TIMES: Final = 200
MOST_NAMES: Final = 200
OTHERS: Final = "(others)"
# The run time of a job that has not begun.
_DID_NOT: Final = -1.0


class Tally:
    """The jobs of one coroutine function."""

    __slots__ = (
        *("_percentiles", "_times", "_written"),
        *("ended", "failed", "last_failed", "spawned"),
    )

    def __init__(self) -> None:
        self.spawned = 0
        self.ended = 0
        self.failed = 0
        #: The number of the job that failed last, and when by time.monotonic().
        self.last_failed: tuple[int, float] | None = None
        self._times: deque[float] = deque(maxlen=MOST_TIMES)
        # Made from the times on demand; None if there are new ones.
        self._percentiles: tuple[float | None, float | None] | None = None
        self._written: str | None = None

    def add_ended(self, times: list[float]) -> None:
        """Count jobs, given how long each has run; below 0 if it has not run."""
        self.ended += len(times)
        if min(times) < 0:
            times = [seconds for seconds in times if seconds >= 0]
        if times:
            self._times.extend(times)
            self._percentiles = self._written = None

    def percentiles(self) -> tuple[float | None, float | None]:
        """Return p50 and p90 of the last run times."""
        if self._percentiles is None:
            self._percentiles = percentiles(self._times)
        return self._percentiles

    def written(self) -> str:
        """Return the last run times, in order, for :func:`percentiles_of`."""
        if self._written is None:
            # Numbers as they are in memory: workers are on one machine, and JSON is
            # slow.
            times = array("d", sorted(self._times))
            self._written = base64.b64encode(times.tobytes()).decode()
        return self._written


class Tallies:
    """A tally for each coroutine function."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def of(self, name: str) -> Tally:
        """Return a function's tally; that of all others, if there are too many."""
        tally = self._tallies.get(name)
        if tally is None:
            if len(self._tallies) >= MOST_NAMES:
                name = OTHERS
            tally = self._tallies.setdefault(name, Tally())
        return tally

    def add_spawned(self, names: Iterable[str]) -> None:
        """Count the jobs that were accepted."""
        for name, count in Counter(names).items():
            self.of(name).spawned += count

    def add_ended(self, ends: Iterable[Raw]) -> None:
        """Count jobs that have ended without failing."""
        by_name = dict[str, list[float]]()
        for raw in ends:
            ran = raw[7] - raw[6] if raw[6] is not None else _DID_NOT
            try:
                by_name[raw[3]].append(ran)
            except KeyError:
                by_name[raw[3]] = [ran]
        for name, times in by_name.items():
            self.of(name).add_ended(times)

    def add_failed(self, raw: Raw) -> None:
        """Count a job that has failed."""
        self.add_ended((raw,))
        tally = self.of(raw[3])
        tally.failed += 1
        tally.last_failed = raw[0], raw[7]

    def __iter__(self) -> Iterator[tuple[str, Tally]]:
        """Go over them by name."""
        return iter(sorted(self._tallies.items()))


def percentiles(times: Iterable[float]) -> tuple[float | None, float | None]:
    """Return p50 and p90; None if there are no times."""
    inorder = sorted(times)
    if not inorder:
        return None, None
    return inorder[len(inorder) // 2], inorder[len(inorder) * 9 // 10]


@functools.lru_cache(maxsize=200)  # most texts stay the same
def percentiles_of(texts: tuple[str, ...]) -> tuple[float | None, float | None]:
    """Return p50 and p90 of the run times in these texts, one from each process.

    Raises:
        ValueError: a text has no run times in it.
    """
    times = array("d")
    for text in texts:
        times.frombytes(base64.b64decode(text))
    return percentiles(times)
