"""Shields: the awaitables that a scheduler protects from their callers' cancellation.

:func:`asyncio.shield` loses the failure of what it shields when its caller has gone. Here
it reaches the scheduler's exception handler instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .scheduler import Scheduler

__all__ = ("Shields",)

T = TypeVar("T")


class Shields:
    """The inner futures that are not done, and those that closing has let go."""

    __slots__ = ("_cancelled", "_deadlines", "_strays")

    def __init__(self) -> None:
        # None for those that may take any time to end.
        self._deadlines: dict[asyncio.Future[Any], asyncio.TimerHandle | None] = {}
        # Those of them that closing has cancelled, with or without a deadline.
        self._cancelled: set[asyncio.Future[Any]] = set()
        # Held so that they are not collected while they run.
        self._strays: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._deadlines)

    def __iter__(self) -> Iterator[asyncio.Future[Any]]:
        return iter(self._deadlines)

    def __contains__(self, inner: object) -> bool:
        return inner in self._deadlines

    def add(self, scheduler: Scheduler, inner: asyncio.Future[T]) -> asyncio.Future[T]:
        """Shield `inner`, which is not done; return what its caller awaits."""
        outer = _Outer(inner, partial(_lost, scheduler, inner))
        if inner not in self._deadlines:
            self._deadlines[inner] = None
            inner.add_done_callback(partial(self._discard, scheduler))
        inner.add_done_callback(outer.settle)
        return outer

    def bound(
        self, scheduler: Scheduler, inner: asyncio.Future[Any], grace: float | None
    ) -> None:
        """Let `inner` go if it is not done in `grace` seconds."""
        if grace is not None and self._deadlines[inner] is None:
            self._deadlines[inner] = inner.get_loop().call_later(
                grace, self._let_go, scheduler, inner
            )

    def stop(
        self, scheduler: Scheduler, inner: asyncio.Future[Any], grace: float | None
    ) -> bool:
        """Cancel `inner` if that has not been done; was it done now?"""
        if inner not in self._deadlines or inner in self._cancelled:
            return False
        if self._deadlines[inner] is not None:
            return False  # shielded while it closes: it has its time
        self._cancelled.add(inner)
        self.bound(scheduler, inner, grace)
        return inner.cancel()

    def _discard(self, scheduler: Scheduler, inner: asyncio.Future[Any]) -> None:
        self._strays.discard(inner)
        self._cancelled.discard(inner)
        timer = self._deadlines.pop(inner, None)
        if timer is not None:
            timer.cancel()
        scheduler._check_idle()

    def _let_go(self, scheduler: Scheduler, inner: asyncio.Future[Any]) -> None:
        del self._deadlines[inner]
        self._cancelled.discard(inner)
        self._strays.add(inner)
        scheduler.call_exception_handler(
            {
                "message": "Shielded awaitable closing timed out",
                "future": inner,
                "exception": TimeoutError("A shielded awaitable did not end in time"),
            }
        )
        scheduler._check_idle()


def _lost(scheduler: Scheduler, inner: asyncio.Future[Any], error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return  # it has left through the loop
    scheduler.call_exception_handler(
        {
            "message": "Shielded awaitable failed after its caller had gone",
            "future": inner,
            "exception": error,
        }
    )


class _Outer(asyncio.Future[T]):
    """What the caller of a shield awaits: cancelling it leaves the inner one alone.

    Args:
        inner: what is shielded.
        report: called with the inner one's exception when there is nobody to raise it to.
    """

    def __init__(
        self, inner: asyncio.Future[T], report: Callable[[BaseException], None]
    ) -> None:
        super().__init__(loop=inner.get_loop())
        self._report = report

    def __await__(self) -> Generator[Any, None, T]:
        try:
            return (yield from super().__await__())
        except asyncio.CancelledError:
            # Its caller was cancelled in the very turn in which the failure arrived:
            # asyncio would drop the failure.
            if self.done() and not self.cancelled():
                error = self.exception()
                if error is not None:
                    self._report(error)
            raise

    __iter__ = __await__

    def settle(self, inner: asyncio.Future[T]) -> None:
        """Take over the outcome of `inner`, which is done."""
        if inner.cancelled():
            self.cancel()
        elif (error := inner.exception()) is not None:
            if self.cancelled():
                self._report(error)
            else:
                self.set_exception(error)
        elif not self.cancelled():
            self.set_result(inner.result())
