"""Periodic: puts a durable job at each tick of a schedule, once for all processes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from time import time
from typing import Any, Final

from aiohttp_jobs.core.checks import check_tick
from aiohttp_jobs.core.names import shown
from aiohttp_jobs.schedule import Schedule

from .envelope import Envelope
from .store import Store
from .task import Task
from .upkeep import Upkeep, pause_after

__all__ = ("ORIGIN", "Periodic", "tick_id")

#: Where these jobs come from, for people who look at them.
ORIGIN: Final = "periodic"

# Seconds until the next look at the clock, which somebody may have set.
LONGEST_SLEEP: Final = 30.0


def tick_id(task: str, tick: float) -> str:
    """Return the id of the job of one tick, which is the same in every process."""
    return hashlib.sha256(f"{task}\0{tick!r}".encode()).hexdigest()[:32]


class Periodic:
    """Puts the jobs of some tasks when they are due, until it is stopped.

    Args:
        store, upkeep: where jobs are put, and what knows whether it can be used.
        schedules: the tasks, and when each is due.
        catch_up: whether to put a job at the start if one was missed while nothing ran.
        report: an exception handler, for schedules that fail.
    """

    def __init__(
        self,
        store: Store,
        upkeep: Upkeep,
        schedules: Mapping[Task[[], Any], Schedule],
        catch_up: bool,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self._store = store
        self._upkeep = upkeep
        self._schedules = schedules
        self._catch_up = catch_up
        self._report = report
        self._running = list[asyncio.Task[None]]()

    @property
    def is_any(self) -> bool:
        """Whether there are any periodic tasks."""
        return bool(self._schedules)

    def start(self) -> None:
        """Begin, once the store is open."""
        self._running = [
            asyncio.create_task(
                self._follow(task, schedule), name=f"durable jobs: {task.name}"
            )
            for task, schedule in self._schedules.items()
        ]

    async def stop(self) -> None:
        """Put no more jobs."""
        running, self._running = self._running, []
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running)

    async def _follow(self, task: Task[[], Any], schedule: Schedule) -> None:
        await self._upkeep.wait()
        tries, seen = 0, None
        while True:
            try:
                if seen is None:
                    now = time()
                    seen = await self._store.last_tick(task.name, now)
                    if seen is None or not self._catch_up:
                        seen = now
                try:
                    tick = check_tick(schedule, seen, schedule.next_after(seen))
                except Exception as error:
                    self._give_up(task, error)
                    return
                while (now := time()) < tick:  # noqa: ASYNC110 (of another clock)
                    await asyncio.sleep(min(tick - now, LONGEST_SLEEP))
                # Of several missed ticks, one is put and all are noted as seen.
                await self._store.put_tick(self._envelope(task, tick, now), tick, now)
            except Exception as error:
                tries += 1
                self._upkeep.lost(error)
                await asyncio.sleep(pause_after(tries))
            else:
                if tries:
                    self._upkeep.found()
                tries, seen = 0, now

    def _give_up(self, task: Task[[], Any], error: Exception) -> None:
        """Report that the task's schedule, which may be anybody's code, has failed."""
        self._report(
            {
                "message": f"Durable job {shown(task.name)} is no longer spawned here, "
                "since its schedule failed",
                "exception": error,
            }
        )

    def _envelope(self, task: Task[[], Any], tick: float, now: float) -> Envelope:
        return Envelope(
            id=tick_id(task.name, tick),
            task=task.name,
            arguments=task.arguments.pack((), {}),
            accepted_at=now,
            origin=ORIGIN,
        )
