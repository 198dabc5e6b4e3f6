"""Background jobs for aiohttp applications: bounded, observed, drained at shutdown."""

# A map of the package. The core, which knows nothing of aiohttp, in the order to read it:
#
#   core/errors.py      what goes wrong, as a tree
#   core/checks.py      what arguments may be
#   core/failures.py    how an exception is told of
#   core/stack.py       where a suspended coroutine stands
#   core/job.py         Job: one run of a coroutine; to wait for it, close it, run it
#   core/pending.py     the jobs that wait for a slot, and the callers that wait for room
#   core/shield.py      the awaitables that a scheduler shields
#   core/closing.py     what one close cancels, and the record that it leaves
#   core/drainers.py    the callers of drain and close, who wait until nothing is left
#   core/logs.py        the record of a job's end, and the fields of records
#   core/observers.py   who is told when a job is spawned, started, running and closed
#   core/slots.py       which job runs when, and the books of those that run
#   core/statistics.py  a scheduler's figures at one moment
#   core/scheduler.py   Scheduler: accepts, bounds, drains and closes jobs
#
# The aiohttp layer, thin: it finds the scheduler and delegates.
#
#   web/request.py     the app key, get_scheduler*, spawn, shield
#   web/atomic.py      @atomic, and what marks a handler
#   web/middleware.py  the middleware: atomic requests, 503 on overload
#   web/setup.py       setup: puts the above into an application, drains it at shutdown
#
# For applications that come from aiojobs, the names that they import from there:
#
#   _job.py        Job
#   _scheduler.py  Scheduler, and the deprecated create_scheduler
#   aiohttp.py     the functions of the aiohttp layer, and the app key by its other name
#
# On top, each with an extra of its name, and imported only by those who use it:
#
#   prometheus.py     what schedulers do, as metrics
#   opentelemetry.py  a span for each job
#   dashboard/        pages that show what runs, what waits, what failed and why

from ._scheduler import create_scheduler
from .core.errors import JobCancelled, JobsError, SchedulerClosed, SchedulerFull
from .core.job import ExceptionHandler, Job, JobState
from .core.logs import JobLogger
from .core.scheduler import Scheduler, SchedulerState
from .core.statistics import Statistics
from .web.atomic import atomic
from .web.request import (
    SCHEDULER,
    get_scheduler,
    get_scheduler_from_app,
    get_scheduler_from_request,
    shield,
    spawn,
    spawn_nowait,
)
from .web.setup import setup

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
    "SchedulerState",
    "Statistics",
    "atomic",
    "create_scheduler",
    "get_scheduler",
    "get_scheduler_from_app",
    "get_scheduler_from_request",
    "setup",
    "shield",
    "spawn",
    "spawn_nowait",
)
