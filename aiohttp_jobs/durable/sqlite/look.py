"""Look: what is in the file, for people."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from heapq import merge
from itertools import islice
from time import time
from typing import Any, Final

from aiohttp_jobs.durable.kept import DurableStatistics, KeptJob, Place

from .locks import Locks
from .schema import DEAD, DELAYED, READY, RUNNING, connect

__all__ = (
    "find_dead",
    "jobs",
    "known_tasks",
    "statistics",
)

# In the order of the fields of KeptJob, except its place.
_COLUMNS: Final = (
    "jobs.id, jobs.task, jobs.attempt, jobs.crashes, jobs.accepted_at, jobs.due, "
    "jobs.priority, jobs.key, jobs.origin, owners.host || ':' || owners.process, "
    "jobs.buried_at, jobs.reason"
)


# How to find the jobs of a place: through its own index, in the order of that index. So
# the cost does not depend on how many there are, nor on what else is in the file; left to
# itself, SQLite goes through the whole table to get an order. Running jobs are few, and
# are sorted; for waiting ones see _waiting().
_FOUND: Final = {
    Place.DELAYED: f"aiohttp_jobs_delayed WHERE state = {DELAYED} ORDER BY due, number",
    Place.RUNNING: f"aiohttp_jobs_running WHERE state = {RUNNING} ORDER BY number",
    Place.DEAD: f"aiohttp_jobs_dead WHERE state = {DEAD} "
    "ORDER BY buried_at DESC, number DESC",
}
_READY: Final = f"FROM aiohttp_jobs INDEXED BY aiohttp_jobs_ready WHERE state = {READY}"
# The most combinations of task and priority of waiting jobs to look at one by one.
_MOST_KINDS: Final = 200

_ROW: Final = (
    f"SELECT {_COLUMNS} FROM aiohttp_jobs AS jobs "
    "LEFT JOIN aiohttp_jobs_owners AS owners ON owners.number = jobs.owner "
)


def statistics(path: str) -> DurableStatistics:
    """Return how many jobs are in each place, in time that does not depend on how many.

    It takes no lock.

    Raises:
        sqlite3.Error: the file cannot be read. The same for all below.
    """
    with _reading(path) as connection:
        delayed, waiting, dead = connection.execute(
            "SELECT delayed, ready, dead FROM aiohttp_jobs_counts"
        ).fetchone()
        (running,) = connection.execute(
            f"SELECT COUNT(*) FROM aiohttp_jobs WHERE state = {RUNNING}"
        ).fetchone()
        oldest = 0.0
        for number in _waiting(connection, 1, 0):
            (since,) = connection.execute(
                "SELECT MAX(accepted_at, COALESCE(due, 0)) FROM aiohttp_jobs "
                "WHERE number = ?",
                (number,),
            ).fetchone()
            oldest = max(0.0, time() - since)
    return DurableStatistics(waiting, delayed, running, dead, oldest)


def jobs(path: str, place: Place, count: int, skip: int = 0) -> list[KeptJob]:
    """Return jobs of a place, see :meth:`Inspectable.jobs`; with a count of -1, all."""
    with _reading(path) as connection:
        if place is Place.WAITING:
            numbers = _waiting(connection, count, skip)
        else:
            found = connection.execute(
                f"SELECT number FROM aiohttp_jobs INDEXED BY {_FOUND[place]} "
                "LIMIT ? OFFSET ?",
                (count, skip),
            )
            numbers = [number for (number,) in found]
        rows = [
            connection.execute(f"{_ROW} WHERE jobs.number = ?", (number,)).fetchone()
            for number in numbers
        ]
    return [_kept(row, place) for row in rows]


def find_dead(path: str, id: str) -> KeptJob | None:
    """Return the dead job with this id; None if there is none."""
    with _reading(path) as connection:
        row = connection.execute(
            f"{_ROW} WHERE jobs.state = {DEAD} AND jobs.id = ?", (id,)
        ).fetchone()
    return None if row is None else _kept(row, Place.DEAD)


def _kept(row: tuple[Any, ...], place: Place) -> KeptJob:
    return KeptJob(row[0], row[1], place, *row[2:])


@contextmanager
def _reading(path: str) -> Generator[sqlite3.Connection, None, None]:
    """Open a connection that sees the file as it is at one moment."""
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")
        yield connection


def _waiting(connection: sqlite3.Connection, count: int, skip: int) -> list[int]:
    """Return the numbers of jobs that wait, in the order of their acceptance.

    Their index has this order within each task and priority, as fetching needs it: so
    these are merged, and no more is read than needed.
    """
    end = None if count < 0 else skip + count
    kinds = list(islice(_kinds(connection), _MOST_KINDS + 1))
    if len(kinds) > _MOST_KINDS:
        found = connection.execute(f"SELECT number {_READY} ORDER BY number")
        return [number for (number,) in islice(found, skip, end)]
    each = [
        connection.execute(
            f"SELECT number {_READY} AND task = ? AND priority = ? ORDER BY number", kind
        )
        for kind in kinds
    ]
    return [number for (number,) in islice(merge(*each), skip, end)]


def _kinds(connection: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """Yield each task and priority of waiting jobs, by jumps through the index."""
    task = ""
    while found := connection.execute(
        f"SELECT task, priority {_READY} AND task > ? "
        "ORDER BY task, priority DESC LIMIT 1",
        (task,),
    ).fetchone():
        task = found[0]
        while found:
            yield task, found[1]
            found = connection.execute(
                f"SELECT task, priority {_READY} AND task = ? AND priority < ? "
                "ORDER BY priority DESC LIMIT 1",
                (task, found[1]),
            ).fetchone()


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
