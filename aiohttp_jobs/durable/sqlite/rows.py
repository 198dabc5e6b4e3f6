"""Rows: the statements for all that is done to the jobs in the file.

The caller begins the transaction, and ends it.
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

# What the store knows a delivery by: its number, and the owner that it was claimed for.
Receipt: TypeAlias = tuple[int, int]
# When the next attempt is due, number, owner.
Retried: TypeAlias = tuple[float, int, int]
# When, why, number, owner.
Buried: TypeAlias = tuple[float, str, int, int]
Row: TypeAlias = tuple[Any, ...]

T = TypeVar("T")

# The most rows that one transaction moves from DELAYED to READY, so that it holds nobody
# up for long.
MOST_AT_ONCE: Final = 1000

_ENVELOPE: Final = ", ".join(Envelope._fields)
_COLUMNS: Final = f"state, {_ENVELOPE}"

# How many rows a statement takes: running it costs as much as another row or two.
_SIZES: Final = (50, 10, 3, 1)


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split the rows into as few parts of these sizes as possible."""
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _places(count: int) -> str:
    return f"({', '.join('?' * count)})"


def row_of(envelope: Envelope, now: float) -> Row:
    """Return the row of a job that is put."""
    due = envelope.due
    return (READY if due is None or due <= now else DELAYED, *envelope)


def insert_statement(schema: str = "main", count: int = 1) -> str:
    """Return the statement that writes `count` rows to the database of this name."""
    quoted = '"' + schema.replace('"', '""') + '"'
    row = _places(len(_COLUMNS.split(",")))
    values = ", ".join([row] * count)
    return f"INSERT INTO {quoted}.aiohttp_jobs ({_COLUMNS}) VALUES {values}"


def waiting_with_key(schema: str = "main") -> str:
    """Return the query for the id of the waiting job with a given task and key."""
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
    """Write a job, unless one with its key waits; return the id of whichever waits."""
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
    """Give an owner the next jobs that are ready; see make_ready()."""
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
    """Return whether any job of these tasks is ready; see make_ready()."""
    query = f"SELECT 1 FROM aiohttp_jobs WHERE state = {READY} AND task = ? LIMIT 1"
    return any(connection.execute(query, (task,)).fetchone() for task in tasks)


def next_due(connection: sqlite3.Connection) -> float | None:
    """Return when the next delayed job is due; None if there is none."""
    found = connection.execute(
        f"SELECT due FROM aiohttp_jobs WHERE state = {DELAYED} ORDER BY due LIMIT 1"
    ).fetchone()
    return None if found is None else found[0]


def make_ready(connection: sqlite3.Connection, now: float) -> None:
    """Make jobs ready that are due by now, at most MOST_AT_ONCE of them."""
    connection.execute(
        f"UPDATE aiohttp_jobs SET state = {READY} WHERE number IN ("
        f"SELECT number FROM aiohttp_jobs WHERE state = {DELAYED} AND due <= ? "
        "ORDER BY due LIMIT ?)",
        (now, MOST_AT_ONCE),
    )


# -- settling ---------------------------------------------------------------------------

# An owner that has lost a job to another one, which thought it dead, must no longer touch
# the job.
_OURS: Final = f"WHERE number = ? AND owner = ? AND state = {RUNNING}"

# Another job may wait with the same key by now. Then this one waits without it, so that
# neither is lost.
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
    """Delete jobs that are done."""
    by_owner = dict[int, list[int]]()  # two, after an older file was put in place
    for number, owner in receipts:
        by_owner.setdefault(owner, []).append(number)
    for owner, numbers in by_owner.items():
        for part in _parts(numbers):
            connection.execute(_ACK[len(part)], (*part, owner))


def retry(connection: sqlite3.Connection, rows: Iterable[Retried]) -> None:
    """Let jobs wait for their next attempt."""
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {DELAYED}, owner = NULL, due = ?, "
        f"attempt = attempt + 1, {KEY_UNLESS_TAKEN} {_OURS}",
        rows,
    )


def bury(connection: sqlite3.Connection, rows: Iterable[Buried]) -> None:
    """Put jobs aside."""
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {DEAD}, owner = NULL, buried_at = ?, "
        f"reason = ? {_OURS}",
        rows,
    )


def give_back(connection: sqlite3.Connection, receipts: Iterable[Receipt]) -> None:
    """Let jobs wait again as if they had not been claimed."""
    connection.executemany(
        f"UPDATE aiohttp_jobs SET state = {READY}, owner = NULL, {KEY_UNLESS_TAKEN} "
        f"{_OURS}",
        receipts,
    )


def give_back_all(connection: sqlite3.Connection, owner: int) -> None:
    """Let all jobs of an owner wait again, and forget the owner."""
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
    """Return the seconds until a job comes back after its process has died.

    Any of the jobs that ran may be the one that kills its process. The random pause moves
    them apart, further each time: soon that one runs alone, and only it is buried.

    Args:
        crashes: how many times it has happened to the job.
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
    """Note that a task's ticks up to `seen` are seen; return whether `tick` was not."""
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
    """Return up to when a task's ticks have been seen; if never, note `now` as that."""
    connection.execute(
        "INSERT OR IGNORE INTO aiohttp_jobs_ticks (task, seen) VALUES (?, ?)", (task, now)
    )
    (seen,) = connection.execute(
        "SELECT seen FROM aiohttp_jobs_ticks WHERE task = ?", (task,)
    ).fetchone()
    return float(seen)
