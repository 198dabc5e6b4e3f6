"""Drainers: the callers of drain and close, who wait until nothing is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .job import current_job

if TYPE_CHECKING:
    from .scheduler import Scheduler

__all__ = ("Drainers",)


class Drainers:
    """Each waits for everything but itself, and for none that waits here too.

    Args:
        scheduler: the scheduler whose jobs and shielded awaitables they wait for.
    """

    __slots__ = ("_scheduler", "waiting")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        # For each the job or shielded task that it is part of, if any, and whether it
        # waits for background jobs only.
        self.waiting: dict[asyncio.Future[None], tuple[object, bool]] = {}

    def caller(self) -> object:
        """The job or shielded task that the running code is part of, or None."""
        scheduler = self._scheduler
        task = asyncio.current_task()
        if task in scheduler._shields:
            return task
        job = current_job.get()
        if job is not None and job._task is not task:
            # A child task of the job. Or another job in the same context: look.
            job = next((other for other in scheduler._active if other._task is task), job)
        return job if job is not None and job._scheduler is scheduler else None

    def left(self, me: object, background: bool = False) -> int:
        """How many are left to wait for, from where `me` stands?

        Those that themselves wait for this do not wait for each other, and count as left
        only for who waits from outside.

        Args:
            me: the job or shielded task that asks, or None from outside.
            background: count only what does not end with something else.
        """
        scheduler = self._scheduler
        left = scheduler._left()
        spared: set[object] = set()
        if me is not None:
            spared = {
                other
                for other in (me, *(other for other, _ in self.waiting.values()))
                if other in scheduler._active or other in scheduler._shields
            }
        if background:
            left -= len(scheduler._at_once) + len(scheduler._pending.held)
            spared -= scheduler._at_once
        return left - len(spared)

    def check(self) -> None:
        """Wake those for whom nothing is left. Called when something has ended."""
        for waiter, (me, background) in self.waiting.items():
            if not waiter.done() and not self.left(me, background):
                waiter.set_result(None)

    async def until_none_is_left(
        self, me: object, background: bool = False, timeout: float | None = None
    ) -> None:
        """Wait, but for no more than `timeout` seconds.

        Cancellation:
            Nothing else is touched.
        """
        scheduler = self._scheduler
        loop = scheduler._loop_in_use()
        waiter = loop.create_future()
        self.waiting[waiter] = me, background
        self.check()
        timer = None if timeout is None else loop.call_later(timeout, _wake, waiter)
        lender = scheduler._lend()
        try:
            await waiter
            # Whoever else was told of the last end comes first, and may spawn a job.
            await asyncio.sleep(0)
        finally:
            del self.waiting[waiter]
            if timer is not None:
                timer.cancel()
            if lender is not None:
                scheduler._reclaim(lender)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
