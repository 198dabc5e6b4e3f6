"""Reports: who is told of a failure that nobody has received.

A failure is reported two turns of the loop later, by the loop itself: whoever waits for
it, even in a task that has not run yet, has received it by then.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from .failures import Failure, context_of, set_context
from .guests import LEAVES, call_guest

__all__ = ("ExceptionHandler", "Reports")

#: Called with the scheduler and a context, as :meth:`asyncio.loop.call_exception_handler`
#: takes it.
ExceptionHandler: TypeAlias = Callable[[Any, dict[str, Any]], object]


class Reports:
    """Tells the exception handler, or the event loop's if there is none.

    Args:
        handler: the exception handler.
        owner: the first argument that it is called with.
        call: called with the context of each failure; most often it calls `self.call`,
            and a subclass of the scheduler may do more.
    """

    __slots__ = ("_call", "_owner", "handler", "untold", "when_told")

    def __init__(
        self,
        handler: ExceptionHandler | None,
        owner: object,
        call: Callable[[dict[str, Any]], object],
    ) -> None:
        self.handler = handler
        self._owner = owner
        self._call = call
        # Failures that somebody may still receive, or has yet to be told of.
        self.untold: set[Failure] = set()
        # Called after each of them.
        self.when_told: Callable[[], object] = bool

    def later(
        self,
        loop: asyncio.AbstractEventLoop,
        failure: Failure,
        make_context: Callable[[], dict[str, Any]],
        context: contextvars.Context | None,
        after: Callable[[], object],
    ) -> None:
        """Tell of a failure, unless somebody has received it by then.

        Args:
            loop: the event loop that calls the handler.
            failure: what was raised.
            make_context: makes the context that the handler is called with.
            context: the context variables to call it in.
            after: called at the end.
        """
        if issubclass(type(failure.error), LEAVES):
            after()
            return  # it has left through the loop
        if context is None:
            context = contextvars.Context()
        # In a copy, which can be entered even while the context itself is in use.
        soon: Any = loop.call_soon
        tell = partial(soon, self._tell, failure, make_context, after)
        soon(partial(tell, context=context.copy()))
        # If a KeyboardInterrupt interrupts that, this still clears up.
        soon(soon, soon, self._told, failure, after)
        self.untold.add(failure)

    def _tell(
        self,
        failure: Failure,
        make_context: Callable[[], dict[str, Any]],
        after: Callable[[], object],
    ) -> None:
        if not failure.is_received:
            failure.is_received = True
            self.now(make_context())
        self._told(failure, after)

    def _told(self, failure: Failure, after: Callable[[], object]) -> None:
        after()
        self.untold.discard(failure)
        self.when_told()

    def now(self, context: dict[str, Any]) -> None:
        """Report a failure at once. This never raises, whatever is called."""
        error = call_guest(self._call, context)
        if error is not None:
            self._tell_of_handler(error, context)

    def call(self, context: dict[str, Any]) -> None:
        """Call the handler. If it raises, that is reported too, and harms nobody."""
        if self.handler is None:
            call_guest(asyncio.get_running_loop().call_exception_handler, context)
            return
        error = call_guest(self.handler, self._owner, context)
        if error is not None:
            self._tell_of_handler(error, context)

    def _tell_of_handler(self, error: BaseException, context: dict[str, Any]) -> None:
        failure = context.get("exception")
        if error is not failure and context_of(error) is None:
            set_context(error, failure)
        context = {
            "message": "The exception handler of a scheduler failed",
            "exception": error,
            "context": context,
        }
        call_guest(asyncio.get_running_loop().call_exception_handler, context)
