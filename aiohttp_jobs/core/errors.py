"""The errors of aiohttp_jobs.

::

    RuntimeError
     └── JobsError              everything that a scheduler refuses
          ├── SchedulerClosed   it takes no more jobs
          └── SchedulerFull     it has no room for one more job just now
    asyncio.CancelledError
     └── JobCancelled           the job that is waited for was cancelled

They take values and write the sentence themselves.
"""

import asyncio

__all__ = ("JobCancelled", "JobsError", "SchedulerClosed", "SchedulerFull")


class JobsError(RuntimeError):
    """The base of what a scheduler refuses."""


class SchedulerClosed(JobsError):
    """The scheduler is closing or closed and takes no more jobs.

    Args:
        refused: what was refused, for the sentence.
    """

    def __init__(self, refused: str = "a new job") -> None:
        super().__init__(
            f"The scheduler is closed and does not take {refused}: "
            "start it before the scheduler closes"
        )


class SchedulerFull(JobsError):
    """As many jobs are pending as the scheduler allows.

    Args:
        pending_limit: how many jobs may be pending.
    """

    def __init__(self, pending_limit: int) -> None:
        super().__init__(
            f"The scheduler is full, {pending_limit} jobs are pending: try again "
            "later, wait for room with spawn(), or raise pending_limit"
        )
        self.pending_limit = pending_limit


class JobCancelled(asyncio.CancelledError):
    """The job that was waited for was closed or cancelled.

    It is raised by :meth:`Job.wait`, so that a waiter can tell the end of the job from
    its own cancellation, which is a plain :exc:`asyncio.CancelledError`.

    Args:
        job: how the job is called.
    """

    def __init__(self, job: str) -> None:
        super().__init__(f"Job {job} was cancelled")
