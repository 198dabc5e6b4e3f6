"""Keeper: what a job needs of what keeps it, and nothing more."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from .failures import Failure
from .states import JobState

__all__ = ("Keeper",)


class Keeper(Protocol):
    """What keeps a job: it decides when the job starts, and closes its books.

    A job is any object here: this is what is known below jobs.
    """

    close_timeout: float | None
    #: Who is told of what happens to jobs.
    telling: Any
    #: Its observers, in short: every job looks there.
    observers: Any

    def check_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, or refuse it."""
        ...

    def has_slot(self, job: Any) -> bool:
        """Has an active job a slot just now?"""
        ...

    def begin_wait(self, job: Any) -> Any:
        """Note that the running code waits for the job; return whose code that is."""

    def end_wait(self, waiter: Any, job: Any) -> None:
        """Note that this wait is over."""

    def drop(self, job: Any) -> None:
        """Close a pending job, which never starts."""

    def over(self, job: Any, state: JobState, result: Any = None) -> None:
        """Close the books of an active job."""

    def let_go(self, job: Any) -> None:
        """Close the books of a job that did not end in time."""

    def stray_over(self, job: Any, failure: Failure | None) -> None:
        """Note the end of a job that was let go."""

    def watch(self, job: Any) -> None:
        """End the job soon, whose task is over."""

    def abandon(self, job: Any) -> None:
        """Forget a job whose coroutine was thrown away: its loop is gone."""

    def has_ended(self, job: Any) -> bool:
        """Are its books closed, and does it not go on after it was let go?"""
        ...

    def mend(self) -> None:
        """Make the books agree again after something has broken into them."""
