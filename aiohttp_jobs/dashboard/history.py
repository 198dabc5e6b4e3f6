"""History: the observer that remembers the last jobs, and figures of the last minutes."""

from __future__ import annotations

import functools
import json
import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat, starmap, takewhile
from operator import itemgetter
from typing import Any, Final, NamedTuple

from aiohttp_jobs.core.failures import inside_of, type_name_of
from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.stack import places_of
from aiohttp_jobs.core.states import CANCELLED, HUNG_UP, LET_GO, SUCCEEDED
from aiohttp_jobs.core.statistics import Statistics

from . import data
from .kinds import Kinds, Raw
from .places import where
from .record import (
    MOST_FRAMES,
    MOST_LETTERS,
    Raised,
    Record,
    cut,
    error_line,
    raised_by,
)
from .tallies import Tallies, percentiles

__all__ = (
    "PERIOD",
    "POINTS",
    "History",
    "Period",
    "read_periods",
    "times_in",
    "until_next",
)

# How many ends to remember. Failures have a ring of their own, or a busy second would
# push them out; in addition, the last ones of each kind are kept.
MOST_ENDS: Final = 1000
MOST_FAILURES: Final = 200
# How many jobs are noted before they are counted, which is cheaper for many at once.
MOST_FRESH: Final = 500

# Seconds that one point of the charts stands for, and how many of them there are.
PERIOD: Final = 5
POINTS: Final = 60

_closed_at: Final = itemgetter(Record._fields.index("closed_at"))


class Period(NamedTuple):
    """A point, and what is needed to put it together with another process's."""

    #: The same for all processes.
    number: int
    point: data.Point
    #: How long the jobs ran that ended in it: powers of _STEP, and how many jobs ran so
    #: long. One process may have a thousand in each period.
    times: list[tuple[int, int]]

    def __hash__(self) -> int:
        # Only periods of one number are then compared: quickly, as each is read once.
        return hash(self.number)


_STEP: Final = 2 ** (1 / 16)  # so a time is right by 2 %


def _counted(times: Iterable[float]) -> list[tuple[int, int]]:
    by_power = Counter(round(math.log(max(time, 1e-6), _STEP)) for time in times)
    return sorted(by_power.items())


def times_in(counted: Iterable[Iterable[tuple[int, int]]]) -> Iterator[float]:
    """Yield the run times of several periods."""
    for times in counted:
        for power, count in times:
            yield from repeat(_STEP**power, count)


@functools.lru_cache(maxsize=64)  # each process's text stays the same for some seconds
def read_periods(text: str) -> list[Period]:
    """Read what :meth:`History.written` has written.

    Raises:
        TypeError, ValueError: it has not.
    """
    return [*map(_read_period, text.splitlines())]


@functools.lru_cache(maxsize=2000)  # all but one are as before
def _read_period(line: str) -> Period:
    return Period(*json.loads(line))


def until_next(now: float) -> float:
    """Return the seconds from this moment, by time.time(), to the end of the period."""
    return PERIOD - now % PERIOD


class History:
    """Remembers the last jobs that have ended; its size is bounded.

    Args:
        scheduler: the scheduler whose jobs it is told about from now on.
    """

    #: For the core, see ``core.observers``.
    needs_context = False

    def __init__(self, scheduler: Scheduler) -> None:
        self._ends: deque[Raw] = deque(maxlen=MOST_ENDS)
        self._failures: deque[Raw] = deque(maxlen=MOST_FAILURES)
        self._kinds = Kinds()
        # All failures in order; None if there are new ones.
        self._kept: list[Raw] | None = None
        self._tallies = Tallies()
        self._tallies.add_spawned(job.coro_name for job in scheduler)
        # What has happened but is not counted yet: names of spawned jobs, and ends.
        self._fresh_names: list[str] = []
        self._fresh_ends: list[Raw] = []
        self._periods: deque[Period] = deque(maxlen=POINTS)
        self._written: str | None = None
        self._begin = self._before = scheduler.statistics()
        self._measured_at = 0.0
        #: Since when totals are counted, and since when the application runs, by
        #: time.monotonic().
        self.counted_since = self.up_since = time.monotonic()

    def job_spawned(self, job: Job[Any]) -> None:
        """Note its name. Called for every job: attributes are read without detours."""
        coro: Any = job.coro
        try:
            self._fresh_names.append(coro.__qualname__)
        except AttributeError:  # another kind of coroutine
            self._fresh_names.append(job.coro_name)
        if len(self._fresh_names) >= MOST_FRESH:
            self._count()

    def job_closed(self, job: Job[Any]) -> None:
        """Remember the job. Called for every job, too."""
        state, name, origin, coro = job.state, job.name, job.origin, job.coro
        try:
            coro_name: str = coro.__qualname__  # type: ignore[attr-defined]
        except AttributeError:
            coro_name = job.coro_name
        if name is not None and len(name) > MOST_LETTERS:
            name = cut(name)
        if origin is not None and len(origin) > MOST_LETTERS:
            origin = cut(origin)
        raw: Raw = (
            job.id,
            state,
            name,
            coro_name,
            origin,
            job.spawned_at,
            job.started_at,
            job.closed_at,
        )
        if state is SUCCEEDED or state is CANCELLED or state is HUNG_UP:
            fresh = self._fresh_ends
            fresh.append(raw)
            if len(fresh) >= MOST_FRESH:
                self._count()
        elif state is LET_GO:
            stack = places_of(coro, MOST_FRAMES)  # the job goes on there, unwatched
            place = where(stack)
            raw = (*raw, f"still at {place}", (), tuple(stack))
            self._add_failure(raw, "let go", place)
        else:
            error = job.exception()
            raised = raised_by(error)
            raw = (*raw, error_line(error), raised, ())
            self._add_failure(raw, _type_of(error), _place_of(raised, coro_name))

    def _add_failure(self, raw: Raw, type_name: str, place: str) -> None:
        self._kept = None
        self._failures.append(raw)
        self._tallies.add_failed(raw)
        self._kinds.add(cut(type_name), place, raw[7], raw)

    def _count(self) -> None:
        """Count what is fresh; called before anything is read."""
        if self._fresh_names:
            self._tallies.add_spawned(self._fresh_names)
            self._fresh_names.clear()
        if self._fresh_ends:
            self._tallies.add_ended(self._fresh_ends)
            self._ends.extend(self._fresh_ends)
            self._fresh_ends.clear()

    def measure(self, now: Statistics) -> None:
        """Add the point of the period that has ended."""
        before, self._before = self._before, now
        last = self._measured_at
        ends = list(takewhile(lambda end: end.closed_at > last, self.records()))
        if ends:
            self._measured_at = ends[0].closed_at
        times = [
            end.closed_at - end.started_at for end in ends if end.started_at is not None
        ]
        p50, p90 = percentiles(times)
        point: data.Point = {
            "succeeded": now.succeeded - before.succeeded,
            "failed": now.failed - before.failed + now.let_go - before.let_go,
            "cancelled": now.cancelled - before.cancelled,
            "hung_up": now.hung_up - before.hung_up,
            "p50": p50,
            "p90": p90,
            "pending": now.pending,
            "waited": now.longest_waiting,
        }
        # A timer may be a little early or late: of two in one period, one is the next.
        number = round(time.time() / PERIOD)
        if self._periods:
            number = max(number, self._periods[-1].number + 1)
        self._written = None
        self._periods.append(Period(number, point, _counted(times)))

    @property
    def begin(self) -> Statistics:
        """The scheduler's figures when counting began."""
        return self._begin

    @property
    def points(self) -> list[data.Point]:
        """The last minutes, the latest period last."""
        return [period.point for period in self._periods]

    def written(self) -> str:
        """Return the periods as text, to be put together with those of other processes.

        It is written once for each period, and not at each look.
        """
        if self._written is None:
            self._written = "\n".join(map(json.dumps, self._periods))
        return self._written

    @property
    def kinds(self) -> Kinds:
        """The failures, by kind."""
        return self._kinds

    @property
    def tallies(self) -> Tallies:
        """The jobs, by coroutine function."""
        self._count()
        return self._tallies

    def ends(self) -> list[Raw]:
        """Return what is remembered, the latest end first; as records it takes longer."""
        self._count()
        return sorted(chain(self._ends, self._failed()), key=_closed_at, reverse=True)

    def latest(self, count: int) -> list[Raw]:
        """Return the first `count` of these; quicker, as not all are looked at."""
        self._count()
        some = [*islice(reversed(self._ends), count), *self._failed()[:count]]
        some.sort(key=_closed_at, reverse=True)
        return some[:count]

    @property
    def end_count(self) -> int:
        """How many are remembered."""
        self._count()
        return len(self._ends) + len(self._failed())

    def _failed(self) -> list[Raw]:
        """Return the jobs that have failed, the latest first."""
        if self._kept is None:
            kept = {raw[0]: raw for raw in chain(self._kinds.kept(), self._failures)}
            self._kept = sorted(kept.values(), key=_closed_at, reverse=True)
        return self._kept

    def records(self) -> Iterator[Record]:
        """Yield what is remembered, the latest end first."""
        return starmap(Record, self.ends())

    def find(self, job_id: int) -> Record | None:
        """Return the record of this job, if it is remembered."""
        return next((r for r in self.records() if r.id == job_id), None)


def _type_of(error: BaseException | None) -> str:
    """Return its class; for a group, also that of the first exception inside."""
    if error is None:
        return ""
    name = type_name_of(error)
    inner = _first_of(error)
    return name if inner is error else f"{name} of {type_name_of(inner)}"


def _first_of(error: BaseException) -> BaseException:
    for _ in range(10):  # a group may contain itself
        inside = inside_of(error)
        if not inside:
            break
        error = inside[0]
    return error


def _place_of(raised: tuple[Raised, ...], coro_name: str) -> str:
    """Return where it was raised, or the first one inside a group; else the coroutine."""
    told = [each for each in raised if each.frames]
    is_group = any(each.link.startswith("This was in") for each in raised)
    if is_group and told:
        return where(told[0].frames)
    return where(told[-1].frames) if told and raised[-1].frames else coro_name
