"""Pending: jobs that wait for a slot, and callers that wait for room among them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from .job import Job
from .states import PENDING

__all__ = ("PendingJobs",)


class PendingJobs:
    """First in, first out.

    Args:
        limit: how many jobs may be pending; 0 or None for no limit.
    """

    __slots__ = ("_dropped", "callers", "held", "limit", "queue", "unconfirmed")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        # The jobs in order. Those that have left stay until they come to the head or make
        # up half of it: a deque costs a quarter of a dictionary, which could drop them.
        self.queue: deque[Job[Any]] = deque()
        self._dropped = 0
        # Pending jobs outside the queue, by number, each with what it is held back for;
        # when that is done, the job joins the queue. In the order in which they came.
        self.held: dict[int, tuple[Job[Any], asyncio.Future[Any]]] = {}
        # The jobs of callers that wait for room, in order. Empty unless full.
        self.callers: OrderedDict[Job[Any], asyncio.Future[None]] = OrderedDict()
        # Jobs in the queue whose spawn() was woken and has not yet returned. They keep
        # their place but do not start, so that a spawn that is cancelled never ran.
        self.unconfirmed: set[Job[Any]] = set()

    def __len__(self) -> int:
        return len(self.queue) - self._dropped + len(self.held)

    def __iter__(self) -> Iterator[Job[Any]]:
        yield from (job for job in self.queue if job.pending)
        yield from (job for job, _ in self.held.values())

    def first(self) -> Job[Any] | None:
        """Return the job in the queue that has waited longest; None if it is empty."""
        queue = self.queue
        while queue and queue[0].state is not PENDING:
            queue.popleft()
            self._dropped -= 1
        return queue[0] if queue else None

    def is_full(self) -> bool:
        """Return whether there is no room for one more."""
        return bool(self.limit) and len(self) >= self.limit  # type: ignore[operator]

    def head(self) -> Job[Any] | None:
        """Return the next job to start; None if there is none just now."""
        queue = self.queue
        job = queue[0] if queue and queue[0].state is PENDING else self.first()
        return None if self.unconfirmed and job in self.unconfirmed else job

    def can_start(self, job: Job[Any]) -> bool:
        """Return whether a pending job may start, whenever its turn is."""
        return not (job.id in self.held or job in self.unconfirmed or job in self.callers)

    def admit(self) -> Job[Any] | None:
        """Give the first caller waiting for room its place and wake it; return its job.

        The place is given here, not when the caller runs again, so that nobody who comes
        in between overtakes it.
        """
        job, woken = next(iter(self.callers.items()))
        is_there = not woken.done()  # else cancelled in this turn; it clears up itself
        if is_there:
            if job not in self.unconfirmed:
                self.queue.append(job)
                self.unconfirmed.add(job)
            woken.set_result(None)
        del self.callers[job]
        return job if is_there else None

    def release(self, number: int) -> Job[Any] | None:
        """Put a held job at the end of the queue, if it still is one."""
        if number not in self.held:
            return None
        job, _ = self.held[number]
        self.queue.append(job)
        del self.held[number]
        return job

    def leave(self, job: Job[Any]) -> None:
        """Forget a job that is no longer pending; its place is free at once."""
        if self.held and self.held.pop(job.id, None) is not None:
            return
        if self.unconfirmed:
            self.unconfirmed.discard(job)
        queue = self.queue
        if queue and queue[0] is job:
            queue.popleft()
            return
        self._dropped += 1
        if self._dropped * 2 > len(queue):
            # Half of the queue is dead: the drops have paid for clearing it.
            self.mend()

    def mend(self) -> None:
        """Keep the jobs that are pending, each once, and count again."""
        alive = list(dict.fromkeys(job for job in self.queue if job.pending))
        self.queue = deque(alive)
        self._dropped = 0
        for job in self.queue if self.callers else ():
            if job in self.callers:  # it was about to be admitted
                self.unconfirmed.add(job)
                if not self.callers[job].done():
                    self.callers[job].set_result(None)
                del self.callers[job]
        if self.unconfirmed:
            self.unconfirmed.intersection_update(alive)
        if self.held:
            queued = set(alive)
            self.held = {
                number: (job, future)
                for number, (job, future) in self.held.items()
                if job.pending and job not in queued
            }
