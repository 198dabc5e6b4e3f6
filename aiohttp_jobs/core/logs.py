"""Logs: the package's records, their fields, and a record of each job's end."""

from __future__ import annotations

import logging
from typing import Any, Final

from .failures import line_of
from .guests import call_guest
from .job import Job
from .names import shown

__all__ = ("JobLogger", "job_fields", "logger", "say")

logger: Final = logging.getLogger("aiohttp_jobs")


def say(level: int, message: str, *args: object, **fields: object) -> None:
    """Log a message. A handler or filter that raises harms nobody."""
    call_guest(lambda: logger.log(level, message, *args, extra=fields))


class JobLogger:
    """An observer that logs the end of every job, like an access log of requests.

    ``setup(app, observers=[JobLogger()])``. The logger is ``aiohttp_jobs``. The records
    do not replace the exception handler: they have no traceback.

    Args:
        level: the level of all these records.

    Raises:
        TypeError: the level is not a number.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        if not isinstance(level, int):
            raise TypeError(f"level takes a number such as logging.INFO, not {level!r}")
        self._level = level

    def job_closed(self, job: Job[Any]) -> None:
        """Log the job's end, with fields that a formatter can use."""
        if not logger.isEnabledFor(self._level):
            return
        fields = job_fields(job)
        message = "Job %(job_name)s: %(job_outcome)s, waited %(job_wait_seconds).3f s"
        if job.started_at is not None:
            message += ", ran %(job_run_seconds).3f s"
        if fields["job_error"] is not None:
            message += ", %(job_error)s"
        logger.log(self._level, message, fields, extra=fields)


def job_fields(job: Job[Any]) -> dict[str, Any]:
    """Return the fields of a record about a job: only numbers, strings and None."""
    spawned, started, closed = job.spawned_at, job.started_at, job.closed_at
    waited_until = closed if started is None else started
    error = job.exception()
    return {
        "job_id": job.id,
        "job_name": shown(job.label),
        "job_coro": shown(job.coro_name),
        "job_origin": None if job.origin is None else shown(job.origin),
        "job_key": None if job.key is None else shown(job.key),
        "job_outcome": job.state.name.lower() if job.closed else None,
        "job_wait_seconds": _seconds(spawned, waited_until),
        "job_run_seconds": _seconds(started, closed),
        "job_error": None if error is None else line_of(error),
    }


def _seconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
