"""MemoryStore: durable jobs without a file, which run at once. For tests."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Generator
from contextlib import contextmanager

from .envelope import Envelope
from .store import Delivery

__all__ = ("MemoryStore",)


class MemoryStore:
    """A store for tests: it keeps durable jobs in memory, and makes none of them wait.

    Jobs with the options ``delay`` or ``at`` are due at once, and so is the next attempt
    after one that failed. No periodic jobs are put: spawn one to see what it does. The
    option ``connection`` is refused, since there is no database; test that with a file.
    """

    supports: Collection[str] = ("delay", "at", "priority", "key")
    # It says that all ticks are seen, so no process has to be chosen to put them.
    remembers_ticks = True

    def __init__(self) -> None:
        #: The jobs that were spawned, in order.
        self.spawned = list[Envelope]()
        #: The jobs that wait to be run.
        self.waiting = list[Envelope]()
        #: The jobs that were buried, each with the reason, a traceback.
        self.dead = list[tuple[Envelope, str]]()
        self._running = set[Delivery]()
        self._is_held = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<MemoryStore {[envelope.task for envelope in self.spawned]}>"

    @contextmanager
    def held(self) -> Generator[None]:
        """Start no job inside the block; forget those spawned in it at its end.

        For tests that check what is spawned without letting it happen.
        """
        if self._is_held:
            raise RuntimeError("The jobs are held already: leave that block first")
        self._is_held = True
        before = list(self.waiting)
        try:
            yield
        finally:
            self._is_held = False
            self.waiting[:] = before
            self._changed.set()

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        """Do nothing: it is open."""

    async def stop(self) -> None:
        """Give back what was not settled."""
        self.waiting[:0] = [delivery.envelope for delivery in self._running]
        self._running.clear()

    async def put(self, envelope: Envelope, *, connection: object = None) -> str:
        """Keep a job, unless one with its key waits; return the id of whichever waits."""
        other = self._with_key_of(envelope)
        if other is not None:
            return other.id
        self.spawned.append(envelope)
        self._add(envelope)
        return envelope.id

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        """Keep no periodic job: a test must not depend on the time of day."""
        return False

    async def last_tick(self, task: str, now: float) -> float | None:
        """Return that all ticks are seen."""
        return now

    async def fetch(self, count: int) -> list[Delivery]:
        """Wait until there are jobs, and return those with the highest priority."""
        while self._is_held or not self.waiting:
            self._changed.clear()
            await self._changed.wait()
        self.waiting.sort(key=lambda envelope: -envelope.priority)  # stable
        fetched = [Delivery(envelope, None) for envelope in self.waiting[:count]]
        del self.waiting[:count]
        self._running.update(fetched)
        return fetched

    def ack(self, delivery: Delivery) -> None:
        """Forget it."""
        self._running.discard(delivery)

    def retry(self, delivery: Delivery, due: float) -> None:
        """Let the next attempt run at once, whenever it is due."""
        self._running.discard(delivery)
        self._add(delivery.envelope.again(due))

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Put it aside."""
        self._running.discard(delivery)
        self.dead.append((delivery.envelope, reason))

    def give_back(self, delivery: Delivery) -> None:
        """Let the same attempt wait again."""
        self._running.discard(delivery)
        self._add(delivery.envelope)

    def _with_key_of(self, envelope: Envelope) -> Envelope | None:
        if envelope.key is None:
            return None
        key = (envelope.task, envelope.key)
        return next((e for e in self.waiting if (e.task, e.key) == key), None)

    def _add(self, envelope: Envelope) -> None:
        self.waiting.append(envelope)
        self._changed.set()
