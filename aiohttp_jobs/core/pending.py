"""PendingJobs: jobs that wait for a slot, and callers that wait for room among them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from .job import PENDING, Job

__all__ = ("PendingJobs",)


class PendingJobs:
    """First in, first out.

    Args:
        limit: how many jobs may be pending; 0 or None for no limit.
    """

    __slots__ = ("_dropped", "callers", "held", "limit", "queue", "unconfirmed")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        # The jobs in their order. Dropped ones stay until they come to the head or are
        # half of it: a deque costs a quarter of a dictionary that could forget them.
        self.queue: deque[Job[Any]] = deque()
        self._dropped = 0
        # Pending jobs outside the queue, which they join when something has happened.
        self.held: set[Job[Any]] = set()
        # The jobs of callers that wait for room, in their order. Empty unless full.
        self.callers: OrderedDict[Job[Any], asyncio.Future[None]] = OrderedDict()
        # Jobs in the queue whose spawn() was woken and has not yet returned. They keep
        # their place but do not start, so that a spawn that is cancelled never ran.
        self.unconfirmed: set[Job[Any]] = set()

    def __len__(self) -> int:
        return len(self.queue) - self._dropped + len(self.held)

    def __iter__(self) -> Iterator[Job[Any]]:
        yield from (job for job in self.queue if job.pending)
        yield from self.held

    def first(self) -> Job[Any] | None:
        """The one in the queue that has waited longest."""
        while self.queue and not self.queue[0].pending:
            self.queue.popleft()
            self._dropped -= 1
        return self.queue[0] if self.queue else None

    def is_full(self) -> bool:
        """Is there no room for one more?"""
        return bool(self.limit) and len(self) >= self.limit  # type: ignore[operator]

    def pop(self) -> Job[Any] | None:
        """Take out the next one to start; None if there is none just now."""
        queue = self.queue
        while queue and (not self.unconfirmed or queue[0] not in self.unconfirmed):
            job = queue.popleft()
            if job._state is PENDING:
                return job
            self._dropped -= 1
        return None

    def admit(self) -> Job[Any] | None:
        """Give the first caller that waits for room its place, wake it; return its job.

        The place is given here and not when the caller runs again: nobody who comes in
        between overtakes it.
        """
        job, woken = self.callers.popitem(last=False)
        if woken.done():  # it was cancelled in this turn, and clears up itself
            return None
        self.queue.append(job)
        self.unconfirmed.add(job)
        woken.set_result(None)
        return job

    def drop(self, job: Job[Any]) -> None:
        """Forget a pending job; its place is free at once."""
        if job in self.held:
            self.held.remove(job)
            return
        self.unconfirmed.discard(job)
        self._dropped += 1
        if self._dropped * 2 > len(self.queue):
            # Half of the queue is dead: clearing it was paid for by the drops.
            alive = [other for other in self.queue if other.pending and other is not job]
            self.queue.clear()
            self.queue.extend(alive)
            self._dropped = 0
