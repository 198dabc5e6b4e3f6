"""Closing: what one close of a scheduler cancels, and the record it leaves.

It goes over everything once, in batches, on its own: a caller of
:meth:`Scheduler.close` who is cancelled does not stop it half-way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from .job import ACTIVE, PENDING, Job

if TYPE_CHECKING:
    from .scheduler import Scheduler

__all__ = ("BATCH", "Closing", "logger")

logger: Final = logging.getLogger("aiohttp_jobs")

# How many jobs one turn of the loop starts or cancels before others get their turn.
BATCH: Final = 500
# How many different job names a log message lists; the record itself carries all.
NAMES_IN_MESSAGE: Final = 1000


class Closing:
    """Cancels the jobs and shielded awaitables of a scheduler that takes no more.

    Args:
        scheduler: the scheduler, already in its closing state.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._victims: deque[Job[Any] | asyncio.Future[Any]] = deque()
        self._cancelled: list[str] = []
        self._never_started: list[str] = []
        self._shields = 0

    def add(self, victims: Sequence[Job[Any] | asyncio.Future[Any]]) -> None:
        """Put these at the end of what is still to be cancelled."""
        self._victims.extend(victims)

    def run(self) -> None:
        """Cancel one batch; then come back in the next turn, or write the record."""
        scheduler = self._scheduler
        grace = scheduler.close_timeout
        for _ in range(min(BATCH, len(self._victims))):
            victim = self._victims.popleft()
            if not isinstance(victim, Job):
                self._shields += scheduler._shields.stop(scheduler, victim, grace)
                continue
            if victim._state is PENDING:
                # One that still waits for room is refused, and told so by spawn().
                if victim not in scheduler._pending.unconfirmed:
                    self._never_started.append(victim.label)
            elif victim._state is ACTIVE:
                self._cancelled.append(victim.label)
            victim._stop(grace)
        if self._victims:
            scheduler._loop_in_use().call_soon(self.run)
        else:
            self._record()
            scheduler._closing_is_done()

    def _record(self) -> None:
        told = [
            text
            for text in (
                _count(self._cancelled, "cancelled"),
                _count(self._never_started, "never started"),
                f"{self._shields} shielded cancelled" if self._shields else "",
            )
            if text
        ]
        if told:
            logger.warning(
                "The scheduler was closed before its jobs had ended: %s",
                "; ".join(told),
                extra={
                    "jobs_cancelled": self._cancelled,
                    "jobs_never_started": self._never_started,
                    "shields_cancelled": self._shields,
                },
            )


def _count(names: list[str], what_happened: str) -> str:
    if not names:
        return ""
    counted = Counter(names)
    listed = [
        name if times == 1 else f"{name} x{times}"
        for name, times in counted.most_common(NAMES_IN_MESSAGE)
    ]
    if len(counted) > NAMES_IN_MESSAGE:
        listed.append("...")
    return f"{len(names)} {what_happened} ({', '.join(listed)})"
