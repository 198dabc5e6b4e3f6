"""The errors of aiohttp_jobs.

::

    RuntimeError
     └── JobsError              everything that a scheduler refuses
          ├── SchedulerClosed   it takes no more jobs
          ├── SchedulerFull     it has no room for one more job just now
          └── StoreUnavailable  a durable job cannot be kept just now
    asyncio.CancelledError
     └── JobCancelled           the job that is waited for was cancelled

They take values and compose the message themselves, so a copy, even a pickled one, says
the same.
"""

from __future__ import annotations

import asyncio

__all__ = (
    "HungUp",
    "JobCancelled",
    "JobsError",
    "SchedulerClosed",
    "SchedulerFull",
    "StoreUnavailable",
    "missing_extra",
)


class JobsError(RuntimeError):
    """The base class of the errors raised when a job is refused."""


class SchedulerClosed(JobsError):
    """The scheduler is closing or closed and takes no more jobs.

    Args:
        refused: what was refused, for the message.
    """

    def __init__(self, refused: str = "a new job") -> None:
        super().__init__(refused)

    def __str__(self) -> str:
        return (
            f"The scheduler is closed and does not take {self.args[0]}: "
            "start it before the scheduler closes"
        )


class SchedulerFull(JobsError):
    """As many jobs are pending as the scheduler allows.

    Args:
        pending_limit: how many jobs may be pending.
    """

    def __init__(self, pending_limit: int) -> None:
        super().__init__(pending_limit)
        self.pending_limit = pending_limit

    def __str__(self) -> str:
        return (
            f"The scheduler is full, {self.pending_limit} jobs are pending: try again "
            "later, wait for room with spawn(), or raise pending_limit"
        )


class StoreUnavailable(JobsError):
    """The store cannot keep durable jobs just now: the job was not accepted.

    Args:
        reason: what is wrong with the store, and what to do; a sentence without its full
            stop.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)

    def __str__(self) -> str:
        return f"Durable jobs cannot be kept: {self.args[0]}"


class JobCancelled(asyncio.CancelledError):
    """The job that was waited for was closed or cancelled.

    It is raised by :meth:`Job.wait`, so that a waiter can tell the end of the job from
    its own cancellation, which is a plain :exc:`asyncio.CancelledError`.

    Args:
        job: what the job is called.
    """

    def __init__(self, job: str) -> None:
        super().__init__(job)

    def __str__(self) -> str:
        return f"Job {self.args[0]} was cancelled"


class HungUp(Exception):
    """Raised by a job's coroutine when its client has gone, which is no failure.

    The job ends as hung up. No failure is reported, and those who wait for the job get
    `error`.

    Args:
        error: what was raised in the coroutine because it had nobody to answer.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return "The client has gone"


def missing_extra(error: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """Return an error to raise instead, which says what has to be installed.

    Args:
        error: what importing a package has raised.
        extra: the extra that installs this package.
    """
    return ModuleNotFoundError(
        f"The package {error.name} is missing: install aiohttp-jobs[{extra}]",
        name=error.name,
    )
