"""Details: what a job's own page shows."""

from __future__ import annotations

import time
from typing import Any

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler

from .history import History
from .record import Record, cut
from .words import clock_time, duration, frames_of, state_word, with_code

__all__ = ("details", "find", "find_job")


def find_job(scheduler: Scheduler, job_id: int) -> Job[Any] | None:
    """Find an active or pending job. It goes over all: not for every snapshot."""
    return next((job for job in scheduler if job.id == job_id), None)


def find(scheduler: Scheduler, history: History, job_id: int) -> Job[Any] | Record | None:
    """Find a job, or what is remembered of it."""
    return find_job(scheduler, job_id) or history.find(job_id)


def details(job: Job[Any] | Record) -> dict[str, Any]:
    """Return what the live part of the page shows just now."""
    spawned, started, closed = job.spawned_at, job.started_at, job.closed_at
    now = time.monotonic()
    times: list[tuple[str, str, str]] = []
    if spawned is not None:
        waited = (started or closed or now) - spawned
        times.append(("Spawned", clock_time(spawned), f"waited {duration(waited)}"))
    if started is not None:
        verb = "has run" if closed is None else "ran"
        ran = f"{verb} {duration((closed or now) - started)}"
        times.append(("Started", clock_time(started), ran))
    if closed is not None:
        times.append(("Ended", clock_time(closed), ""))
    return {
        "id": job.id,
        "label": cut(job.label),
        "coro_name": cut(job.coro_name),
        "origin": cut(job.origin or ""),
        "state": state_word(job.state, started),
        "kind": job.state.name.lower(),
        "times": times,
        "can_be_cancelled": isinstance(job, Job)
        and job.state.name in ("PENDING", "ACTIVE"),
        "stack": with_code(frames_of(job.stack()) if isinstance(job, Job) else job.stack),
        "raised": [
            (raised, with_code(raised.frames))
            for raised in (job.raised if isinstance(job, Record) else ())
        ],
    }
