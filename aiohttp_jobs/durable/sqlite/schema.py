"""Schema: the tables of the file, their version, and how an older file is upgraded.

The file may be the application's own, with tables of its own. So all names begin with
`aiohttp_jobs`, and the version stands in a table, not in the header of the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from time import monotonic, sleep
from typing import Final

from aiohttp_jobs.core.errors import StoreUnavailable

from .faults import PATIENCE

__all__ = ("DEAD", "DELAYED", "READY", "RUNNING", "VERSION", "connect", "prepare")

# Where a job is in its life; jobs up to READY wait.
DELAYED: Final = 0  # not due yet, as far as anybody has looked
READY: Final = 1  # due
RUNNING: Final = 2  # in the process whose number is `owner`
DEAD: Final = 3  # buried

# A job that is done is deleted, so the table holds jobs that wait, run or are dead. Each
# state has an index of its own, in the order in which its jobs are looked for.
_TABLES: Final = f"""
CREATE TABLE aiohttp_jobs (
    number INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    task TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due REAL,
    owner INTEGER,
    attempt INTEGER NOT NULL,
    crashes INTEGER NOT NULL DEFAULT 0,
    id TEXT NOT NULL,
    key TEXT,
    accepted_at REAL NOT NULL,
    origin TEXT,
    traceparent TEXT,
    arguments TEXT NOT NULL,
    buried_at REAL,
    reason TEXT
);
CREATE INDEX aiohttp_jobs_ready ON aiohttp_jobs (task, priority DESC, number)
    WHERE state = {READY};
CREATE INDEX aiohttp_jobs_delayed ON aiohttp_jobs (due) WHERE state = {DELAYED};
CREATE INDEX aiohttp_jobs_running ON aiohttp_jobs (owner) WHERE state = {RUNNING};
CREATE INDEX aiohttp_jobs_dead ON aiohttp_jobs (buried_at) WHERE state = {DEAD};
CREATE UNIQUE INDEX aiohttp_jobs_key ON aiohttp_jobs (task, key)
    WHERE key IS NOT NULL AND state <= {READY};
CREATE TABLE aiohttp_jobs_owners (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    process INTEGER NOT NULL,
    host TEXT NOT NULL,
    started_at REAL NOT NULL,
    tasks TEXT NOT NULL
);
CREATE TABLE aiohttp_jobs_ticks (task TEXT PRIMARY KEY, seen REAL NOT NULL);
"""


def _create(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        if statement.strip():
            connection.execute(statement)


def _find_dead_by_id(connection: sqlite3.Connection) -> None:
    # Otherwise looking at one, or retrying it, means looking at all of them.
    connection.execute(
        f"CREATE INDEX aiohttp_jobs_dead_id ON aiohttp_jobs (id) WHERE state = {DEAD}"
    )


# Triggers count in the transaction that changes the jobs, whoever makes it: so the counts
# are those of the moment that a reader sees, and reading them costs nothing. Running jobs
# are not counted, as they are few, and each job that runs would cost more.
_COUNTS: Final = (
    """CREATE TABLE aiohttp_jobs_counts (
        delayed INTEGER NOT NULL, ready INTEGER NOT NULL, dead INTEGER NOT NULL)""",
    """INSERT INTO aiohttp_jobs_counts SELECT
        (SELECT COUNT(*) FROM aiohttp_jobs WHERE state = 0),
        (SELECT COUNT(*) FROM aiohttp_jobs WHERE state = 1),
        (SELECT COUNT(*) FROM aiohttp_jobs WHERE state = 3)""",
    """CREATE TRIGGER aiohttp_jobs_counts_new AFTER INSERT ON aiohttp_jobs
    WHEN NEW.state <> 2 BEGIN
        UPDATE aiohttp_jobs_counts SET delayed = delayed + (NEW.state = 0),
            ready = ready + (NEW.state = 1), dead = dead + (NEW.state = 3);
    END""",
    """CREATE TRIGGER aiohttp_jobs_counts_moved AFTER UPDATE OF state ON aiohttp_jobs
    WHEN NEW.state <> OLD.state BEGIN
        UPDATE aiohttp_jobs_counts SET
            delayed = delayed + (NEW.state = 0) - (OLD.state = 0),
            ready = ready + (NEW.state = 1) - (OLD.state = 1),
            dead = dead + (NEW.state = 3) - (OLD.state = 3);
    END""",
    """CREATE TRIGGER aiohttp_jobs_counts_gone AFTER DELETE ON aiohttp_jobs
    WHEN OLD.state <> 2 BEGIN
        UPDATE aiohttp_jobs_counts SET delayed = delayed - (OLD.state = 0),
            ready = ready - (OLD.state = 1), dead = dead - (OLD.state = 3);
    END""",
)


def _count(connection: sqlite3.Connection) -> None:
    for statement in _COUNTS:
        connection.execute(statement)


# Each step upgrades a file from the version that is its place in this list to the next
# one. Steps stay for ever: a file of any age goes through those that it has missed.
_STEPS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (
    _create,
    _find_dead_by_id,
    _count,
)

#: The version that this release reads and writes.
VERSION: Final = len(_STEPS)


def connect(path: str, *, timeout: float = PATIENCE) -> sqlite3.Connection:
    """Open the file, which is made if it is not there, for one thread.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    # Transactions begin and end only by explicit statements.
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    try:
        # For macOS, where fsync() does not reach the disk itself.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Upgrade the file to what this release needs; many processes may do so at once.

    Raises:
        StoreUnavailable: a newer release has written it, or it has no write-ahead log.
        sqlite3.Error: it cannot be read or written.
    """
    _log_ahead(connection, path)
    if _version_of(connection) == VERSION:
        return
    # A power cut must not take away a table into which jobs have since been accepted.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version_of(connection)  # somebody else may have been first
        if version > VERSION:
            raise StoreUnavailable(
                f"the file {path} has version {version}, written by a newer release of "
                f"aiohttp-jobs; this one knows versions up to {VERSION}: update it"
            )
        for step in _STEPS[version:]:
            step(connection)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS aiohttp_jobs_schema (version INTEGER NOT NULL)"
        )
        connection.execute("DELETE FROM aiohttp_jobs_schema")
        connection.execute("INSERT INTO aiohttp_jobs_schema VALUES (?)", (VERSION,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_version(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a file of another version, for callers that must not upgrade it.

    Raises:
        StoreUnavailable: the file has another version.
        sqlite3.Error: it cannot be read.
    """
    version = _version_of(connection)
    if version != VERSION:
        raise StoreUnavailable(
            f"the file {path} has version {version}, but this release reads {VERSION}: "
            "use the release whose workers use the file"
            if version
            else f"the file {path} has no durable jobs"
        )


def _version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the file; 0 if it has none of our tables."""
    names = "SELECT 1 FROM sqlite_master WHERE name = 'aiohttp_jobs_schema'"
    if connection.execute(names).fetchone() is None:
        return 0
    (version,) = connection.execute("SELECT version FROM aiohttp_jobs_schema").fetchone()
    return int(version)


def _log_ahead(connection: sqlite3.Connection, path: str) -> None:
    """Switch the file to a write-ahead log, for good.

    SQLite does not wait for its turn if two processes switch at once, so this does.
    """
    end = monotonic() + PATIENCE
    while True:
        try:
            with closing(connection.execute("PRAGMA journal_mode = WAL")) as found:
                (mode,) = found.fetchone()
            break
        except sqlite3.OperationalError as error:
            if (
                error.sqlite_errorcode & 0xFF
            ) != sqlite3.SQLITE_BUSY or monotonic() > end:
                raise
            sleep(0.01)
    if mode != "wal":
        raise StoreUnavailable(
            f"the file {path} cannot have a write-ahead log (it stays in journal "
            f"mode {mode}): put it on a local disk"
        )
