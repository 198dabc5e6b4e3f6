"""Enqueued: the only place where durable jobs and tracers meet.

Neither imports the other. A tracer says how to find the current span, and whatever keeps
durable jobs asks for it; whatever runs them says which coroutine is an attempt of which
job.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from .logs import logger

__all__ = (
    "CurrentDurable",
    "attempt_of",
    "current_traceparent",
    "mark_attempt",
    "tell_spans_by",
)


@dataclass(frozen=True, slots=True)
class CurrentDurable:
    """The durable job that the running code is part of."""

    #: The same for all its attempts, and for no other job, so it is an idempotency key.
    id: str
    #: The number of this attempt, from 1. An attempt that died with its process is not
    #: counted: as far as anybody knows, it was no failure of the job.
    attempt: int
    #: The name of its task.
    task: str
    #: The span that was current when the job was accepted, in W3C's form, or None.
    traceparent: str | None


# Looked up by the coroutine, not by a context variable: a job that an attempt spawns
# inherits its context variables, and is no attempt.
_attempts: Final = WeakKeyDictionary[Coroutine[Any, Any, Any], CurrentDurable]()

_tell: Callable[[], str | None] | None = None


def mark_attempt(coro: Coroutine[Any, Any, Any], attempt: CurrentDurable) -> None:
    """Note that this coroutine is an attempt of a durable job."""
    _attempts[coro] = attempt


def attempt_of(coro: Coroutine[Any, Any, Any]) -> CurrentDurable | None:
    """Return which attempt of a durable job a coroutine is; None if it is not one."""
    try:
        return _attempts.get(coro)
    except TypeError:  # not one of Python's own, and not weakly referenceable
        return None


def tell_spans_by(function: Callable[[], str | None] | None) -> None:
    """Ask this function for the current span from now on; None for nobody.

    Args:
        function: returns the span in W3C's form, ``traceparent``, or None if there is
            none. If it raises, that is logged, and it is no longer asked.
    """
    global _tell
    _tell = function


def current_traceparent() -> str | None:
    """Return the current span in W3C's form; None if there is none, or no tracer."""
    if _tell is None:
        return None
    try:
        return _tell()
    except Exception:
        tell_spans_by(None)
        logger.exception("The current span cannot be found, and is no longer asked for")
        return None
