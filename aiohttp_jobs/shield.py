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


class _Shielded:
    """What is known of one inner future.

    Args:
        report: called with its exception if there is nobody to raise it to.
    """

    __slots__ = ("cancelled", "outers", "report", "timer")

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        self.report = report
        # What its callers await; most often one has shielded it, once. After a failure:
        # those told of it who have not yet come to collect it, until one has it.
        self.outers: list[_Outer[Any]] = []
        # The end of its time; None if it may take any.
        self.timer: asyncio.TimerHandle | None = None
        # Has closing cancelled it?
        self.cancelled = False

    def settle(self, inner: asyncio.Future[Any]) -> None:
        """Tell the callers how it has ended."""
        outers = [outer for outer in self.outers if not outer.cancelled()]
        self.outers = []
        if inner.cancelled():
            for outer in outers:
                outer.cancel()
        elif (error := inner.exception()) is None:
            for outer in outers:
                outer.set_result(inner.result())
        elif outers:
            self.outers = outers
            for outer in outers:
                outer.set_exception(error)
        else:
            self.report(error)

    def left(self, outer: _Outer[Any]) -> None:
        """Note that its caller was cancelled, maybe in the turn of the failure."""
        if outer in self.outers and outer.done() and not outer.cancelled():
            self.outers.remove(outer)
            if not self.outers and (error := outer.exception()) is not None:
                self.report(error)


class Shields:
    """The inner futures that are not done, and those that closing has let go."""

    __slots__ = ("_shielded", "_strays")

    def __init__(self) -> None:
        self._shielded: dict[asyncio.Future[Any], _Shielded] = {}
        # Held so that they are not collected while they run.
        self._strays: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._shielded)

    def __iter__(self) -> Iterator[asyncio.Future[Any]]:
        return iter(self._shielded)

    def __contains__(self, inner: object) -> bool:
        return inner in self._shielded

    def add(self, scheduler: Scheduler, inner: asyncio.Future[T]) -> asyncio.Future[T]:
        """Shield `inner`, which is not done; return what its caller awaits."""
        shielded = self._shielded.get(inner)
        if shielded is None:
            shielded = _Shielded(partial(_lost, scheduler, inner))
            self._shielded[inner] = shielded
            inner.add_done_callback(partial(self._ended, scheduler, shielded))
        outer = _Outer[T](inner.get_loop(), shielded)
        shielded.outers.append(outer)
        return outer

    def bound(
        self, scheduler: Scheduler, inner: asyncio.Future[Any], grace: float | None
    ) -> None:
        """Let `inner` go if it is not done in `grace` seconds."""
        shielded = self._shielded[inner]
        if grace is not None and shielded.timer is None:
            shielded.timer = inner.get_loop().call_later(
                grace, self._let_go, scheduler, inner
            )

    def stop(
        self, scheduler: Scheduler, inner: asyncio.Future[Any], grace: float | None
    ) -> bool:
        """Cancel `inner` if that has not been done; was it done now?"""
        shielded = self._shielded.get(inner)
        if shielded is None or shielded.cancelled:
            return False
        if shielded.timer is not None:
            return False  # shielded while it closes: it has its time
        shielded.cancelled = True
        self.bound(scheduler, inner, grace)
        return inner.cancel()

    def _ended(
        self, scheduler: Scheduler, shielded: _Shielded, inner: asyncio.Future[Any]
    ) -> None:
        """One callback for callers and books: whoever sees it end, sees it told."""
        self._strays.discard(inner)
        if self._shielded.get(inner) is shielded:
            del self._shielded[inner]
            if shielded.timer is not None:
                shielded.timer.cancel()
            scheduler._check_idle()
        shielded.settle(inner)

    def _let_go(self, scheduler: Scheduler, inner: asyncio.Future[Any]) -> None:
        del self._shielded[inner]
        self._strays.add(inner)
        try:
            scheduler.call_exception_handler(
                {
                    "message": "Shielded awaitable closing timed out",
                    "future": inner,
                    "exception": TimeoutError("A shielded awaitable did not end in time"),
                }
            )
        finally:  # the exception handler may raise SystemExit
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
        shielded: the inner one, of which it is told.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, shielded: _Shielded) -> None:
        super().__init__(loop=loop)
        self._shielded = shielded

    def __await__(self) -> Generator[Any, None, T]:
        try:
            return (yield from super().__await__())
        except asyncio.CancelledError:
            # Its caller may have been cancelled in the very turn in which the failure
            # arrived: asyncio would drop the failure.
            self._shielded.left(self)
            raise
        except BaseException:
            self._shielded.outers = []  # somebody has it
            raise

    __iter__ = __await__
