"""Guests: foreign code that is called in the middle of the scheduler's own work.

An observer, an exception handler, a log handler, a coroutine that is closed: each may
raise anything, and none of it may leave the books half-done.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ("LEAVES", "call_guest", "close_coroutine", "has_begun", "leave")

# What leaves through the loop, as it does in asyncio, and is no failure to be told of.
LEAVES: Final = (KeyboardInterrupt, SystemExit)


def call_guest(function: Callable[..., object], *args: Any) -> BaseException | None:
    """Call it; return what it raises. What has to leave does so out of the loop."""
    try:
        function(*args)
    except LEAVES as error:
        leave(error)
    except BaseException as error:
        return error
    return None


def leave(error: BaseException) -> None:
    """Let an exception leave through the loop, soon: not through whatever runs now."""
    try:
        asyncio.get_running_loop().call_soon(_raise, error)
    except RuntimeError:
        raise error from None  # no loop runs, and so nothing of ours but this


def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error  # its traceback shows this frame: break the cycle


def has_begun(coro: Coroutine[Any, Any, Any]) -> bool:
    """Has the coroutine taken its first step?"""
    if not hasattr(coro, "cr_running"):
        return False  # none of Python's own, which does not tell
    return inspect.getcoroutinestate(coro) != inspect.CORO_CREATED


def close_coroutine(coro: Any) -> None:
    """Close a coroutine that will not run; one that runs already is somebody else's."""
    try:
        _close(coro)
    except BaseException:
        _close(coro)  # a KeyboardInterrupt has broken into it
        raise


def _close(coro: Any) -> None:
    error = None if has_begun(coro) else call_guest(coro.close)
    if error is None and not has_begun(coro):
        call_guest(coro.close)  # a KeyboardInterrupt has kept it from the first
    if error is not None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "A coroutine could not be closed", "exception": error}
            )
