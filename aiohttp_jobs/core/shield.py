"""Shields: the awaitables that a scheduler protects from their callers' cancellation.

:func:`asyncio.shield` loses the failure of what it shields when its caller has gone. Here
it reaches the scheduler's exception handler instead.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from .errors import JobCancelled
from .failures import Failure
from .guests import LEAVES, call_guest
from .reports import Reports

__all__ = ("Shields",)

T = TypeVar("T")

LOST: Final = "Shielded awaitable failed after its caller had gone"


class _Shielded:
    """What is known about one inner future.

    Args:
        report: called with its exception if there is nobody to raise it to.
    """

    __slots__ = (
        "_is_settled",
        "_owed",
        "_report",
        "cancelled",
        "context",
        "timer",
        "waiting",
    )

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        self._report = report
        # What is reported about it is reported in this context, whatever timer ends it.
        self.context = contextvars.copy_context()
        # The futures that its callers wait for, in order; most often there is one.
        self.waiting: dict[_Outer[Any], None] = {}
        # After a failure: how many callers were told and have yet to collect it; 0 for
        # good once somebody has it. Only a number, which keeps none of them alive.
        self._owed = 0
        # Whether all have been told.
        self._is_settled = False
        # The end of its time; None if it may take any.
        self.timer: asyncio.TimerHandle | None = None
        # Whether closing has cancelled it.
        self.cancelled = False

    def settle(self, inner: asyncio.Future[Any]) -> None:
        """Tell the waiting callers how it ended; doing so again does nothing."""
        if self._is_settled:
            return
        outers = [outer for outer in self.waiting if not outer.done()]
        if inner.cancelled():
            cause = _not_its_own(inner) if outers else None
            for outer in outers:
                outer.end_cancelled(cause)
        elif (error := inner.exception()) is None:
            for outer in outers:
                outer.set_result(inner.result())
        elif outers:
            self._owed = sum(not outer.cancelled() for outer in self.waiting)
            for outer in outers:
                outer.set_exception(error)
        else:
            self._report(error)
        self._is_settled = True
        self.waiting = {}

    def received(self) -> None:
        """Note that the failure has been raised to somebody."""
        self._owed = 0

    def missed(self, error: BaseException) -> None:
        """Note that a caller did not collect the failure; report it if none did."""
        if self._owed:
            self._owed -= 1
            if not self._owed:
                self._report(error)


def _not_its_own(inner: asyncio.Future[Any]) -> JobCancelled | None:
    """Return the JobCancelled of a job it waited for, if that alone has cancelled it.

    This is what its callers are told.
    """
    cancelling: Any = getattr(inner, "cancelling", None)
    if cancelling is None or cancelling():
        return None
    try:
        inner.result()
    except JobCancelled as error:
        return error
    except asyncio.CancelledError:
        pass
    return None


class Shields:
    """The inner futures that are not done, and those that closing has let go.

    Args:
        reports: where failures go whose caller has gone.
    """

    __slots__ = ("_lost", "_reports", "_shielded", "_strays", "when_over")

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._shielded: dict[asyncio.Future[Any], _Shielded] = {}
        # Kept so that they are not collected while they run, and in case somebody shields
        # them again: a failure is reported once, whoever has waited for it.
        self._strays: dict[asyncio.Future[Any], _Shielded] = {}
        # Failures that the exception handler is about to be told of; somebody may still
        # ask for them.
        self._lost: dict[asyncio.Future[Any], Failure] = {}
        # Called with each inner future that is over.
        self.when_over: Callable[[asyncio.Future[Any]], object] = bool

    def __len__(self) -> int:
        return len(self._shielded)

    def __iter__(self) -> Iterator[asyncio.Future[Any]]:
        return iter(self._shielded)

    def __contains__(self, inner: object) -> bool:
        return inner in self._shielded

    def add(self, inner: asyncio.Future[T]) -> asyncio.Future[T]:
        """Shield `inner`, which is not done; return what its caller awaits."""
        shielded = self._shielded.get(inner) or self._strays.pop(inner, None)
        if shielded is None:
            shielded = _Shielded(partial(self._lose, inner))
            inner.add_done_callback(self._ended)
        self._shielded[inner] = shielded
        outer = _Outer[T](inner.get_loop(), shielded)
        shielded.waiting[outer] = None
        return outer

    def bound(self, inner: asyncio.Future[Any], grace: float | None) -> None:
        """Let `inner` go if it is not done within `grace` seconds."""
        shielded = self._shielded[inner]
        if grace is not None and shielded.timer is None:
            let_go, context = self._let_go, shielded.context
            shielded.timer = inner.get_loop().call_later(
                grace, let_go, inner, context=context
            )

    def stop(self, inner: asyncio.Future[Any], grace: float | None) -> bool:
        """Cancel `inner` unless that was done before; return whether it was done now."""
        shielded = self._shielded.get(inner)
        if shielded is None or shielded.cancelled:
            return False
        if shielded.timer is not None:
            return False  # shielded during the close: it has its own deadline
        shielded.cancelled = True
        self.bound(inner, grace)
        call_guest(inner.cancel)
        return True

    def _ended(self, inner: asyncio.Future[Any]) -> None:
        """Tell the callers and close the books, in one callback so that the two agree."""
        try:
            shielded = self._strays.get(inner) or self._shielded.get(inner)
            if shielded is not None:
                if shielded.timer is not None:
                    shielded.timer.cancel()
                shielded.settle(inner)
                self._strays.pop(inner, None)
                self._shielded.pop(inner, None)
            self.when_over(inner)
        except BaseException:
            inner.get_loop().call_soon(self._ended, inner)
            raise

    def sweep(self) -> None:
        """Settle those that are done, if a KeyboardInterrupt prevented that."""
        for inner in [inner for inner in self._shielded if inner.done()]:
            self._ended(inner)

    def _let_go(self, inner: asyncio.Future[Any]) -> None:
        shielded = self._strays[inner] = self._shielded.pop(inner)
        shielded.timer = None
        error = TimeoutError("A shielded awaitable did not end in time")
        self._tell(inner, error, "Shielded awaitable closing timed out")
        self.when_over(inner)

    def _lose(self, inner: asyncio.Future[Any], error: BaseException) -> None:
        failure = self._tell(inner, error, LOST)
        if not issubclass(type(error), LEAVES):
            self._lost[inner] = failure

    def asked_for(self, inner: asyncio.Future[Any]) -> None:
        """Note that somebody shields, and so awaits, one that is already done."""
        if inner in self._lost:
            self._lost[inner].take()

    def _tell(
        self, inner: asyncio.Future[Any], error: BaseException, message: str
    ) -> Failure:
        context = {"message": message, "future": inner, "exception": error}
        get_context: Any = getattr(inner, "get_context", contextvars.copy_context)
        failure = Failure(error)
        self._reports.later(
            inner.get_loop(),
            failure,
            lambda: context,
            get_context(),
            lambda: self._lost.pop(inner, None),
        )
        return failure


class _Outer(asyncio.Future[T]):
    """What the caller of a shield awaits: cancelling it leaves the inner future alone.

    Args:
        shielded: what is known about the inner future; it settles this one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, shielded: _Shielded) -> None:
        super().__init__(loop=loop)
        self._shielded = shielded
        # How many await it just now: usually only its caller.
        self._awaited = 0

    def cancel(self, msg: Any = None) -> bool:
        """Stop waiting; the inner future no longer keeps this one alive."""
        is_cancelled = super().cancel(msg)
        self._shielded.waiting.pop(self, None)
        return is_cancelled

    def end_cancelled(self, error: JobCancelled | None) -> None:
        """End as cancelled, as the inner future did: with this error, or a plain one."""
        if error is None:
            self.cancel()
        else:
            self.set_exception(error)
            self.exception()  # counts as retrieved: it is no failure

    def __del__(self) -> None:
        """Note that nobody has collected the failure here, and nobody can any more."""
        if not getattr(self, "_log_traceback", False):  # asyncio's own mark of that
            return
        loop, error, missed = self.get_loop(), self.exception(), self._shielded.missed
        assert error is not None
        if loop.is_closed():
            loop.call_exception_handler({"message": LOST, "exception": error})
        elif _is_running(loop):
            call_guest(missed, error)
        else:  # another thread may be collecting garbage
            loop.call_soon_threadsafe(missed, error)

    def __await__(self) -> Generator[Any, None, T]:
        self._awaited += 1
        try:
            return (yield from super().__await__())
        except BaseException as error:
            self._note(error)
            raise
        finally:
            self._awaited -= 1
            del self  # the exception's traceback shows this frame: break the cycle

    __iter__ = __await__

    def _note(self, raised: BaseException) -> None:
        """Note what an await of this has raised."""
        failure = None if not self.done() or self.cancelled() else self.exception()
        if failure is raised:
            self._shielded.received()
        elif failure is not None and self._awaited == 1:
            # The caller was cancelled in the very turn in which the failure arrived:
            # asyncio would drop it.
            self._shielded.missed(failure)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this is the loop that runs here."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
