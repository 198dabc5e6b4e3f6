"""Asks one worker, and waits for it no longer than half a second, and only once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from .asking import Answer, Trouble, ask
from .names import SocketName

__all__ = ("Patience",)

# How long to wait for a worker: this many turns, of this many seconds.
_TURNS, _TURN = 10, 0.05
# Seconds for which an answer that nobody waited for is good.
_GOOD_FOR: Final = 1.0
# How many questions may be open, and how many to one that does not answer.
_MOST: Final = 64
_MOST_SLOW: Final = 4


@dataclass(eq=False)
class _Question:
    task: asyncio.Task[Answer]
    #: When it was answered, by the loop's time.
    answered: float | None = None


class Patience:
    """Asks workers one by one, whatever the question.

    A worker that does not answer is still asked, but not waited for again until it has
    answered.
    """

    def __init__(self) -> None:
        # From the moment of asking until the answer is taken; the oldest first.
        self._open = OrderedDict[tuple[SocketName, str], _Question]()
        self._slow: set[SocketName] = set()

    async def ask(self, name: SocketName, address: str, path: str) -> Answer:
        """Return its answer to a GET, or why there is none; errors are answers.

        Cancellation:
            It is asked all the same, for whoever wants to know next.
        """
        key = name, path
        question = self._open.get(key)
        if question is not None and self._is_old(question):
            del self._open[key]
            question = None
        if question is None:
            waiting = sum(other == name for other, _ in self._open)
            if name in self._slow and waiting >= _MOST_SLOW:
                return Answer(name, trouble=Trouble.SLOW)
            question = self._begin(key, address)
        if name not in self._slow:
            for _ in range(_TURNS):
                # In short turns, as it may be this event loop that lags.
                await asyncio.wait([question.task], timeout=_TURN)
                if question.task.done():
                    break
        if not question.task.done():
            self._slow.add(name)
            return Answer(name, trouble=Trouble.SLOW)
        self._slow.discard(name)
        if self._open.get(key) is question:
            del self._open[key]
        if question.task.cancelled():  # too many were asked since
            return Answer(name, trouble=Trouble.SLOW)
        return question.task.result()

    async def close(self) -> None:
        """Break off what is being asked. May be called twice."""
        tasks = [question.task for question in self._open.values()]
        self._open.clear()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, key: tuple[SocketName, str], address: str) -> _Question:
        if len(self._open) >= _MOST:
            _, oldest = self._open.popitem(last=False)
            oldest.task.cancel()
        loop = asyncio.get_running_loop()
        question = _Question(loop.create_task(ask(key[0], address, key[1])))
        self._open[key] = question

        def answered(task: asyncio.Task[Answer]) -> None:
            question.answered = loop.time()
            if not task.cancelled():
                self._slow.discard(key[0])

        question.task.add_done_callback(answered)
        return question

    def _is_old(self, question: _Question) -> bool:
        now = asyncio.get_running_loop().time()
        return question.answered is not None and now - question.answered > _GOOD_FOR
