"""Turn: waits until nobody else writes to the file; less long when the process ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from time import monotonic
from typing import Final

from aiohttp_jobs.core.errors import StoreUnavailable

from .faults import PATIENCE

__all__ = ("begin", "look_up_often")

# Seconds that SQLite waits at a time, and so the most by which it delays an end.
_AT_A_TIME: Final = 1.0


def look_up_often(connection: sqlite3.Connection) -> None:
    """Let SQLite return soon from waiting for others; begin() goes on waiting."""
    connection.execute(f"PRAGMA busy_timeout = {_AT_A_TIME * 1000:.0f}")


def begin(
    connection: sqlite3.Connection, path: str, is_ending: Callable[[], bool]
) -> None:
    """Begin a transaction during which nobody else can write.

    Args:
        connection: the connection.
        path: its file, for error messages.
        is_ending: whether this process is ending: then this waits no longer, since
            whoever told the process to end will soon kill it.

    Raises:
        StoreUnavailable: it is ending, and another program holds a transaction open.
        sqlite3.Error: another program holds one open for long; or it cannot be begun.
    """
    end = monotonic() + PATIENCE
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if is_ending():
                raise StoreUnavailable(
                    f"the file {path} is locked by another program, and the application "
                    "ends"
                ) from error
            if monotonic() >= end:
                raise
        else:
            return
