"""Keeper: what a job needs from whatever keeps it, and nothing more."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from .failures import Failure
from .states import JobState

__all__ = ("Keeper",)


class Keeper(Protocol):
    """What keeps a job: it decides when the job starts, and closes its books.

    The type of jobs is not known here: this module is below theirs.
    """

    close_timeout: float | None
    #: Reports what happens to jobs.
    telling: Any
    #: The observers of `telling`, as a shortcut: every job looks there.
    observers: Any

    def check_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; raise RuntimeError if it is not the scheduler's."""
        ...

    def has_slot(self, job: Any) -> bool:
        """Return whether an active job has a slot just now."""
        ...

    def begin_wait(self, job: Any) -> Any:
        """Note that the running code waits for `job`; return the waiting job, if any."""

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
        """End the job soon: its task is over."""

    def abandon(self, job: Any) -> None:
        """Forget a job whose coroutine was thrown away: its loop is gone."""

    def has_ended(self, job: Any) -> bool:
        """Return whether the job is closed, and not still running after it was let go."""
        ...

    def mend(self) -> None:
        """Make the books agree again after something has interrupted them."""
