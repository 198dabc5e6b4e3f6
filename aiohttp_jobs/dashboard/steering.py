"""Steering: what a visitor may do to jobs and to the queue, and the log of it.

The outcome of each action is a sentence for the visitor who asked for it, and is logged
with the visitor's name.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiohttp_jobs.core.job import Job, stop
from aiohttp_jobs.core.logs import job_fields, say
from aiohttp_jobs.core.names import listed, shown
from aiohttp_jobs.core.scheduler import Scheduler

from . import data
from .access import Visitor
from .record import Record
from .words import STATES, count_of

__all__ = (
    "cancel",
    "cancel_all",
    "change_limit",
    "every_job",
    "hold",
    "in_turns",
    "log",
    "release",
)

# How many jobs to look at when a form is sent, and how many of them at a time before the
# event loop gets its turn.
MOST: Final = 200_000
AT_ONCE: Final = 1000


async def in_turns(jobs: Sequence[Job[Any]], look: Callable[[Job[Any]], object]) -> None:
    """Look at many jobs without holding up the event loop."""
    for start in range(0, len(jobs), AT_ONCE):
        for job in jobs[start : start + AT_ONCE]:
            look(job)
        await asyncio.sleep(0)


def every_job(scheduler: Scheduler) -> list[Job[Any]]:
    """Return the active and the pending jobs, at most `MOST` of them."""
    active = scheduler.active_jobs(MOST)
    return active + scheduler.pending_jobs(MOST - len(active))


def cancel(
    job: Job[Any] | Record, scheduler: Scheduler, visitor: Visitor
) -> data.Outcome:
    """Cancel one job, if it is not over."""
    name = f"Job {job.id} ({shown(job.label)})"
    done = isinstance(job, Job) and job.state.name in ("PENDING", "ACTIVE")
    if isinstance(job, Record) or job.closed:
        says = f"{name} had ended before: {STATES[job.state.name.lower()]}"
        fields: dict[str, Any] = {"job_id": job.id, "job_name": shown(job.label)}
    else:
        was_pending = job.pending
        # As close() does, but nobody waits here: how the job takes its cancellation is
        # told to those who would be told without a dashboard, and shown on its page.
        stop(job, scheduler.close_timeout)
        if was_pending:
            says = f"{name} was cancelled; it had not started"
        else:
            says = f"{name} is being cancelled{'' if done else ' already'}"
        fields = job_fields(job)
    log("cancel", visitor, says, done, **fields)
    return {"done": done, "says": says}


async def cancel_all(
    jobs: Sequence[Job[Any]], scheduler: Scheduler, visitor: Visitor, what: str
) -> data.Outcome:
    """Cancel these jobs, except those that have ended or are being cancelled.

    Args:
        what: what the jobs have in common, for the log.
    """
    names = Counter[str]()
    number = 0

    def cancel_one(job: Job[Any]) -> None:
        nonlocal number
        if job.state.name in ("PENDING", "ACTIVE"):
            stop(job, scheduler.close_timeout)
            number += 1
            names[shown(job.label)] += 1

    try:
        await in_turns(jobs, cancel_one)
    finally:  # whatever came between, what was done is told
        told = listed(names.elements())
        says = (
            f"{count_of(number, 'job')} cancelled: {told}"
            if number
            else ("No job was cancelled: all that were meant have ended")
        )
        log("cancel_all", visitor, f"{says}; {what}", bool(number), dashboard_jobs=number)
    return {"done": bool(number), "says": says}


def hold(scheduler: Scheduler, visitor: Visitor) -> data.Outcome:
    """Let no pending job start."""
    done = not scheduler.held
    scheduler.hold()
    waiting = count_of(scheduler.pending_count, "job waits", "jobs wait")
    says = (
        f"The queue is held: {waiting}, and none starts until the queue is released"
        if done
        else "The queue was held already"
    )
    log("hold", visitor, says, done)
    return {"done": done, "says": says}


def release(scheduler: Scheduler, visitor: Visitor) -> data.Outcome:
    """Let pending jobs start again."""
    done = scheduler.held
    scheduler.release()
    says = "The queue is released" if done else "The queue was not held"
    log("release", visitor, says, done)
    return {"done": done, "says": says}


def change_limit(
    scheduler: Scheduler, visitor: Visitor, before: int | None, limit: int | None
) -> data.Outcome:
    """Change how many jobs run at once, if it is as it was when the visitor looked.

    Raises:
        ValueError: it cannot be that many.
    """
    now = scheduler.limit
    done = now == before != limit
    if done:
        scheduler.limit = limit
        says = f"The limit was changed from {limit_word(now)} to {limit_word(limit)}"
    elif now == limit:
        says = f"The limit was {limit_word(now)} already"
    else:
        says = (
            f"The limit was not changed to {limit_word(limit)}: somebody has changed it "
            f"from {limit_word(before)} to {limit_word(now)} meanwhile"
        )
    log("limit", visitor, says, done)
    return {"done": done, "says": says}


def limit_word(limit: int | None) -> str:
    """Return a limit in words."""
    return "none" if limit is None else f"{limit:,}"


def log(action: str, visitor: Visitor, says: str, done: bool, **fields: Any) -> None:
    """Log what a visitor has done, or found already done."""
    say(
        logging.WARNING,
        "%s (asked for on the dashboard by %s)",
        says,
        visitor,
        dashboard_action=action,
        dashboard_visitor=visitor.name,
        dashboard_remote=visitor.remote,
        dashboard_done=done,
        **fields,
    )
