"""Background jobs for aiohttp applications: bounded, observed, drained at shutdown."""

# A map of the package. The core, which knows nothing of aiohttp, in the order to read it:
#
#   errors.py      what goes wrong, as a tree
#   checks.py      what arguments may be
#   failures.py    how an exception is told of
#   stack.py       where a suspended coroutine stands
#   job.py         Job: one run of a coroutine; waiting for it, closing it, running it
#   pending.py     the jobs that wait for a slot, and the callers that wait for room
#   shield.py      the awaitables that a scheduler shields
#   closing.py     what one close cancels, and the record that it leaves
#   drainers.py    the callers of drain and close, who wait until nothing is left
#   logs.py        the record of a job's end, and the fields of records
#   observers.py   who is told when a job is spawned, started, running and closed
#   slots.py       which job runs when, and the books of those that run
#   statistics.py  a scheduler's figures at one moment
#   scheduler.py   Scheduler: accepts, bounds, drains and closes jobs
#
# The aiohttp layer, thin: it finds the scheduler and delegates.
#
#   web.py         the app key, get_scheduler*, spawn, shield
#   atomic.py      @atomic, and what marks a handler
#   middleware.py  the middleware: atomic requests, the request's task, 503 on overload
#   app.py         setup: puts the above into an application, and drains it at shutdown
#
# On top, each with an extra of its name, and imported only by those who use it:
#
#   prometheus.py     what schedulers do, as metrics
#   opentelemetry.py  a span for each job
#   dashboard/        pages that show what runs, what waits, what failed and why

from .app import setup
from .atomic import atomic
from .errors import JobCancelled, JobsError, SchedulerClosed, SchedulerFull
from .job import ExceptionHandler, Job, JobState
from .logs import JobLogger
from .scheduler import Scheduler
from .statistics import Statistics
from .web import (
    SCHEDULER,
    get_scheduler,
    get_scheduler_from_app,
    get_scheduler_from_request,
    shield,
    spawn,
    spawn_nowait,
)

__version__ = "0.1.0"

__all__ = (
    "SCHEDULER",
    "ExceptionHandler",
    "Job",
    "JobCancelled",
    "JobLogger",
    "JobState",
    "JobsError",
    "Scheduler",
    "SchedulerClosed",
    "SchedulerFull",
    "Statistics",
    "atomic",
    "get_scheduler",
    "get_scheduler_from_app",
    "get_scheduler_from_request",
    "setup",
    "shield",
    "spawn",
    "spawn_nowait",
)
