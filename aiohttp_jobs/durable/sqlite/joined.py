"""Joined: a job that is kept in a transaction of the application's own."""

from __future__ import annotations

import inspect
import os
from typing import Any, cast

from aiohttp_jobs.durable.envelope import Envelope

from .rows import insert_statement, row_of, waiting_with_key

__all__ = ("put_joined",)


async def put_joined(connection: Any, envelope: Envelope, path: str) -> str:
    """Write a job through a connection to the same file, whose owner commits.

    Args:
        connection: one of sqlite3 or of aiosqlite.
        envelope: the job.
        path: the store's file.

    Returns:
        As :meth:`Store.put`.

    Raises:
        TypeError: it is not a connection.
        ValueError: it is a connection to other files.
    """
    if not _is_connection(connection):
        raise TypeError(
            f"connection takes one of sqlite3 or aiosqlite, not {connection!r}: of an "
            "AsyncConnection of SQLAlchemy, for example, pass "
            "`(await connection.get_raw_connection()).driver_connection`"
        )
    schema = await _schema_of(connection, path)
    if envelope.key is not None:
        query = waiting_with_key(schema)
        found = await _rows(connection, query, (envelope.task, envelope.key))
        if found:
            return str(_values(found[0])[0])
    row = row_of(envelope, envelope.accepted_at)
    await _rows(connection, insert_statement(schema), row)
    return envelope.id


def _is_connection(what: Any) -> bool:
    """Return whether it is one of these, or a tool's wrapper of one. A cursor is not."""
    try:
        return isinstance(what.total_changes, int)
    except AttributeError:
        return False
    except Exception:
        return True  # it is closed, and says so when it is used


async def _schema_of(connection: Any, path: str) -> str:
    """Return the name that the store's file has in the connection."""
    files = list[str]()
    for row in await _rows(connection, "PRAGMA database_list", ()):
        _, name, file = _values(row)
        if file and _is_same(file, path):
            return str(name)
        files.append(str(file) or "memory")
    raise ValueError(
        f"connection takes one to the store's file, {path}, but this one has "
        f"{', '.join(files)}: a job can share a transaction in one file only"
    )


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


async def _rows(connection: Any, sql: str, parameters: Any) -> list[Any]:
    cursor = connection.execute(sql, parameters)
    if inspect.isawaitable(cursor):
        cursor = await cursor
    found = cursor.fetchall()
    if inspect.isawaitable(found):
        found = await found
    closed = cursor.close()
    if inspect.isawaitable(closed):
        await closed
    return list(found)


def _values(row: Any) -> list[Any]:
    """Return the values in a row, whatever the connection turns rows into."""
    if isinstance(row, dict):
        row = cast("dict[str, Any]", row).values()
    return list(row)
