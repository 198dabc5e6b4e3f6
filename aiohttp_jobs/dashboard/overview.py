"""Overview: what the first page shows, by the filters and page numbers of its address."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.stack import places_of

from . import data
from .history import PERIOD, History
from .kinds import Kind
from .places import where
from .process import address_of, process_name
from .query import Query
from .record import MOST_FRAMES, Record, cut
from .tallies import OTHERS, Tally

__all__ = ("Clock", "job_row", "overview", "process", "record_row")

# Rows on one page of a table.
PAGE: Final = 25
# How many active and pending jobs are looked at, the oldest first. That a page is quick
# must not depend on how many there are.
LOOKED_AT: Final = 1000
# How many coroutines, and kinds of failures, are shown unless all are wanted.
FEW: Final = 8
FEW_KINDS: Final = 5

T = TypeVar("T")


class Clock:
    """One moment, and how to tell others in seconds since 1970."""

    def __init__(self) -> None:
        #: The moment by time.monotonic() and by time.time().
        self.now = time.monotonic()
        self.at = round(time.time(), 3)
        self._offset = self.at - self.now

    def wall(self, moment: float) -> float:
        """A moment of time.monotonic() in seconds since 1970."""
        return round(moment + self._offset, 3)

    def wall_or_none(self, moment: float | None) -> float | None:
        """Likewise, of one that may be missing."""
        return None if moment is None else self.wall(moment)


def overview(scheduler: Scheduler, history: History, query: Query) -> data.Overview:
    """Return what the first page shows just now."""
    clock = Clock()
    active = scheduler.active_jobs(LOOKED_AT)
    pending = scheduler.pending_jobs(LOOKED_AT)
    every = not query.filters  # then there is no need to look at them one by one
    points = history.points
    ends = [r for r in history.records() if every or query.takes_end(r, clock.now)]
    return {
        "version": data.VERSION,
        "at": clock.at,
        "process": process(scheduler, history, clock),
        "now": _figures(scheduler, history, points),
        "period": PERIOD,
        "points": points,
        "failures": _failures(history, query, clock),
        "coroutines": _coroutines(scheduler, history, clock, query),
        "coroutines_total": sum(1 for _ in history.tallies),
        "active": _table(
            [job for job in active if every or query.takes(job)],
            lambda job: job_row(job, clock),
            query.active,
            scheduler.active_count,
        ),
        "pending": _table(
            [item for item in enumerate(pending, 1) if every or query.takes(item[1])],
            lambda item: job_row(item[1], clock, item[0]),
            query.pending,
            scheduler.pending_count,
        ),
        "recent": _table(
            sorted(ends, key=_ORDERS[query.sort]) if query.sort else ends,
            lambda record: record_row(record, clock),
            query.recent,
            len(ends),
        ),
    }


def process(scheduler: Scheduler, history: History, clock: Clock) -> data.Process:
    """Return who tells."""
    return {
        "name": process_name(),
        "host": cut(socket.gethostname()),
        "pid": os.getpid(),
        "up_since": clock.wall(history.up_since),
        "counted_since": clock.wall(history.counted_since),
        "scheduler": scheduler.state.name.lower(),
        "held": scheduler.held,
    }


def job_row(job: Job[Any], clock: Clock, place: int | None = None) -> data.Job:
    """Return the row of a job that is not over."""
    row = _row(job, clock)
    row["place"] = place
    if job.active:
        row["where"] = cut(where(places_of(job.coro, MOST_FRAMES)))
    return row


def record_row(record: Record, clock: Clock) -> data.Job:
    """Return the row of a job that is over."""
    row = _row(record, clock)
    row["error"] = cut(record.error, 300)
    return row


def _row(job: Job[Any] | Record, clock: Clock) -> data.Job:
    state: Any = job.state.name.lower()
    return {
        "id": job.id,
        "address": address_of(job.id),
        "label": cut(job.label),
        "coro": cut(job.coro_name),
        "origin": cut(job.origin or ""),
        "state": state,
        "spawned": clock.wall_or_none(job.spawned_at),
        "started": clock.wall_or_none(job.started_at),
        "ended": clock.wall_or_none(job.closed_at),
        "place": None,
        "where": "",
        "error": "",
    }


def _figures(
    scheduler: Scheduler, history: History, points: Sequence[data.Point]
) -> data.Figures:
    now, begin = scheduler.statistics(), history.begin
    last_minute = points[-60 // PERIOD :]
    let_go = now.let_go - begin.let_go
    return {
        "active": now.active,
        "slots_taken": now.slots_taken,
        "limit": now.limit,
        "longest_running": now.longest_running,
        "pending": now.pending,
        "pending_limit": now.pending_limit or None,
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
    """How many ended in the period of this point."""
    return point["succeeded"] + point["failed"] + point["cancelled"] + point["hung_up"]


def _failures(history: History, query: Query, clock: Clock) -> data.Failures:
    kinds = [kind for kind in history.kinds if _takes_kind(query, kind, clock.now)]
    return {
        "kinds": [_kind(kind, clock) for kind in _few(kinds, query.failures)],
        "total": len(kinds),
        "forgotten": history.kinds.forgotten,
    }


def _few(kinds: list[Kind], wanted: str) -> list[Kind]:
    """All, or those that came last; in an order that stands still while they come."""
    few = kinds if wanted == "all" else kinds[:FEW_KINDS]
    return sorted(few, key=lambda kind: kind.first_at, reverse=True)


def _takes_kind(query: Query, kind: Kind, now: float) -> bool:
    query = Query(query.search, query.name, since=query.since)
    return not query.filters or any(
        query.takes_end(Record(*raw), now) for raw in kind.latest
    )


def _kind(kind: Kind, clock: Clock) -> data.Kind:
    return {
        "id": address_of(kind.number),
        "type": kind.type_name,
        "place": cut(kind.place),
        "count": kind.count,
        "first": clock.wall(kind.first_at),
        "last": clock.wall(kind.last_at),
        "latest": [record_row(Record(*raw), clock) for raw in reversed(kind.latest)],
    }


def _coroutines(
    scheduler: Scheduler, history: History, clock: Clock, query: Query
) -> list[data.Coroutine]:
    """Return them by name; unless all are wanted, those of which most is to be said."""
    known = dict(history.tallies)
    # Counted are all that were spawned and all that have ended; who runs is looked up.
    active = Counter(
        name if name in known else OTHERS
        for name in (job.coro_name for job in scheduler.active_jobs(LOOKED_AT))
    )
    rows = [_coroutine(name, tally, active[name], clock) for name, tally in known.items()]
    if query.coroutines != "all" and len(rows) > FEW:
        rows.sort(
            key=lambda row: (
                row["coro"] == query.name,
                row["failed"] > 0,
                row["active"] + row["pending"],
                row["ended"],
            )
        )
        rows = sorted(rows[-FEW:], key=lambda row: row["coro"])
    return rows


def _coroutine(name: str, tally: Tally, active: int, clock: Clock) -> data.Coroutine:
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
    }


def _table(
    items: Sequence[T], row: Callable[[T], data.Job], page: int, total: int
) -> data.Table:
    pages = max(1, -(-len(items) // PAGE))
    page = min(page, pages)
    shown = items[(page - 1) * PAGE : page * PAGE]
    return {
        "rows": [row(item) for item in shown],
        "page": page,
        "pages": pages,
        "count": len(items),
        "total": total,
    }


def _ran(record: Record) -> float:
    return 0.0 if record.started_at is None else record.started_at - record.closed_at


def _waited(record: Record) -> float:
    return record.spawned_at - (record.started_at or record.closed_at)


_ORDERS: Final = {"ran": _ran, "waited": _waited}
