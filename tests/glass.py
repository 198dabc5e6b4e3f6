"""A store that can be looked into, and that hangs or fails at will."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextvars import ContextVar

from aiohttp_jobs.durable import DurableStatistics, KeptJob, Place
from tests.envelopes import MemoryStore

__all__ = ("NOTHING", "VARIABLE", "Glass")

NOTHING = DurableStatistics(0, 0, 0, 0, 0.0)
VARIABLE = ContextVar[str]("VARIABLE", default="nobody's")


class Glass(MemoryStore):
    """A store that reports what the test has put there."""

    def __init__(self) -> None:
        super().__init__()
        self.figures = NOTHING
        self.asked = list[str]()
        self.at_once = self.most_at_once = 0
        self.seen = set[str]()
        self.go = asyncio.Event()
        self.go.set()

    async def _answer(self, question: str) -> None:
        self.asked.append(question)
        self.seen.add(VARIABLE.get())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            await self.go.wait()
            self.check()
        finally:
            self.at_once -= 1

    async def statistics(self) -> DurableStatistics:
        await self._answer("statistics")
        return self.figures

    async def jobs(
        self, place: Place, count: int = 100, skip: int = 0
    ) -> Sequence[KeptJob]:
        await self._answer(f"{place} {count} {skip}")
        return []

    async def find_dead(self, id: str) -> KeptJob | None:
        await self._answer(id)
        return None

    async def retry_dead(
        self,
        ids: Collection[str] | None = None,
        *,
        until: float | None = None,
        within: float | None = None,
    ) -> int:
        await self._answer(f"retry {ids} {until}")
        return 2

    async def drop_dead(
        self,
        ids: Collection[str] | None = None,
        *,
        until: float | None = None,
        within: float | None = None,
    ) -> int:
        await self._answer(f"drop {ids} {until}")
        return 3
