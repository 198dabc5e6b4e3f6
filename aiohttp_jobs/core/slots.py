"""Slots: which job runs when, and the books of those that run.

The lower half of the scheduler. The upper half, scheduler.py, accepts jobs and ends them.

How a job moves, and who moves it::

    pending ──_start──► active ───────────────_over──► closed
       │                   └──Job._stop──► stopping ──_over──► closed
       └──_drop──► closed                      └─────_let_go──► closed
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from .closing import BATCH
from .drainers import Drainers
from .job import (
    ACTIVE,
    CANCELLED,
    FAILED,
    LET_GO,
    PENDING,
    SUCCEEDED,
    ExceptionHandler,
    Job,
    JobState,
    current_job,
)
from .observers import Observers
from .pending import PendingJobs

if TYPE_CHECKING:
    from .scheduler import Scheduler

__all__ = ("SchedulerState", "Slots")

# More jobs than a process can hold, and yet a small number for the interpreter.
NO_LIMIT: Final = 2**29


class SchedulerState(enum.IntEnum):
    """Where a scheduler is in its life; it only moves on."""

    OPEN = 0
    DRAINING = 1  # jobs end by themselves, more may come
    CLOSING = 2  # no more jobs; what was there has been or is being cancelled
    CLOSED = 3


OPEN: Final = SchedulerState.OPEN
DRAINING: Final = SchedulerState.DRAINING
CLOSING: Final = SchedulerState.CLOSING
CLOSED: Final = SchedulerState.CLOSED


class Slots:
    """Starts pending jobs, first in, first out, in the slots that are free.

    Args:
        limit: how many slots there are; None for no limit.
        pending_limit: how many jobs may be pending; 0 or None for no limit.
        exception_handler: what is told of a failure that nobody waits for; None for the
            event loop's own handler.
    """

    def __init__(
        self,
        limit: int | None,
        pending_limit: int | None,
        exception_handler: ExceptionHandler | None,
    ) -> None:
        self._exception_handler = exception_handler
        self._state = OPEN
        self._loop: asyncio.AbstractEventLoop | None = None

        # Active jobs, those that are stopping too, in the order in which they started: a
        # set that knows its order.
        self._active: dict[Job[Any], None] = {}
        # Active jobs that take no slot.
        self._at_once: set[Job[Any]] = set()
        self._slots: Final = NO_LIMIT if limit is None else limit
        # Slots that are free; below 0 when a job went on after lending its own.
        self._free = self._slots
        # Empty unless no slot is free, but for moments inside `_fill`, and while a caller
        # that was woken to take its place has not yet run.
        self._pending = PendingJobs(pending_limit)
        self._filling = False
        # Jobs that did not end in time and still run: held so as not to be collected.
        self._strays: set[Job[Any]] = set()
        # How many jobs have ended so far, by the state that they ended in.
        self._ended: dict[JobState, int] = dict.fromkeys(
            (SUCCEEDED, FAILED, CANCELLED, LET_GO), 0
        )
        # None unless somebody observes, which then costs nothing.
        self._observers: Observers | None = None
        # Those who wait for the jobs to end.
        self._drainers = Drainers(self._whole())

    def _whole(self) -> Scheduler:
        """This, with its upper half: there is no other way to make one."""
        return cast("Scheduler", self)

    def _move(self, state: SchedulerState) -> None:
        """Change the state; there is no way back."""
        self._state = max(self._state, state)

    def _check_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which the scheduler belongs to from now on."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{self!r} is used where no event loop runs: call it in its own loop, "
                "from another thread by asyncio.run_coroutine_threadsafe()"
            ) from None
        if loop is not self._loop:
            if self._loop is not None:
                raise RuntimeError(
                    f"{self!r} is bound to a different event loop: use it in the one "
                    "that used it first, or make another scheduler"
                )
            self._loop = loop
        return loop

    def _loop_in_use(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop

    def _fill(self) -> None:
        """Start pending jobs in the free slots, and let callers into the room they leave.

        Called by whatever makes a slot or room. Under an eager task factory a job may
        end, and so call this again, before its start returns: the outer call goes on.
        """
        if self._filling:
            return
        self._filling = True
        pending = self._pending
        try:
            for _ in range(BATCH):
                if self._state >= CLOSING:
                    return  # looked at anew: an eager job may have closed it just now
                # Held jobs that fill the room keep nobody from a free slot. (So there is
                # one too many pending if the slot is reclaimed before the caller has it.)
                if pending.callers and (
                    not pending.is_full() or (self._free > 0 and not pending.queue)
                ):
                    if (job := pending.admit()) is not None:
                        self._accepted(job)
                elif self._free > 0 and (job := pending.pop()) is not None:
                    self._start(job, job._context)
                else:
                    return
        except BaseException as error:
            # A KeyboardInterrupt out of an eager start. It leaves through the loop, and
            # not through whatever made the slot, whose books are half-way closed.
            self._loop_in_use().call_soon(_leave, error)
        finally:
            self._filling = False
        self._loop_in_use().call_soon(self._fill)

    def _lend(self) -> Job[Any] | None:
        """Lend the slot of the job that is about to wait; return that job, if any."""
        job = current_job.get()
        if job is None or job._scheduler is not self:
            return None
        job._lends += 1
        if job._lends == 1:
            self._free += 1
            self._fill()
        return job

    def _reclaim(self, job: Job[Any]) -> None:
        """Take a lent slot back, if need be as one too many, unless the job has ended."""
        job._lends -= 1
        if not job._lends and job._scheduler is self:
            self._free -= 1

    def _drop(self, job: Job[Any]) -> None:
        """Close a pending job: it never starts."""
        self._pending.drop(job)
        self._over(job, CANCELLED)
        job._coro.close()
        self._fill()

    def _refuse(self, job: Job[Any]) -> None:
        """Close a job that was never accepted."""
        job._move(CANCELLED)
        job._context = job._scheduler = None
        job._coro.close()

    def _accepted(self, job: Job[Any]) -> None:
        """Note that a job is pending from now on."""
        job._spawned_at = monotonic()
        if (observers := self._observers) is not None and observers.job_spawned:
            observers.tell("job_spawned", job)

    def _start(self, job: Job[Any], context: contextvars.Context | None) -> None:
        """Give the job a slot (unless it takes none) and a task."""
        assert self._loop is not None
        now = monotonic()
        if job._spawned_at is None:
            job._spawned_at = now
            if (observers := self._observers) is not None and observers.job_spawned:
                observers.tell("job_spawned", job)
        job._started_at = now
        job._move(ACTIVE)
        if not job._lends:
            self._free -= 1
        self._active[job] = None
        if (timeout := job._timer) is not None:
            assert isinstance(timeout, float | int)
            job._timer = self._loop.call_later(timeout, job._time_is_up, timeout)
        if (observers := self._observers) is not None and observers.job_started:
            observers.tell("job_started", job)
        runner = job._run()
        runner.send(None)  # into its try, where a cancellation before the start finds it
        try:
            task = self._loop.create_task(runner, name=job._name, context=context)
        except BaseException as error:
            if job._scheduler is None:
                raise  # an eager task has let through a KeyboardInterrupt
            # The task factory refused it: then the job is what has failed.
            with contextlib.suppress(StopIteration):
                runner.throw(error)
        else:
            if job._scheduler is not None:  # else an eager task is over already
                job._task = task

    def _over(self, job: Job[Any], state: JobState, outcome: Any = None) -> None:
        """Close the job's books, tell those who wait, and start the next."""
        if job._scheduler is None:
            job._end_of_stray(self._whole(), state, outcome)
            return
        if job._outcome is not None:
            if state is FAILED:
                job._outcome[0].__cause__ = outcome[0]
            state, outcome = FAILED, job._outcome
        if job._state is not PENDING:
            del self._active[job]
            if not job._lends:
                self._free += 1
            elif self._at_once:
                self._at_once.discard(job)
        job._move(state)
        job._closed_at = monotonic()
        self._ended[state] += 1
        job._outcome = outcome
        job._context = None
        job._scheduler = None
        if job._timer is not None:
            job._cancel_timer()
        told = job._waiters is not None and job._wake()
        if (observers := self._observers) is not None and observers.job_closed:
            observers.tell("job_closed", job)
        pending = self._pending
        if pending.queue or pending.callers:
            self._fill()
        # Is this nearly the last? (Nobody waits for it with more than these active, and
        # nobody at all while the scheduler is open.)
        if self._state is not OPEN and (
            len(self._active) - len(self._at_once) <= len(self._drainers.waiting)
        ):
            self._check_idle()
        # Last of all: the exception handler may raise SystemExit.
        try:
            if state is FAILED and not told:
                self._report(job, outcome[0])
        finally:
            job._task = None  # not before: whoever is told may ask for its name

    def _check_idle(self) -> None:
        """Wake those for whom nothing is left. Called when something has ended."""
        self._drainers.check()

    def _report(
        self,
        job: Job[Any],
        error: BaseException,
        message: str = "Job processing failed",
    ) -> None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return  # it has left through the loop
        context: dict[str, Any] = {"message": message, "job": job, "exception": error}
        if self._exception_handler is None:
            # The loop's own writes down what is there, and a job's repr tells no name.
            context |= {"job_id": job.id, "job_name": job.label, "job_origin": job.origin}
        # In debug mode Python notes where a coroutine is made, and that is where a job is
        # spawned.
        if made := getattr(job._coro, "cr_origin", None):
            context["source_traceback"] = traceback.StackSummary.from_list(
                (file, line, name, None) for file, line, name in reversed(made)
            )
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand a failure to the exception handler, or to the event loop's without one.

        An exception handler that raises is reported to the event loop's, with both
        exceptions.

        Args:
            context: as for :meth:`asyncio.loop.call_exception_handler`.
        """
        loop = self._loop or asyncio.get_running_loop()
        if self._exception_handler is None:
            loop.call_exception_handler(context)
            return
        try:
            self._exception_handler(self._whole(), context)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if error.__context__ is None and error is not context.get("exception"):
                error.__context__ = context.get("exception")
            loop.call_exception_handler(
                {
                    "message": "The exception handler of a scheduler failed",
                    "exception": error,
                    "context": context,
                }
            )


def _leave(error: BaseException) -> None:
    """Called by the loop: what it lets through leaves it."""
    raise error
