"""Inspection: asks a store what it keeps, on behalf of people and metrics.

However many of them ask, and however often, each question is put at most once a second,
one at a time, and nobody waits long for the answer. A store that hangs holds up neither
pages nor scrapes, and takes one thread, not all of them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.failures import line_of

from .kept import DurableStatistics, Inspectable, KeptJob, Place
from .store import Store

__all__ = ("Inspection",)

T = TypeVar("T")

# How long an answer is reused: at least PERIOD seconds, or REST times as long as it took,
# up to LONGEST_PERIOD. A slow question, asked each second, would keep a processor busy.
PERIOD: Final = 1.0
REST: Final = 20.0
LONGEST_PERIOD: Final = 10.0
# Seconds to wait for an answer, and for a change to end; and seconds within which parts
# of a change are begun.
PATIENCE: Final = 1.0
PATIENCE_FOR_CHANGES: Final = 10.0
BEGUN_WITHIN: Final = 7.0
# The most answers to remember.
MOST: Final = 64


@dataclass(frozen=True, slots=True)
class _Answer:
    until: float
    result: Any
    error: StoreUnavailable | None


class Inspection:
    """Asks one store.

    Every method raises :exc:`~aiohttp_jobs.StoreUnavailable`, and nothing else, if the
    store cannot answer or does not in time, whatever the reason.

    Args:
        store: the store.
        check: raises :exc:`~aiohttp_jobs.StoreUnavailable` as long as nothing may be
            asked.
    """

    def __init__(self, store: Store, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check
        self._turn = asyncio.Lock()
        self._answers: dict[Hashable, _Answer] = {}
        # The questions that are being asked, and since when.
        self._asked: dict[Hashable, tuple[asyncio.Task[None], float]] = {}

    @property
    def is_possible(self) -> bool:
        """Whether the store can be looked into. A broker cannot."""
        return isinstance(self._store, Inspectable)

    async def statistics(self) -> DurableStatistics:
        """Return how many jobs are in each place."""
        return await self._ask("statistics", lambda store: store.statistics())

    async def jobs(self, place: Place, count: int, skip: int) -> Sequence[KeptJob]:
        """Return jobs of a place; see :meth:`Inspectable.jobs`."""
        key = place, count, skip
        return await self._ask(key, lambda store: store.jobs(place, count, skip))

    async def find_dead(self, id: str) -> KeptJob | None:
        """Return the dead job with this id."""
        return await self._ask(("dead", id), lambda store: store.find_dead(id))

    async def retry_dead(
        self, ids: Collection[str] | None = None, *, until: float | None = None
    ) -> int:
        """Let dead jobs wait again; see :meth:`Inspectable.retry_dead`.

        Returns:
            How many. If there are very many, only as many as can be done in a few
            seconds.

        Cancellation:
            It is done to all, some or none; the same if the store hangs.
        """
        return await self._change(
            lambda store: store.retry_dead(ids, until=until, within=BEGUN_WITHIN)
        )

    async def drop_dead(
        self, ids: Collection[str] | None = None, *, until: float | None = None
    ) -> int:
        """Forget dead jobs; the arguments are those of `retry_dead`."""
        return await self._change(
            lambda store: store.drop_dead(ids, until=until, within=BEGUN_WITHIN)
        )

    async def stop(self) -> None:
        """Stop waiting for answers."""
        tasks = [task for task, _ in self._asked.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _change(self, change: Callable[[Inspectable], Awaitable[int]]) -> int:
        try:
            async with asyncio.timeout(PATIENCE_FOR_CHANGES):
                return await change(self._checked())
        except TimeoutError:
            raise StoreUnavailable(
                f"their store has not answered within {PATIENCE_FOR_CHANGES:.0f} s: "
                "check later how much of it was done"
            ) from None
        except Exception as error:
            raise _fault(error) from error
        finally:
            self._answers.clear()

    async def _ask(
        self, key: Hashable, question: Callable[[Inspectable], Awaitable[T]]
    ) -> T:
        loop = asyncio.get_running_loop()
        answer = self._answers.get(key)
        if answer is None or loop.time() >= answer.until:
            if key not in self._asked:
                # In an empty context: the answer is for everyone who asks.
                task = contextvars.Context().run(
                    asyncio.create_task,
                    self._put(key, question),
                    name="durable jobs: look",
                )
                if not task.done():
                    self._asked[key] = task, loop.time()
            if key in self._asked:
                task, since = self._asked[key]
                # Later callers wait until the same moment, and not at all if it hangs.
                await asyncio.wait([task], timeout=since + PATIENCE - loop.time())
            answer = self._answers.get(key)
        if answer is None or key in self._asked:
            raise StoreUnavailable(
                f"their store has not answered within {PATIENCE:.0f} s: try again later"
            )
        if answer.error is not None:
            raise StoreUnavailable(*answer.error.args) from answer.error
        result: T = answer.result
        return result

    async def _put(
        self, key: Hashable, question: Callable[[Inspectable], Awaitable[Any]]
    ) -> None:
        result, fault, period, loop = None, None, PERIOD, asyncio.get_running_loop()
        try:
            async with self._turn:
                begun = loop.time()
                result = await question(self._checked())
                took = loop.time() - begun
                period = min(max(PERIOD, took * REST), LONGEST_PERIOD)
        except Exception as error:
            fault = _fault(error)
        finally:
            self._asked.pop(key, None)
        self._answers.pop(key, None)
        self._answers[key] = _Answer(loop.time() + period, result, fault)
        while len(self._answers) > MOST:
            del self._answers[next(iter(self._answers))]

    def _checked(self) -> Inspectable:
        if not isinstance(self._store, Inspectable):
            raise StoreUnavailable(
                f"{type(self._store).__name__} does not tell what it keeps: use the "
                "tools of its broker"
            )
        self._check()
        return self._store


def _fault(error: Exception) -> StoreUnavailable:
    """Return what the store should have raised."""
    if isinstance(error, StoreUnavailable):
        return error
    return StoreUnavailable(line_of(error))
