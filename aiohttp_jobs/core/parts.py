"""Parts: what a scheduler is made of, and how they are put together."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, TypeVar

from .binding import Binding
from .checks import check_future
from .ending import Ending
from .errors import SchedulerClosed
from .gate import Gate
from .guests import close_coroutine
from .intake import Intake
from .job import Job
from .keys import Keys
from .pending import PendingJobs
from .reports import ExceptionHandler, Reports
from .shield import Shields
from .slots import Slots
from .states import CLOSED
from .statistics import Statistics
from .telling import Telling

__all__ = ("WHEN_MADE", "Parts")

T = TypeVar("T")


#: Called with each scheduler that is made. For test tools, which watch all of them.
WHEN_MADE: Final[list[Callable[[Any], object]]] = []


class Parts:
    """The parts of one scheduler, and what several of them do together.

    Args:
        owner: the scheduler. Errors show its repr(), and its call_exception_handler(),
            which a subclass may have overridden, is called for each failure that nobody
            waits for.
        limit, pending_limit, close_timeout, exception_handler: the scheduler's.
    """

    __slots__ = (
        "binding",
        "ending",
        "gate",
        "intake",
        "keys",
        "pending",
        "reports",
        "shields",
        "slots",
        "telling",
    )

    def __init__(
        self,
        owner: Any,
        limit: int | None,
        pending_limit: int | None,
        close_timeout: float | None,
        exception_handler: ExceptionHandler | None,
    ) -> None:
        self.binding = binding = Binding(lambda: repr(owner))
        self.slots = Slots(limit)
        self.pending = PendingJobs(pending_limit)
        self.reports = Reports(
            exception_handler, owner, lambda told: owner.call_exception_handler(told)
        )
        self.telling = Telling(binding, self.reports)
        self.gate = gate = Gate(
            binding, self.slots, self.pending, self.telling, close_timeout
        )
        self.intake = Intake(binding, gate)
        self.keys = Keys(binding, gate, self.intake)
        self.shields = Shields(self.reports)
        self.ending = Ending(binding, gate, self.shields, self.reports, close_timeout)

    def jobs(self) -> list[Job[Any]]:
        """Return the active jobs, then the pending ones, in order."""
        return [*self.gate.active.values(), *self.pending]

    def has(self, job: object) -> bool:
        """Return whether this is one of the jobs; one that waits for room is not yet."""
        return (
            isinstance(job, Job)
            and job.keeper is self.gate
            and job.spawned_at is not None
        )

    def set_limits(self, limit: int | None, pending_limit: int | None) -> None:
        """Change the limits, and start the jobs that this lets start."""
        self.binding.check_if_bound()
        self.slots.limit = limit
        self.pending.limit = pending_limit
        if self.binding.loop is not None:
            self.gate.fill_slots()

    def hold(self) -> None:
        """Start no pending job until `release`."""
        self.binding.check_if_bound()
        self.gate.is_held = True

    def release(self) -> None:
        """Start pending jobs again."""
        self.binding.check_if_bound()
        self.gate.release_all()

    def shield(self, arg: Awaitable[T]) -> asyncio.Future[T]:
        """Shield an awaitable; see :meth:`Scheduler.shield`."""
        try:
            loop = self.binding.check()
            if asyncio.isfuture(arg):
                check_future("arg", arg, loop)
            if self.gate.state is CLOSED:
                raise SchedulerClosed("a new shield")
            inner = asyncio.ensure_future(arg)
        except BaseException:
            if asyncio.iscoroutine(arg):
                close_coroutine(arg)
            raise
        if inner.done():
            self.shields.asked_for(inner)
            return inner
        outer = self.shields.add(inner)
        self.ending.bound(inner)
        return outer

    def statistics(self) -> Statistics:
        """Return the figures; see :meth:`Scheduler.statistics`."""
        now, pending, ended = monotonic(), self.pending, self.gate.ended
        oldest = next(iter(self.gate.active.values()), None)
        first_held = next(iter(pending.held.values()), (None,))[0]
        first = [job.spawned_at or now for job in (pending.first(), first_held) if job]
        waiting_since = min(first, default=None)
        running_since = None if oldest is None else oldest.started_at or now
        return Statistics(
            active=len(self.gate.active),
            pending=len(pending),
            slots_taken=self.slots.taken,
            callers_waiting=len(pending.callers),
            shielded=len(self.shields),
            limit=self.slots.limit,
            pending_limit=pending.limit,
            succeeded=self.gate.succeeded,
            **{state.name.lower(): count for state, count in ended.items()},
            joined=self.keys.joined,
            held=self.gate.is_held,
            waiting_since=waiting_since,
            running_since=running_since,
            longest_waiting=0.0 if waiting_since is None else now - waiting_since,
            longest_running=0.0 if running_since is None else now - running_since,
        )

    def abandon(self, owner: object) -> None:
        """Warn about a scheduler that is thrown away with jobs in it, and close them."""
        # Active jobs keep their scheduler alive: these never started, or their loop is
        # gone.
        if jobs := self.jobs():
            warnings.warn(
                f"{owner!r} was never closed: use it with 'async with', or call "
                "wait_and_close()",
                ResourceWarning,
                source=owner,
                stacklevel=3,
            )
            for job in jobs:
                if job.pending:
                    close_coroutine(job.coro)
