"""Faults: what can be wrong with the file, each as a sentence that says what to do."""

from __future__ import annotations

import sqlite3
from typing import Final

from aiohttp_jobs.core.errors import StoreUnavailable

__all__ = ("PATIENCE", "fault_of")

# Seconds that a transaction waits for another one.
PATIENCE: Final = 30.0

# By SQLite's primary result codes, https://www.sqlite.org/rescode.html.
_SENTENCES: Final = {
    sqlite3.SQLITE_PERM: (
        "the file {path} cannot be accessed: let this user read and write it"
    ),
    sqlite3.SQLITE_BUSY: (
        "the file {path} was locked for over {patience:.0f} s: look for a transaction "
        "that another program holds open on it"
    ),
    sqlite3.SQLITE_NOMEM: "there is no memory left to write to {path}",
    sqlite3.SQLITE_READONLY: (
        "the file {path} is read-only: let this user write to it, and to its folder"
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk fails to read or write {path} ({error}): check whether it is faulty "
        "or full"
    ),
    sqlite3.SQLITE_CORRUPT: (
        "the file {path} is damaged: restore a backup, or move it away for a new one "
        "to be made"
    ),
    sqlite3.SQLITE_NOTADB: (
        "the file {path} is not an SQLite database: give another path, or move it away"
    ),
    sqlite3.SQLITE_FULL: "the disk of {path} is full: make room on it",
    sqlite3.SQLITE_CANTOPEN: (
        "the file {path} cannot be opened: make its folder, and let this user write to it"
    ),
    sqlite3.SQLITE_PROTOCOL: (
        "the locks of the file {path} do not work: put it on a local disk"
    ),
    sqlite3.SQLITE_NOLFS: "the disk of {path} does not allow such a large file",
}


def fault_of(error: BaseException, path: str) -> StoreUnavailable | None:
    """Return the error as a sentence if it is about the file; None if about one job."""
    if isinstance(error, StoreUnavailable):
        return error
    if isinstance(error, OSError):
        reason = f"the file {path} cannot be used: {error.strerror or error}"
        return StoreUnavailable(reason)
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    sentence = _SENTENCES.get(code & 0xFF)
    if sentence is None:
        # An OperationalError is not about one row: for example, a missing table.
        if not isinstance(error, sqlite3.OperationalError):
            return None
        sentence = "the file {path} cannot be used: {error}"
    return StoreUnavailable(sentence.format(path=path, error=error, patience=PATIENCE))
