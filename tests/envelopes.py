"""Envelopes and started stores, for the tests of durable jobs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

from aiohttp_jobs.durable import Envelope, SQLiteStore
from aiohttp_jobs.durable.envelope import new_id

__all__ = ("envelope", "look", "opened", "started")


def envelope(task: str = "mail", **fields: Any) -> Envelope:
    """One of this task that is due at once, unless the fields say something else."""
    plain = Envelope(id=new_id(), task=task, arguments="[[], {}]", accepted_at=time())
    return replace(plain, **fields)


@contextlib.asynccontextmanager
async def started(
    path: Path, *tasks: str, worker: bool = True, **options: Any
) -> AsyncIterator[SQLiteStore]:
    """A store of this file, for these tasks or for ``mail``; stopped at the end."""
    store = SQLiteStore(path, **options)
    await store.start(tasks or ("mail",), worker=worker)
    try:
        yield store
    finally:
        await store.stop()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's to the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def look(path: Path, query: str) -> list[Any]:
    """What a query finds in the file."""
    with opened(path) as connection:
        return connection.execute(query).fetchall()
