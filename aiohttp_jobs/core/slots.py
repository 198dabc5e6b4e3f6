"""Slots: how many jobs may run, which job has which slot, and who waits for whom.

A job that waits for a pending one hands its slot to it. So a slot is a pile of jobs: at
the bottom the one that took it, on top the one that has it now, each of the others has
lent it to the next. A job may be in one pile only. When one ends, it is taken out of its
pile, and the one below has the slot if it was on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from .job import Job

__all__ = ("NO_LIMIT", "Slots")

# More jobs than a process can hold, and yet a small number for the interpreter.
NO_LIMIT: Final = 2**29


class Slots:
    """The books of the slots.

    Args:
        limit: how many there are; None for no limit.
    """

    __slots__ = ("_above", "_count", "_waiting", "at_once", "below", "free", "waits")

    def __init__(self, limit: int | None) -> None:
        self._count = NO_LIMIT if limit is None else limit
        # How many are free: all but one for each pile. Below 0 after one was taken away.
        self.free = self._count
        # Active jobs that take no slot.
        self.at_once: set[Job[Any]] = set()
        # For each job in a pile the one above it, to which it has lent the slot; and the
        # same the other way round.
        self._above: dict[Job[Any], Job[Any]] = {}
        self.below: dict[Job[Any], Job[Any]] = {}
        # What active jobs wait for, in the order in which they came to it, and how often:
        # other jobs; or None, which is the queue, for room or to see it empty.
        self.waits: dict[Job[Any], dict[Job[Any] | None, int]] = {}
        # Those of them that are on top of a pile: their slot could go to another job.
        self._waiting: dict[Job[Any], None] = {}

    @property
    def limit(self) -> int | None:
        """How many there are; None for no limit."""
        return None if self._count == NO_LIMIT else self._count

    @limit.setter
    def limit(self, limit: int | None) -> None:
        count = NO_LIMIT if limit is None else limit
        self.free += count - self._count
        self._count = count

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._count - self.free

    def takes_one(self, job: Job[Any]) -> bool:
        """Does the active job have a slot just now?"""
        return job not in self.at_once and job not in self._above

    def has_one_to_lend(self, job: Job[Any]) -> bool:
        """Has it a slot, and waits?"""
        return job in self._waiting

    # -- taking, lending, giving back ----------------------------------------------------

    def lend(self, owner: Job[Any], job: Job[Any]) -> None:
        """Put the job onto the pile on which the owner is on top."""
        self._above[owner] = job
        self.below[job] = owner
        self._waiting.pop(owner, None)

    def end(self, job: Job[Any]) -> Job[Any] | None:
        """Take a job that is over out of its pile; return the one on top if it waits."""
        self.waits.pop(job, None)
        self._waiting.pop(job, None)
        if job in self.at_once:
            self.at_once.remove(job)
            return None
        below, above = self.below.pop(job, None), self._above.pop(job, None)
        if above is not None:
            if below is None:
                self.below.pop(above, None)
            else:
                self.below[above] = below
                self._above[below] = above
            return None
        if below is None:
            self.free += 1
            return None
        self._above.pop(below, None)
        if below not in self.waits:
            return None
        self._waiting[below] = None
        return below

    # -- who waits for whom --------------------------------------------------------------

    def begin_wait(self, waiter: Job[Any], job: Job[Any] | None) -> bool:
        """Note that an active job waits for another one, or for the queue.

        Returns:
            Has it a slot?
        """
        waits = self.waits.setdefault(waiter, {})
        waits[job] = waits.get(job, 0) + 1
        if not self.takes_one(waiter):
            return False
        self._waiting[waiter] = None
        return True

    def end_wait(self, waiter: Job[Any], job: Job[Any] | None) -> None:
        """Note that one such wait is over."""
        waits = self.waits.get(waiter)
        if waits is None or job not in waits:
            return  # the waiter has ended before its child task
        waits[job] -= 1
        if not waits[job]:
            del waits[job]
            if not waits:
                del self.waits[waiter]
                self._waiting.pop(waiter, None)

    def waiting(self) -> list[Job[Any]]:
        """Return those that have a slot and wait, in the order in which they came to."""
        return list(self._waiting)

    def waits_for_queue(self, job: Job[Any]) -> bool:
        """Does it wait for the queue to move?"""
        return None in self.waits.get(job, ())

    def wanted_by(
        self, waiter: Job[Any], can_start: Callable[[Job[Any]], bool]
    ) -> Job[Any] | None:
        """Return the first pending job that it waits for and that can start."""
        waits = self.waits.get(waiter)
        if waits is None:
            return None
        for job in waits:
            if job is not None and job.pending and can_start(job):
                return job
        return None

    def waiter_for(self, job: Job[Any] | None) -> Job[Any] | None:
        """Return the first that has a slot and waits for this very job."""
        return next((w for w in self._waiting if job in self.waits.get(w, ())), None)

    def is_stuck(self) -> bool:
        """Do all who have a slot wait?"""
        return self.free <= 0 and len(self._waiting) == self._count - self.free

    def way_out(
        self, can_start: Callable[[Job[Any]], bool]
    ) -> tuple[Job[Any], Job[Any] | None] | None:
        """Find whose slot to give to which pending job, when all who have a slot wait.

        Waits count through others. Looked for only then: at every wait it would cost as
        much as there are waits.

        Returns:
            Who has the slot, and the job; or None for the head of the queue, because
            somebody on the way waits for that. None at all if there is nothing to do:
            somebody without a slot goes on.
        """
        if any(self._is_about_to_go_on(waiter) for waiter in self._waiting):
            return None
        seen: set[Job[Any]] = set()
        for waiter in self._waiting:
            found = self._reach(waiter, seen, can_start)
            if found is not _NOTHING:
                return waiter, found
        return None

    def _is_about_to_go_on(self, waiter: Job[Any]) -> bool:
        return any(job is not None and job.closed for job in self.waits.get(waiter, ()))

    def _reach(
        self, start: Job[Any], seen: set[Job[Any]], can_start: Callable[[Job[Any]], bool]
    ) -> Any:
        line = [start]
        while line:
            waiter = line.pop()
            for job in self.waits.get(waiter, ()):
                if job is None:
                    return None
                if job.pending and can_start(job):
                    return job
                if job.active and job not in seen:
                    seen.add(job)
                    line.append(job)
        return _NOTHING

    # -- mending -------------------------------------------------------------------------

    def mend(self, active: Iterable[Job[Any]]) -> None:
        """Count anew, from the jobs that are active and from who has lent to whom."""
        alive = set(active)
        self.at_once &= alive
        pairs = {
            above: below
            for above, below in self.below.items()
            if above in alive and below in alive
        }
        self.below = pairs
        self._above = {below: above for above, below in pairs.items()}
        self.waits = {job: waits for job, waits in self.waits.items() if job in alive}
        self._waiting = {job: None for job in self.waits if self.takes_one(job)}
        bottoms = sum(job not in pairs and job not in self.at_once for job in alive)
        self.free = self._count - bottoms


_NOTHING: Final = object()
