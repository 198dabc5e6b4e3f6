"""Intake: how a job gets in: at once, into the queue, or after its caller has waited."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, Final, TypeVar

from .binding import Binding
from .checks import check_future, check_spawn
from .errors import SchedulerClosed, SchedulerFull
from .gate import Gate
from .guests import close_coroutine
from .job import Job, note_spawned
from .keeper import Keeper
from .states import OPEN, PENDING

__all__ = ("Intake", "make_job")

T = TypeVar("T")

_numbers: Final = itertools.count(1)

_running_loop: Final = asyncio.get_running_loop


class Intake:
    """Accepts jobs, or refuses them and closes their coroutines.

    Args:
        binding: the event loop.
        gate: where the jobs come in.
    """

    __slots__ = ("_binding", "_gate")

    def __init__(self, binding: Binding, gate: Gate) -> None:
        self._binding = binding
        self._gate = gate

    def accept(self, job: Job[Any]) -> bool:
        """Start the job or put it into the queue; return whether there was room for it.

        Raises:
            SchedulerClosed: the scheduler takes no more jobs.
            RuntimeError: the running event loop is not the scheduler's.
        """
        gate = self._gate
        pending, slots = gate.pending, gate.slots
        try:
            is_here = _running_loop() is self._binding.loop
        except RuntimeError:
            is_here = False
        if not is_here or gate.state is not OPEN:
            self.check_open_for(job)
        try:
            if (
                slots.free > 0
                and (not pending.queue or pending.first() is None)
                and not pending.callers
                and not gate.is_held
            ):
                gate.start(job, True)
                return True
            if pending.callers or pending.is_full():
                return False
            pending.queue.append(job)
            note_spawned(job)
            if gate.observers.job_spawned is not None:
                gate.telling.tell("job_spawned", job)
            if slots.free > 0:
                gate.pump_soon(again=True)
            else:
                gate.look_for_way_out()
        except BaseException:
            gate.mend()
            if job.state is PENDING and job not in pending.queue:
                gate.refuse(job)
            raise
        return True

    def accept_or_refuse(self, job: Job[Any]) -> None:
        """Accept the job as `accept` does, but refuse it if there is no room.

        Raises:
            SchedulerFull: there is no room.
        """
        if not self.accept(job):
            self._refuse_full(job)

    def start_at_once(self, job: Job[Any]) -> None:
        """Start a job that takes no slot."""
        self.check_open_for(job)
        self._gate.slots.at_once.add(job)
        self._gate.start(job, True)

    def hold_back(self, job: Job[Any], future: asyncio.Future[Any]) -> None:
        """Keep a job pending, outside the queue, until the future is done.

        Raises:
            SchedulerFull: there is no room.
        """
        self.check_open_for(job, future)
        pending = self._gate.pending
        if pending.callers or pending.is_full():
            self._refuse_full(job)
        pending.held[job.id] = job, future
        note_spawned(job)
        self._gate.telling.tell("job_spawned", job)
        # The future may live long: it must keep neither the job nor its scheduler alive.
        future.add_done_callback(partial(_release, weakref.ref(self._gate), job.id))

    async def wait_for_room(
        self, job: Job[Any], when_in: Callable[[Job[Any]], bool] | None = None
    ) -> None:
        """Let a job into the queue when there is room, in the order of the callers.

        Args:
            job: the job to let in.
            when_in: called when it has its place; returns whether it is still wanted.

        Raises:
            SchedulerClosed: the scheduler was closed meanwhile.
        """
        gate = self._gate
        pending = gate.pending
        waiter = None
        is_in = False
        try:
            woken = pending.callers[job] = self._binding.in_use().create_future()
            waiter = gate.callers[job] = gate.begin_wait_for_queue()
            await woken
            if gate.state is not OPEN:
                raise SchedulerClosed
            if when_in is not None and not when_in(job):
                return
            is_in = True
            pending.unconfirmed.discard(job)
            gate.can_start_now(job)
            gate.fill_slots()
        except BaseException as error:
            # Cancelled. The job may have its place in the queue, but has not started.
            if job.pending and (is_in or job in pending.unconfirmed):
                gate.drop(job)
                gate.pump_soon()  # it held up those behind it
            elif job.pending:
                pending.callers.pop(job, None)
                gate.refuse(job)
            if not isinstance(error, asyncio.CancelledError | SchedulerClosed):
                gate.mend()
            raise
        finally:
            if gate.callers.pop(job, None) is not None:
                gate.end_wait(waiter, None)

    def _check_open(self) -> None:
        self._binding.check()
        if self._gate.state is not OPEN:
            raise SchedulerClosed

    def check_open_for(self, job: Job[Any], *futures: object) -> None:
        """Refuse the job if the scheduler takes no more, or if a future is not one.

        Raises:
            SchedulerClosed: the scheduler takes no more jobs.
            RuntimeError: the running event loop is not the scheduler's, or a future
                belongs to another one.
            TypeError: a future is not one.
        """
        try:
            self._check_open()
            for future in futures:
                check_future("future", future, self._binding.in_use())
        except BaseException:
            self._gate.refuse(job)
            raise

    def _refuse_full(self, job: Job[Any]) -> None:
        self._gate.refuse(job)
        raise SchedulerFull(len(self._gate.pending))


def _release(gate: weakref.ref[Gate], number: int, future: asyncio.Future[Any]) -> None:
    """Release the job with this number: what it was held back for is done."""
    try:
        if (still_there := gate()) is not None:
            still_there.release(number)
    except BaseException:
        future.get_loop().call_soon(_release, gate, number, future)
        raise


def make_job(
    coro: Coroutine[Any, Any, T],
    keeper: Keeper,
    name: str | None,
    timeout: float | None,
    context: contextvars.Context | None,
    origin: str | None,
) -> Job[T]:
    """Make a pending job; if an argument is refused, the coroutine is closed.

    (An __init__ would cost each job some 4 % more.)
    """
    # Nearly all jobs pass the quick test.
    if (
        type(coro) is not CoroutineType
        or not (name is None or type(name) is str)
        or timeout is not None
        or context is not None
        or not (origin is None or type(origin) is str)
    ):
        _check(coro, name, timeout, context, origin)  # pyright: ignore[reportUnknownArgumentType]
    job: Job[T] = Job()
    job.coro = coro
    job.keeper = keeper
    job.id = next(_numbers)
    job.state = PENDING
    job.name = name
    job.timeout = timeout
    if context is None:
        job.context = contextvars.copy_context()
        job.owns_context = True
    else:
        job.context = context
        job.owns_context = False
    job.origin = origin
    job.spawned_at = job.started_at = job.closed_at = None
    job.task = job.waiters = job.failure = job.timer = job.grace = None
    return job


def _check(coro: Any, *others: object) -> None:
    try:
        check_spawn(coro, *others)
    except BaseException:
        if isinstance(coro, Coroutine):
            close_coroutine(coro)
        raise
