"""Slots: how many jobs may run, which job has which slot, and who waits for whom.

A job that waits for a pending one hands its slot to it. So a slot is a pile of jobs: at
the bottom the one that took it, on top the one that has it now, each of the others has
lent it to the next. A job may be in one pile only. When one ends, it is taken out of its
pile, and the one below has the slot if it was on top.
"""

from __future__ import annotations

from collections import OrderedDict
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

    __slots__ = (
        "_above",
        "_count",
        "_ended",
        "_for_queue",
        "_is_searched",
        "_waited_by",
        "_waiting",
        "_wanted",
        "at_once",
        "below",
        "free",
        "waits",
    )

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
        # Those of these jobs that are pending, or have been.
        self._wanted: dict[Job[Any], OrderedDict[Job[Any], None]] = {}
        # The waits the other way round: who waits for each.
        self._waited_by: dict[Job[Any] | None, dict[Job[Any], None]] = {}
        # Those who wait and are on top of a pile: their slot could go to another job. And
        # those of them that wait for the queue, perhaps among others.
        self._waiting: dict[Job[Any], None] = {}
        self._for_queue: dict[Job[Any], None] = {}
        # Jobs that are over, and have waiters who are about to go on.
        self._ended: set[Job[Any] | None] = set()
        # Has a way out been looked for in vain, and nothing happened since?
        self._is_searched = False

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
        self._cannot_lend(owner)

    def end(self, job: Job[Any]) -> Job[Any] | None:
        """Take a job that is over out of its pile; return the one on top if it waits."""
        self._is_searched = False
        self.note_end(job)
        for other in self.waits.pop(job, ()):
            self._forget_waiter(job, other)
        self._wanted.pop(job, None)
        self._cannot_lend(job)
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
        self._can_lend(below)
        return below

    def _can_lend(self, waiter: Job[Any]) -> None:
        self._waiting[waiter] = None
        if None in self.waits[waiter]:
            self._for_queue[waiter] = None

    def _cannot_lend(self, job: Job[Any]) -> None:
        self._waiting.pop(job, None)
        self._for_queue.pop(job, None)

    # -- who waits for whom --------------------------------------------------------------

    def begin_wait(self, waiter: Job[Any], job: Job[Any] | None) -> bool:
        """Note that an active job waits for another one, or for the queue.

        Returns:
            Has it a slot?
        """
        self._is_searched = False
        waits = self.waits.setdefault(waiter, {})
        if job in waits:
            waits[job] += 1
        else:
            waits[job] = 1
            self._waited_by.setdefault(job, {})[waiter] = None
            self._want(waiter, job)
        if not self.takes_one(waiter):
            return False
        self._can_lend(waiter)
        return True

    def end_wait(self, waiter: Job[Any], job: Job[Any] | None) -> None:
        """Note that one such wait is over."""
        waits = self.waits.get(waiter)
        if waits is None or job not in waits:
            return  # the waiter has ended before its child task
        self._is_searched = False
        waits[job] -= 1
        if not waits[job]:
            del waits[job]
            self._forget_waiter(waiter, job)
            if job is None:
                self._for_queue.pop(waiter, None)
            elif waiter in self._wanted:
                self._wanted[waiter].pop(job, None)
            if not waits:
                del self.waits[waiter]
                self._wanted.pop(waiter, None)
                self._cannot_lend(waiter)

    def _want(self, waiter: Job[Any], job: Job[Any] | None) -> None:
        if job is not None and job.pending:
            self._wanted.setdefault(waiter, OrderedDict())[job] = None

    def _forget_waiter(self, waiter: Job[Any], job: Job[Any] | None) -> None:
        waiters = self._waited_by.get(job)
        if waiters is not None and waiters.pop(waiter, self) is None and not waiters:
            # In this order: the second has to be there for each of the first.
            self._ended.discard(job)
            del self._waited_by[job]

    def note_end(self, job: Job[Any]) -> None:
        """Note that a job is over, be it one that never started."""
        if job in self._waited_by:
            self._ended.add(job)

    def note_start(self) -> None:
        """Note that a pending job may start now that could not before."""
        self._is_searched = False

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
        wanted = self._wanted.get(waiter)
        if wanted is None:
            return None
        while wanted and not next(iter(wanted)).pending:
            wanted.popitem(last=False)
        return next((job for job in wanted if job.pending and can_start(job)), None)

    def waiter_for(self, job: Job[Any] | None) -> Job[Any] | None:
        """Return the first that has a slot and waits for this very job."""
        if job is None:
            return next(iter(self._for_queue), None)
        for waiter in self._waited_by.get(job, ()):
            if waiter in self._waiting:
                return waiter
        return None

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
        if self._is_searched:
            return None
        self._is_searched = True
        if any(w in self._waiting for job in self._ended for w in self._waited_by[job]):
            return None  # they are about to go on
        seen: set[Job[Any]] = set()
        for waiter in self._waiting:
            found = self._reach(waiter, seen, can_start)
            if found is not _NOTHING:
                self._is_searched = False
                return waiter, found
        return None

    def _reach(
        self, start: Job[Any], seen: set[Job[Any]], can_start: Callable[[Job[Any]], bool]
    ) -> Any:
        """Follow the waits, each only as far as is needed."""
        line = [iter(self.waits.get(start, ()))]
        while line:
            for job in line[-1]:
                if job is None:
                    return None
                if job.pending and can_start(job):
                    return job
                if job.active and job not in seen:
                    seen.add(job)
                    line.append(iter(self.waits.get(job, ())))
                    break
            else:
                line.pop()
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
        self._waited_by, self._wanted = {}, {}
        self._waiting, self._for_queue, self._ended = {}, {}, set()
        for waiter, waits in self.waits.items():
            for job in waits:
                self._waited_by.setdefault(job, {})[waiter] = None
                self._want(waiter, job)
                if job is not None and job.closed:
                    self._ended.add(job)
            if self.takes_one(waiter):
                self._can_lend(waiter)
        self._is_searched = False
        bottoms = sum(job not in pairs and job not in self.at_once for job in alive)
        self.free = self._count - bottoms


_NOTHING: Final = object()
