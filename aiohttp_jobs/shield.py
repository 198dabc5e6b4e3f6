"""ShieldFuture: what the caller of a shield awaits.

:func:`asyncio.shield` loses the failure of what it shields when its caller has gone. Here
it reaches the scheduler's exception handler instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

__all__ = ("ShieldFuture",)

T = TypeVar("T")


class ShieldFuture(asyncio.Future[T]):
    """The outer future of a shield: cancelling it leaves the inner one alone.

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
