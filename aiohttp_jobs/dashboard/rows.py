"""Rows: a job as a row of a table, and the process that it is in."""

from __future__ import annotations

import functools
import os
import socket
import time
from typing import Any, Final

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.stack import places_of

from . import data
from .history import History
from .kinds import Raw
from .places import where
from .process import address_of, process_name
from .record import MOST_FRAMES, Record, cut

__all__ = ("Clock", "Rows", "job_row", "process", "record_row")

# How many rows to keep, of jobs that are over and of others each.
MOST_ROWS: Final = 2000


class Clock:
    """One moment, and how to express others in seconds since 1970."""

    def __init__(self) -> None:
        #: The moment by time.monotonic().
        self.now = time.monotonic()
        #: What to add for the same by time.time().
        self.offset = _offset(time.time() - self.now)
        self.at = self.wall(self.now)

    def wall(self, moment: float) -> float:
        """Return a moment of time.monotonic() in seconds since 1970."""
        return round(moment + self.offset, 3)

    def wall_or_none(self, moment: float | None) -> float | None:
        """Return the same for a moment that may be missing."""
        return None if moment is None else self.wall(moment)


# The last offset: a job must not seem to begin a little earlier each time it is told, or
# rows would change their places. It follows when the clock has been set.
_offsets: Final = [0.0]


def _offset(just_now: float) -> float:
    if abs(just_now - _offsets[0]) > 0.01:
        _offsets[0] = just_now
    return _offsets[0]


def process(scheduler: Scheduler, history: History, clock: Clock) -> data.Process:
    """Return this process, as the pages show it."""
    return {
        "name": process_name(),
        "host": _host(),
        "pid": os.getpid(),
        "up_since": clock.wall(history.up_since),
        "counted_since": clock.wall(history.counted_since),
        "scheduler": scheduler.state.name.lower(),
        "held": scheduler.held,
    }


@functools.cache
def _host() -> str:
    return cut(socket.gethostname())


def job_row(job: Job[Any], clock: Clock, place: int | None = None) -> data.Job:
    """Return the row of a job that is not over."""
    row = _row(job, clock)
    row["place"] = place
    if job.active:
        row["where"] = _where(job)
    return row


def _where(job: Job[Any]) -> str:
    return cut(where(places_of(job.coro, MOST_FRAMES)))


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
        "worker": None,
    }


class Rows:
    """Rows that are shown each second: one that stays the same is made once.

    They are shared, so nobody may change them.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._offset = 0.0
        # By the numbers of jobs that are not over, and of those that are.
        self._of_jobs: dict[int, tuple[object, data.Job]] = {}
        self._of_records: dict[int, data.Job] = {}

    def begin(self, number: int | None, clock: Clock) -> None:
        """Begin a snapshot.

        Args:
            number: that of the worker whose jobs they are; None if there is only one.
        """
        if (self._number, self._offset) != (number, clock.offset):
            self._number, self._offset = number, clock.offset
            self._of_jobs.clear()
            self._of_records.clear()
        for kept in (self._of_jobs, self._of_records):
            if len(kept) > MOST_ROWS:
                kept.clear()

    def of_job(self, job: Job[Any], clock: Clock, place: int | None = None) -> data.Job:
        """As :func:`job_row`."""
        where = _where(job) if job.active else ""
        now = job.state, job.name, where, place
        before, row = self._of_jobs.get(job.id, (None, None))
        if row is None or before != now:
            row = job_row(job, clock, place)
            row["worker"] = self._number
            self._of_jobs[job.id] = now, row
        return row

    def of_end(self, raw: Raw, clock: Clock) -> data.Job:
        """As :func:`record_row`, for the fields of a record."""
        row = self._of_records.get(raw[0])
        if row is None:
            row = record_row(Record(*raw), clock)
            row["worker"] = self._number
            self._of_records[raw[0]] = row
        return row
