"""Who has which slot, by the letter of L2: test_model.py checks the gate against this.

For each job that runs in a lent slot, it records the lender. All else follows: a job has
a slot unless it has lent it, and the slots taken are as many as the jobs that run in a
slot nobody lent. The gate may choose among several legal loans; this says which are
legal.
"""

from __future__ import annotations

import math

from aiohttp_jobs import Scheduler
from tests.model import Work

__all__ = ("Ledger",)


class Ledger:
    """Records who has the slots of one scheduler.

    Args:
        scheduler: the scheduler, for its limit.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        # The active works that count towards the limit, in the order of their start.
        self._active: dict[Work, None] = {}
        # Who gets the slot back when a work ends. Works with a slot of their own, as most
        # have, are not in it.
        self._lender: dict[Work, Work] = {}

    def __contains__(self, work: Work) -> bool:
        return work in self._active

    @property
    def taken(self) -> int:
        return len(self._active) - len(self._lender)

    @property
    def free(self) -> float:
        """How many more slots may be taken; below 0 after the limit was lowered."""
        limit = self._scheduler.limit
        return math.inf if limit is None else limit - self.taken

    def holders(self) -> list[Work]:
        """Return the works that have a slot, that is, have not lent it."""
        lent = set(self._lender.values())
        return [work for work in self._active if work not in lent]

    # -- jobs start and end --------------------------------------------------------------

    def start(self, work: Work, lender: Work | None, head: Work | None) -> str:
        """Note that a work has got a slot; return why that was wrong, or "".

        Args:
            work: the work that starts.
            lender: the work that has lent it the slot; None if the slot was free.
            head: the work whose turn it is.
        """
        wrong = (
            self._is_wrong_loan(work, lender, head)
            if lender is not None
            else self._is_wrong_start(work, head)
        )
        self._active[work] = None
        if lender is not None:
            self._lender[work] = lender
        return wrong

    def _is_wrong_start(self, work: Work, head: Work | None) -> str:
        if self.free <= 0:
            return f"{work} starts without a free slot"
        if head is not work:
            return f"{work} starts, and it is the turn of {head}"
        for waiter in self.holders():
            if work in waiter.targets:
                return f"{work} starts in a free slot, and {waiter} has one for it"
        return ""

    def _is_wrong_loan(self, started: Work, lender: Work, head: Work | None) -> str:
        loan = f"{lender} lends to {started}"
        if lender not in self.holders():
            return f"{loan}, and has no slot"
        if not lender.waits:
            return f"{loan}, and does not wait"
        wanted = [work for work in lender.targets if _can_start(work, started)]
        if wanted:
            return "" if wanted[0] is started else f"{loan}, and waits for {wanted}"
        if lender.waits_for_queue and head is started:
            return ""
        # The lender waits for active jobs, and lends only if no holder can go on.
        if self.free > 0 or not self._all_wait():
            return f"{loan}, for which it does not wait"
        wanted, for_queue = _reach([lender], started)
        if started in wanted or (for_queue and head is started):
            return ""
        return f"{loan}, for which it does not wait through others either"

    def end(self, work: Work) -> None:
        """Note that a work has ended, or was let go."""
        if work not in self._active:
            return
        del self._active[work]
        lender = self._lender.pop(work, None)
        for borrower, owner in list(self._lender.items()):
            if owner is work:
                if lender is None:
                    del self._lender[borrower]
                else:
                    self._lender[borrower] = lender

    # -- when all has settled ------------------------------------------------------------

    def check_settled(self, head: Work | None, has_callers: bool) -> None:
        """A3, L2: no slot is left unused while a job waits for it.

        Args:
            head: the first pending work that can start.
            has_callers: whether callers wait for room.
        """
        if head is not None or has_callers:
            assert self.free <= 0
        holders = self.holders()
        for holder in holders:
            wanted = [work for work in holder.targets if _can_start(work)]
            assert not wanted, f"{holder} has a slot and waits for {wanted}"
            if holder.waits_for_room:
                assert head is None, f"{holder} has a slot and waits for the queue"
        if holders and self._all_wait():
            wanted, for_queue = _reach(holders)
            assert not wanted, f"deadlock: all wait, and {wanted} do not start"
            if for_queue:
                assert head is None, f"deadlock: all wait, and {head} does not start"
                assert not has_callers, "deadlock: all wait, and so do callers"

    def _all_wait(self) -> bool:
        return all(holder.waits for holder in self.holders())


def _can_start(work: Work, started: Work | None = None) -> bool:
    """Whether a work is pending only for lack of a slot.

    Args:
        work: the work to look at.
        started: a work that was until now.
    """
    if work is started:
        return True
    is_pending = work.job is not None and work.job.pending
    return is_pending and work.is_accepted and not work.is_held_back


def _reach(waiters: list[Work], started: Work | None = None) -> tuple[list[Work], bool]:
    """Follow the waits through active jobs.

    Returns:
        The pending jobs they lead to, and whether they lead to the queue.
    """
    seen, line = set(waiters), list(waiters)
    wanted = list[Work]()
    for_queue = False
    while line:
        waiter = line.pop()
        for_queue = for_queue or waiter.waits_for_queue
        for target in waiter.targets:
            if _can_start(target, started):
                wanted.append(target)
            elif target.job is not None and target.job.active and target not in seen:
                seen.add(target)
                line.append(target)
    return wanted, for_queue
