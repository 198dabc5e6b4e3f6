"""SQLiteStore: durable jobs in one file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Collection, Sequence
from math import inf
from time import monotonic, time
from typing import Any, TypeVar

from aiohttp_jobs.core.checks import check_count, check_flag
from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.durable.envelope import Envelope
from aiohttp_jobs.durable.kept import DurableStatistics, KeptJob, Place
from aiohttp_jobs.durable.store import OPTIONS, Delivery

from . import look, rows
from .batch import Batch, Put, Question, Tick
from .dead import DROP, RETRY, Change, pause_after
from .faults import fault_of
from .joined import put_joined
from .writer import Counts, Writer

__all__ = ("SQLiteStore",)

T = TypeVar("T")


class SQLiteStore:
    """Keeps durable jobs in an SQLite file: a :class:`~aiohttp_jobs.durable.Store`.

    Args:
        path: the file. It is made if it does not exist; its folder has to exist. Beside
            it there are three more: SQLite's ``-wal`` and ``-shm``, and ``-owners``.
        max_crashes: how many times a job's process may die before the job is buried.
        fsync_acks: whether to wait for the disk also when jobs are claimed and when they
            end. Otherwise jobs that had ended may run again after a power cut.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    supports: Collection[str] = OPTIONS
    remembers_ticks = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_crashes: int = 5,
        fsync_acks: bool = False,
    ) -> None:
        check_count("max_crashes", max_crashes, least=1)
        if max_crashes is None:
            raise TypeError("max_crashes takes a number, not None")
        check_flag("fsync_acks", fsync_acks)
        path = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(path, str) or not path or path.startswith((":", "file:")):
            raise ValueError(f"SQLiteStore takes the path of a file, not {path!r}")
        #: The file, by its full path.
        self.path = os.path.abspath(path)
        self._max_crashes = max_crashes
        self._fsync_acks = fsync_acks
        self._writer: Writer | None = None
        # The work of this turn of the loop, which is handed over in the next.
        self._batch: Batch | None = None

    def __repr__(self) -> str:
        return f"<SQLiteStore {self.path!r}>"

    @property
    def counts(self) -> Counts:
        """How many transactions this process has written since it was started."""
        return self._started().counts

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        """Open the file; see :meth:`Store.start`."""
        if self._writer is not None:
            raise RuntimeError(f"{self!r} is already started: give each application one")
        loop = asyncio.get_running_loop()
        writer = Writer(
            self.path, tasks, worker, self._max_crashes, self._fsync_acks, loop
        )
        await writer.start()
        self._writer = writer

    async def stop(self) -> None:
        """Finish, and close the file; see :meth:`Store.stop`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._hand_over(writer)
            await writer.stop()

    async def put(self, envelope: Envelope, *, connection: Any = None) -> str:
        """Keep a job; see :meth:`Store.put`."""
        self._started()
        if connection is not None:
            return await put_joined(connection, envelope, self.path)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        row = rows.row_of(envelope, envelope.accepted_at)
        self._next_batch().puts.append(Put(envelope, row, future))
        return await future

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        """Keep a periodic job once; see :meth:`Store.put_tick`."""
        self._started()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        row = rows.row_of(envelope, envelope.accepted_at)
        self._next_batch().ticks.append(Tick(envelope, row, tick, seen, future))
        return await future

    async def last_tick(self, task: str, now: float) -> float | None:
        """Return up to when ticks have been seen; see :meth:`Store.last_tick`."""
        return await self._ask(lambda given: rows.last_tick(given, task, now))

    async def fetch(self, count: int) -> Sequence[Delivery]:
        """Wait for jobs that are due; see :meth:`Store.fetch`."""
        writer = self._started()
        # So that what has ended before goes into the same transaction.
        self._hand_over(writer)
        return await writer.fetch(min(count, sys.maxsize))  # SQLite takes no higher

    # -- to look at -------------------------------------------------------------------

    async def statistics(self) -> DurableStatistics:
        """Return how many jobs are in each place; see :meth:`Inspectable.statistics`."""
        return await self._look(look.statistics)

    async def jobs(
        self, place: Place, count: int = 100, skip: int = 0
    ) -> Sequence[KeptJob]:
        """Return the first jobs of a place; see :meth:`Inspectable.jobs`."""
        return await self._look(look.jobs, Place(place), count, skip)

    async def find_dead(self, id: str) -> KeptJob | None:
        """Return the dead job with this id; see :meth:`Inspectable.find_dead`."""
        return await self._look(look.find_dead, id)

    async def retry_dead(
        self,
        ids: Collection[str] | None = None,
        *,
        until: float | None = None,
        within: float | None = None,
    ) -> int:
        """Let dead jobs wait again; see :meth:`Inspectable.retry_dead`."""
        return await self._change(Change(RETRY, ids, until), within)

    async def drop_dead(
        self,
        ids: Collection[str] | None = None,
        *,
        until: float | None = None,
        within: float | None = None,
    ) -> int:
        """Forget dead jobs; see :meth:`Inspectable.drop_dead`."""
        return await self._change(Change(DROP, ids, until), within)

    async def _change(self, change: Change, within: float | None) -> int:
        end = inf if within is None else monotonic() + within
        while not change.is_over:
            begun = monotonic()
            try:
                change.note(await self._ask(change.do_part))
            except StoreUnavailable as error:
                if not change.done:
                    raise
                says = f"{error.args[0]}; it was done to {change.done:,} jobs before"
                raise StoreUnavailable(says) from error
            if (now := monotonic()) >= end:
                break
            if not change.is_over:
                await asyncio.sleep(pause_after(now - begun))
        return change.done

    async def _look(self, function: Callable[..., T], *args: Any) -> T:
        """Read in another thread, through another connection: this holds nobody up."""
        self._started()
        try:
            return await asyncio.to_thread(function, self.path, *args)
        except Exception as error:
            fault = fault_of(error, self.path)
            if fault is None:
                raise
            raise fault from error

    async def _ask(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """Call it in the writer's next transaction."""
        self._started()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._next_batch().questions.append(Question(ask, future))
        return await future

    # -- settling -----------------------------------------------------------------------

    def ack(self, delivery: Delivery) -> None:
        """Forget a job that is done."""
        self._next_batch().acked.append(delivery.receipt)

    def retry(self, delivery: Delivery, due: float) -> None:
        """Let the next attempt wait."""
        self._next_batch().retried.append((due, *delivery.receipt))

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Put aside a job that has failed for good."""
        self._next_batch().buried.append((time(), reason, *delivery.receipt))

    def give_back(self, delivery: Delivery) -> None:
        """Let the same attempt wait again."""
        self._next_batch().given_back.append(delivery.receipt)

    # -- within -------------------------------------------------------------------------

    def _started(self) -> Writer:
        if self._writer is None:
            raise StoreUnavailable("their store is closed")
        return self._writer

    def _next_batch(self) -> Batch:
        """Return what is handed over at the end of this turn of the loop."""
        batch = self._batch
        if batch is None:
            batch, writer = Batch(), self._writer
            # After stop() a job that was let go may still end: it was given back by then.
            if writer is not None:
                self._batch = batch
                asyncio.get_running_loop().call_soon(self._hand_over, writer)
        return batch

    def _hand_over(self, writer: Writer) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            writer.hand_over(batch)
