"""Rows: what is done to the jobs in the file, each as its statements.

Whoever calls these has begun a transaction, and ends it.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from aiohttp_jobs.durable.envelope import Envelope
from aiohttp_jobs.durable.store import Delivery

from .schema import DEAD, DELAYED, READY, RUNNING

__all__ = (
    "KEY_UNLESS_TAKEN",
    "MOST_AT_ONCE",
    "Buried",
    "Crashed",
    "Receipt",
    "Retried",
    "Row",
    "ack",
    "bury",
    "claim",
    "crash_pause",
    "give_back",
    "give_back_all",
    "insert",
    "insert_statement",
    "insert_with_key",
    "retry",
    "row_of",
    "take_over",
    "waiting_with_key",
)

# How the store knows a delivery: its number, and the owner that it was claimed for.
Receipt: TypeAlias = tuple[int, int]
# When the next attempt is due, number, owner.
Retried: TypeAlias = tuple[float, int, int]
# When, why, number, owner.
Buried: TypeAlias = tuple[float, str, int, int]
Row: TypeAlias = tuple[Any, ...]

T = TypeVar("T")

# Rows that one transaction moves from DELAYED to READY: so it holds nobody up for long.
MOST_AT_ONCE: Final = 1000

_ENVELOPE: Final = ", ".join(Envelope._fields)
_COLUMNS: Final = f"state, {_ENVELOPE}"

# Rows that one statement is given: to run it costs as much as another row or two of it.
_SIZES: Final = (50, 10, 3, 1)


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Part them into as few parts as can be that have these sizes."""
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _places(count: int) -> str:
    return f"({', '.join('?' * count)})"


def row_of(envelope: Envelope, now: float) -> Row:
    """Return what is written of a job that is put."""
    due = envelope.due
    return (READY if due is None or due <= now else DELAYED, *envelope)


def insert_statement(schema: str = "main", count: int = 1) -> str:
    """Return the statement that writes so many rows, in the database of this name."""
    quoted = '"' + schema.replace('"', '""') + '"'
    row = _places(len(_COLUMNS.split(",")))
    values = ", ".join([row] * count)
    return f"INSERT INTO {quoted}.aiohttp_jobs ({_COLUMNS}) VALUES {values}"


def waiting_with_key(schema: str = "main") -> str:
    """Return the query for the id of the job of a task that waits with a key."""
    quoted = '"' + schema.replace('"', '""') + '"'
    return (
        f"SELECT id FROM {quoted}.aiohttp_jobs "
        f"WHERE task = ? AND key = ? AND state <= {READY}"
    )


_INSERTS: Final = {size: insert_statement(count=size) for size in _SIZES}
_INSERT: Final = _INSERTS[1]
_WAITING: Final = waiting_with_key()


def insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Write jobs without keys."""
    if len(rows) == 1:
        connection.execute(_INSERT, rows[0])
        return
    for part in _parts(rows):
        connection.execute(_INSERTS[len(part)], [*chain.from_iterable(part)])


def insert_with_key(connection: sqlite3.Connection, envelope: Envelope, row: Row) -> str:
    """Write one, unless one with its key waits; return the id of that which does."""
    found = connection.execute(_WAITING, (envelope.task, envelope.key)).fetchone()
    if found is not None:
        return str(found[0])
    connection.execute(_INSERT, row)
    return envelope.id


_CLAIM: Final = {
    size: f"UPDATE aiohttp_jobs NOT INDEXED SET state = {RUNNING}, owner = ? "
    f"WHERE number IN {_places(size)}"
    for size in _SIZES
}


def claim(
    connection: sqlite3.Connection,
    owner: int,
    tasks: Collection[str],
    count: int,
) -> list[Delivery]:
    """Give an owner the jobs that are next; due ones were made ready before."""
    found = list[Row]()
    for task in tasks:
        found += connection.execute(
            f"SELECT number, {_ENVELOPE} FROM aiohttp_jobs "
            f"WHERE state = {READY} AND task = ? "
            "ORDER BY priority DESC, number LIMIT ?",
            (task, count),
        )
    if len(tasks) > 1:
        found.sort(key=_BY_TURN)
        del found[count:]
    for part in _parts([row[0] for row in found]):
        connection.execute(_CLAIM[len(part)], (owner, *part))
    return [Delivery(Envelope._make(row[1:]), (row[0], owner)) for row in found]


def _by_turn(row: Row) -> tuple[int, int]:
    return -row[7], row[0]


_BY_TURN: Final[Callable[[Row], tuple[int, int]]] = _by_turn


def is_any_ready(connection: sqlite3.Connection, tasks: Iterable[str]) -> bool:
    """Is any job of these tasks due, as far as it was made ready?"""
    query = f"SELECT 1 FROM aiohttp_jobs WHERE state = {READY} AND task = ? LIMIT 1"
    return any(connection.execute(query, (task,)).fetchone() for task in tasks)


def next_due(connection: sqlite3.Connection) -> float | None:
    """Return when the next of those that are delayed is due; None if there is none."""
    found = connection.execute(
        f"SELECT due FROM aiohttp_jobs WHERE state = {DELAYED} ORDER BY due LIMIT 1"
    ).fetchone()
    return None if found is None else found[0]


def make_ready(connection: sqlite3.Connection, now: float) -> None:
    """Make those ready that are due by now, so many at once."""
    connection.execute(
        f"UPDATE aiohttp_jobs SET state = {READY} WHERE number IN ("
        f"SELECT number FROM aiohttp_jobs WHERE state = {DELAYED} AND due <= ? "
        "ORDER BY due LIMIT ?)",
        (now, MOST_AT_ONCE),
    )


# -- settling ---------------------------------------------------------------------------

# Whoever has lost a job to another owner, which thought that it was dead, must not touch
# it any more.
_OURS: Final = f"WHERE number = ? AND owner = ? AND state = {RUNNING}"

# Another one may wait with its key by now. Then it waits without: none is lost.
KEY_UNLESS_TAKEN: Final = f"""key = CASE WHEN key IS NULL OR EXISTS (
    SELECT 1 FROM aiohttp_jobs AS other
    WHERE other.task = aiohttp_jobs.task AND other.key = aiohttp_jobs.key
    AND other.key IS NOT NULL AND other.state <= {READY}) THEN NULL ELSE key END"""


_ACK: Final = {
    size: "DELETE FROM aiohttp_jobs NOT INDEXED "
    f"WHERE number IN {_places(size)} AND owner = ? AND state = {RUNNING}"
    for size in _SIZES
}


def ack(connection: sqlite3.Connection, receipts: Iterable[Receipt]) -> None:
    """Delete those that are done."""
    by_owner = dict[int, list[int]]()  # there are two after an older file was put there
    for number, owner in receipts:
        by_owner.setdefault(owner, []).append(number)
    for owner, numbers in by_owner.items():
        for part in _parts(numbers):
            connection.execute(_ACK[len(part)], (*part, owner))


def retry(connection: sqlite3.Connection, rows: Iterable[Retried]) -> None:
    """Let them wait for their next attempt."""
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {DELAYED}, owner = NULL, due = ?, "
        f"attempt = attempt + 1, {KEY_UNLESS_TAKEN} {_OURS}",
        rows,
    )


def bury(connection: sqlite3.Connection, rows: Iterable[Buried]) -> None:
    """Lay them aside."""
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {DEAD}, owner = NULL, buried_at = ?, "
        f"reason = ? {_OURS}",
        rows,
    )


def give_back(connection: sqlite3.Connection, receipts: Iterable[Receipt]) -> None:
    """Let them wait again as if they had not been claimed."""
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {READY}, owner = NULL, {KEY_UNLESS_TAKEN} "
        f"{_OURS}",
        receipts,
    )


def give_back_all(connection: sqlite3.Connection, owner: int) -> None:
    """Let all wait again that an owner has, and forget the owner."""
    numbers = _numbers_of(connection, owner)
    give_back(connection, [(number, owner) for number, _, _ in numbers])
    connection.execute("DELETE FROM aiohttp_jobs_owners WHERE number = ?", (owner,))


# -- when a process has died ------------------------------------------------------------


class Crashed(NamedTuple):
    """What became of the jobs of an owner that has died."""

    come_back: int
    #: The names of the tasks of those that were buried.
    buried: list[str]


def crash_pause(crashes: int) -> float:
    """Return the seconds after which a job comes back whose process has died.

    Any of the jobs that ran may be the one that kills its process. The random pause takes
    them apart, the further the more often: soon that one is alone, and only it is buried.

    Args:
        crashes: how often it has happened to the job.
    """
    return random.uniform(0, min(4.0 ** (crashes - 1), 256.0))


def take_over(
    connection: sqlite3.Connection, owner: int, max_crashes: int, now: float
) -> Crashed:
    """Let the jobs of an owner that has died wait again, and forget the owner."""
    rows = _numbers_of(connection, owner)
    buried = [row for row in rows if row[1] + 1 >= max_crashes]
    others = [row for row in rows if row[1] + 1 < max_crashes]
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {DELAYED}, owner = NULL, due = ?, "
        f"crashes = crashes + 1, {KEY_UNLESS_TAKEN} {_OURS}",
        [(now + crash_pause(row[1] + 1), row[0], owner) for row in others],
    )
    connection.executemany(
        f"UPDATE aiohttp_jobs SET crashes = crashes + 1 {_OURS}",
        [(row[0], owner) for row in buried],
    )
    reason = f"Its process died each time that it ran, {max_crashes} times"
    bury(connection, [(now, reason, row[0], owner) for row in buried])
    connection.execute("DELETE FROM aiohttp_jobs_owners WHERE number = ?", (owner,))
    return Crashed(len(others), [row[2] for row in buried])


def _numbers_of(
    connection: sqlite3.Connection, owner: int
) -> Sequence[tuple[int, int, str]]:
    """Return number, crashes and task of each job that an owner has."""
    return connection.execute(
        f"SELECT number, crashes, task FROM aiohttp_jobs "
        f"WHERE state = {RUNNING} AND owner = ?",
        (owner,),
    ).fetchall()


# -- ticks ------------------------------------------------------------------------------


def see_tick(connection: sqlite3.Connection, task: str, tick: float, seen: float) -> bool:
    """Note that the ticks of a task up to `seen` are seen; was this one of them not?"""
    done = connection.execute(
        "UPDATE aiohttp_jobs_ticks SET seen = ? WHERE task = ? AND seen < ?",
        (seen, task, tick),
    )
    if done.rowcount == 0:
        done = connection.execute(
            "INSERT OR IGNORE INTO aiohttp_jobs_ticks (task, seen) VALUES (?, ?)",
            (task, seen),
        )
    return done.rowcount == 1


def last_tick(connection: sqlite3.Connection, task: str, now: float) -> float:
    """Return until when the ticks of a task are seen; if never, note that as `now`."""
    connection.execute(
        "INSERT OR IGNORE INTO aiohttp_jobs_ticks (task, seen) VALUES (?, ?)", (task, now)
    )
    (seen,) = connection.execute(
        "SELECT seen FROM aiohttp_jobs_ticks WHERE task = ?", (task,)
    ).fetchone()
    return float(seen)
