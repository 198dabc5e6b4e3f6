"""Look: what is in the file, for people; and what they do with the dead."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from time import time
from typing import Final

from aiohttp_jobs.durable.kept import DurableStatistics, KeptJob, Place

from .locks import Locks
from .rows import KEY_UNLESS_TAKEN
from .schema import DEAD, DELAYED, READY, RUNNING, connect

__all__ = ("drop_dead", "jobs", "known_tasks", "retry_dead", "statistics")

_STATES: Final = {
    Place.WAITING: READY,
    Place.DELAYED: DELAYED,
    Place.RUNNING: RUNNING,
    Place.DEAD: DEAD,
}

# In the order of the fields of KeptJob, but for its place.
_COLUMNS: Final = (
    "jobs.id, jobs.task, jobs.attempt, jobs.crashes, jobs.accepted_at, jobs.due, "
    "jobs.priority, jobs.key, jobs.origin, owners.host || ':' || owners.process, "
    "jobs.buried_at, jobs.reason"
)


def statistics(path: str) -> DurableStatistics:
    """Return how many jobs are where. It reads an index of each, and takes no lock.

    Raises:
        sqlite3.Error: the file cannot be read. So with all that follow.
    """
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")  # one moment for all
        counts = {
            place: connection.execute(
                f"SELECT COUNT(*) FROM aiohttp_jobs WHERE state = {state}"
            ).fetchone()[0]
            for place, state in _STATES.items()
        }
        # By its number: it was the first to be accepted of those that wait.
        first = connection.execute(
            f"SELECT MAX(accepted_at, COALESCE(due, 0)) FROM aiohttp_jobs "
            f"WHERE state = {READY} ORDER BY number LIMIT 1"
        ).fetchone()
    oldest = 0.0 if first is None else max(0.0, time() - first[0])
    return DurableStatistics(
        counts[Place.WAITING],
        counts[Place.DELAYED],
        counts[Place.RUNNING],
        counts[Place.DEAD],
        oldest,
    )


def jobs(path: str, place: Place, count: int) -> list[KeptJob]:
    """Return the first jobs of a place; of the dead, those that were buried last."""
    order = {
        Place.DELAYED: "jobs.due",
        Place.DEAD: "jobs.buried_at DESC",
    }.get(place, "jobs.number")
    with closing(connect(path)) as connection:
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM aiohttp_jobs AS jobs "
            "LEFT JOIN aiohttp_jobs_owners AS owners ON owners.number = jobs.owner "
            f"WHERE jobs.state = {_STATES[place]} ORDER BY {order} LIMIT ?",
            (count,),
        ).fetchall()
    return [KeptJob(row[0], row[1], place, *row[2:]) for row in found]


def known_tasks(path: str) -> set[str]:
    """Return the names of the tasks of all processes that work on the file."""
    with closing(connect(path)) as connection:
        owners = connection.execute(
            "SELECT number, tasks FROM aiohttp_jobs_owners"
        ).fetchall()
    locks = Locks(f"{path}-owners")
    try:
        names = set[str]()
        for number, tasks in owners:
            if locks.take(number):
                locks.free(number)  # it has died
            else:
                names.update(json.loads(tasks))
    finally:
        locks.close()
    return names


# -- in a transaction that somebody has begun -------------------------------------------


def retry_dead(connection: sqlite3.Connection, ids: Collection[str] | None) -> int:
    """Let these wait again, or all: as new ones, but for their ids."""
    return _change(
        connection,
        f"UPDATE aiohttp_jobs SET state = {READY}, due = NULL, attempt = 1, "
        f"crashes = 0, buried_at = NULL, reason = NULL, {KEY_UNLESS_TAKEN}",
        ids,
    )


def drop_dead(connection: sqlite3.Connection, ids: Collection[str] | None) -> int:
    """Delete these, or all."""
    return _change(connection, "DELETE FROM aiohttp_jobs", ids)


def _change(
    connection: sqlite3.Connection, change: str, ids: Collection[str] | None
) -> int:
    change = f"{change} WHERE state = {DEAD}"
    if ids is None:
        return connection.execute(change).rowcount
    each: Sequence[tuple[str]] = [(number,) for number in ids]
    return connection.executemany(f"{change} AND id = ?", each).rowcount
