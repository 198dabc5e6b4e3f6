"""Worker: fetches durable jobs, and runs them as jobs of the scheduler.

They take none of the scheduler's slots, but have slots of their own: jobs that wait in
the store never delay jobs that a request spawns, nor the other way round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from aiohttp_jobs.core.enqueued import CurrentDurable, mark_attempt
from aiohttp_jobs.core.errors import SchedulerClosed
from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.states import LET_GO

from .attempt import RETRIED, Attempt, current
from .store import Delivery, Store
from .task import Task
from .upkeep import Upkeep, pause_after

__all__ = ("Worker",)


class Worker:
    """Fetches jobs as long as it has free slots, until it is stopped.

    Args:
        app: the application, which the tasks are given.
        scheduler: the scheduler that runs the jobs.
        store, upkeep: what jobs are fetched from, and what knows whether it can be used.
        tasks: the application's tasks, by name.
        limit: how many jobs run at once.
        ended: called with each attempt that is over.
    """

    def __init__(
        self,
        app: web.Application,
        scheduler: Scheduler,
        store: Store,
        upkeep: Upkeep,
        tasks: Mapping[str, Task[..., Any]],
        limit: int,
        ended: Callable[[Attempt], None],
    ) -> None:
        self._app = app
        self._scheduler = scheduler
        self._store = store
        self._upkeep = upkeep
        self._tasks = tasks
        self._limit = limit
        self._tell_end = ended
        # The attempts that take a slot, and the jobs that run them.
        self._attempts: dict[Attempt, Job[Any] | None] = {}
        self._by_job: dict[Job[Any], Attempt] = {}
        # Jobs whose failed attempt is settled as a retry, but which have not ended yet.
        self._retried: set[Job[Any]] = set()
        self._has_room = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None

    @property
    def running_count(self) -> int:
        """How many attempts are running."""
        return len(self._attempts)

    @property
    def is_fetching(self) -> bool:
        """Whether it begins the jobs that wait."""
        return self._fetching is not None

    def start(self) -> None:
        """Begin to fetch, once the store is open."""
        self._scheduler.add_observer(self)
        self._fetching = asyncio.create_task(self._fetch(), name="durable jobs: fetch")

    async def stop_fetching(self) -> None:
        """Begin no more jobs. Those that run go on."""
        task, self._fetching = self._fetching, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def drain(self, timeout: float | None) -> bool:
        """Wait until no attempt runs; return False if `timeout` seconds pass first."""
        try:
            async with asyncio.timeout(timeout):
                while self._attempts:
                    self._has_room.clear()
                    await self._has_room.wait()
        except TimeoutError:
            return False
        return True

    async def _fetch(self) -> None:
        await self._upkeep.wait()
        tries = 0
        while True:
            try:
                while True:
                    self._has_room.clear()
                    free = self._limit - len(self._attempts)
                    if free > 0:
                        break
                    await self._has_room.wait()
                deliveries = await self._store.fetch(free)
            except Exception as error:
                tries += 1
                self._upkeep.lost(error)
                await asyncio.sleep(pause_after(tries))
                continue
            if tries:
                tries = 0
                self._upkeep.found()
            for delivery in deliveries:
                self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        attempt = Attempt(
            self._app, self._tasks[envelope.task], delivery, self._store, self._ended
        )
        self._attempts[attempt] = None
        coro: Any = attempt.run()
        # Dashboard, metrics and traces show it under the task's name.
        coro.__qualname__ = coro.__name__ = envelope.task
        name = envelope.task
        if envelope.attempt > 1:
            name += f" (attempt {envelope.attempt})"
        now = CurrentDurable(
            envelope.id, envelope.attempt, envelope.task, envelope.traceparent
        )
        mark_attempt(coro, now)
        token = current.set(now)
        try:
            job = self._scheduler.spawn_at_once(coro, name, origin=envelope.origin)
        except SchedulerClosed:
            attempt.give_back()
            return
        finally:
            current.reset(token)
        if attempt in self._attempts:
            self._attempts[attempt] = job
            self._by_job[job] = attempt
            if job.closed:
                self.job_closed(job)
        elif attempt.outcome is RETRIED:  # an eager task, which has ended already
            _note_received(job)

    def job_closed(self, job: Job[Any]) -> None:
        """Give back an attempt whose job ended before it began. An observer's method."""
        if job in self._retried:
            self._retried.discard(job)
            _note_received(job)
        attempt = self._by_job.get(job)
        # A job that was let go still runs, and keeps its slot until it ends.
        if attempt is not None and not (job.state is LET_GO and attempt.has_begun):
            attempt.give_back()

    def _ended(self, attempt: Attempt) -> None:
        job = self._attempts.pop(attempt, None)
        if job is not None:
            del self._by_job[job]
            if attempt.outcome is RETRIED and not job.closed:
                self._retried.add(job)
        self._has_room.set()
        self._tell_end(attempt)


def _note_received(job: Job[Any]) -> None:
    """Note that an attempt's failure has been received, since the job is retried.

    The exception handler is told all the same, but it does not fail a test.
    """
    if job.failure is not None:
        job.failure.is_raised = True
