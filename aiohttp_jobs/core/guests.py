"""Guests: foreign code that is called in the middle of the scheduler's own work.

An observer, an exception handler, a log handler, a coroutine that is closed: each may
raise anything, and none may leave the books half-done.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ("LEAVES", "call_guest", "close_coroutine", "has_begun", "leave")

# What leaves through the loop, as in asyncio, and is not reported as a failure.
LEAVES: Final = (KeyboardInterrupt, SystemExit)


def call_guest(function: Callable[..., object], *args: Any) -> BaseException | None:
    """Call a function; return what it raises. `LEAVES` leave through the loop instead."""
    try:
        function(*args)
    except LEAVES as error:
        leave(error)
    except BaseException as error:
        return error
    return None


def leave(error: BaseException) -> None:
    """Let an exception leave through the loop soon, not through the code running now."""
    try:
        asyncio.get_running_loop().call_soon(_raise, error)
    except RuntimeError:
        raise error from None  # no loop runs, so none of our code does except this


def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error  # its traceback shows this frame: break the cycle


def has_begun(coro: Coroutine[Any, Any, Any]) -> bool:
    """Return whether the coroutine has taken its first step."""
    if not hasattr(coro, "cr_running"):
        return False  # not one of Python's own: it does not tell
    return inspect.getcoroutinestate(coro) != inspect.CORO_CREATED


def close_coroutine(coro: Any) -> None:
    """Close a coroutine that will not run; one that has begun is somebody else's."""
    try:
        _close(coro)
    except BaseException:
        _close(coro)  # a KeyboardInterrupt has interrupted it
        raise


def _close(coro: Any) -> None:
    error = None if has_begun(coro) else call_guest(coro.close)
    if error is None and not has_begun(coro):
        call_guest(coro.close)  # a KeyboardInterrupt prevented the first call
    if error is not None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "A coroutine could not be closed", "exception": error}
            )
