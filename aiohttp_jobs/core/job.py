"""Job: one run of a coroutine, as its owner and its waiters see it.

A job is kept by a scheduler, which decides when it starts. This module has what concerns
a single job: waiting for it, closing it, running it. `Keeper` is what a job needs from
its keeper; the functions at the end are what the keeper needs from a job.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Coroutine, Generator
from time import monotonic
from typing import Any, Final, Generic, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from .checks import check_name, check_seconds
from .errors import JobCancelled
from .failures import Failure
from .guests import call_guest
from .keeper import Keeper
from .names import shown
from .stack import stack_of
from .states import (
    ACTIVE,
    CANCELLED,
    FAILED,
    HUNG_UP,
    LET_GO,
    NEXT,
    PENDING,
    STOPPING,
    SUCCEEDED,
    JobState,
)

__all__ = (
    "Job",
    "begin",
    "finish",
    "forget",
    "give_key",
    "note_spawned",
    "stop",
    "wake",
)

T_co = TypeVar("T_co", covariant=True)

# The keys of the few jobs that have one: a field would cost all of them.
_keys: Final = WeakKeyDictionary["Job[Any]", str]()


class Job(Generic[T_co]):
    """One run of a coroutine by a scheduler: pending, active, then closed.

    Made by :meth:`Scheduler.spawn`, not by hand. ``await job`` is ``await job.wait()``.
    Its attributes are read-only by convention.
    """

    __slots__ = (
        "__weakref__",
        "_result",
        "closed_at",
        "context",
        "coro",
        "failure",
        "grace",
        "id",
        "keeper",
        "name",
        "origin",
        "owns_context",
        "spawned_at",
        "started_at",
        "state",
        "task",
        "timeout",
        "timer",
        "waiters",
    )

    #: Its coroutine.
    coro: Coroutine[Any, Any, T_co]
    #: A number that no other job of the process has.
    id: int
    #: Where it is in its life (pending, active or stopping), or how it ended.
    state: JobState
    #: Where it comes from; for a job of a request, the request's HTTP method and route.
    origin: str | None
    #: When it was accepted, in seconds of :func:`time.monotonic`.
    spawned_at: float | None
    #: When it became active, on the same clock; None if it did not.
    started_at: float | None
    #: When it ended or was let go, on the same clock; None before that.
    closed_at: float | None
    #: The context that it runs and is reported in; None after that.
    context: contextvars.Context | None
    #: Its task, once it has one; None after its end has been reported.
    task: asyncio.Future[Any] | None

    # The rest is for the core. The name it was given, if any; label is never None.
    name: str | None
    # None once it is over, so that keeping the job does not keep its scheduler alive.
    keeper: Keeper | None
    # Whether the context is a copy made for this job alone.
    owns_context: bool
    # Seconds that it may run; None for no limit.
    timeout: float | None
    # The futures of those who wait for its end; None if nobody does.
    waiters: set[asyncio.Future[None]] | None
    # What it failed with. Set while it is still stopping if its timeout passed: such a
    # job has failed, however it takes its cancellation.
    failure: Failure | None
    # The end of its timeout, while active; the end of its grace period, while stopping.
    timer: asyncio.TimerHandle | None
    grace: asyncio.TimerHandle | None
    # Set when it has succeeded.
    _result: T_co

    def __repr__(self) -> str:
        state = "closed " if self.closed else "pending " if self.pending else ""
        return f"<Job {state}coro=<{self.coro}>>"

    @property
    def active(self) -> bool:
        """Whether it is running."""
        return PENDING < self.state < SUCCEEDED

    @property
    def pending(self) -> bool:
        """Whether it is accepted but not yet started."""
        return self.state is PENDING

    @property
    def takes_slot(self) -> bool:
        """Whether it has a slot; atomic handlers and jobs that lend theirs have none."""
        return self.active and self.keeper is not None and self.keeper.has_slot(self)

    @property
    def closed(self) -> bool:
        """Whether it is over, because it succeeded, failed or was cancelled."""
        return self.state >= SUCCEEDED

    def get_name(self) -> str | None:
        """Return the name given to :meth:`Scheduler.spawn` or :meth:`set_name`.

        Without one, return that of the :class:`asyncio.Task` while the job is active and
        when its end is reported, else None. :attr:`label` is never None.
        """
        if self.name is not None or not isinstance(self.task, asyncio.Task):
            return self.name
        return self.task.get_name()

    def set_name(self, name: str) -> None:
        """Name the job, and its task if there is one.

        Raises:
            TypeError: the name is not a string.
        """
        check_name("name", name)
        self.name = name
        if isinstance(self.task, asyncio.Task):
            self.task.set_name(name)

    @property
    def coro_name(self) -> str:
        """The qualified name of its coroutine."""
        try:
            return str(self.coro.__qualname__)  # type: ignore[attr-defined]
        except Exception:  # not one of Python's own coroutines
            return type(self.coro).__qualname__

    @property
    def label(self) -> str:
        """The name of the job, or else of its coroutine, as used in messages."""
        return self.name or self.coro_name

    @property
    def key(self) -> str | None:
        """The key given to :meth:`Scheduler.spawn`; None if there was none."""
        return _keys.get(self)

    def exception(self) -> BaseException | None:
        """Return what the job failed with; None if it has not failed.

        This does not count as receiving the exception: whoever waits for the job, or the
        exception handler, still gets it.
        """
        if self.state is not FAILED or self.failure is None:
            return None
        return self.failure.exception()

    def stack(self, *, limit: int | None = None) -> traceback.StackSummary:
        """Return where an active job is suspended, the innermost frame last.

        It goes through everything that the job awaits down to the future that it waits
        for, as far as coroutines and generators lead. Empty if the job is not active.

        Args:
            limit: how many frames at most, the innermost ones; None for all.
        """
        return stack_of(self.coro, limit) if self.active else traceback.StackSummary()

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.wait().__await__()

    async def wait(self, *, timeout: float | None = None) -> T_co:
        """Wait for the end; return the result, or raise the job's exception.

        Any number of callers may wait, before and after the end. A job that waits here
        for a pending job of its own scheduler hands its slot to that one meanwhile, so
        waiting cannot exhaust ``limit``.

        Args:
            timeout: seconds to wait. When they are over, the job is cancelled and given
                the scheduler's ``close_timeout`` to end before the error is raised.

        Raises:
            TimeoutError: the timeout expired. If the job failed while it was being
                cancelled, its exception is the cause.
            JobCancelled: the job was closed or cancelled.
            RuntimeError: the job waits for itself, or another event loop is running.

        Cancellation:
            Cancelling the waiter leaves the job alone, and the timeout no longer applies.
        """
        try:
            if timeout is not None:
                check_seconds("timeout", timeout)
            if (keeper := self.keeper) is not None:
                loop = keeper.check_loop()
                self._refuse_itself("wait for")
                if timeout is None:
                    await self._end(keeper, loop.create_future())
                else:
                    await self._end_within(keeper, loop, timeout)
            if self.state is SUCCEEDED:
                return self._result
            if self.failure is None or self.state is LET_GO:
                raise JobCancelled(shown(self.label))
            self.failure.receive()
        finally:
            del self  # the exception's traceback shows this frame: break the cycle

    async def close(self, *, timeout: float | None = None) -> None:
        """Cancel the job and wait until it has ended; a pending one never starts.

        A job is cancelled once, however often it is closed. Closing a closed job does
        nothing, except that a failure that nobody has received yet is raised.

        Args:
            timeout: seconds that the job has to end; None for the scheduler's
                ``close_timeout``.

        Raises:
            TimeoutError: the job did not end in time. It counts as closed, and its
                clean-up goes on undisturbed.
            Exception: what the job raised while it was being cancelled.
            RuntimeError: the job closes itself, or another event loop is running.

        Cancellation:
            The caller's own cancellation gets through; the job stays cancelled and its
            timeout stays in force. A caller that was cancelled before may close jobs in
            its clean-up as usual.
        """
        try:
            check_seconds("timeout", timeout)
            if waits := (keeper := self.keeper) is not None:
                loop = keeper.check_loop()
                self._refuse_itself("close")
                stop(self, keeper.close_timeout if timeout is None else timeout)
                if self.keeper is not None:
                    await self._end(keeper, loop.create_future())
            failure = self.failure
            if failure is None or self.state is HUNG_UP:
                return
            if waits or not failure.is_received:
                failure.receive()
        finally:
            del self

    def _refuse_itself(self, verb: str) -> None:
        if self.task is not None and self.task is asyncio.current_task():
            raise RuntimeError(
                f"Job {shown(self.label)} cannot {verb} itself: it would never end. "
                "Return from the coroutine, or do so from another task"
            )

    async def _end(self, keeper: Keeper, waiter: asyncio.Future[None]) -> None:
        """Wait until the job is over; the only place that waits for its end.

        The future is ours alone and never cancelled by the job's end, so a
        CancelledError here is always the caller's own.
        """
        if self.task is not None and self.task.done():
            keeper.watch(self)  # a KeyboardInterrupt may have left its books open
        if self.waiters is None:
            self.waiters = set()
        self.waiters.add(waiter)
        lender = keeper.begin_wait(self)
        try:
            await waiter
        finally:
            if self.waiters is not None:
                self.waiters.discard(waiter)
            if lender is not None:
                keeper.end_wait(lender, self)

    async def _end_within(
        self, keeper: Keeper, loop: asyncio.AbstractEventLoop, timeout: float
    ) -> None:
        waiter = loop.create_future()
        expired = False

        def expire() -> None:
            nonlocal expired
            # If the waiter is done, then in this very turn either the job ended, which
            # counts, or the caller was cancelled and no longer cares about the job.
            if not waiter.done():
                expired = True
                stop(self, keeper.close_timeout)

        timer = loop.call_later(timeout, expire)
        try:
            await self._end(keeper, waiter)
        finally:
            timer.cancel()
        if expired:
            failure = self.failure if self.state is FAILED else None
            if failure is not None:
                failure.take()  # as the cause of the error below
            name = shown(self.label)
            raise TimeoutError(
                f"Job {name} did not end within {timeout} s and was cancelled"
            ) from (None if failure is None else failure.exception())


# -- for the modules that run and keep jobs ----------------------------------------------


def note_spawned(job: Job[Any]) -> None:
    """Note that the job is accepted, and pending."""
    job.spawned_at = monotonic()


def begin(job: Job[Any], loop: asyncio.AbstractEventLoop, is_new: bool) -> None:
    """Note that the job is active from now on, and start its timeout."""
    if job.state is not PENDING:
        _refuse_move(job, ACTIVE)
    job.state = ACTIVE
    job.started_at = monotonic()
    if is_new:
        job.spawned_at = job.started_at
    if job.timeout is not None:
        job.timer = loop.call_later(job.timeout, _time_is_up, job, job.timeout)


def finish(job: Job[Any], state: JobState, result: Any = None) -> JobState:
    """Note that the job is over; return how, which its timeout may have decided."""
    if job.failure is not None and (state is SUCCEEDED or state is CANCELLED):
        state = FAILED
    if job.state is not ACTIVE and state not in NEXT[job.state]:
        _refuse_move(job, state)
    job.closed_at = monotonic()
    if state is SUCCEEDED:
        job._result = result
    if job.timer is not None or job.grace is not None:
        _cancel_timers(job)
    job.state = state
    return state


def _refuse_move(job: Job[Any], state: JobState) -> NoReturn:
    raise AssertionError(f"{job!r}: {job.state.name} to {state.name}")


def wake(job: Job[Any]) -> None:
    """Wake those who wait for the job's end."""
    for waiter in job.waiters or ():
        if not waiter.done():
            waiter.set_result(None)
    job.waiters = None


def give_key(job: Job[Any], key: str) -> None:
    """Note the job's key, which it keeps for good."""
    _keys[job] = key


def forget(job: Job[Any]) -> None:
    """Drop what nobody needs once everything about the job has been reported."""
    job.task = job.context = None


def stop(job: Job[Any], grace: float | None) -> None:
    """Cancel the job unless that was done before, and let it go after `grace` seconds.

    The earliest of several deadlines counts; None is no deadline.
    """
    keeper, task = job.keeper, job.task
    if keeper is None:
        return
    if job.state is PENDING:
        keeper.drop(job)
        return
    loop = keeper.check_loop()
    if job.state is ACTIVE:
        _cancel_timers(job)
        job.state = STOPPING
        if task is not None:
            if task.done():
                keeper.watch(job)  # a KeyboardInterrupt may have left its books open
            call_guest(task.cancel)
    if grace is not None:
        when = loop.time() + grace
        if job.grace is None or when < job.grace.when():
            if job.grace is not None:
                job.grace.cancel()
            job.grace = loop.call_at(when, keeper.let_go, job)


def _time_is_up(job: Job[Any], timeout: float) -> None:
    """Stop a job that has run for its whole ``timeout``: it fails with TimeoutError."""
    if job.state is ACTIVE and job.keeper is not None:
        name = shown(job.label)
        job.failure = Failure(TimeoutError(f"Job {name} ran longer than {timeout} s"))
        stop(job, job.keeper.close_timeout)


def _cancel_timers(job: Job[Any]) -> None:
    for timer in (job.timer, job.grace):
        if timer is not None:
            timer.cancel()
    job.timer = job.grace = None
