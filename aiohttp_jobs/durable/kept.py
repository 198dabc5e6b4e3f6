"""Kept: what can be seen of the durable jobs that a store keeps, without their arguments.

Arguments are the users' data, and may be secret: nothing shown includes them.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ("DurableStatistics", "Inspectable", "KeptJob", "Place")


class Place(enum.StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"  #: due, but not begun
    DELAYED = "delayed"  #: not due yet
    RUNNING = "running"  #: in a process
    DEAD = "dead"  #: failed for good


@dataclass(frozen=True, slots=True)
class KeptJob:
    """One job as it is kept. Times are seconds since the epoch."""

    id: str
    task: str
    place: Place
    #: The number of the attempt that comes next, or runs; for a dead job, the last.
    attempt: int
    #: How many times it has run in a process that died.
    crashes: int
    accepted_at: float
    #: The job does not begin before this; None for at once.
    due: float | None
    priority: int
    key: str | None
    origin: str | None
    #: The process that runs it, ``"host:number"``.
    process: str | None
    buried_at: float | None
    #: Why it is dead, for example a traceback.
    reason: str | None


@dataclass(frozen=True, slots=True)
class DurableStatistics:
    """How many durable jobs are in each place at one moment, in all processes."""

    waiting: int
    delayed: int
    running: int
    dead: int
    #: How many seconds the oldest waiting job has been due.
    oldest_waiting: float


@runtime_checkable
class Inspectable(Protocol):
    """A store that can be looked into, and whose dead jobs can be retried or dropped."""

    async def statistics(self) -> DurableStatistics:
        """Return how many jobs are in each place.

        Raises:
            StoreUnavailable: the store cannot tell just now. The same for all below.
        """
        ...

    async def jobs(
        self, place: Place, count: int = 100, skip: int = 0
    ) -> Sequence[KeptJob]:
        """Return the first `count` jobs of a place, after `skip` others.

        They are in the order in which they were accepted; delayed ones in the order in
        which they are due; dead ones start with the last to be buried.
        """
        ...

    async def find_dead(self, id: str) -> KeptJob | None:
        """Return the dead job with this id; None if there is none."""
        ...

    async def retry_dead(
        self,
        ids: Collection[str] | None = None,
        *,
        until: float | None = None,
        within: float | None = None,
    ) -> int:
        """Let dead jobs wait again, due at once and with all their attempts.

        If there are many, it is done a part at a time, in the order of their burial, so
        that it holds nobody up.

        Args:
            ids: which jobs; None for all that are dead now.
            until: leave out jobs that were buried later than this; None for no limit.
            within: seconds after which no other part is begun; None for all parts.

        Returns:
            How many wait again.

        Raises:
            StoreUnavailable: as above; the sentence says how many were done before, if
                any.

        Cancellation:
            It is done to some of them, or to all.
        """
        ...

    async def drop_dead(
        self,
        ids: Collection[str] | None = None,
        *,
        until: float | None = None,
        within: float | None = None,
    ) -> int:
        """Forget dead jobs; the arguments are those of `retry_dead`."""
        ...
