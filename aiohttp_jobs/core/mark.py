"""The mark: how code is known to be part of a job, even in the job's child tasks."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

from .guests import call_guest

__all__ = ("Marked", "mark")

# The number of the job that the running code is part of. Child tasks inherit it with
# their context, which is how a job that waits through asyncio.gather() is known to wait.
# A number, not the job, which a context may outlive by far.
mark: Final[contextvars.ContextVar[int]] = contextvars.ContextVar("aiohttp_jobs.job")


class Marked:
    """Awaits a coroutine in a context that it shares with others.

    The mark is set only while the coroutine runs, so that nobody else in that context is
    taken for a part of its job.
    """

    __slots__ = ("_coro", "_number")

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int) -> None:
        self._coro = coro
        self._number = number

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._coro.send
        value: Any = None
        try:
            while True:
                token = mark.set(self._number)
                try:
                    waits_for = step(value)
                except StopIteration as end:
                    return end.value
                finally:
                    mark.reset(token)
                try:
                    value = yield waits_for
                    step = self._coro.send
                except BaseException as error:
                    step, value = self._coro.throw, error
        finally:
            # The coroutine has ended, unless a KeyboardInterrupt came in between.
            call_guest(self._coro.close)
