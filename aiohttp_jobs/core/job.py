"""Job: one run of a coroutine, as its owner and its waiters see it.

A job belongs to the :class:`~aiohttp_jobs.Scheduler` that accepted it, which decides when
it starts. Here is what concerns one job alone: to wait for it, to close it, to run it.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import itertools
import traceback
import types
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from .checks import check_seconds
from .errors import JobCancelled
from .stack import stack_of

if TYPE_CHECKING:
    from .scheduler import Scheduler

__all__ = ("ExceptionHandler", "Job", "JobState", "current_job")

T_co = TypeVar("T_co", covariant=True)


class JobState(enum.IntEnum):
    """Where a job is in its life. From `SUCCEEDED` on it is closed."""

    PENDING = 0  #: accepted, waiting for a slot
    ACTIVE = 1  #: running
    STOPPING = 2  #: running, after its one cancellation
    SUCCEEDED = 3  #: it gave a result
    FAILED = 4  #: it raised an exception, or ran longer than its timeout
    CANCELLED = 5  #: it was cancelled, or never started
    LET_GO = 6  #: it did not end in time when cancelled; nobody waits for it any longer


# Plain globals: to look a member up in its enumeration costs more than to compare it.
PENDING: Final = JobState.PENDING
ACTIVE: Final = JobState.ACTIVE
STOPPING: Final = JobState.STOPPING
SUCCEEDED: Final = JobState.SUCCEEDED
FAILED: Final = JobState.FAILED
CANCELLED: Final = JobState.CANCELLED
LET_GO: Final = JobState.LET_GO

# The legal moves, by the state that is left: time goes one way, and once over is over.
_NEXT: Final = (
    (ACTIVE, CANCELLED),
    (SUCCEEDED, FAILED, STOPPING, CANCELLED),
    (CANCELLED, SUCCEEDED, FAILED, LET_GO),
    (),
    (),
    (),
    (),
)


_ids = itertools.count(1)


@types.coroutine
def _park() -> Generator[None, None, None]:
    """Awaited first of all by `Job._run`, which stops here once, inside its try."""
    yield


# The job that the running code is part of. Child tasks inherit it with their context,
# which is how a job that waits through asyncio.gather() is known to wait.
current_job: contextvars.ContextVar[Job[Any] | None] = contextvars.ContextVar(
    "aiohttp_jobs.current_job", default=None
)


class Job(Generic[T_co]):
    """One run of a coroutine by a scheduler: pending, active, then closed.

    Made by :meth:`Scheduler.spawn`, not by hand. ``await job`` is ``await job.wait()``.
    """

    __slots__ = (
        "__weakref__",
        "_closed_at",
        "_context",
        "_coro",
        "_id",
        "_lends",
        "_name",
        "_origin",
        "_outcome",
        "_scheduler",
        "_spawned_at",
        "_started_at",
        "_state",
        "_task",
        "_timer",
        "_waiters",
    )

    def __init__(
        self,
        coro: Coroutine[Any, Any, T_co],
        scheduler: Scheduler,
        name: str | None,
        timeout: float | None,
        origin: str | None = None,
    ) -> None:
        self._coro = coro
        # None from the end on, so that a job that is kept keeps no scheduler.
        self._scheduler: Scheduler | None = scheduler
        self._name = name
        self._origin = origin
        # Of all jobs of the process; given when it is asked for.
        self._id: int | None = None
        # None until it has come to that. Pending from the first to the second.
        self._spawned_at: float | None = None
        self._started_at: float | None = None
        self._closed_at: float | None = None
        self._state = PENDING
        # The context to run in, while pending; None there means a copy at the start.
        self._context: contextvars.Context | None = None
        # The task, while active (and after, for a job that was let go).
        self._task: asyncio.Task[Any] | None = None
        # When pending: the seconds that it may run. When active: the end of that time.
        # When stopping: the end of its grace.
        self._timer: asyncio.TimerHandle | float | None = timeout
        # Those who wait for the end; after a failure: those told of it who have not yet
        # come to collect it. None: nobody, or somebody has it.
        self._waiters: set[asyncio.Future[None]] | None = None
        # How many waits lend its slot just now; 1 for good if it never took a slot.
        self._lends = 0
        # The result, or (exception, its traceback). Set while stopping already by
        # `_time_is_up`: such a job has failed, however it takes its cancellation.
        self._outcome: Any = None

    def __repr__(self) -> str:
        state = "closed " if self.closed else "pending " if self.pending else ""
        return f"<Job {state}coro=<{self._coro}>>"

    @property
    def active(self) -> bool:
        """Is it running?"""
        return PENDING < self._state < SUCCEEDED

    @property
    def pending(self) -> bool:
        """Is it accepted, and not yet started?"""
        return self._state is PENDING

    @property
    def takes_slot(self) -> bool:
        """Is it active, and takes one of its scheduler's slots?

        Not if it was started outside of ``limit``, as an atomic handler is, nor while it
        lends its slot because it waits for another job.
        """
        return self.active and not self._lends

    @property
    def closed(self) -> bool:
        """Is it over, because it succeeded, failed or was cancelled?"""
        return self._state >= SUCCEEDED

    def get_name(self) -> str | None:
        """Return the name given to :meth:`Scheduler.spawn` or :meth:`set_name`.

        A job without one is called as its :class:`asyncio.Task` while it is active and
        when its end is reported; else None. :attr:`label` is never None.
        """
        if self._name is not None or self._task is None:
            return self._name
        return self._task.get_name()

    def set_name(self, name: str) -> None:
        """Name the job, and its task if there is one."""
        self._name = name
        if self._task is not None:
            self._task.set_name(name)

    @property
    def id(self) -> int:
        """A number that no other job of the process has, given when first asked for."""
        if self._id is None:
            self._id = next(_ids)
        return self._id

    @property
    def state(self) -> JobState:
        """Pending, active or stopping, or how it has ended."""
        return self._state

    @property
    def coro_name(self) -> str:
        """The qualified name of its coroutine."""
        # Else it is an object that is no coroutine of Python's own.
        return str(getattr(self._coro, "__qualname__", type(self._coro).__qualname__))

    @property
    def label(self) -> str:
        """How messages call the job, which is its name or else that of its coroutine."""
        return self._name or self.coro_name

    @property
    def origin(self) -> str | None:
        """Where it comes from; for a job of a request its HTTP method and route."""
        return self._origin

    @property
    def spawned_at(self) -> float | None:
        """When it was accepted, in seconds of :func:`time.monotonic`."""
        return self._spawned_at

    @property
    def started_at(self) -> float | None:
        """When it became active, likewise; None if it did not."""
        return self._started_at

    @property
    def closed_at(self) -> float | None:
        """When it ended or was let go, likewise; None before that."""
        return self._closed_at

    def exception(self) -> BaseException | None:
        """Return what the job has failed with; None if it has not failed.

        To look at it is not to receive it: whoever waits for the job, or the exception
        handler, is told all the same.
        """
        if self._state is not FAILED:
            return None
        exception: BaseException
        exception, when_raised = self._outcome
        return exception.with_traceback(when_raised)

    def stack(self) -> traceback.StackSummary:
        """Return where an active job is suspended, the innermost frame last.

        It goes through everything that the job awaits down to the future that it waits
        for, as far as coroutines and generators lead. Empty if the job is not active.
        """
        return stack_of(self._coro) if self.active else traceback.StackSummary()

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.wait().__await__()

    async def wait(self, *, timeout: float | None = None) -> T_co:
        """Wait for the end; return the result, or raise the job's exception.

        Any number of callers may wait, before and after the end. A job that waits here
        for another job of its scheduler lends its slot meanwhile, so waiting cannot
        exhaust ``limit``.

        Args:
            timeout: seconds to wait. When they are over the job is cancelled and given
                the scheduler's ``close_timeout`` to end before the error is raised.

        Raises:
            TimeoutError: the timeout expired. If the job failed while it was being
                cancelled, its exception is the cause.
            JobCancelled: the job was closed or cancelled.
            RuntimeError: the job waits for itself, or another event loop is running.

        Cancellation:
            Cancelling the waiter leaves the job alone, and the timeout is forgotten.
        """
        try:
            if timeout is not None:
                check_seconds("timeout", timeout)
            if (scheduler := self._scheduler) is not None:
                scheduler._check_loop()
                self._refuse_itself("wait for")
                if timeout is None:
                    await self._end(scheduler)
                else:
                    await self._end_within(scheduler, timeout)
            return self._result()
        finally:
            del self  # the exception's traceback shows this frame: break the cycle

    async def close(self, *, timeout: float | None = None) -> None:
        """Cancel the job and wait until it has ended; a pending one never starts.

        A job is cancelled once, however often it is closed. Closing a closed job does
        nothing.

        Args:
            timeout: seconds given to the job to end; None for the scheduler's
                ``close_timeout``.

        Raises:
            TimeoutError: the job did not end in time. It counts as closed, and its
                clean-up goes on undisturbed; the exception handler was told too.
            Exception: what the job raised while it was being cancelled.
            RuntimeError: the job closes itself, or another event loop is running.

        Cancellation:
            The caller's own cancellation gets through; the job stays cancelled and its
            timeout stays in force. A caller that was cancelled before may close jobs in
            its clean-up as usual.
        """
        check_seconds("timeout", timeout)
        if (scheduler := self._scheduler) is None:
            return
        scheduler._check_loop()
        self._refuse_itself("close")
        self._stop(scheduler.close_timeout if timeout is None else timeout)
        if self._scheduler is not None:
            await self._end(scheduler)
        if self._state is LET_GO:
            raise TimeoutError(f"Job {self.label} did not end in time when it was closed")
        if self._state is FAILED:
            self._result()

    def _move(self, state: JobState) -> None:
        if state not in _NEXT[self._state]:
            raise AssertionError(f"{self!r}: {self._state.name} to {state.name}")
        self._state = state

    def _refuse_itself(self, verb: str) -> None:
        if self._task is not None and self._task is asyncio.current_task():
            raise RuntimeError(
                f"Job {self.label} cannot {verb} itself: it would never end. "
                "Return from the coroutine, or do it from another task"
            )

    async def _end(
        self, scheduler: Scheduler, waiter: asyncio.Future[None] | None = None
    ) -> None:
        """Return when the job is over: the one place where its end is waited for.

        The future is ours alone and never cancelled by the job's end, so a
        CancelledError here is always the caller's own.
        """
        if waiter is None:
            waiter = scheduler._loop_in_use().create_future()
        if self._waiters is None:
            self._waiters = set()
        self._waiters.add(waiter)
        lender = scheduler._lend()
        try:
            await waiter
        except BaseException:
            # Cancelled before the end, or between being told and coming to collect.
            if self._waiters is not None:
                self._waiters.discard(waiter)
                if not self._waiters:
                    self._waiters = None
                    if self._state is FAILED:
                        scheduler._report(self, self._outcome[0])
            raise
        finally:
            if lender is not None:
                scheduler._reclaim(lender)

    async def _end_within(self, scheduler: Scheduler, timeout: float) -> None:
        loop = scheduler._loop_in_use()
        waiter = loop.create_future()
        expired = False

        def expire() -> None:
            nonlocal expired
            # Else in this very turn the job has ended, which counts, or the caller was
            # cancelled, who has no business with the job any more.
            if not waiter.done():
                expired = True
                self._stop(scheduler.close_timeout)

        timer = loop.call_later(timeout, expire)
        try:
            await self._end(scheduler, waiter)
        finally:
            timer.cancel()
        if expired:
            self._waiters = None  # the error below carries the failure
            failure = self._outcome[0] if self._state is FAILED else None
            raise TimeoutError(
                f"Job {self.label} did not end within {timeout} s and was cancelled"
            ) from failure

    def _result(self) -> T_co:
        if self._state is SUCCEEDED:
            return cast(T_co, self._outcome)
        if self._state is not FAILED:
            raise JobCancelled(self.label)
        self._waiters = None  # somebody has it
        exception: BaseException
        when_raised: TracebackType | None
        exception, when_raised = self._outcome
        try:
            # As asyncio.Future does: else each waiter would add to one traceback.
            raise exception.with_traceback(when_raised)
        finally:
            del self, exception, when_raised

    def _stop(self, grace: float | None) -> None:
        """Cancel it if that has not been done, and let it go after `grace` seconds.

        Of several deadlines the earliest counts; None is no deadline.
        """
        scheduler = self._scheduler
        if scheduler is None:
            return
        if self._state is PENDING:
            scheduler._drop(self)
            return
        if self._state is ACTIVE:
            self._cancel_timer()
            self._move(STOPPING)
            assert self._task is not None
            self._task.cancel()
        if grace is None:
            return
        loop = scheduler._loop_in_use()
        when = loop.time() + grace
        timer = self._timer
        if timer is None or isinstance(timer, float | int) or when < timer.when():
            self._cancel_timer()
            self._timer = loop.call_at(when, self._let_go)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and not isinstance(timer, float | int):
            timer.cancel()

    def _time_is_up(self, timeout: float) -> None:
        """End a job that has run for its whole ``timeout``, with TimeoutError."""
        if self._state is ACTIVE and self._scheduler is not None:
            error = TimeoutError(f"Job {self.label} ran longer than {timeout} s")
            self._outcome = (error, None)
            self._stop(self._scheduler.close_timeout)

    async def _run(self) -> None:
        """What the job's task runs: the coroutine, and the books when it has ended.

        A wrapper costs less than a done callback, and the end is known in the same turn.
        The scheduler sends it to `_park` before it makes the task: so a cancellation
        that comes before the start is caught here too.
        """
        scheduler = self._scheduler
        assert scheduler is not None
        coro = self._coro
        started = False
        try:
            await _park()
            current_job.set(self)
            if self._task is None:  # an eager task factory has not returned it yet
                self._task = asyncio.current_task()
            if (observers := scheduler._observers) is not None and observers.job_running:
                observers.tell("job_running", self)
            started = True
            result = await coro
        except BaseException as error:
            if not started:
                coro.close()
            if isinstance(error, GeneratorExit) and not self._is_running():
                # Thrown away, not run: its loop is gone, and nobody can be told.
                if self._scheduler is not None:
                    self._move(CANCELLED)
                    self._scheduler = self._waiters = None
                    scheduler._active.pop(self, None)
                raise
            # Our own frame does not belong to the traceback.
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next
            leaves = isinstance(error, KeyboardInterrupt | SystemExit)
            if leaves and self._task is not None:
                # The task need not complain that nobody retrieved this.
                self._task.add_done_callback(lambda task: task.exception())
            if isinstance(error, asyncio.CancelledError):
                scheduler._over(self, CANCELLED)
            else:
                scheduler._over(self, FAILED, (error, error.__traceback__))
            if leaves:
                raise
        else:
            scheduler._over(self, SUCCEEDED, result)
        finally:
            # An exception's traceback knows the frame of its coroutine, which knows this
            # one as its caller: else a failure that is kept keeps all of this.
            del self, scheduler, coro

    def _is_running(self) -> bool:
        """Is the running code the job's own task?"""
        try:
            return self._task is not None and self._task is asyncio.current_task()
        except RuntimeError:
            return False

    def _let_go(self) -> None:
        """Stop waiting for its end: it was cancelled, and its grace is over."""
        scheduler, task = self._scheduler, self._task
        assert scheduler is not None
        error = TimeoutError(f"Job {self.label} did not end in time when it was closed")
        try:
            scheduler._over(self, LET_GO)
        finally:  # what it starts may raise SystemExit
            scheduler._strays.add(self)
            self._task = task
            scheduler._report(self, error, "Job closing timed out")

    def _end_of_stray(self, scheduler: Scheduler, state: JobState, outcome: Any) -> None:
        """It has ended after it was let go. Its waiters are gone, a failure is told."""
        scheduler._strays.discard(self)
        self._task = None
        if state is FAILED:
            scheduler._report(self, outcome[0])

    def _wake(self) -> bool:
        """Tell those who wait that it is over; is anybody there to be told?"""
        if self._waiters is None:
            return False
        told = {waiter for waiter in self._waiters if not waiter.done()}
        for waiter in told:
            waiter.set_result(None)
        self._waiters = told if told and self._state is FAILED else None
        return bool(told)


ExceptionHandler = Callable[["Scheduler", dict[str, Any]], object]
