"""Asks all other workers: once a second, however many callers want to know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from .asking import Answer, Line, Trouble
from .names import VERSION, SocketName
from .place import Place

__all__ = ("Others", "Placed", "foreign")

# Seconds for which answers are good.
_GOOD_FOR: Final = 1.0
# How long to wait for a worker: this many turns, of this many seconds.
_TURNS, _TURN = 10, 0.05


class Placed(Protocol):
    """A worker, or a part of one."""

    @property
    def place(self) -> Place | None:
        """Where the others find it; None while they cannot."""
        ...


class Others:
    """Asks the other workers one question.

    Args:
        worker: this worker.
        path: what to ask the others for.
        data: called in each round; returns more about it, as JSON.
        read: called once with each answer; returns what to make of it. If it raises
            because the answer is no such thing, the worker counts as failed.
    """

    def __init__(
        self,
        worker: Placed,
        path: str,
        data: Callable[[], object] = lambda: None,
        read: Callable[[SocketName, Any], object] = lambda name, data: data,
    ) -> None:
        self._worker = worker
        self._path = path
        self._data = data
        self._read = read
        # One to each of them; the same name may be found by another path one day.
        self._lines: dict[tuple[SocketName, str], Line] = {}
        # By name, from the moment of asking until the answer is taken.
        self._asked: dict[SocketName, asyncio.Task[Answer]] = {}
        # Workers that were waited for in vain: still asked, but not waited for again.
        self._slow: set[SocketName] = set()
        self._round: asyncio.Task[list[Answer]] | None = None
        self._good_until = 0.0

    async def ask(self, *, anew: bool = False) -> list[Answer]:
        """Return an answer from each, in the order of their numbers; errors are answers.

        Some are up to a second old. A worker that does not answer is waited for once, for
        half a second; after that, each round only looks whether its answer has come.

        Args:
            anew: whether answers that have come before are not good enough. Those that
                are on their way are.

        Cancellation:
            The others are asked all the same, for whoever wants to know next.
        """
        loop = asyncio.get_running_loop()
        if self._round is None or (
            self._round.done() and (anew or loop.time() >= self._good_until)
        ):
            self._round = loop.create_task(self._ask_all())
        return await asyncio.shield(self._round)

    async def close(self) -> None:
        """Break off what is being asked. May be called twice."""
        tasks: list[asyncio.Task[Any]] = list(self._asked.values())
        if self._round is not None:
            tasks.append(self._round)
        self._round = None
        self._asked.clear()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        for line in [*self._lines.values()]:
            await line.close()
        self._lines.clear()

    async def _ask_all(self) -> list[Answer]:
        place = self._worker.place
        if place is None:
            return []
        names = [name for name in place.folder.sockets() if name != place.name]
        await self._forget(set(names))
        told = {name: foreign(name, place.name) for name in names}
        data = self._data()
        for name in names:
            if told[name] is None and name not in self._asked:
                address = place.folder.address(str(name))
                line = self._lines.get((name, address))
                if line is None:
                    line = self._lines[name, address] = Line(name, address)
                self._asked[name] = asyncio.create_task(line.ask(self._path, data))
        await self._wait()
        answers: list[Answer] = []
        for name in names:
            answer = told[name]
            if answer is None:
                answer = self._take(name)
            if answer.trouble is Trouble.GONE:
                # It listened when it got its name, so it is dead: shown this once.
                with suppress(OSError):
                    place.folder.remove(str(name))
            answers.append(answer)
        self._good_until = asyncio.get_running_loop().time() + _GOOD_FOR
        return answers

    async def _wait(self) -> None:
        for _ in range(_TURNS):
            waited = [
                task
                for name, task in self._asked.items()
                if name not in self._slow and not task.done()
            ]
            if not waited:
                return
            # In short turns: if it is this event loop that lags, one turn ends late, and
            # the answers that have come meanwhile are read in the next one.
            await asyncio.wait(waited, timeout=_TURN)

    def _take(self, name: SocketName) -> Answer:
        task = self._asked[name]
        if not task.done():
            self._slow.add(name)
            return Answer(name, trouble=Trouble.SLOW)
        self._slow.discard(name)
        del self._asked[name]
        answer = task.result()
        if answer.trouble is not None:
            return answer
        try:
            return Answer(name, self._read(name, answer.data))
        except (LookupError, TypeError, ValueError, AttributeError):
            return Answer(name, trouble=Trouble.FAILED)

    async def _forget(self, names: set[SocketName]) -> None:
        for name in self._asked.keys() - names:
            self._asked.pop(name).cancel()
        self._slow &= names
        for key in [key for key in self._lines if key[0] not in names]:
            await self._lines.pop(key).close()


def foreign(name: SocketName, own: SocketName) -> Answer | None:
    """Return why a worker must not be asked; None if it may be."""
    if name.application != own.application:
        return Answer(name, trouble=Trouble.APPLICATION)
    if name.version != VERSION:
        return Answer(name, trouble=Trouble.VERSION)
    return None
