"""Task: a coroutine function with a name, under which its jobs are kept."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from aiohttp import web

from aiohttp_jobs.core.checks import check_count, check_name, check_seconds

from .arguments import Arguments

__all__ = ("GiveUp", "Order", "Task", "backoff", "durable")

P = ParamSpec("P")
R = TypeVar("R")

# The priorities that every store can keep.
_PRIORITIES: Final = range(-(2**31), 2**31)


class GiveUp(Exception):
    """Raised by a task when trying again would not help: the job is buried at once."""


def backoff(attempt: int) -> float:
    """Return the seconds between an attempt that has failed and the next one.

    One second after the first attempt, then twice as long each time, up to an hour; and
    only a random part of that, at least half, so that jobs that failed together do not
    come back together.

    Args:
        attempt: the number of the attempt that has failed, from 1.
    """
    return min(2.0 ** min(attempt - 1, 12), 3600) * random.uniform(0.5, 1)


class Task(Generic[P, R]):
    """A coroutine function whose jobs survive the process. Made by :func:`durable`.

    Calling it calls that function.
    """

    __slots__ = (
        "__weakref__",
        "arguments",
        "backoff",
        "function",
        "max_attempts",
        "name",
        "plain",
        "timeout",
    )

    def __init__(
        self,
        function: Callable[Concatenate[web.Application, P], Coroutine[Any, Any, R]],
        name: str,
        max_attempts: int,
        timeout: float | None,
        backoff: Callable[[int], float],
    ) -> None:
        #: The function that it was made from.
        self.function = function
        #: The name that its jobs are kept under.
        self.name = name
        #: How many times a job of it is tried.
        self.max_attempts = max_attempts
        #: Seconds that one attempt may take; None for no bound.
        self.timeout = timeout
        #: Returns the seconds to wait after a failed attempt, given its number.
        self.backoff = backoff
        #: Checks and packs its arguments.
        self.arguments = Arguments(function, name)
        #: The order without options.
        self.plain: Order[P] = Order(self)

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"

    def __call__(
        self, app: web.Application, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        return self.function(app, *args, **kwargs)

    def options(
        self,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        priority: int = 0,
        key: str | None = None,
        connection: object = None,
    ) -> Order[P]:
        """Return the task with options for one call, for :func:`spawn_durable`.

        Args:
            delay: seconds that have to pass before the job begins.
            at: a moment before which it does not begin, a datetime with a time zone; not
                together with `delay`.
            priority: of the jobs that are due, those with a higher number begin first.
            key: as long as a job of this task with the same key waits, no second one is
                kept, and the caller gets the id of the first.
            connection: a connection to the file of an SQLite store, of sqlite3 or
                aiosqlite: the job is part of its transaction, and kept when that is
                committed.

        Raises:
            TypeError, ValueError: an option is invalid; the message names it.
        """
        check_seconds("delay", delay)
        if delay is not None and math.isinf(delay):
            raise ValueError("delay takes a finite number of seconds or None, not inf")
        if at is not None and not isinstance(at, datetime):
            raise TypeError(f"at takes a datetime or None, not {at!r}")
        if at is not None and at.utcoffset() is None:
            raise ValueError(f"at takes a datetime with a time zone, but {at!r} has none")
        if at is not None and delay is not None:
            raise ValueError("delay and at cannot be combined: give one of them")
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TypeError(f"priority takes a whole number, not {priority!r}")
        if priority not in _PRIORITIES:
            raise ValueError(f"priority takes a 32-bit number, not {priority!r}")
        check_name("key", key)
        if key is not None and not _is_text(key):
            raise ValueError(f"key takes text that is valid Unicode, not {key!r}")
        return Order(self, delay, at, priority, key, connection)


@dataclass(frozen=True, slots=True)
class Order(Generic[P]):
    """A task with options for one call. Made by :meth:`Task.options`."""

    task: Task[P, Any]
    delay: float | None = None
    at: datetime | None = None
    priority: int = 0
    key: str | None = None
    connection: object = None

    def due(self, now: float) -> float | None:
        """Return the moment before which it is not begun; None for at once."""
        if self.delay is not None:
            return now + self.delay
        return None if self.at is None else self.at.timestamp()

    def asks_for(self) -> list[str]:
        """Return the names of the options that are set."""
        return [
            name
            for name, is_set in (
                ("delay", self.delay is not None),
                ("at", self.at is not None),
                ("priority", self.priority != 0),
                ("key", self.key is not None),
                ("connection", self.connection is not None),
            )
            if is_set
        ]


def durable(
    name: str,
    *,
    max_attempts: int = 5,
    timeout: float | None = None,
    backoff: Callable[[int], float] = backoff,
) -> Callable[
    [Callable[Concatenate[web.Application, P], Coroutine[Any, Any, R]]], Task[P, R]
]:
    """Turn a coroutine function that takes the application first into a :class:`Task`.

    A job of it may run more than once: write it so that this does no harm, with the help
    of :func:`current_durable`.

    Args:
        name: the name that is stored with its jobs. If you rename a task, you leave
            behind the jobs that wait under its old name.
        max_attempts: how many times a job is tried before it is buried.
        timeout: seconds that one attempt may take. Then it is cancelled and fails with
            :exc:`TimeoutError`.
        backoff: a plain function that takes the number of the attempt that has failed,
            from 1, and returns the seconds until the next one. If it raises, or returns
            anything but a finite number, the job is buried. See :func:`backoff` for the
            default.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"durable() takes a str such as 'mail.welcome' as name, not {name!r}"
        )
    if not name or len(name) > 200 or not name.isprintable():
        raise ValueError(
            f"durable() takes a name of 1 to 200 printable characters, not {name!r}"
        )
    if max_attempts is None:
        raise TypeError("max_attempts takes a number of attempts, not None")
    check_count("max_attempts", max_attempts, least=1)
    check_seconds("timeout", timeout)
    if not callable(backoff) or inspect.iscoroutinefunction(backoff):
        raise TypeError(f"backoff takes a plain function, not {backoff!r}")

    def make(
        function: Callable[Concatenate[web.Application, P], Coroutine[Any, Any, R]],
    ) -> Task[P, R]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"durable() takes a coroutine function, not {function!r}")
        return Task(function, name, max_attempts, timeout, backoff)

    return make


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
