"""Overview: what the first page shows, by the filters and page numbers of its address."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.states import SUCCEEDED

from . import charts
from .history import PERIOD, History
from .record import Record, cut
from .words import STATES, ago, duration, frames_of, state_word, where

__all__ = ("OUTCOMES", "Query", "Row", "Table", "names", "overview")

# Rows on one page of a table.
PAGE: Final = 25
# How many active and pending jobs are looked at, the oldest first. That a page is quick
# must not depend on how many there are.
LOOKED_AT: Final = 1000
MOST_NAMES: Final = 100

OUTCOMES: Final = {
    state.name.lower(): word for state, word in STATES.items() if state >= SUCCEEDED
}


@dataclass(frozen=True, slots=True)
class Query:
    """What the visitor wants to see; every part of it is in the address."""

    search: str = ""
    name: str = ""
    outcome: str = ""
    active: int = 1
    pending: int = 1
    recent: int = 1

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Query:
        """Read it from an address. What makes no sense there is left out."""
        outcome = fields.get("outcome", "")
        return cls(
            cut(fields.get("search", "").strip()),
            fields.get("name", ""),
            outcome if outcome in OUTCOMES else "",
            *(_page(fields.get(table, "")) for table in ("active", "pending", "recent")),
        )

    def with_page(self, table: str, page: int) -> str:
        """Write the address of another page of one table."""
        return self._write({table: page})

    def with_name(self, name: str) -> str:
        """Write the address that shows only the jobs of this name."""
        return self._write({"name": name, "active": 1, "pending": 1, "recent": 1})

    def __str__(self) -> str:
        return self._write({})

    def _write(self, changes: Mapping[str, str | int]) -> str:
        other: Any = replace(self, **changes)  # type: ignore[arg-type]
        fields = {field: getattr(other, field) for field in self.__slots__}
        return "?" + urlencode({k: v for k, v in fields.items() if v not in ("", 1)})

    @property
    def filters(self) -> bool:
        """Does it leave out any job?"""
        return bool(self.search or self.name or self.outcome)

    def takes(self, job: Job[Any] | Record) -> bool:
        """Has this job the name, and is it, or one of its words, searched for?"""
        if self.name and self.name not in (job.coro_name, job.label):
            return False
        if not self.search or self.search == str(job.id):
            return True
        words = [job.label, job.coro_name, job.origin or ""]
        if isinstance(job, Record):
            words.append(job.error)
        return self.search.casefold() in "\n".join(words).casefold()

    def takes_end(self, record: Record) -> bool:
        """Has this job, which is over, the outcome, and what :meth:`takes` looks at?"""
        if self.outcome and record.state.name.lower() != self.outcome:
            return False
        return self.takes(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job in a table; what its table does not show is empty."""

    id: int
    label: str
    coro_name: str
    origin: str
    state: str = ""
    kind: str = ""
    place: int = 0
    age: str = ""
    time: str = ""
    where: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One page of a table."""

    rows: Sequence[Row]
    page: int
    pages: int
    #: How many rows there are on all pages, and how many jobs were not looked at.
    count: int
    beyond: int


def overview(scheduler: Scheduler, history: History, query: Query) -> dict[str, Any]:
    """Return what the live part of the page shows just now."""
    now = time.monotonic()
    points = history.points
    last_minute = points[-60 // PERIOD :]
    active = scheduler.active_jobs(LOOKED_AT)
    pending = scheduler.pending_jobs(LOOKED_AT)
    every = not query.filters  # then there is no need to look at them one by one
    return {
        "now": scheduler.statistics(),
        "rate": sum(point.closed for point in last_minute) / 60,
        "throughput": charts.throughput(points),
        "run_times": charts.run_times(points),
        "query": query,
        "active": _table(
            [job for job in active if every or query.takes(job)],
            lambda job: _active_row(job, now),
            query.active,
            scheduler.active_count - len(active),
        ),
        "pending": _table(
            [row for row in enumerate(pending, 1) if every or query.takes(row[1])],
            lambda item: _pending_row(item[0], item[1], now),
            query.pending,
            scheduler.pending_count - len(pending),
        ),
        "recent": _table(
            [end for end in history.records() if every or query.takes_end(end)],
            lambda record: _recent_row(record, now),
            query.recent,
            0,
        ),
    }


def names(scheduler: Scheduler, history: History) -> list[str]:
    """Return the names of coroutines to choose from."""
    jobs: Iterable[Job[Any] | Record] = (
        *scheduler.active_jobs(LOOKED_AT),
        *scheduler.pending_jobs(LOOKED_AT),
        *history.records(),
    )
    return sorted(islice(dict.fromkeys(job.coro_name for job in jobs), MOST_NAMES))


def _table(
    items: Sequence[Any], row: Callable[[Any], Row], page: int, beyond: int
) -> Table:
    pages = max(1, -(-len(items) // PAGE))
    page = min(page, pages)
    shown = items[(page - 1) * PAGE : page * PAGE]
    return Table([row(item) for item in shown], page, pages, len(items), beyond)


def _words(job: Job[Any] | Record) -> dict[str, Any]:
    return {
        "id": job.id,
        "label": cut(job.label),
        "coro_name": cut(job.coro_name),
        "origin": cut(job.origin or ""),
    }


def _active_row(job: Job[Any], now: float) -> Row:
    return Row(
        **_words(job),
        state=STATES[job.state],
        age=duration(now - (job.started_at or now)),
        where=where(frames_of(job.stack())),
    )


def _pending_row(place: int, job: Job[Any], now: float) -> Row:
    return Row(**_words(job), place=place, age=duration(now - (job.spawned_at or now)))


def _recent_row(record: Record, now: float) -> Row:
    started = record.started_at
    return Row(
        **_words(record),
        state=state_word(record.state, started),
        kind=record.state.name.lower(),
        age=ago(now - record.closed_at),
        time=duration(None if started is None else record.closed_at - started),
        error=cut(record.error, 300),
    )


def _page(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 9 else 1
