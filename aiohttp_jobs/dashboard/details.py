"""Details: what a job's own page shows."""

from __future__ import annotations

from typing import Any, Final

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.stack import places_of

from . import data
from .history import History
from .places import with_code
from .record import Record
from .rows import Clock, job_row, process, record_row

__all__ = ("details", "find", "find_job")

# How many frames of a stack to show: the innermost ones.
MOST_FRAMES: Final = 100


def find_job(scheduler: Scheduler, job_id: int) -> Job[Any] | None:
    """Find an active or pending job. This goes over all: not for every snapshot."""
    return next((job for job in scheduler if job.id == job_id), None)


def find(scheduler: Scheduler, history: History, job_id: int) -> Job[Any] | Record | None:
    """Find a job, or what is remembered of it."""
    return find_job(scheduler, job_id) or history.find(job_id)


def details(
    scheduler: Scheduler, history: History, job: Job[Any] | Record
) -> data.JobDetails:
    """Return what the page of a job shows just now."""
    clock = Clock()
    if isinstance(job, Job):
        row = job_row(job, clock)
        stack = places_of(job.coro, MOST_FRAMES) if job.active else []
    else:
        row = record_row(job, clock)
        stack = [*job.stack]
    return {
        "version": data.VERSION,
        "at": clock.at,
        "process": process(scheduler, history, clock),
        "job": row,
        "can_be_cancelled": row["state"] in ("pending", "active"),
        "stack": with_code(stack),
        "raised": [
            {
                "link": raised.link,
                "type": raised.type_name,
                "message": raised.message,
                "frames": with_code(raised.frames),
            }
            for raised in (job.raised if isinstance(job, Record) else ())
        ],
        "silence": "",
    }
