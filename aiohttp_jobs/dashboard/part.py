"""Part: what one process contributes to the first page.

It is made so that the parts of several processes can be put together, see ``overview``:
run times are sent and not their median, and periods of the charts say which they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, TypedDict, TypeVar

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler

from . import data
from .history import PERIOD, History
from .kinds import Kind, Raw
from .process import address_of
from .query import Query
from .record import Record, cut
from .rows import Clock, Rows, process
from .tallies import OTHERS, Tally

__all__ = (
    "FEW_KINDS",
    "LOOKED_AT",
    "ORDERS",
    "PAGE",
    "Coroutine",
    "KindPart",
    "Look",
    "Part",
    "Table",
    "ended_in",
    "look",
    "part",
)

# Rows on one page of a table.
PAGE: Final = 25
# How many active and pending jobs to look at, the oldest first: so a page is quick,
# however many there are.
LOOKED_AT: Final = 1000
# How many kinds of failures to show unless all are wanted, and for how many to send the
# last jobs: a kind that is old here may be new elsewhere.
FEW_KINDS: Final = 5
SENT_KINDS: Final = 20

T = TypeVar("T")


class Coroutine(data.Coroutine):
    """With its last run times as well, see :func:`.tallies.percentiles_of`."""

    times: str


class Part(TypedDict):
    """What does not depend on what the visitor wants to see."""

    at: float
    process: data.Process
    now: data.Figures
    #: One of the two is empty: points, or the same to be put together with those of
    #: others, see :func:`.history.read_periods`.
    points: list[data.Point]
    periods: str
    coroutines: list[Coroutine]


class KindPart(TypedDict):
    """As :class:`data.Kind`, but without the id."""

    type: str
    place: str
    count: int
    first: float
    last: float
    latest: list[data.Job]


class Table(TypedDict):
    """The rows of a table from number `first` on, up to the page that is wanted."""

    rows: list[data.Job]
    first: int
    count: int
    total: int
    #: How many were not looked at.
    beyond: int


class Look(TypedDict):
    """What does depend on what the visitor wants to see."""

    kinds: list[KindPart]
    forgotten: int
    active: Table
    pending: Table
    recent: Table


def part(scheduler: Scheduler, history: History, clock: Clock, alone: bool) -> Part:
    """Return what this process contributes, whatever the visitor wants to see.

    Args:
        alone: whether this is the only process shown. If so, what is only needed to put
            several together is left out.
    """
    return {
        "at": clock.at,
        "process": process(scheduler, history, clock),
        "now": _figures(scheduler, history, clock),
        "points": history.points if alone else [],
        "periods": "" if alone else history.written(),
        "coroutines": _coroutines(scheduler, history, clock, alone),
    }


def look(
    scheduler: Scheduler,
    history: History,
    clock: Clock,
    query: Query,
    alone: bool,
    rows: Rows | None = None,
) -> Look:
    """Return what this process has of what the visitor wants to see.

    Args:
        rows: the rows that were made before; None to make all of them again.
    """
    every = not query.filters  # then the rows of the page are enough
    made = Rows() if rows is None else rows
    if every and not query.sort:
        ends, count = history.latest(query.recent * PAGE), history.end_count
    else:
        ends = history.ends()
        if not every:
            ends = [end for end in ends if query.takes_end(Record(*end), clock.now)]
        if query.sort:
            ends.sort(key=_END_ORDERS[query.sort])
        count = len(ends)
    kinds = [kind for kind in history.kinds if _takes_kind(query, kind, clock.now)]
    sent = FEW_KINDS if alone else SENT_KINDS
    if query.failures == "all":
        sent = len(kinds)
    return {
        "kinds": [
            _kind(kind, clock, made, number < sent) for number, kind in enumerate(kinds)
        ],
        "forgotten": history.kinds.forgotten,
        "active": _jobs(
            scheduler.active_jobs,
            scheduler.active_count,
            lambda place, job: made.of_job(job, clock),
            query,
            query.active,
            alone,
        ),
        "pending": _jobs(
            scheduler.pending_jobs,
            scheduler.pending_count,
            lambda place, job: made.of_job(job, clock, place),
            query,
            query.pending,
            alone,
        ),
        "recent": _table(
            ends, lambda end: made.of_end(end, clock), query.recent, alone, count
        ),
    }


def _figures(scheduler: Scheduler, history: History, clock: Clock) -> data.Figures:
    now, begin = scheduler.statistics(), history.begin
    last_minute = history.points[-60 // PERIOD :]
    let_go = now.let_go - begin.let_go
    return {
        "active": now.active,
        "slots_taken": now.slots_taken,
        "limit": now.limit,
        "running_since": clock.wall_or_none(now.running_since),
        "longest_running": now.longest_running,
        "pending": now.pending,
        "pending_limit": now.pending_limit or None,
        "waiting_since": clock.wall_or_none(now.waiting_since),
        "longest_waiting": now.longest_waiting,
        "callers_waiting": now.callers_waiting,
        "succeeded": now.succeeded - begin.succeeded,
        "failed": now.failed - begin.failed + let_go,
        "let_go": let_go,
        "cancelled": now.cancelled - begin.cancelled,
        "hung_up": now.hung_up - begin.hung_up,
        "ended": now.closed - begin.closed,
        "rate": sum(map(ended_in, last_minute)) / 60,
    }


def ended_in(point: data.Point) -> int:
    """Return how many jobs ended in the period of this point."""
    return point["succeeded"] + point["failed"] + point["cancelled"] + point["hung_up"]


def _takes_kind(query: Query, kind: Kind, now: float) -> bool:
    if not query.filters:
        return True
    query = Query(query.search, query.name, since=query.since)
    return any(query.takes_end(Record(*raw), now) for raw in kind.latest)


def _kind(kind: Kind, clock: Clock, rows: Rows, with_latest: bool) -> KindPart:
    latest = reversed(kind.latest) if with_latest else ()
    return {
        "type": kind.type_name,
        "place": cut(kind.place),
        "count": kind.count,
        "first": clock.wall(kind.first_at),
        "last": clock.wall(kind.last_at),
        "latest": [rows.of_end(raw, clock) for raw in latest],
    }


def _coroutines(
    scheduler: Scheduler, history: History, clock: Clock, alone: bool
) -> list[Coroutine]:
    known = dict(history.tallies)
    # Spawned and ended jobs are counted; the active ones are looked up.
    active = Counter(map(_coro_name, scheduler.active_jobs(LOOKED_AT)))
    if others := [name for name in active if name not in known]:
        active[OTHERS] += sum(active[name] for name in others)
    return [
        _coroutine(name, tally, active[name], clock, alone)
        for name, tally in known.items()
    ]


def _coroutine(
    name: str, tally: Tally, active: int, clock: Clock, alone: bool
) -> Coroutine:
    p50, p90 = tally.percentiles()
    job_id, last = tally.last_failed or (None, None)
    return {
        "coro": cut(name),
        "active": active,
        "pending": max(0, tally.spawned - tally.ended - active),
        "ended": tally.ended,
        "failed": tally.failed,
        "p50": p50,
        "p90": p90,
        "last_failure": clock.wall_or_none(last),
        "last_failed": None if job_id is None else address_of(job_id),
        "times": "" if alone else tally.written(),
    }


def _jobs(
    first: Callable[[int], list[Job[Any]]],
    total: int,
    row: Callable[[int, Job[Any]], data.Job],
    query: Query,
    page: int,
    alone: bool,
) -> Table:
    """Return the table of jobs that are not over.

    Args:
        first: returns this many of them, the oldest first.
        row: makes a row from a job and its place.
    """
    if query.filters_jobs:
        looked_at = enumerate(first(LOOKED_AT), 1)
        items = [(place, job) for place, job in looked_at if query.takes(job)]
        count = len(items)
    else:  # then the jobs of the page are enough
        items = [*enumerate(first(min(page * PAGE, LOOKED_AT)), 1)]
        count = min(total, LOOKED_AT)
    table = _table(items, lambda item: row(*item), page, alone, count)
    table["total"], table["beyond"] = total, max(0, total - LOOKED_AT)
    return table


def _table(
    items: Sequence[T], row: Callable[[T], data.Job], page: int, alone: bool, count: int
) -> Table:
    """Return the table of some items.

    Args:
        items: the first of the items, up to the page that is wanted.
        count: how many items there are.
    """
    # A page of several processes may consist of the first rows of one of them.
    first = (min(page, max(1, -(-count // PAGE))) - 1) * PAGE if alone else 0
    end = first + PAGE if alone else page * PAGE
    return {
        "rows": [row(item) for item in items[first:end]],
        "first": first,
        "count": count,
        "total": count,
        "beyond": 0,
    }


def _ran(end: Raw) -> float:
    record = Record(*end)
    return 0.0 if record.started_at is None else record.started_at - record.closed_at


def _waited(end: Raw) -> float:
    record = Record(*end)
    return record.spawned_at - (record.started_at or record.closed_at)


def _row_ran(row: Any) -> float:
    return float(0 if row["started"] is None else row["started"] - row["ended"])


def _row_waited(row: Any) -> float:
    return float((row["spawned"] or 0) - (row["started"] or row["ended"]))


_coro_name: Final = attrgetter("coro_name")

_END_ORDERS: Final = {"ran": _ran, "waited": _waited}
# How rows of several processes are sorted.
ORDERS: Final[dict[str, Callable[[Any], float]]] = {
    "active": lambda row: row["started"] or 0.0,
    "pending": lambda row: row["spawned"] or 0.0,
    "": lambda row: -row["ended"],
    "ran": _row_ran,
    "waited": _row_waited,
}
