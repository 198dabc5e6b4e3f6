"""What the state machine of test_model.py drives.

`Work` is what a job does: it obeys orders, and has a manner of its own to take a
cancellation. `Call` is one call of the scheduler or of a job, by a task of the test or by
a work. `Watched` is the scheduler, which tells of each start.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiohttp_jobs import Job, Scheduler
from tests.loops import later

__all__ = (
    "LEAVES",
    "MANNERS",
    "Call",
    "Failure",
    "Give",
    "Manner",
    "OddFailure",
    "Order",
    "Raise",
    "Watched",
    "Work",
    "spawner",
    "together",
)

# What leaves through the loop.
LEAVES: Final = (KeyboardInterrupt, SystemExit)

# Seconds that a work of the manner "cleans up" takes for it.
CLEAN_UP: Final = 2

Manner = Literal["obeys", "fails", "returns", "swallows", "cleans up", "uncancels"]
MANNERS: Final[tuple[Manner, ...]] = (
    "obeys",
    "fails",
    "returns",
    "swallows",
    "cleans up",
    "uncancels",
)

# Whose code spawns.
spawner: contextvars.ContextVar[str] = contextvars.ContextVar("spawner", default="nobody")


class Failure(Exception):
    pass


class OddFailure(BaseException):
    pass


@dataclass(frozen=True)
class Give:
    """The order to end with the payload as result."""


@dataclass(frozen=True)
class Raise:
    """The order to end with such an exception."""

    kind: type[BaseException]


Order = Give | Raise | Callable[[], Awaitable[Any]]


class Payload:
    """What a work is given and gives back; it has to be free in the end."""


class Work:
    """One coroutine, what it is told, and what becomes of it.

    Args:
        name: its own; its job is called so too.
        manner: how it takes a cancellation.
        orders: what it has to do from its start.
    """

    def __init__(self, name: str, manner: Manner, orders: Iterable[Order] = ()) -> None:
        self.name = name
        self.manner = manner
        self.payload = Payload()
        self.coro: Coroutine[Any, Any, Payload] = self._run(self.payload)

        # What the machine does with it: the call that spawns it, in whose name, ...
        self.spawning: Call | None = None
        self.spawned_by = ""
        self.timeout: float | None = None
        self.takes_slot = True
        self.is_held = self.was_held = False
        # ... whether some call has the right to end its job, ...
        self.is_targeted = False
        # ... and how often the machine itself has cancelled its task.
        self.cancelled_by_test = 0

        # If it is shielded: the work that made that call, in whose job it runs.
        self.shielded_by: Work | None = None

        # What comes of that: the job, once it is made, ...
        self.job: Job[Payload] | None = None
        self.is_accepted = False
        self.is_refused = False
        # ... when it got its slot, and whether it was let go.
        self.started: float | None = None
        self.is_let_go = False

        # What it does itself: the task that runs it, in whose name it finds itself, ...
        self.task: asyncio.Task[Any] | None = None
        self.found_itself_by = ""
        # ... the calls that it waits in just now, also through child tasks, ...
        self.calls = set[Call]()
        # ... how often it was cancelled, and how it ended.
        self.cancelled = 0
        self.has_ended = False
        self.error: BaseException | None = None

        self._orders = deque(orders)
        self._told: asyncio.Future[None] | None = None
        self._cancelling = 0

    def __repr__(self) -> str:
        return self.name

    @property
    def is_running(self) -> bool:
        return self.task is not None and not self.has_ended

    @property
    def is_idle(self) -> bool:
        """Does it wait for orders?"""
        return self._told is not None and not self._told.done()

    @property
    def lends(self) -> bool:
        """Does it wait in what lends its slot?"""
        return any(call.what != "shield" for call in self.calls)

    @property
    def has_failed(self) -> bool:
        """Did it end with what somebody has to be told of?"""
        return self.error is not None and not isinstance(
            self.error, (asyncio.CancelledError, *LEAVES)
        )

    def tell(self, order: Order) -> None:
        """Give it an order, to be obeyed after those before."""
        self._orders.append(order)
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    async def _run(self, payload: Payload) -> Payload:
        self.task = asyncio.current_task()
        self.found_itself_by = spawner.get()
        try:
            await self._obey()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._count_cancellations()
            self.has_ended = True
        return payload

    async def _obey(self) -> None:
        while True:
            try:
                order = await self._next()
                if callable(order):
                    await order()
                    continue
            except asyncio.CancelledError:
                self._count_cancellations()
                if await self._has_to_end():
                    return
                continue
            if isinstance(order, Raise):
                raise order.kind(self.name)
            return

    async def _next(self) -> Order:
        while not self._orders:
            self._told = asyncio.get_running_loop().create_future()
            try:
                await self._told
            finally:
                self._told = None
        return self._orders.popleft()

    def _count_cancellations(self) -> None:
        assert self.task is not None
        self.cancelled += self.task.cancelling() - self._cancelling
        self._cancelling = self.task.cancelling()

    async def _has_to_end(self) -> bool:
        """Take a cancellation in its manner."""
        if self.manner == "cleans up":
            await later(CLEAN_UP)
        if self.manner in ("obeys", "cleans up"):
            raise asyncio.CancelledError
        if self.manner == "fails":
            raise Failure(self.name)
        if self.manner == "uncancels":
            assert self.task is not None
            self._cancelling = self.task.uncancel()
        return self.manner == "returns"


class Call:
    """One call, and what comes of it.

    Args:
        what: how it is called.
        make: makes what is awaited.
        by: the work that calls; None for a task of the test.
        target: the work that is spawned, or whose job is called.
        timeout: the argument of that name.
        bound: seconds after which it has to be done; None for no bound.
    """

    def __init__(
        self,
        what: str,
        make: Callable[[], Awaitable[Any]],
        *,
        by: Work | None = None,
        target: Work | None = None,
        timeout: float | None = None,
        bound: float | None = None,
    ) -> None:
        self.what = what
        self.by = by
        self.target = target
        self.timeout = timeout
        self.task: asyncio.Task[Any] | None = None
        self.waits = False
        self.is_done = False
        self.deadline: float | None = None
        # Was the job over before it began?
        self.is_late = False
        self.was_cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._make = make
        self._bound = bound
        self._cancelling = 0

    def __repr__(self) -> str:
        return f"{self.what}({self.target or ''}) by {self.by or 'the test'}"

    @property
    def is_cancelled(self) -> bool:
        """Was its caller cancelled while it waited?"""
        if not self.waits:
            return self.was_cancelled
        assert self.task is not None
        return self.task.cancelling() > self._cancelling

    async def perform(self) -> None:
        """Make the call. Nothing comes out but the cancellation of the caller."""
        self.task = asyncio.current_task()
        assert self.task is not None
        self._cancelling = self.task.cancelling()
        if self._bound is not None:
            self.deadline = asyncio.get_running_loop().time() + self._bound
        job = None if self.target is None else self.target.job
        self.is_late = job is not None and job.closed
        self.waits = True
        waiting = self.by and (self.by.shielded_by or self.by)
        if waiting:
            waiting.calls.add(self)
        try:
            self.result = await self._make()
        except BaseException as error:
            self.error = error
            self.was_cancelled = self.is_cancelled
            if self.was_cancelled and not isinstance(error, LEAVES):
                raise
        finally:
            self.waits = False
            self.is_done = True
            if waiting:
                waiting.calls.discard(self)

    def has_received(self, error: BaseException) -> bool:
        """Did its caller get this exception?"""
        mine = self.error
        return mine is not None and (mine is error or mine.__cause__ is error)


async def together(how: str, calls: Iterable[Call]) -> None:
    """Make the calls one after the other, or in child tasks."""
    if how == "gather":
        await asyncio.gather(*(call.perform() for call in calls))
    elif how == "group":
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call.perform())
    else:
        for call in calls:
            await call.perform()


class Watched(Scheduler):
    """Tells of each job that it makes, starts, or lets into the queue."""

    on_make: Callable[[Job[Any]], None]
    on_start: Callable[[Job[Any]], None]
    on_release: Callable[[Job[Any]], None]

    def _make(self, *args: Any) -> Job[Any]:
        job = super()._make(*args)
        self.on_make(job)
        return job

    def _start(self, job: Job[Any], context: contextvars.Context | None) -> None:
        self.on_start(job)
        super()._start(job, context)

    def _release(self, job: Job[Any], future: asyncio.Future[Any]) -> None:
        if job.pending:
            self.on_release(job)
        super()._release(job, future)
