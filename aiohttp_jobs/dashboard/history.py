"""History: the observer that remembers the last jobs, and figures of the last minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, starmap, takewhile
from operator import itemgetter
from typing import Any, Final, TypeAlias

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.stack import stack_of
from aiohttp_jobs.core.states import CANCELLED, HUNG_UP, LET_GO, SUCCEEDED
from aiohttp_jobs.core.statistics import Statistics

from .record import MOST_FRAMES, MOST_LETTERS, Record, cut, error_line, raised_by
from .words import frames_of, where

__all__ = ("History", "Point")

# How many ends are remembered. Failures have a ring of their own, or else a busy second
# would push out the one that somebody is called for at night.
MOST_ENDS: Final = 1000
MOST_FAILURES: Final = 200

# Seconds that one point of the charts stands for, and how many of them there are.
PERIOD: Final = 5
POINTS: Final = 60


@dataclass(frozen=True, slots=True)
class Point:
    """What happened in one period."""

    succeeded: int = 0
    failed: int = 0  # those that were let go, too
    cancelled: int = 0
    hung_up: int = 0
    #: Seconds that jobs ran, of those that ended and are remembered; None without any.
    median: float | None = None
    slowest_tenth: float | None = None

    @property
    def closed(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.hung_up


# The fields of a record, or the first ones: quicker to make, and few are looked at.
_Raw: TypeAlias = tuple[Any, ...]
_closed_at: Final = itemgetter(Record._fields.index("closed_at"))


class History:
    """Remembers the last jobs that have ended; its size is bounded.

    Args:
        statistics: of the scheduler, at the time from which on it is told.
    """

    def __init__(self, statistics: Statistics) -> None:
        self._ends: deque[_Raw] = deque(maxlen=MOST_ENDS)
        self._failures: deque[_Raw] = deque(maxlen=MOST_FAILURES)
        self._keep = self._ends.append  # looked up once, not for every job
        self._points = deque([Point()] * POINTS, maxlen=POINTS)
        self._before = statistics
        self._measured_at = 0.0

    def job_closed(self, job: Job[Any]) -> None:
        """Remember it. Called for every job: attributes are read without detours."""
        state, name = job.state, job.name
        coro: Any = job.coro
        if name is not None and len(name) > MOST_LETTERS:
            name = cut(name)
        try:
            coro_name = coro.__qualname__
        except AttributeError:  # a coroutine of another make
            coro_name = job.coro_name
        raw: _Raw = (
            job.id,
            state,
            name,
            coro_name,
            job.origin,
            job.spawned_at,
            job.started_at,
            job.closed_at,
        )
        if state is SUCCEEDED or state is CANCELLED or state is HUNG_UP:
            self._keep(raw)
        elif state is LET_GO:
            stack = frames_of(stack_of(coro))  # of what it goes on with, unwatched
            innermost = tuple(stack[-MOST_FRAMES:])
            self._failures.append((*raw, f"still at {where(stack)}", (), innermost))
        else:
            error = job.exception()
            self._failures.append((*raw, error_line(error), raised_by(error), ()))

    def measure(self, now: Statistics) -> None:
        """Add the point of the period that is over."""
        before, self._before = self._before, now
        last = self._measured_at
        ends = list(takewhile(lambda end: end.closed_at > last, self.records()))
        if ends:
            self._measured_at = ends[0].closed_at
        times = sorted(
            end.closed_at - end.started_at for end in ends if end.started_at is not None
        )
        self._points.append(
            Point(
                now.succeeded - before.succeeded,
                now.failed - before.failed + now.let_go - before.let_go,
                now.cancelled - before.cancelled,
                now.hung_up - before.hung_up,
                times[len(times) // 2] if times else None,
                times[len(times) * 9 // 10] if times else None,
            )
        )

    @property
    def points(self) -> tuple[Point, ...]:
        """The last minutes, the latest period last."""
        return tuple(self._points)

    def records(self) -> Iterator[Record]:
        """Go over what is remembered, the latest end first."""
        ends = sorted(chain(self._ends, self._failures), key=_closed_at, reverse=True)
        return starmap(Record, ends)

    def find(self, job_id: int) -> Record | None:
        """The record of this job, if it is remembered."""
        return next((r for r in self.records() if r.id == job_id), None)
