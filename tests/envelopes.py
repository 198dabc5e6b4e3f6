"""Envelopes and started stores, for the tests of durable jobs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from time import time
from typing import Any

from aiohttp_jobs.durable import Delivery, Envelope, SQLiteStore
from aiohttp_jobs.durable.envelope import new_id

__all__ = ("MemoryStore", "envelope", "look", "opened", "started")


def envelope(task: str = "mail", **fields: Any) -> Envelope:
    """Make an envelope of this task, due at once unless the fields say otherwise."""
    plain = Envelope(id=new_id(), task=task, arguments="[[], {}]", accepted_at=time())
    return plain._replace(**fields)


@contextlib.asynccontextmanager
async def started(
    path: Path, *tasks: str, worker: bool = True, **options: Any
) -> AsyncIterator[SQLiteStore]:
    """Start a store of this file, for these tasks or for ``mail``; stop it at the end."""
    store = SQLiteStore(path, **options)
    await store.start(tasks or ("mail",), worker=worker)
    try:
        yield store
    finally:
        await store.stop()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection to the file, as another program would."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def look(path: Path, query: str) -> list[Any]:
    """Return what a query finds in the file."""
    with opened(path) as connection:
        return connection.execute(query).fetchall()


class MemoryStore:
    """A store in memory: only what the protocol demands, and faults on demand."""

    supports: Collection[str] = ("delay", "at")
    remembers_ticks = False

    def __init__(self) -> None:
        self.calls = list[str]()
        self.waiting = list[Envelope]()
        self.dead = list[tuple[Envelope, str]]()
        #: The exception to raise for now instead of doing anything.
        self.fault: Exception | None = None
        self._changed = asyncio.Event()

    def check(self) -> None:
        if self.fault is not None:
            raise self.fault

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        self.calls.append("start")
        self.check()

    async def stop(self) -> None:
        self.calls.append("stop")

    async def put(self, envelope: Envelope, *, connection: object = None) -> str:
        self.check()
        self._add(envelope)
        return envelope.id

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        self.calls.append("put_tick")
        return bool(await self.put(envelope))

    async def last_tick(self, task: str, now: float) -> float | None:
        self.calls.append("last_tick")
        return None

    async def fetch(self, count: int) -> list[Delivery]:
        self.calls.append("fetch")
        self.check()
        while not (due := self._due()):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._changed.wait()
            self.check()
        for each in due[:count]:
            self.waiting.remove(each)
        return [Delivery(each, None) for each in due[:count]]

    def ack(self, delivery: Delivery) -> None:
        self.calls.append("ack")

    def retry(self, delivery: Delivery, due: float) -> None:
        self.calls.append("retry")
        self._add(delivery.envelope.again(due))

    def bury(self, delivery: Delivery, reason: str) -> None:
        self.calls.append("bury")
        self.dead.append((delivery.envelope, reason))

    def give_back(self, delivery: Delivery) -> None:
        self.calls.append("give_back")
        self._add(delivery.envelope)

    def _add(self, envelope: Envelope) -> None:
        self.waiting.append(envelope)
        self._changed.set()

    def _due(self) -> list[Envelope]:
        return [each for each in self.waiting if (each.due or 0) <= time()]
