"""Slots: how many jobs may run, which job has which slot, and who waits for whom.

A job that waits for a pending job lends it its slot. So a slot is a pile of jobs: at the
bottom the job that took it, on top the job that has it now; all but the top one have lent
it to the job above. A job is in one pile at most. When a job ends, it is taken out of its
pile; if it was on top, the job below gets the slot back.
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
        limit: how many slots there are; None for no limit.
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
        # How many slots are free: all but one for each pile. May be below 0 after the
        # limit was lowered.
        self.free = self._count
        # Active jobs that take no slot.
        self.at_once: set[Job[Any]] = set()
        # For each job in a pile, the job above it, to which it has lent the slot; and the
        # same the other way round.
        self._above: dict[Job[Any], Job[Any]] = {}
        self.below: dict[Job[Any], Job[Any]] = {}
        # What each active job waits for, in the order in which it began to, with how many
        # times: other jobs, or None for the queue (to have room, or to be empty).
        self.waits: dict[Job[Any], dict[Job[Any] | None, int]] = {}
        # For each waiter, the jobs it waits for that were pending when the wait began.
        self._wanted: dict[Job[Any], OrderedDict[Job[Any], None]] = {}
        # The waits the other way round: which jobs wait for each.
        self._waited_by: dict[Job[Any] | None, dict[Job[Any], None]] = {}
        # The waiting jobs that are on top of a pile, so their slot could go to another
        # job; and those of them that wait for the queue, perhaps among others.
        self._waiting: dict[Job[Any], None] = {}
        self._for_queue: dict[Job[Any], None] = {}
        # Jobs that are over and whose waiters are about to go on.
        self._ended: set[Job[Any] | None] = set()
        # Whether a way out was looked for in vain, and nothing has happened since.
        self._is_searched = False

    @property
    def limit(self) -> int | None:
        """How many slots there are; None for no limit."""
        return None if self._count == NO_LIMIT else self._count

    @limit.setter
    def limit(self, limit: int | None) -> None:
        count = NO_LIMIT if limit is None else limit
        self.free += count - self._count
        self._count = count

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return self._count - self.free

    def takes_one(self, job: Job[Any]) -> bool:
        """Return whether the active job has a slot just now."""
        return job not in self.at_once and job not in self._above

    def has_one_to_lend(self, job: Job[Any]) -> bool:
        """Return whether the job has a slot and is waiting, so that it can be lent."""
        return job in self._waiting

    # -- taking, lending, giving back ----------------------------------------------------

    def lend(self, owner: Job[Any], job: Job[Any]) -> None:
        """Put the job onto the pile that has the owner on top."""
        self._above[owner] = job
        self.below[job] = owner
        self._cannot_lend(owner)

    def end(self, job: Job[Any]) -> Job[Any] | None:
        """Take a job that is over out of its pile.

        Return the job that gets its slot back, if that job is waiting.
        """
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
            Whether the waiter has a slot.
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
        """Note that one of these waits is over."""
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
            # In this order: each job in `_ended` must have an entry in `_waited_by`.
            self._ended.discard(job)
            del self._waited_by[job]

    def note_end(self, job: Job[Any]) -> None:
        """Note that a job is over, even if it never started."""
        if job in self._waited_by:
            self._ended.add(job)

    def note_start(self) -> None:
        """Note that a pending job may start now that could not before."""
        self._is_searched = False

    def waiting(self) -> list[Job[Any]]:
        """Return the jobs that have a slot and wait, in the order in which that began."""
        return list(self._waiting)

    def waits_for_queue(self, job: Job[Any]) -> bool:
        """Return whether the job waits for the queue to move."""
        return None in self.waits.get(job, ())

    def wanted_by(
        self, waiter: Job[Any], can_start: Callable[[Job[Any]], bool]
    ) -> Job[Any] | None:
        """Return the first pending job that the waiter waits for and that can start."""
        wanted = self._wanted.get(waiter)
        if wanted is None:
            return None
        while wanted and not next(iter(wanted)).pending:
            wanted.popitem(last=False)
        return next((job for job in wanted if job.pending and can_start(job)), None)

    def waiter_for(self, job: Job[Any] | None) -> Job[Any] | None:
        """Return the first job with a slot that waits for this job, or for the queue."""
        if job is None:
            return next(iter(self._for_queue), None)
        for waiter in self._waited_by.get(job, ()):
            if waiter in self._waiting:
                return waiter
        return None

    def is_stuck(self) -> bool:
        """Return whether every job that has a slot is waiting."""
        return self.free <= 0 and len(self._waiting) == self._count - self.free

    def way_out(
        self, can_start: Callable[[Job[Any]], bool]
    ) -> tuple[Job[Any], Job[Any] | None] | None:
        """Find whose slot to give to which pending job, when all jobs with a slot wait.

        Indirect waits count. It is called only then: to do this at every wait would cost
        as much as there are waits.

        Returns:
            The job that has the slot, and the job to start in it; the latter is None for
            the head of the queue, if a job on the way waits for that. Just None if there
            is nothing to do, because a job without a slot goes on.
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
        """Follow the waits, each only as far as needed."""
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
        """Count again, from the active jobs and from which job has lent to which."""
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
