"""What the state machine of test_model.py drives.

`Work` is what a job does: it obeys orders, and has its own manner of reacting to a
cancellation. `Call` is one call of the scheduler or of a job, made by a task of the test
or by a work.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiohttp_jobs import Job, JobCancelled
from aiohttp_jobs.core.errors import HungUp
from tests.loops import later

__all__ = (
    "ENDS",
    "LEAVES",
    "MANNERS",
    "Call",
    "Failure",
    "FrozenFailure",
    "Give",
    "HangUp",
    "Manner",
    "OddFailure",
    "Order",
    "Raise",
    "Work",
    "home",
    "together",
    "trail",
)

# The exceptions that leave through the loop.
LEAVES: Final = (KeyboardInterrupt, SystemExit)

# The calls that wait for the end of all jobs.
ENDS: Final = ("drain", "wait_and_close", "close")

# Seconds that a work of the manner "cleans up" takes for the clean-up.
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

# What was spawned in this context and its parents: an entry before and after each.
trail: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
    "trail", default=()
)
# The name of the context that a job was given.
home: contextvars.ContextVar[str] = contextvars.ContextVar("home", default="")


class Failure(Exception):
    pass


class OddFailure(BaseException):
    pass


@dataclass(frozen=True)
class FrozenFailure(Exception):
    """Refuses to have its traceback or context set."""

    name: str


@dataclass(frozen=True)
class Give:
    """The order to end with the payload as result."""


@dataclass(frozen=True)
class Raise:
    """The order to end with an exception of this kind."""

    kind: type[BaseException]


@dataclass(frozen=True)
class HangUp:
    """The order to end because the client has gone."""


Order = Give | Raise | HangUp | Callable[[], Awaitable[Any]]


class Payload:
    """What a work is given and returns; it has to be freed in the end."""


class Work:
    """One coroutine, its orders, and what becomes of it.

    Args:
        name: its name; the job has the same.
        manner: how it reacts to a cancellation.
        orders: the orders that it has from the start.
    """

    def __init__(self, name: str, manner: Manner, orders: Iterable[Order] = ()) -> None:
        self.name = name
        self.manner = manner
        self.payload = Payload()
        self.coro: Coroutine[Any, Any, Payload] = self._run(self.payload)

        # What the machine does with it: the call that spawns it, the name of the context
        # that it is given, ...
        self.spawning: Call | None = None
        self.home: str | None = None
        self.timeout: float | None = None
        self.takes_slot = True
        self.is_held_back = False
        # ... whether some call has the right to end its job, ...
        self.is_targeted = False
        # ... and how often the machine itself has cancelled its task.
        self.cancelled_by_test = 0

        # If it is shielded: the work that called shield(), in whose job it runs.
        self.shielded_by: Work | None = None

        # What comes of that: the job, once it is known, ...
        self.job: Job[Payload] | None = None
        self.is_accepted = False
        self.is_refused = False
        # ... whether it joined the queue when that was full, ...
        self.made_way = False
        # ... the events that observers were told of, when it started, ...
        self.events = list[str]()
        self.started: float | None = None
        # ... in which turn of the loop it was closed, and whether it was let go.
        self.closed_in = -1
        self.is_let_go = False

        # What it does itself: the task that runs it, whether it was in its context, ...
        self.task: asyncio.Task[Any] | None = None
        self.was_at_home = True
        # ... the calls that it is in, also through child tasks, in order, ...
        self.calls = dict[Call, None]()
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
        """Whether it waits for orders."""
        return self._told is not None and not self._told.done()

    @property
    def is_known(self) -> bool:
        """Whether others can get hold of its job."""
        return self.job is not None and not self.is_refused

    @property
    def targets(self) -> list[Work]:
        """The works whose jobs it waits for, in the order of these calls."""
        targets = dict[Work, None]()
        for call in self.calls:
            target = call.target
            if (
                call.what in ("wait", "close job")
                and target
                and target is not self
                and target.job
                and not target.job.closed
            ):
                targets[target] = None
        return list(targets)

    @property
    def waits_for_room(self) -> bool:
        """Whether it waits in spawn() for room."""
        return any(call.waits_for_room for call in self.calls)

    @property
    def waits_for_queue(self) -> bool:
        """Whether it waits for room in the queue, or for the queue to empty."""
        return self.waits_for_room or any(call.what in ENDS for call in self.calls)

    @property
    def waits(self) -> bool:
        """Whether it waits in a call for which it may lend its slot."""
        return self.waits_for_queue or bool(self.targets)

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an exception that somebody has to be told of."""
        if isinstance(self.error, JobCancelled):
            return not self.cancelled
        return self.error is not None and not isinstance(
            self.error, (asyncio.CancelledError, *LEAVES)
        )

    def is_here(self) -> bool:
        """Whether the current code runs in its context, or in a copy of it."""
        if self.home is not None:
            return home.get() == self.home
        steps = trail.get()
        return f"before {self}" in steps and f"after {self}" not in steps

    def tell(self, order: Order) -> None:
        """Give it an order, to obey after the earlier ones."""
        self._orders.append(order)
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    async def _run(self, payload: Payload) -> Payload:
        self.task = asyncio.current_task()
        self.was_at_home = self.is_here()
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
            except JobCancelled:
                raise  # of another job that it waited for
            except asyncio.CancelledError:
                self._count_cancellations()
                if await self._has_to_end():
                    return
                continue
            if isinstance(order, Raise):
                raise order.kind(self.name)
            if isinstance(order, HangUp):
                raise HungUp(Failure(self.name))
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
        """React to a cancellation in its manner; return whether it has to end."""
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
    """One call, and its outcome.

    Args:
        what: the name of the call.
        make: returns the awaitable.
        by: the work that calls; None for a task of the test.
        target: the work that is spawned, or whose job is called.
        timeout: the argument of that name.
        bound: seconds after which the call has to be done; None for no bound.
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
        # Whether an exception propagates from it.
        self.lets_through = False
        # In which turn of the loop it was asked for.
        self.asked_in = -1
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
        """Whether its caller was cancelled while it waited."""
        if not self.waits:
            return self.was_cancelled
        assert self.task is not None
        return self.task.cancelling() > self._cancelling

    @property
    def waits_for_room(self) -> bool:
        """Whether it waits in spawn() for room, and its job got in, if so, by a slot."""
        if self.what != "spawn" or not self.waits or self.target is None:
            return False
        return self.target.job is None or self.target.made_way

    def perform(self, turn: int) -> Coroutine[Any, Any, None]:
        """Make the call, in the task that runs this coroutine.

        Args:
            turn: the turn of the loop in which it is asked for.
        """
        self.asked_in = turn
        return self._perform()

    async def _perform(self) -> None:
        self.task = asyncio.current_task()
        assert self.task is not None
        self._cancelling = self.task.cancelling()
        if self._bound is not None:
            self.deadline = asyncio.get_running_loop().time() + self._bound
        self.waits = True
        waiting = self.by and (self.by.shielded_by or self.by)
        if waiting:
            waiting.calls[self] = None
        try:
            self.result = await self._make()
        except BaseException as error:
            self.error = error
            self.was_cancelled = self.is_cancelled
            if self.was_cancelled and not isinstance(error, LEAVES):
                raise
            if self.lets_through:
                raise
        finally:
            self.waits = False
            self.is_done = True
            if waiting:
                del waiting.calls[self]

    def has_received(self, error: BaseException) -> bool:
        """Whether its caller got this exception."""
        mine = self.error
        return mine is not None and (mine is error or mine.__cause__ is error)


async def together(how: str, calls: Iterable[Call], turn: Callable[[], int]) -> None:
    """Make the calls one after the other, or in child tasks.

    Args:
        how: one of "in turn", "gather", "group".
        calls: the calls.
        turn: returns the number of the current turn of the loop.
    """
    if how == "gather":
        await asyncio.gather(*(call.perform(turn()) for call in calls))
    elif how == "group":
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call.perform(turn()))
    else:
        for call in calls:
            await call.perform(turn())
