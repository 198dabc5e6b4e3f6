"""The ledger: what handlers and jobs did, row by row, never changed.

It also stands for the database of an application: a write after it was
closed is logged, and is a fault unless the writer was let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from aiohttp_jobs import JobsError

__all__ = ("ENDS", "Entry", "Event", "Ledger", "read_ledger")

logger: Final = logging.getLogger("storm.ledger")

# Writes have to survive the process but not the machine, so there is no need to wait for
# the disk.
SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL
);
"""


class Event(enum.StrEnum):
    """What can happen to a request, or to a job."""

    BEGAN = "began"
    RETURNED = "returned"
    ANSWERED = "answered"  # by an HTTPException, or what becomes one
    RAISED = "raised"  # the planned exception
    CANCELLED = "cancelled"
    BROKE = "broke"  # raised another exception

    ACCEPTED = "accepted"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"  # its spawn() was cancelled
    SWALLOWED = "swallowed"  # a cancellation; with the seconds that it works on
    RECEIVED = "received"  # its failure, by somebody who waited for it


#: How a handler or a job can end.
ENDS: Final = frozenset(
    (Event.RETURNED, Event.ANSWERED, Event.RAISED, Event.CANCELLED, Event.BROKE)
)


class Entry(NamedTuple):
    """One row."""

    id: int
    subject: str
    event: Event
    detail: str


class Ledger:
    """Writes to the database at `path` at once, with no await in which to lose a row."""

    def __init__(self, path: Path) -> None:
        self._database: sqlite3.Connection | None
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        assert self._database is not None
        self._database.close()
        self._database = None

    def note(self, subject: str, event: Event, detail: str = "") -> None:
        """Record that this happened."""
        if self._database is None:
            extra = {"subject": subject, "event": event}
            logger.error("Too late for the ledger", extra=extra)
            return
        self._database.execute(
            "INSERT INTO events (subject, event, detail) VALUES (?, ?, ?)",
            (subject, event, detail),
        )

    @contextlib.contextmanager
    def span(self, subject: str, detail: str = "") -> Iterator[None]:
        """Record when the block begins, and how it ends."""
        self.note(subject, Event.BEGAN, detail)
        try:
            yield
        except asyncio.CancelledError:
            self.note(subject, Event.CANCELLED)
            raise
        except (web.HTTPException, JobsError) as error:
            self.note(subject, Event.ANSWERED, type(error).__name__)
            raise
        except BaseException as error:
            planned = getattr(error, "subject", None) == subject
            event = Event.RAISED if planned else Event.BROKE
            self.note(subject, event, repr(error))
            raise
        self.note(subject, Event.RETURNED)


def read_ledger(path: Path) -> list[Entry]:
    """Read all rows, in order."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT * FROM events ORDER BY id")
        return [
            Entry(number, subject, Event(event), detail)
            for number, subject, event, detail in rows
        ]
