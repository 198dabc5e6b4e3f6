"""repeat: a job that is run again and again, by a schedule.

Between two jobs there is only a timer of the event loop, no job and no task. So a drain
does not wait for the next tick, and nothing has to be cancelled at the end.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from time import time
from typing import Any, Final, TypeVarTuple, overload
from weakref import WeakSet

from aiohttp import web

from .core.checks import check_name, check_schedule, check_seconds, check_tick
from .core.errors import SchedulerClosed
from .core.guests import LEAVES, close_coroutine
from .core.job import Job
from .core.logs import say
from .core.mark import mark
from .core.names import shown
from .core.scheduler import Scheduler
from .core.states import SchedulerState
from .schedule import Schedule
from .threads import InThread, in_thread, names_of
from .web.application import is_application
from .web.request import get_scheduler_from_app

__all__ = ("Repeat", "repeat", "repeat_of", "repeats_of")

Ts = TypeVarTuple("Ts")

# Seconds after which a timer looks at the clock again, which may have been changed.
LONGEST: Final = 60.0


@overload
def repeat(
    where: web.Application | Scheduler,
    schedule: Schedule,
    function: Callable[[*Ts], Awaitable[object]],
    *args: *Ts,
    name: str | None = None,
    timeout: float | None = None,
    jitter: float = 0,
    at_once: bool = False,
) -> Repeat: ...


@overload
def repeat(
    where: web.Application | Scheduler,
    schedule: Schedule,
    function: InThread,
    *args: Any,
    name: str | None = None,
    timeout: float | None = None,
    jitter: float = 0,
    at_once: bool = False,
) -> Repeat: ...


def repeat(  # type: ignore[misc]
    where: web.Application | Scheduler,
    schedule: Schedule,
    function: Callable[..., Awaitable[object]],
    *args: Any,
    name: str | None = None,
    timeout: float | None = None,
    jitter: float = 0,
    at_once: bool = False,
) -> Repeat:
    """Spawn a job at each tick of a schedule, until it is cancelled.

    There are never two of these jobs at once: if the last one is still pending or active
    at a tick, that tick is skipped, with a warning in the log. Ticks are also skipped
    while the scheduler drains. If the scheduler is full, the job waits for room. A job
    that fails is reported like any other, and the next one starts all the same. Each job
    runs in a copy of the context variables of the code that called this.

    Args:
        where: an application that was set up, for ticks from its start-up to its
            shutdown; or a scheduler, for ticks from now until it is closed.
        schedule: the result of :func:`every` or :func:`cron`, or a similar object.
        function: the coroutine function to call, or another function that returns an
            awaitable.
        args: its arguments.
        name: the name of the jobs and their tasks.
        timeout: seconds that each job may run. Then it is cancelled and fails.
        jitter: seconds by which each job may be late, at random, so that not all
            processes start theirs at the same moment.
        at_once: whether to start a first job right away, without waiting for a tick.

    Returns:
        An object that knows when the next job is due, and can cancel the repetition.

    Raises:
        RuntimeError: the application was not set up; or no event loop is running, or one
            that is not the scheduler's.
        SchedulerClosed: the scheduler is closing or closed.
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    _check(schedule, function, name, timeout, jitter)
    if isinstance(where, Scheduler):
        repeats = Repeat(where, schedule, function, args, name, timeout, jitter)
        repeats._start(at_once)
        return repeats
    if not is_application(where):
        raise TypeError(f"repeat() takes an application or a scheduler, not {where!r}")
    scheduler = get_scheduler_from_app(where)
    if scheduler is None:
        raise RuntimeError(
            "The application has no scheduler: call aiohttp_jobs.setup(app) before "
            "repeat(app, …)"
        )
    repeats = Repeat(scheduler, schedule, function, args, name, timeout, jitter)
    if where.on_startup.frozen:
        repeats._start(at_once)
        return repeats

    async def start(app: web.Application) -> None:
        if not repeats.cancelled:
            repeats._start(at_once)

    async def stop(app: web.Application) -> None:
        repeats.cancel()

    # aiohttp enters the clean-up contexts before this: jobs may use what they make.
    where.on_startup.append(start)
    where.on_shutdown.append(stop)
    return repeats


class Repeat:
    """A periodic job. Made by :func:`repeat`, not by hand."""

    def __init__(
        self,
        scheduler: Scheduler,
        schedule: Schedule,
        function: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
        name: str | None,
        timeout: float | None,
        jitter: float,
    ) -> None:
        #: The scheduler that runs its jobs.
        self.scheduler = scheduler
        #: The schedule that says when they are due.
        self.schedule = schedule
        #: Seconds that each may run; None for no limit.
        self.timeout = timeout
        #: How many seconds after its tick a job starts at the latest.
        self.jitter = jitter
        #: How many ticks were skipped because the last job was not over.
        self.left_out = 0
        self._make = functools.partial(function, *args)
        # The function that names it: repeat(…, in_thread, f) calls f.
        self._function = args[0] if function is in_thread and args else function
        self._name = name
        self._is_cancelled = False
        # The ticks and jobs are not part of the job in which this is made.
        self._context = contextvars.copy_context()
        self._context.run(mark.set, 0)
        self._context.run(_repeat.set, self)
        self._timer: asyncio.TimerHandle | None = None
        # The next tick, and how many seconds later its job is to come.
        self._tick = self._delay = 0.0
        # The last tick that came due.
        self._last: float | None = None
        # Spawns the job, and waits for room if there is none.
        self._entry: asyncio.Task[None] | None = None
        self._coro: object = None
        self._job: Job[Any] | None = None
        _repeats.add(self)

    def __repr__(self) -> str:
        if self._is_cancelled:
            when = "cancelled"
        elif self.next_at is None:
            when = "not started"
        else:
            try:
                moment = datetime.fromtimestamp(self.next_at, UTC)
            except (OverflowError, OSError, ValueError):  # after the year 9999
                when = "next at the end of time"
            else:
                when = f"next at {moment:%Y-%m-%d %H:%M:%S} UTC"
        return f"<Repeat {self.label} {self.schedule!r} {when}>"

    @property
    def label(self) -> str:
        """The name of its jobs, or else of their function, as used in messages."""
        if self._name is not None:
            return self._name
        return names_of(self._function)[1]

    @property
    def next_at(self) -> float | None:
        """When the next job is due, in seconds since the epoch, as in :func:`time.time`.

        None before the application has started, and after the end.
        """
        return None if self._timer is None else self._tick + self._delay

    @property
    def job(self) -> Job[Any] | None:
        """The last job, whether it is over or not; None if there was none."""
        return self._job

    @property
    def cancelled(self) -> bool:
        """Whether no more jobs come, as it was cancelled or its scheduler is closed."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Spawn no more jobs. A running one is left alone: ``job.close()`` ends it.

        Cancelling it again does nothing.
        """
        self._is_cancelled = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._entry is not None:
            self._entry.cancel()

    def _start(self, at_once: bool) -> None:
        """Begin to wait for the ticks."""
        self.scheduler.check_loop()
        if self.scheduler.closed:
            self.cancel()
            raise SchedulerClosed("what is to be repeated")
        now = time()
        try:
            self._plan(now)
        except BaseException:
            self.cancel()
            raise
        self._wait(now)
        if at_once:
            self._context.run(self._run)

    def _made(self, job: Job[Any]) -> bool:
        """Return whether it is the last job that this has made."""
        return job.coro is self._coro

    def _plan(self, now: float) -> None:
        """Find the next tick."""
        last, after = self._last, now
        if last is not None and now < last <= now + LONGEST:
            after = last  # the clock was put back a little: do not repeat the same tick
        tick = check_tick(self.schedule, after, self.schedule.next_after(after))
        if tick != self._tick:
            self._tick = tick
            self._delay = random.uniform(0, self.jitter)

    def _wait(self, now: float) -> None:
        seconds = min(max(self._tick + self._delay - now, 0), LONGEST)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        """Check whether the next job is due; the timer calls this."""
        if self._is_cancelled or self.scheduler.closed:
            self.cancel()
            return
        now = time()
        is_due = now >= self._tick + self._delay
        if is_due:
            self._last = self._tick
        if is_due or now < self._tick:
            try:
                self._plan(now)
            except BaseException as error:
                self._give_up(error)
                return
        self._wait(now)
        if is_due:
            self._run()

    def _give_up(self, error: BaseException) -> None:
        """Stop because the schedule, which may be anybody's, has no more ticks."""
        self.cancel()
        if isinstance(error, LEAVES):
            raise error
        self.scheduler.call_exception_handler(
            {
                "message": f"Job {shown(self.label)} is no longer repeated, since its "
                "schedule failed",
                "exception": error,
            }
        )

    def _run(self) -> None:
        """Spawn a job, unless that would be a second one."""
        if self.scheduler.state is SchedulerState.DRAINING:
            return
        is_entering = self._entry is not None and not self._entry.done()
        if is_entering or (self._job is not None and not self._job.closed):
            self.left_out += 1
            say(
                logging.WARNING,
                "Job %s is not over yet, so it is not repeated by %r",
                shown(self.label),
                self.schedule,
                job_name=shown(self.label),
                ticks_left_out=self.left_out,
            )
            return
        coro = self._enter()
        self._entry = asyncio.get_running_loop().create_task(coro)
        # A task factory may leave the coroutine behind, cancelled before its first step.
        self._entry.add_done_callback(lambda entry: close_coroutine(coro))

    async def _enter(self) -> None:
        coro = self._coro = self._make_coroutine()
        try:
            self._job = await self.scheduler.spawn(
                coro, self._name, timeout=self.timeout, origin=repr(self.schedule)
            )
        except SchedulerClosed:
            self.cancel()

    def _make_coroutine(self) -> Coroutine[Any, Any, object]:
        """Call the function; if that fails, return a coroutine that fails the job."""
        try:
            made: Any = self._make()
        except LEAVES:
            raise
        except BaseException as failure:
            return _named(_fail(failure), self.label)
        if isinstance(made, Coroutine):
            return made  # pyright: ignore[reportUnknownVariableType]
        if isinstance(made, Awaitable):
            return _named(_wait_for(made), self.label)  # pyright: ignore[reportUnknownArgumentType]
        error = TypeError(
            f"repeat() takes a coroutine function, but {self.label} has returned {made!r}"
            ": in_thread calls a plain function, repeat(app, every(60), in_thread, f)"
        )
        return _named(_fail(error), self.label)


# What repeats the running code, if anything. Set in the contexts of ticks and their jobs.
_repeat: Final = contextvars.ContextVar[Repeat]("aiohttp_jobs.repeat")

# All that are still alive; their timers keep them so.
_repeats: Final = WeakSet[Repeat]()


def repeats_of(scheduler: Scheduler) -> list[Repeat]:
    """Return what is repeated in this scheduler, the soonest due first."""
    found = [
        each for each in _repeats if each.scheduler is scheduler and not each.cancelled
    ]
    return sorted(found, key=lambda each: each.next_at or math.inf)


def repeat_of(job: Job[Any]) -> Repeat | None:
    """Return what repeats the job, for observers; None for other jobs.

    It is known until the observers have been told of the job's end.
    """
    found = None if job.context is None else job.context.get(_repeat)
    return found if found is not None and found._made(job) else None


async def _fail(error: BaseException) -> None:
    raise error


async def _wait_for(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _named(coro: Any, name: str) -> Coroutine[Any, Any, object]:
    coro.__name__ = coro.__qualname__ = name
    return coro  # type: ignore[no-any-return]


def _check(
    schedule: object, function: object, name: object, timeout: object, jitter: object
) -> None:
    check_schedule("schedule", schedule)
    if isinstance(function, Coroutine):
        close_coroutine(function)
        raise TypeError(
            f"function takes a coroutine function, not {function!r}: a coroutine runs "
            "once, pass its function, repeat(…, f) and not repeat(…, f())"
        )
    if not callable(function):
        raise TypeError(f"function takes a coroutine function, not {function!r}")
    check_name("name", name)
    check_seconds("timeout", timeout)
    if jitter is None:
        raise TypeError("jitter takes a number of seconds, not None")
    check_seconds("jitter", jitter)
