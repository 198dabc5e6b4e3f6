"""Scheduler: the public face of the core.

In this order: looking at it, steering it, taking jobs in, shielding, ending.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Collection, Coroutine, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Self, TypeVar

from .checks import check_collection, check_count, check_handler, check_seconds
from .intake import make_job
from .job import Job
from .parts import WHEN_MADE, Parts
from .reports import ExceptionHandler
from .states import CLOSED, DRAINING, OPEN, SchedulerState
from .statistics import Statistics

__all__ = ("ExceptionHandler", "Scheduler", "SchedulerState")

T = TypeVar("T")


class Scheduler(Collection[Job[Any]]):
    """Runs background jobs: at most `limit` at once, none lost silently.

    It may be made anywhere, even before there is an event loop, and belongs to the first
    loop that uses it. ``async with Scheduler() as scheduler:`` drains it on the way out.

    Args:
        close_timeout: seconds that a cancelled job has to end before it is reported
            and let go; None for no limit.
        wait_timeout: seconds that :meth:`wait_and_close` lets jobs end by themselves;
            None for no limit.
        limit: how many jobs run at once; None for no limit.
        pending_limit: how many more may wait for a slot; 0 or None for no limit.
        exception_handler: a plain function that is called with the scheduler and a
            context, a dict as in :meth:`asyncio.loop.call_exception_handler` with the
            keys ``message``, ``exception`` and ``job`` (``future`` for a shielded
            awaitable), for each failure that nobody waits for. None for the loop's own.
        observers: objects that are called for every job, see :meth:`add_observer`.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
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
        self._parts = Parts(self, limit, pending_limit, close_timeout, exception_handler)
        for observer in check_collection("observers", observers):
            self.add_observer(observer)
        for tell in WHEN_MADE:
            tell(self)

    # -- looking at it ------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Scheduler {'closed ' if self.closed else ''}jobs={len(self)}>"

    def __iter__(self) -> Iterator[Job[Any]]:
        """Go over a snapshot: the active jobs, then the pending ones, in their order."""
        return iter(self._parts.jobs())

    def __len__(self) -> int:
        return len(self._parts.gate.active) + len(self._parts.pending)

    def __contains__(self, job: object) -> bool:
        return self._parts.has(job)

    @property
    def close_timeout(self) -> float | None:
        """Seconds that a cancelled job has to end; None for no limit."""
        return self._close_timeout

    @property
    def wait_timeout(self) -> float | None:
        """Seconds that :meth:`wait_and_close` drains by default; None for no limit."""
        return self._wait_timeout

    @property
    def exception_handler(self) -> ExceptionHandler | None:
        """The handler for failures that nobody waits for; None for the loop's own."""
        return self._parts.reports.handler

    @property
    def active_count(self) -> int:
        """How many jobs are running."""
        return len(self._parts.gate.active)

    @property
    def pending_count(self) -> int:
        """How many jobs are accepted but not yet started."""
        return len(self._parts.pending)

    @property
    def slots_taken(self) -> int:
        """How many slots are taken, by the active jobs that have one."""
        return self._parts.slots.taken

    @property
    def callers_waiting(self) -> int:
        """How many callers of :meth:`spawn` wait for room among the pending jobs."""
        return len(self._parts.pending.callers)

    def active_jobs(self, count: int | None = None) -> list[Job[Any]]:
        """Return the jobs that are running: the first `count` to start, or all."""
        return list(islice(self._parts.gate.active.values(), count))

    def pending_jobs(self, count: int | None = None) -> list[Job[Any]]:
        """Return the first `count` pending jobs in order, or all of them."""
        return list(islice(self._parts.pending, count))

    @property
    def closed(self) -> bool:
        """Whether it refuses new jobs, because it is closing or closed."""
        return self._parts.gate.state is not OPEN

    @property
    def state(self) -> SchedulerState:
        """Open, draining, closing or closed."""
        state = self._parts.gate.state
        return DRAINING if state is OPEN and self._parts.ending.is_draining else state

    def statistics(self) -> Statistics:
        """Return the current figures. The cost does not depend on the number of jobs."""
        return self._parts.statistics()

    def add_observer(self, observer: object) -> None:
        """Call an object's methods when something happens to a job.

        It may have any of ``job_spawned(job)``, ``job_started(job)``,
        ``job_running(job)`` and ``job_closed(job)``, which are called in this order; for
        a job that never starts, without the two in the middle. The third is called in
        the job's own task and context, right before the coroutine's first step, so a
        context variable that it sets is set in the job; it is not called for a job that
        is cancelled before that step.

        They are plain functions, called in the middle of the scheduler's work, and have
        to be quick. One that raises is logged and its observer disabled. Adding an
        observer twice has no further effect.

        Raises:
            TypeError: it has none of the methods, or one is a coroutine function.
        """
        self._parts.telling.add(observer)

    def remove_observer(self, observer: object) -> None:
        """Stop calling this observer; one that was not added is ignored."""
        self._parts.telling.remove(observer)

    # -- steering it --------------------------------------------------------------------

    @property
    def limit(self) -> int | None:
        """How many jobs run at once; None for no limit. It may be set.

        Raising it starts pending jobs at once; lowering it stops none.
        """
        return self._parts.slots.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        check_count("limit", limit, least=1)
        self._parts.set_limits(limit, self.pending_limit)

    @property
    def pending_limit(self) -> int | None:
        """How many jobs may be pending; 0 or None for no limit. It may be set, too."""
        return self._parts.pending.limit

    @pending_limit.setter
    def pending_limit(self, limit: int | None) -> None:
        check_count("pending_limit", limit, least=0)
        self._parts.set_limits(self.limit, limit)

    @property
    def held(self) -> bool:
        """Whether it starts no pending jobs, because of :meth:`hold`."""
        return self._parts.gate.is_held

    def hold(self) -> None:
        """Start no job that is pending or will be, until :meth:`release`.

        Jobs are accepted as always, and wait; those that take no slot, such as atomic
        handlers, start. A drain logs that they are held.
        """
        self._parts.hold()

    def release(self) -> None:
        """Start pending jobs again, after :meth:`hold`."""
        self._parts.release()

    async def spawn(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
        origin: str | None = None,
        key: str | None = None,
    ) -> Job[T]:
        """Accept a job; wait for room first if `pending_limit` is reached.

        First come, first served, among jobs and among callers that wait for room. A job
        that waits here for room in its own scheduler lends its slot meanwhile.

        Args:
            coro: the coroutine to run. It is closed if the job is not accepted.
            name: the name of the job and its task.
            timeout: seconds that the job may run, from its start. Then it is cancelled
                and fails with :exc:`TimeoutError`.
            context: the context to run in, instead of a copy of the caller's, taken now.
            origin: where the job comes from, for example a route, for logs and the like.
                :func:`spawn` passes that of the request.
            key: what the job is for, such as ``"report:42"``. At most one job with this
                key is pending or active at a time: if there is one, it is returned, the
                coroutine is closed, and the other arguments are ignored.

        Returns:
            The job, active at once if a slot is free and no other job waits for it,
            else pending; or the one that already has the key.

        Raises:
            SchedulerClosed: the scheduler is closing or closed, or closes while the
                caller waits for room.
            TypeError, ValueError: an argument is invalid; the message names it.
            RuntimeError: the running event loop is not the scheduler's.

        Cancellation:
            If the caller is cancelled while it waits for room, the coroutine is closed
            without having run.
        """
        job = make_job(coro, self._parts.gate, name, timeout, context, origin)
        if key is not None:
            return await self._parts.keys.spawn(job, key)
        if not self._parts.intake.accept(job):
            await self._parts.intake.wait_for_room(job)
        return job

    def spawn_nowait(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
        origin: str | None = None,
        key: str | None = None,
    ) -> Job[T]:
        """Accept a job or refuse it, without waiting: :meth:`spawn` for plain functions.

        It takes the same arguments, and returns and raises the same. In addition:

        Raises:
            SchedulerFull: `pending_limit` is reached, or callers of :meth:`spawn` wait
                for room.
        """
        job = make_job(coro, self._parts.gate, name, timeout, context, origin)
        if key is not None:
            return self._parts.keys.enter(job, key, self._parts.intake.accept_or_refuse)
        self._parts.intake.accept_or_refuse(job)
        return job

    def spawn_at_once(
        self,
        coro: Coroutine[Any, Any, T],
        name: str | None = None,
        *,
        origin: str | None = None,
    ) -> Job[T]:
        """Start a job outside ``limit``: it takes no slot and never waits for one.

        For work that is limited elsewhere, as an atomic handler is by the server. It is
        counted, listed, drained and closed like any other job.

        The arguments and errors are those of :meth:`spawn`.
        """
        job = make_job(coro, self._parts.gate, name, None, None, origin)
        self._parts.intake.start_at_once(job)
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
        key: str | None = None,
    ) -> Job[T]:
        """Accept a job that is held back until `future` is done, whatever its outcome.

        Until then it is pending; then it takes its place at the end of the queue. This
        does not wait for room, which the jobs held back may themselves take up.

        Args:
            future: what to hold the job back for, for example a task.
            coro, name, timeout, context, origin, key: as for :meth:`spawn`.

        Raises:
            SchedulerFull: `pending_limit` is reached.
        """
        job = make_job(coro, self._parts.gate, name, timeout, context, origin)
        if key is not None:
            hold_back = partial(self._parts.intake.hold_back, future=future)
            return self._parts.keys.enter(job, key, hold_back)
        self._parts.intake.hold_back(job, future)
        return job

    # -- shielding ----------------------------------------------------------------------

    def shield(self, arg: Awaitable[T]) -> asyncio.Future[T]:
        """Protect an awaitable from cancellation of its caller.

        The scheduler drains what is shielded before it closes, and a failure that the
        caller is no longer there to receive goes to the exception handler.

        Args:
            arg: a coroutine, task, future or other awaitable.

        Returns:
            A future with its outcome, to be awaited at once.

        Raises:
            SchedulerClosed: the scheduler is closed. While it is still closing, clean-up
                code may shield, within the time that the close has.
            TypeError: it is not an awaitable.
            RuntimeError: the running event loop is not the scheduler's, or the
                future belongs to another one.

        Cancellation:
            The awaitable goes on. Closing the scheduler cancels it.
        """
        return self._parts.shield(arg)

    # -- ending -------------------------------------------------------------------------

    async def drain(
        self, timeout: float | None = None, *, background: bool = True
    ) -> bool:
        """Let the background jobs end; more may be spawned meanwhile.

        Called from inside a job, it does not wait for that job. If it takes longer than 5
        seconds, the names of the jobs that are left are logged.

        Args:
            timeout: seconds to wait; None for the scheduler's ``wait_timeout``.
            background: whether to leave out what ends with something else, that is, jobs
                started by :meth:`spawn_at_once` and those that :meth:`spawn_after` holds
                back.

        Returns:
            Whether no job was left.

        Raises:
            RuntimeError: the running event loop is not the scheduler's.

        Cancellation:
            The jobs are left alone.
        """
        check_seconds("timeout", timeout)
        return await self._parts.ending.drain(
            self._wait_timeout if timeout is None else timeout, background=background
        )

    async def wait_and_close(self, timeout: float | None = None) -> None:
        """Drain, then close: let the jobs end, and cancel what is left at the deadline.

        While it drains, jobs and handlers may still spawn. Called from inside a job, it
        does not wait for that job. It logs like :meth:`drain`.

        Args:
            timeout: seconds to let jobs end; None for the scheduler's ``wait_timeout``.

        Raises:
            RuntimeError: the running event loop is not the scheduler's.

        Cancellation:
            The scheduler is closed at once, then the cancellation is raised: nothing is
            left running. A second cancellation gets through while it closes.
        """
        check_seconds("timeout", timeout)
        if self._parts.gate.state is CLOSED:
            return
        self._parts.binding.check()
        try:
            await self.drain(timeout, background=False)
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel all jobs and shielded awaitables, and wait until they have ended.

        Jobs that have been started take their first step first. Pending jobs never start.
        Every job has ``close_timeout`` to end; one that takes longer is reported and let
        go. What was cancelled or never started is logged in one record (WARNING). Closing
        again only waits. Called from inside a job, it spares that job.

        Raises:
            RuntimeError: the running event loop is not the scheduler's.

        Cancellation:
            The caller's cancellation gets through; closing goes on without it.
        """
        await self._parts.ending.close()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand a failure to the exception handler, or without one to the event loop's.

        If that raises, both exceptions go to the event loop's handler. All failures pass
        through here, with a context as for :meth:`asyncio.loop.call_exception_handler`.
        """
        self._parts.reports.call(context)

    def check_loop(self) -> None:
        """Bind to the running loop; RuntimeError if it is bound to another one."""
        self._parts.binding.check()

    async def __aenter__(self) -> Self:
        self._parts.binding.check()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.wait_and_close()

    def __del__(self) -> None:
        if "_parts" in vars(self):  # else an argument was refused
            self._parts.abandon(self)
