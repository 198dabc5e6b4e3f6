"""Background jobs for aiohttp applications: bounded, observed, drained at shutdown."""

# A map of the package. The core, which knows nothing of aiohttp, in the order to read it:
#
#   core/errors.py      what goes wrong, as a tree
#   core/checks.py      checks of arguments
#   core/states.py      the states of jobs and schedulers, and which may follow
#   core/names.py       how the names of jobs are written into a log
#   core/guests.py      foreign code that is called in the middle of our own
#   core/failures.py    an exception that somebody has to receive; reporting one
#   core/stack.py       where a suspended coroutine stands
#   core/statistics.py  a scheduler's figures at one moment
#   core/mark.py        how code is known to be part of a job
#   core/keeper.py      what a job needs from whatever keeps it
#   core/job.py         Job: one run of a coroutine; waiting for it, closing it
#   core/logs.py        the package's log records, and one for each job's end
#   core/enqueued.py    what durable jobs and tracers know of each other
#   core/observers.py   what is called when a job is spawned, started, running, closed
#   core/binding.py     the one event loop that a scheduler belongs to
#   core/reports.py     where failures go that nobody has received
#   core/telling.py     what observers and handlers are told of a job, in its context
#   core/drainers.py    those who wait for the end of all jobs
#   core/pending.py     jobs that wait for a slot, and callers that wait for room
#   core/slots.py       how many jobs may run, which has which slot, who waits for whom
#   core/running.py     a job's task, and what the task runs
#   core/gate.py        which job runs when, and the books of those that run
#   core/intake.py      how a job gets in: at once, into the queue, or later
#   core/keys.py        at most one job with a given key at a time
#   core/shield.py      the awaitables that a scheduler shields
#   core/ending.py      draining and closing, and the record of it
#   core/parts.py       what a scheduler is made of, and how the parts fit together
#   core/scheduler.py   Scheduler: the public face of the core
#
# The aiohttp layer, thin: it finds the scheduler and delegates.
#
#   web/application.py  whether something is an application
#   web/attempt.py      which code answers a request, and what it leaves behind
#   web/hangup.py       how a client's hang-up is told from a failure
#   web/giveup.py       what becomes of a request that was given up
#   web/request.py      the app key, get_scheduler*, spawn, shield
#   web/atomic.py       @atomic, and the mark that it puts on a handler
#   web/middleware.py   the middleware: atomic requests, 503 on overload
#   web/setup.py        setup: puts the above into an application, drains it at shutdown
#
# For applications that come from aiojobs, the modules that they import from there:
#
#   _job.py        Job
#   _scheduler.py  Scheduler, and the deprecated create_scheduler
#   aiohttp.py     the functions of the aiohttp layer, and the app key by its other name
#
# For use inside jobs, needing only the standard library:
#
#   threads.py  in_thread: a blocking function as a job
#
# For periodic jobs, in memory or durable, also needing only the standard library (though
# cron needs cronsim when it is called):
#
#   schedule.py  every(…) and cron(…), and when their next tick is
#
# Above these and the aiohttp layer:
#
#   repeats.py  repeat: a job that is run again and again, by a schedule
#
# The processes of one application on one machine, through a directory that they share:
#
#   _version.py         the version of the package, by which they know each other
#   share/forks.py      what a forked child gives up
#   share/names.py      what the name of a worker's socket tells
#   share/peer.py       who is at the other end of a socket
#   share/folder.py     the shared directory, reached by one descriptor; this user's only
#   share/place.py      a worker's number, and its socket
#   share/deadlines.py  until when a worker may begin what it is asked to do
#   share/worker.py     a worker that the others can ask, from its start to its end
#   share/member.py     what a part of this process has to say; all parts are one worker
#   share/asking.py     one question to one worker
#   share/patience.py   one question to one worker that may be silent
#   share/others.py     what all others say, once a second
#
# Durable jobs, which survive the process. They too need only the standard library, and
# are imported only if they are used:
#
#   durable/envelope.py    what is kept of a job
#   durable/store.py       what a store has to promise
#   durable/memory.py      MemoryStore, for tests
#   durable/kept.py        what can be seen of kept jobs
#   durable/inspection.py  what people and metrics ask a store
#   durable/arguments.py   what a task may be given
#   durable/task.py        @durable, and the options of one call
#   durable/attempt.py     one attempt, and how it is settled
#   durable/upkeep.py      opens a store, and says once that it is down or back
#   durable/worker.py      fetches jobs, and lets the scheduler run them
#   durable/periodic.py    puts jobs at the ticks of their schedules
#
# One store, which is one SQLite file:
#
#   durable/sqlite/faults.py  what can be wrong with the file, as sentences
#   durable/sqlite/disk.py    where the file lies
#   durable/sqlite/locks.py   how a process shows that it is alive
#   durable/sqlite/turn.py    waits until nobody else writes
#   durable/sqlite/schema.py  the tables, and their version
#   durable/sqlite/rows.py    what is done to the rows, as statements
#   durable/sqlite/batch.py   what shares a transaction
#   durable/sqlite/joined.py  a job in a transaction of the application's own
#   durable/sqlite/look.py    what is in the file, for people
#   durable/sqlite/dead.py    retries and drops dead jobs, a part at a time
#   durable/sqlite/owner.py   this process as a worker, and what it does for dead ones
#   durable/sqlite/writer.py  the thread with the one connection
#   durable/sqlite/store.py   SQLiteStore
#
# And what composes them:
#
#   durable/setup.py     setup_durable, spawn_durable
#   durable/alone.py     run_worker: durable jobs without a server
#   durable/__main__.py  the command that shows a file, and deals with its dead jobs
#
# For the modules on top, so that they need no durable jobs:
#
#   _durable_of.py  the durable jobs of an application, if it has any
#
# For tests of applications; pytest_aiohttp_jobs.py beside the package is the plugin for
# pytest:
#
#   testing.py  waiting for jobs, seeing what was spawned, durable jobs in memory
#
# On top, each with an extra of its name, and imported only if it is used:
#
#   prometheus_lines.py    samples as lines of text
#   prometheus_workers.py  the metrics of all workers in one scrape
#   prometheus_times.py    a histogram of seconds
#   prometheus_durable.py  the metrics of durable jobs
#   prometheus.py          what schedulers do, as metrics
#   opentelemetry.py       a span for each job
#   sentry.py              a scope and a transaction for each job, failures, monitors
#   taskiq_message.py      what a broker delivers, until it is acknowledged
#   taskiq.py              BrokerStore: durable jobs over a broker of taskiq
#   dashboard/             pages that show what runs, what waits, what failed and why

from ._scheduler import create_scheduler
from ._version import __version__ as __version__
from .core.errors import (
    JobCancelled,
    JobsError,
    SchedulerClosed,
    SchedulerFull,
    StoreUnavailable,
)
from .core.job import Job
from .core.logs import JobLogger
from .core.reports import ExceptionHandler
from .core.scheduler import Scheduler
from .core.states import JobState, SchedulerState
from .core.statistics import Statistics
from .repeats import Repeat, repeat
from .schedule import Schedule, cron, every
from .threads import in_thread
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

__all__ = (
    "SCHEDULER",
    "ExceptionHandler",
    "Job",
    "JobCancelled",
    "JobLogger",
    "JobState",
    "JobsError",
    "Repeat",
    "Schedule",
    "Scheduler",
    "SchedulerClosed",
    "SchedulerFull",
    "SchedulerState",
    "Statistics",
    "StoreUnavailable",
    "atomic",
    "create_scheduler",
    "cron",
    "every",
    "get_scheduler",
    "get_scheduler_from_app",
    "get_scheduler_from_request",
    "in_thread",
    "repeat",
    "setup",
    "shield",
    "spawn",
    "spawn_nowait",
)
