"""Writer: the thread that owns the one connection, and what it does in its turns.

Group commit needs no timer: while one transaction is being written to the disk, whatever
is handed over waits, and shares the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final

from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.guests import call_guest
from aiohttp_jobs.core.logs import logger, say
from aiohttp_jobs.core.names import listed
from aiohttp_jobs.durable.store import Delivery

from . import rows
from .batch import Answers, Batch, answer, insert, settle
from .disk import check_place, identity_of
from .faults import fault_of
from .owner import Owner
from .schema import connect, prepare
from .turn import begin, look_up_often

__all__ = ("Counts", "Writer")

# Seconds between two looks for what other processes have committed, and for owners that
# have died.
POLL: Final = 0.1
HEARTBEAT: Final = 1.0
# Bytes to which the write-ahead log is truncated after a checkpoint.
LONGEST_LOG: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class Counts:
    """How many transactions were written, for measuring what they cost."""

    #: Those that had to reach the disk before anybody was answered.
    lasting: int = 0
    #: The others, which did not wait for the disk.
    passing: int = 0


@dataclass(slots=True, eq=False)
class _Fetch:
    """A call that waits for at most `count` jobs, and its future."""

    count: int
    future: asyncio.Future[list[Delivery]]


class Writer:
    """Writes what it is handed, and claims what is due, in a thread of its own.

    Args:
        path: the file.
        tasks: the names of the tasks whose jobs it claims.
        worker: whether it claims any.
        max_crashes: how many times a job may take its process down before it is buried.
        fsync_all: whether each transaction must reach the disk before it counts.
        loop: the event loop that the futures belong to.
    """

    def __init__(
        self,
        path: str,
        tasks: Collection[str],
        worker: bool,
        max_crashes: int,
        fsync_all: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.counts = Counts()
        self._path = path
        self._tasks = tuple(tasks)
        self._fsync_all = fsync_all
        self._loop = loop
        # None: stop.
        self._inbox: queue.SimpleQueue[Batch | _Fetch | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, name="aiohttp_jobs durable", daemon=True
        )
        # Set in the loop; the thread, which may be waiting for others, looks at it.
        self._is_ending = False
        # What follows belongs to the thread.
        self._owner = Owner(path, tasks, max_crashes) if worker else None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._level = ""
        # What settles claimed jobs but could not be written: it is owed.
        self._owed = Batch()
        self._fetch: _Fetch | None = None
        # Whether jobs may be ready that nobody has looked for; and when the next is due.
        self._is_dirty = True
        self._next_due: float | None = None
        self._data_version = -1
        self._next_beat = 0.0

    # -- in the loop --------------------------------------------------------------------

    async def start(self) -> None:
        """Start the thread, and return when it has opened the file.

        Raises:
            StoreUnavailable: it cannot be opened; the thread has ended.

        Cancellation:
            The thread ends once it has tried.
        """
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            self._inbox.put(None)
            self._opened.add_done_callback(lambda future: future.exception())
            raise

    def hand_over(self, batch: Batch) -> None:
        """Hand a batch to the thread, to be written."""
        self._inbox.put(batch)

    async def fetch(self, count: int) -> list[Delivery]:
        """Claim at most `count` jobs, as soon as one is due."""
        future: asyncio.Future[list[Delivery]] = self._loop.create_future()
        self._inbox.put(_Fetch(count, future))
        return await future

    async def stop(self) -> None:
        """Write what was handed over, give back what is claimed, and end the thread.

        If another program has locked the file, this no longer waits for either.
        """
        self._is_ending = True
        self._inbox.put(None)
        await asyncio.shield(self._ended)

    # -- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open()
        except Exception as error:
            self._close()
            self._answer([(self._opened, fault_of(error, self._path) or error)])
        else:
            self._answer([(self._opened, None)])
            while self._turn():
                pass
            self._finish()
        finally:
            self._answer([(self._ended, None)])

    def _turn(self) -> bool:
        """Wait for work, and do all that is there; return whether to go on."""
        batch, inbox = None, self._inbox
        try:
            order = inbox.get(timeout=self._seconds_to_wait())
        except queue.Empty:
            self._do(Batch())
            return True
        while order is not None:
            if isinstance(order, _Fetch):
                self._fetch = order
                self._is_dirty = True
            elif batch is None:
                batch = order  # nobody else has it any more
            else:
                batch.add(order)
            if inbox.empty():  # nobody else takes from it
                break
            order = inbox.get()
        self._do(Batch() if batch is None else batch)
        return order is not None

    def _seconds_to_wait(self) -> float | None:
        if self._owner is None:
            return HEARTBEAT if self._owed else None
        until = self._next_beat - monotonic()
        if self._fetch is not None:
            if self._next_due is not None:
                until = min(until, self._next_due - time())
            until = min(until, POLL)
        return max(until, 0)

    def _do(self, batch: Batch) -> None:
        """Do one turn's work. This raises nothing, and answers everybody."""
        if self._owed:
            batch.add(self._owed)
            self._owed = Batch()
        if self._fetch is not None and self._fetch.future.done():
            self._fetch = None  # nobody waits any more
        try:
            connection = self._open()
            if self._owner is not None and monotonic() >= self._next_beat:
                self._beat(self._owner, connection)
            if batch or self._should_claim(connection):
                self._write(batch)
        except Exception as error:
            self._roll_back()
            self._give_up(batch, error)

    def _give_up(self, batch: Batch, error: Exception) -> None:
        """Tell all that the file is lost; it is opened again at the next turn."""
        self._close_connection()
        self._next_beat = monotonic() + HEARTBEAT
        fault = fault_of(error, self._path)
        if fault is None:
            _log_fault(error)
            fault = StoreUnavailable(f"{type(error).__name__}: {error}")
        self._owed = batch.settling()
        waiting = batch.futures()
        if self._fetch is not None:
            waiting.append(self._fetch.future)
            self._fetch = None
        # Each gets its own exception, which has a traceback once it is raised.
        self._answer([(each, StoreUnavailable(*fault.args)) for each in waiting])

    # -- writing ------------------------------------------------------------------------

    def _write(self, batch: Batch) -> None:
        try:
            self._transact(batch, claims=True)
        except Exception as error:
            parts = batch.singly()
            if not parts or fault_of(error, self._path) is not None:
                raise
            # One of the parts is bad: let it fail alone.
            for part in parts:
                self._write_part(part)

    def _write_part(self, part: Batch) -> None:
        try:
            self._transact(part, claims=False)
        except Exception as error:
            if fault_of(error, self._path) is not None:
                raise
            self._answer([(future, error) for future in part.futures()])
            if part.settles:
                _log_fault(error)

    def _transact(self, batch: Batch, *, claims: bool) -> None:
        """Do all of it or nothing, then answer those who wait."""
        has_to_last = batch.has_to_last
        connection = self._begin(lasts=has_to_last)
        now = time()
        claimed = list[Delivery]()
        try:
            settle(connection, batch)
            answers = insert(connection, batch)
            if batch.brings_jobs:
                self._is_dirty = True
            if claims:
                claimed = self._claim(connection, now)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        if has_to_last:
            self._check_in_place()
        self._answer(answers)
        fetch = self._fetch
        if claimed and fetch is not None:
            self._fetch = None
            self._call(self._hand_on, fetch, claimed)

    def _begin(self, *, lasts: bool = False) -> sqlite3.Connection:
        """Begin a transaction during which nobody else can write.

        Args:
            lasts: whether it must be on the disk when it is committed.
        """
        connection = self._connection
        assert connection is not None
        lasts = lasts or self._fsync_all
        level = "FULL" if lasts else "NORMAL"
        if level != self._level:
            connection.execute(f"PRAGMA synchronous = {level}")
            self._level = level
        begin(connection, self._path, lambda: self._is_ending)
        if lasts:
            self.counts.lasting += 1
        else:
            self.counts.passing += 1
        return connection

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            call_guest(connection.execute, "ROLLBACK")

    # -- claiming -----------------------------------------------------------------------

    def _should_claim(self, connection: sqlite3.Connection) -> bool:
        """Return whether it is worth a transaction. Reading takes no lock from others."""
        if self._fetch is None:
            return False
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            # Another connection has committed something since the last look.
            self._data_version = version
            self._is_dirty = True
        if self._is_dirty:
            self._next_due = rows.next_due(connection)
        if self._next_due is not None and self._next_due <= time():
            return True
        if self._is_dirty:
            self._is_dirty = rows.is_any_ready(connection, self._tasks)
        return self._is_dirty

    def _claim(self, connection: sqlite3.Connection, now: float) -> list[Delivery]:
        if self._fetch is None or self._owner is None or self._owner.number is None:
            return []
        self._next_due = rows.next_due(connection)
        if self._next_due is not None and self._next_due <= now:
            rows.make_ready(connection, now)
            self._next_due = rows.next_due(connection)
            self._is_dirty = True
        if not self._is_dirty:
            return []
        number = self._owner.number
        found = rows.claim(connection, number, self._tasks, self._fetch.count)
        self._is_dirty = bool(found)
        return found

    # -- the file -----------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """Return the connection; first open the file and register there, if need be."""
        connection = self._connection
        if connection is None:
            check_place(self._path)
            connection = connect(self._path)
            try:
                prepare(connection, self._path)
                look_up_often(connection)
                connection.execute(f"PRAGMA journal_size_limit = {LONGEST_LOG}")
                identity = identity_of(self._path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            if self._owner is not None and identity != self._identity:
                self._owner.close()  # its number in another file means nothing here
            self._identity = identity
            self._level, self._data_version, self._is_dirty = "", -1, True
        if self._owner is not None and self._owner.number is None:
            self._owner.register(connection, self._begin)
        return connection

    def _beat(self, owner: Owner, connection: sqlite3.Connection) -> None:
        """See whether other owners have died, and whether the file is still in place."""
        self._next_beat = monotonic() + HEARTBEAT
        self._check_in_place()
        for crashed in owner.beat(connection, self._begin):
            self._is_dirty = True
            if crashed.come_back:
                say(
                    logging.WARNING,
                    "A process has died; the durable jobs that it ran come back: %d",
                    crashed.come_back,
                )
            if crashed.buried:
                say(
                    logging.ERROR,
                    "Durable jobs were buried, since their process died each time: %s",
                    listed(crashed.buried),
                )

    def _check_in_place(self) -> None:
        """Refuse to go on with a file that is no longer the one at the path.

        SQLite would go on, and what is written to a file without a name is lost.
        """
        # None until it is known to be the same. If it is not, the file opened next is
        # another one, even if it got the inode number of the one that is gone.
        identity, self._identity = self._identity, None
        if identity != identity_of(self._path):
            raise StoreUnavailable(
                f"another file was put in the place of {self._path} while it was open: "
                "the jobs go into that one from now on"
            )
        self._identity = identity

    def _finish(self) -> None:
        """Write what is owed, give back what was claimed, and close."""
        if self._fetch is not None:
            closed = StoreUnavailable("their store is closed")
            self._answer([(self._fetch.future, closed)])
            self._fetch = None
        owner = self._owner
        try:
            if self._owed or (owner is not None and owner.number is not None):
                self._open()  # which may register another number
                self._transact(self._owed, claims=False)
            if owner is not None and owner.number is not None:
                connection = self._begin()
                rows.give_back_all(connection, owner.number)
                connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            say(
                logging.ERROR,
                "The end of the last durable jobs is not recorded: they run again: %s",
                fault_of(error, self._path) or error,
            )
        self._close()

    def _close(self) -> None:
        self._close_connection()
        if self._owner is not None:
            self._owner.close()

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            call_guest(connection.close)

    # -- answering ----------------------------------------------------------------------

    def _answer(self, answers: Answers) -> None:
        if answers:
            self._call(answer, answers)

    def _hand_on(self, fetch: _Fetch, claimed: Sequence[Delivery]) -> None:
        """Give the jobs to the waiter, or back if it is gone. Called in the loop."""
        if fetch.future.done():
            self.hand_over(Batch(given_back=[each.receipt for each in claimed]))
        else:
            fetch.future.set_result(list(claimed))

    def _call(self, function: Any, *args: Any) -> None:
        # The loop may be closed, and everyone who waited is gone.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def _log_fault(error: Exception) -> None:
    call_guest(lambda: logger.error("Durable jobs: a fault in the store", exc_info=error))
