"""Rows: a job as a row of a table, and the process that tells."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Final

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.stack import places_of

from . import data
from .history import History
from .places import where
from .process import address_of, process_name
from .record import MOST_FRAMES, Record, cut

__all__ = ("Clock", "job_row", "process", "record_row")


class Clock:
    """One moment, and how to tell others in seconds since 1970."""

    def __init__(self) -> None:
        #: The moment by time.monotonic() and by time.time().
        self.now = time.monotonic()
        self._offset = _offset(time.time() - self.now)
        self.at = self.wall(self.now)

    def wall(self, moment: float) -> float:
        """A moment of time.monotonic() in seconds since 1970."""
        return round(moment + self._offset, 3)

    def wall_or_none(self, moment: float | None) -> float | None:
        """Likewise, of one that may be missing."""
        return None if moment is None else self.wall(moment)


# What was added last: a job must not seem to begin a little earlier each time it is told,
# or rows would change their places. It follows when the clock was set.
_offsets: Final = [0.0]


def _offset(just_now: float) -> float:
    if abs(just_now - _offsets[0]) > 0.01:
        _offsets[0] = just_now
    return _offsets[0]


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
        "worker": None,
    }
