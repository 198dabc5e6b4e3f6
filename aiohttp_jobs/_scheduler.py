"""Scheduler, where applications that come from aiojobs look for it.

Here too, as there is no better place, is what aiojobs has deprecated and many still call.
"""

from __future__ import annotations

import warnings

from ._job import Job
from .core.reports import ExceptionHandler
from .core.scheduler import Scheduler

__all__ = ("ExceptionHandler", "Job", "Scheduler", "create_scheduler")


async def create_scheduler(
    *,
    close_timeout: float | None = 0.1,
    wait_timeout: float | None = 60,
    limit: int | None = 100,
    pending_limit: int | None = 10000,
    exception_handler: ExceptionHandler | None = None,
) -> Scheduler:
    """Make a scheduler. Deprecated: call :class:`Scheduler`, which need not be awaited.

    It is here for applications that come from aiojobs.

    Args:
        close_timeout, wait_timeout, limit, pending_limit, exception_handler: as for
            :class:`Scheduler`.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.

    Cancellation:
        It never waits, so it cannot be cancelled.
    """
    warnings.warn(
        "create_scheduler() is deprecated: call Scheduler() instead, with the same "
        "arguments and without await",
        DeprecationWarning,
        stacklevel=2,
    )
    return Scheduler(
        close_timeout=close_timeout,
        wait_timeout=wait_timeout,
        limit=limit,
        pending_limit=pending_limit,
        exception_handler=exception_handler,
    )
