"""Scheduler: accepts, bounds, drains and closes jobs.

Four parts, in this order: looking at it, taking jobs in, shielding, and ending. How the
jobs that were taken in get their slots is in slots.py, the lower half.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import warnings
from collections.abc import Awaitable, Collection, Coroutine, Iterable, Iterator
from functools import partial
from itertools import islice
from time import monotonic
from types import CoroutineType, TracebackType
from typing import Any, Final, Self, TypeVar

from .checks import check_count, check_handler, check_seconds, no_coroutine
from .closing import Closing, logger
from .errors import SchedulerClosed, SchedulerFull
from .job import CANCELLED, FAILED, LET_GO, SUCCEEDED, ExceptionHandler, Job
from .observers import Observers
from .shield import Shields
from .slots import CLOSED, CLOSING, DRAINING, SchedulerState, Slots
from .statistics import Statistics

__all__ = ("ExceptionHandler", "Scheduler", "SchedulerState")

T = TypeVar("T")

# Seconds between two words about a drain that takes long.
REPORT_EVERY: Final = 5.0


class Scheduler(Slots, Collection[Job[Any]]):
    """Runs background jobs: at most `limit` at once, none lost silently.

    It may be made anywhere, also before there is an event loop, and belongs to the first
    loop that uses it. ``async with Scheduler() as scheduler:`` drains it on the way out.

    Args:
        close_timeout: seconds that a cancelled job is given to end before it is reported
            and let go; None for no bound.
        wait_timeout: seconds that :meth:`wait_and_close` lets jobs end by themselves;
            None for no bound.
        limit: how many jobs run at once; None for no limit.
        pending_limit: how many more may wait for a slot; 0 or None for no limit.
        exception_handler: a plain function that is called with the scheduler and a
            context, a dict as in :meth:`asyncio.loop.call_exception_handler` with the
            keys ``message``, ``exception`` and ``job`` (``future`` for a shielded
            awaitable), for each failure that nobody waits for. None for the event
            loop's own handler.
        observers: objects that are told of jobs, see :meth:`add_observer`.

    Raises:
        TypeError, ValueError: an argument is out of range; the sentence names it.
    """

    def __init__(
        self,
        *,
        close_timeout: float | None = 0.1,
        wait_timeout: float | None = 60,
        limit: int | None = 100,
        pending_limit: int | None = 10000,
        exception_handler: ExceptionHandler | None = None,
        observers: Iterable[object] = (),
    ) -> None:
        check_seconds("close_timeout", close_timeout)
        check_seconds("wait_timeout", wait_timeout)
        check_count("limit", limit, least=1)
        check_count("pending_limit", pending_limit, least=0)
        check_handler(exception_handler)
        self._close_timeout = close_timeout
        self._wait_timeout = wait_timeout
        self._limit = limit
        super().__init__(limit, pending_limit, exception_handler)
        self._shields = Shields()
        # What goes on cancelling, from a close until all have been cancelled.
        self._closing: Closing | None = None
        # When the close that is under way has to return.
        self._close_by = -math.inf
        for observer in observers:
            self.add_observer(observer)

    # -- looking at it ------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Scheduler {'closed ' if self.closed else ''}jobs={len(self)}>"

    def __iter__(self) -> Iterator[Job[Any]]:
        """Go over a snapshot: the active jobs, then the pending ones, in their order."""
        return iter([*self._active, *self._pending])

    def __len__(self) -> int:
        return len(self._active) + len(self._pending)

    def __contains__(self, job: object) -> bool:
        return (
            isinstance(job, Job)
            and job._scheduler is self
            and job._spawned_at is not None  # else it waits for room, or gave up just now
        )

    @property
    def limit(self) -> int | None:
        """How many jobs run at once; None for no limit."""
        return self._limit

    @property
    def pending_limit(self) -> int | None:
        """How many jobs may be pending; 0 or None for no limit."""
        return self._pending.limit

    @property
    def close_timeout(self) -> float | None:
        """Seconds that a cancelled job is given to end; None for no bound."""
        return self._close_timeout

    @property
    def wait_timeout(self) -> float | None:
        """Seconds that :meth:`wait_and_close` drains by default; None for no bound."""
        return self._wait_timeout

    @property
    def exception_handler(self) -> ExceptionHandler | None:
        """What is called for a failure that nobody waits for; None for the loop's own."""
        return self._exception_handler

    @property
    def active_count(self) -> int:
        """How many jobs run just now."""
        return len(self._active)

    @property
    def pending_count(self) -> int:
        """How many jobs are accepted and not yet started."""
        return len(self._pending)

    @property
    def slots_taken(self) -> int:
        """How many slots are taken just now.

        By all active jobs but those that take none, as atomic handlers, and those that
        lend theirs while they wait for another job.
        """
        return self._slots - self._free

    @property
    def callers_waiting(self) -> int:
        """How many callers of :meth:`spawn` wait for room among the pending jobs."""
        return len(self._pending.callers)

    def active_jobs(self, count: int | None = None) -> list[Job[Any]]:
        """Return the jobs that run just now, the first `count` to start, or all."""
        return list(islice(self._active, count))

    def pending_jobs(self, count: int | None = None) -> list[Job[Any]]:
        """Return the first `count` pending jobs in their order, or all of them.

        What it costs does not grow with the jobs behind those.
        """
        return list(islice(self._pending, count))

    @property
    def closed(self) -> bool:
        """Does it refuse new jobs, because it is closing or closed?"""
        return self._state >= CLOSING

    @property
    def state(self) -> SchedulerState:
        """Open, draining, closing or closed."""
        return self._state

    def statistics(self) -> Statistics:
        """Return the figures of this moment.

        What it costs does not grow with the jobs, but for those that are held back until
        after their response.
        """
        now = monotonic()
        oldest = next(iter(self._active), None)
        waiting = [job for job in (self._pending.first(), *self._pending.held) if job]
        return Statistics(
            active=len(self._active),
            pending=len(self._pending),
            slots_taken=self.slots_taken,
            callers_waiting=self.callers_waiting,
            shielded=len(self._shields),
            limit=self._limit,
            pending_limit=self._pending.limit,
            succeeded=self._ended[SUCCEEDED],
            failed=self._ended[FAILED],
            cancelled=self._ended[CANCELLED],
            let_go=self._ended[LET_GO],
            longest_waiting=max(
                (now - (job.spawned_at or now) for job in waiting), default=0.0
            ),
            longest_running=now - (oldest.started_at or now) if oldest else 0.0,
        )

    def add_observer(self, observer: object) -> None:
        """Call an object's methods when something happens to a job.

        It may have any of ``job_spawned(job)``, ``job_started(job)``,
        ``job_running(job)`` and ``job_closed(job)``; every job calls them in this order,
        but one that never starts leaves out the two in the middle. The third is called
        in the job's own task and context, right before the coroutine's first step: a
        context variable that it sets is set in the job. A job that is cancelled between
        its start and that step leaves it out.

        They are plain functions, are called in the middle of the scheduler's work, and so
        have to be quick. One that raises is logged, and its observer is told no more.

        Args:
            observer: the object. Adding it twice is adding it once.

        Raises:
            TypeError: it has none of the methods, or one is a coroutine function.
        """
        if self._observers is None:
            self._observers = Observers()
        self._observers.add(observer)

    def remove_observer(self, observer: object) -> None:
        """Call this observer no more; one that is not there is ignored."""
        if self._observers is not None:
            self._observers.remove(observer)
            if not self._observers:
                self._observers = None

    # -- taking jobs in -----------------------------------------------------------------

    async def spawn(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
        origin: str | None = None,
    ) -> Job[T]:
        """Accept a job; wait for room first if as many are pending as may be.

        First come, first served, among jobs and among callers that wait for room. A job
        that waits here for room in its own scheduler lends its slot meanwhile.

        Args:
            coro: the coroutine to run. It is closed if the job is not accepted.
            name: how the job and its task are called.
            timeout: seconds that the job may run, from its start. Then it is cancelled
                and fails with :exc:`TimeoutError`.
            context: the context to run in, instead of a copy, taken now, of the caller's.
            origin: where the job comes from, a route for example, for those who look at
                it. :func:`spawn` gives the one of the request.

        Returns:
            The job, active at once if a slot is free and nobody waits before it, else
            pending.

        Raises:
            SchedulerClosed: the scheduler is closing or closed, or closes while the
                caller waits for room.
            TypeError, ValueError: an argument cannot be right; the sentence names it.
            RuntimeError: another event loop is running than the scheduler's.

        Cancellation:
            If the caller is cancelled while it waits for room, the coroutine is closed
            without having run.
        """
        job = self._make(coro, name, timeout, context, origin)
        if not self._accept(job, context):
            await self._wait_for_room(job, context)
        return job

    def spawn_nowait(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
        origin: str | None = None,
    ) -> Job[T]:
        """Accept a job or refuse it, without waiting: :meth:`spawn` for plain functions.

        The same arguments, result and errors, and:

        Raises:
            SchedulerFull: as many jobs are pending as may be, or callers of
                :meth:`spawn` wait for room.
        """
        job = self._make(coro, name, timeout, context, origin)
        if not self._accept(job, context):
            coro.close()
            raise SchedulerFull(len(self._pending))
        return job

    def spawn_at_once(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        origin: str | None = None,
    ) -> Job[T]:
        """Start a job outside of ``limit``: it takes no slot and never waits for one.

        For work that is bounded elsewhere, as an atomic handler is by the server. It is
        counted, listed, drained and closed like any other job.

        Args:
            coro, name, origin: as for :meth:`spawn`.

        Raises:
            SchedulerClosed, TypeError, RuntimeError: as :meth:`spawn`.
        """
        job = self._make(coro, name, None, None, origin)
        job._lends = 1
        self._at_once.add(job)
        self._start(job, None)
        return job

    def spawn_after(
        self,
        future: asyncio.Future[Any],
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
        origin: str | None = None,
    ) -> Job[T]:
        """Accept a job that is held back until `future` is done, whatever its outcome.

        Until then the job is pending; then it takes its place at the end of the queue.
        It does not wait for room: it may be the held jobs that take it.

        Args:
            future: what to hold the job back for, a task for example.
            coro, name, timeout, context, origin: as for :meth:`spawn`.

        Raises:
            SchedulerFull: as many jobs are pending as may be.
            SchedulerClosed, TypeError, ValueError, RuntimeError: as :meth:`spawn`.
        """
        job = self._make(coro, name, timeout, context, origin)
        pending = self._pending
        if pending.callers or pending.is_full():
            coro.close()
            raise SchedulerFull(len(pending))
        job._context = contextvars.copy_context() if context is None else context
        pending.held.add(job)
        self._accepted(job)
        future.add_done_callback(partial(self._release, job))
        return job

    def _release(self, job: Job[Any], future: asyncio.Future[Any]) -> None:
        if job.pending:
            self._pending.held.remove(job)
            self._pending.queue.append(job)
            self._fill()

    def _make(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None,
        timeout: float | None,
        context: contextvars.Context | None,
        origin: str | None,
    ) -> Job[T]:
        """Check everything that can be refused at once; the coroutine is closed if so."""
        # The first test is the quick one, for nearly all.
        if type(coro) is not CoroutineType and not isinstance(coro, Coroutine):
            raise TypeError(no_coroutine(coro))
        try:
            if name is not None and not isinstance(name, str):
                raise TypeError(f"name takes a str or None, not {name!r}")
            if timeout is not None:
                check_seconds("timeout", timeout)
            if origin is not None and not isinstance(origin, str):
                raise TypeError(f"origin takes a str or None, not {origin!r}")
            if context is not None and not isinstance(context, contextvars.Context):
                raise TypeError(
                    f"context takes a contextvars.Context or None, not {context!r}"
                )
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = None
            if loop is None or loop is not self._loop:
                loop = self._check_loop()
            if self._state >= CLOSING:
                raise SchedulerClosed
            job: Job[T] = Job(coro, self, name, timeout, origin)  # pyright: ignore[reportUnknownArgumentType]
        except BaseException:
            coro.close()
            raise
        return job

    def _accept(self, job: Job[Any], context: contextvars.Context | None) -> bool:
        """Start the job, or put it into the queue; is there room for it?"""
        pending = self._pending
        if pending.callers:
            return False
        if self._free > 0 and not pending.queue:
            self._start(job, context)
            return True
        if pending.is_full():
            return False
        job._context = contextvars.copy_context() if context is None else context
        pending.queue.append(job)
        self._accepted(job)
        return True

    async def _wait_for_room(
        self, job: Job[Any], context: contextvars.Context | None
    ) -> None:
        job._context = contextvars.copy_context() if context is None else context
        pending = self._pending
        woken = pending.callers[job] = self._loop_in_use().create_future()
        lender = self._lend()
        try:
            await woken
            if job.closed and self.closed:
                raise SchedulerClosed
            pending.unconfirmed.discard(job)
            # Before the lent slot is taken back: the place may have been given for it.
            self._fill()
        except BaseException:
            # Cancelled. It may have its place in the queue by now, but has not started.
            if job in pending.unconfirmed:
                self._drop(job)
            elif job.pending:
                pending.callers.pop(job, None)
                self._refuse(job)
            raise
        finally:
            if lender is not None:
                self._reclaim(lender)

    # -- shielding ----------------------------------------------------------------------

    def shield(self, arg: Awaitable[T]) -> asyncio.Future[T]:
        """Protect an awaitable from the caller's cancellation, as :func:`asyncio.shield`.

        The scheduler drains what is shielded before it closes, and a failure that the
        caller is no longer there to receive goes to the exception handler.

        Args:
            arg: a coroutine, task, future or other awaitable.

        Returns:
            A future with its outcome, to be awaited at once.

        Raises:
            SchedulerClosed: the scheduler is closed. While it is still closing, clean-up
                code may shield, and has to end when the close has to.
            TypeError: it is not an awaitable.
            RuntimeError: another event loop is running than the scheduler's, or the
                future belongs to another one.

        Cancellation:
            Cancelling the caller leaves the awaitable running. Closing the scheduler
            cancels it.
        """
        try:
            loop = self._check_loop()
            if asyncio.isfuture(arg) and arg.get_loop() is not loop:
                raise RuntimeError(
                    f"{arg!r} belongs to a different event loop than {self!r}: shield it "
                    "by a scheduler of its own loop"
                )
            if self._state is CLOSED:
                raise SchedulerClosed("a new shield")
        except RuntimeError:
            if asyncio.iscoroutine(arg):
                arg.close()
            raise
        inner = asyncio.ensure_future(arg)
        if inner.done():
            return inner
        outer = self._shields.add(self, inner)
        if self._state is CLOSING and self._close_timeout is not None:
            left = self._close_by - loop.time()
            # Below 0 nobody but a job that its own close has spared keeps it closing.
            self._shields.bound(self, inner, self._close_timeout if left < 0 else left)
        return outer

    # -- ending -------------------------------------------------------------------------

    async def drain(self, timeout: float | None = None) -> bool:
        """Let the background jobs end; they may spawn more, and so may anybody else.

        Not waited for is what ends with something else: jobs started by
        :meth:`spawn_at_once` and those that :meth:`spawn_after` holds back. Called from
        inside a job it does not wait for that job. Every few seconds a log record (INFO)
        says how many are left.

        Args:
            timeout: seconds to wait; None for the scheduler's ``wait_timeout``.

        Returns:
            Whether none was left.

        Raises:
            RuntimeError: another event loop is running than the scheduler's.

        Cancellation:
            The jobs are left alone.
        """
        return await self._drain(timeout, background=True)

    async def wait_and_close(self, timeout: float | None = None) -> None:
        """Drain, then close: let the jobs end, and cancel what is left at the deadline.

        While it drains, jobs and handlers may still spawn. Called from inside a job it
        does not wait for that job. Every few seconds a log record (INFO) says how many
        are left.

        Args:
            timeout: seconds to let the jobs end; None for the scheduler's
                ``wait_timeout``.

        Raises:
            RuntimeError: another event loop is running than the scheduler's.

        Cancellation:
            The scheduler is closed at once, then the cancellation is raised: nothing is
            left running. A second cancellation gets through while it closes.
        """
        check_seconds("timeout", timeout)
        self._check_loop()
        try:
            await self._drain(timeout)
        finally:
            await self.close()

    async def _drain(self, timeout: float | None, background: bool = False) -> bool:
        check_seconds("timeout", timeout)
        loop = self._check_loop()
        if timeout is None:
            timeout = self._wait_timeout
        deadline = math.inf if timeout is None else loop.time() + timeout
        me = self._drainers.caller()
        self._move(DRAINING)
        report_at = loop.time() + REPORT_EVERY
        # In turns: for the log, and because whoever saw the last job end may spawn one.
        while self._drainers.left(me, background) and (now := loop.time()) < deadline:
            if now >= report_at:
                report_at = now + REPORT_EVERY
                logger.info(
                    "The scheduler drains: %d active, %d pending, %d shielded left",
                    len(self._active),
                    len(self._pending),
                    len(self._shields),
                    extra={
                        "jobs_active": len(self._active),
                        "jobs_pending": len(self._pending),
                        "shields_left": len(self._shields),
                    },
                )
            await self._drainers.until_none_is_left(
                me, background, min(report_at, deadline) - now
            )
        return not self._drainers.left(me, background)

    async def close(self) -> None:
        """Cancel all jobs and shielded awaitables, and wait until they have ended.

        Pending jobs never start. Every job is given ``close_timeout`` to end; one that
        takes longer is reported and let go. What was cancelled or never started is told
        in one log record (WARNING). Closing again does nothing, but waits likewise.
        Called from inside a job it spares that job and does not wait for it.

        Raises:
            RuntimeError: another event loop is running than the scheduler's.

        Cancellation:
            The caller's cancellation gets through; closing goes on without it.
        """
        loop = self._check_loop()
        me = self._drainers.caller()
        self._move(CLOSING)
        if self._close_timeout is not None and self._close_by <= loop.time():
            self._close_by = loop.time() + self._close_timeout
        while self._pending.callers:
            job, woken = self._pending.callers.popitem(last=False)
            self._refuse(job)
            if not woken.done():
                woken.set_result(None)
        # Also those that are cancelled already: they may have been given more time.
        victims = [job for job in self if job is not me]
        shields = [inner for inner in self._shields if inner is not me]
        if victims or shields:
            first = self._closing is None
            if self._closing is None:
                self._closing = Closing(self)
            self._closing.add(victims)
            self._closing.add(shields)
            if first:
                self._closing.run()
        self._check_idle()
        while self._drainers.left(me):
            await self._drainers.until_none_is_left(me)

    def _closing_is_done(self) -> None:
        self._closing = None
        self._check_idle()

    def _left(self) -> int:
        """How many jobs and shielded awaitables are left, and is a close under way?"""
        left = len(self._active) + len(self._pending) + len(self._shields)
        return left + (self._closing is not None)

    def _check_idle(self) -> None:
        if self._state is CLOSING and not self._left():
            self._move(CLOSED)
        super()._check_idle()

    async def __aenter__(self) -> Self:
        self._check_loop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.wait_and_close()

    def __del__(self) -> None:
        if "_pending" not in vars(self):
            return  # an argument was refused
        # Active jobs keep their scheduler: these never started, or their loop is gone.
        if jobs := list(self):
            warnings.warn(
                f"{self!r} was never closed: use it by 'async with', or call "
                "wait_and_close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            for job in jobs:
                if job.pending:
                    job._coro.close()
