"""Gate: which job runs when, and the books of those that run.

How a job moves, and who moves it::

    pending ──start──► active ─────────────────over──► closed
       │                  └──job.stop──► stopping ──over──► closed
       └──drop──► closed                     └─────let_go──► closed

Queued jobs are started by `pump`, which the loop calls, never inside the last step of
another job. But a job that another one waits for gets the waiter's slot at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from .binding import Binding
from .drainers import Drainers
from .failures import Failure
from .guests import close_coroutine
from .job import Job, begin, finish, forget, note_spawned, wake
from .mark import mark
from .pending import PendingJobs
from .running import JobTask, Launcher, give_up, watch
from .slots import Slots
from .states import (
    CANCELLED,
    HUNG_UP,
    OPEN,
    PENDING,
    SUCCEEDED,
    UNSUCCESSFUL,
    JobState,
    SchedulerState,
)
from .telling import Telling

__all__ = ("BATCH", "Gate")

# How many jobs one turn of the loop starts before others get their turn.
BATCH: Final = 500


class Gate:
    """Lets jobs in, first come, first served, and closes their books when they are over.

    Args:
        binding: the event loop.
        slots, pending: the slots to give away, and the jobs that wait for them.
        telling: reports what happens to jobs.
        close_timeout: seconds that a cancelled job has to end; None for no limit.
    """

    def __init__(
        self,
        binding: Binding,
        slots: Slots,
        pending: PendingJobs,
        telling: Telling,
        close_timeout: float | None,
    ) -> None:
        self._binding = binding
        self._launcher = Launcher(binding)
        self.slots = slots
        self.pending = pending
        self.telling = telling
        self.observers = telling.observers
        self.close_timeout = close_timeout
        # Active jobs by number, including stopping ones, in the order they started.
        self.active: dict[int, Job[Any]] = {}
        # Jobs that did not end in time and still run; kept so they are not collected.
        self.strays: set[Job[Any]] = set()
        # How many jobs have succeeded so far, and how many ended in each other state.
        self.succeeded = 0
        self.ended: dict[JobState, int] = dict.fromkeys(UNSUCCESSFUL, 0)
        # Open, closing or closed; never draining, which `drainers` knows.
        self.state: SchedulerState = OPEN
        # Whether no pending job is started.
        self.is_held = False
        # For the job of each caller that waits for room, the job that the caller runs in.
        self.callers: dict[Job[Any], Job[Any] | None] = {}
        # Jobs that got their slot back and still wait, so it may go to another one.
        self._returned: deque[Job[Any]] = deque()
        # Whether a call of `pump` is scheduled.
        self._is_due = False
        # The callers that wait for the end of all jobs.
        self.drainers = Drainers()

    # -- whose code runs -----------------------------------------------------------------

    def check_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; raise RuntimeError if it is not the scheduler's."""
        return self._binding.check()

    def current_job(self) -> Job[Any] | None:
        """Return the job of this scheduler that the running code is part of, if any.

        The only place that finds this out: first by the task; code in child tasks, and in
        tasks that others have made, is recognized by the mark in its context.
        """
        task = asyncio.current_task()
        if type(task) is JobTask:
            return task.job if task.job.keeper is self else None
        return self.active.get(mark.get(0))

    def has_slot(self, job: Job[Any]) -> bool:
        """Return whether an active job has a slot just now."""
        return self.slots.takes_one(job)

    # -- refusing -----------------------------------------------------------------------

    def refuse(self, job: Job[Any]) -> None:
        """Close a job that was never accepted."""
        if job.state is PENDING:
            finish(job, CANCELLED)
        job.keeper = None
        forget(job)
        close_coroutine(job.coro)

    def refuse_callers(self) -> None:
        """Wake the callers that wait for room with SchedulerClosed."""
        callers = self.pending.callers
        while callers:
            job, woken = next(iter(callers.items()))
            self.refuse(job)
            if not woken.done():
                woken.set_result(None)
            del callers[job]

    # -- giving slots away ---------------------------------------------------------------

    def begin_wait(self, job: Job[Any]) -> Job[Any] | None:
        """Note that the running code waits for `job`; return the waiting job, if any.

        If the waiting job has a slot and `job` is pending, `job` starts there at once.
        """
        waiter = self.current_job()
        if waiter is None or waiter is job:
            return None
        if self.slots.begin_wait(waiter, job) and job.pending:
            self._hand_on(waiter)
        self.look_for_way_out()
        return waiter

    def begin_wait_for_queue(self) -> Job[Any] | None:
        """Note that the running code waits for the queue to move, in spawn() or a drain.

        Return the waiting job, if any. Its slot goes to the head of the queue.
        """
        waiter = self.current_job()
        if waiter is not None:
            if self.slots.begin_wait(waiter, None):
                self._hand_on(waiter)
            self.look_for_way_out()
        return waiter

    def end_wait(self, waiter: Job[Any] | None, job: Job[Any] | None) -> None:
        """Note that this wait is over; None for a job is the wait for the queue."""
        if waiter is not None:
            self.slots.end_wait(waiter, job)
            self.look_for_way_out()

    def pump_soon(self, *, again: bool = False) -> None:
        """Have the loop call `pump`; with `again`, even if that seems to be scheduled."""
        if again or not self._is_due:
            # In this order: if something interrupts it, better twice than never.
            self._binding.in_use().call_soon(self.pump)
            self._is_due = True

    def release_all(self) -> None:
        """Stop holding the pending jobs."""
        if self.is_held:
            self.is_held = False
            self._returned.extend(self.slots.waiting())
            if self._binding.loop is not None:
                self.fill_slots()

    def pump(self) -> None:
        """Start pending jobs in free slots, and let callers into the room they leave."""
        try:
            self._is_due = False
            self.fill_slots()
        except BaseException:
            self.mend()
            raise

    def fill_slots(self) -> None:
        """Do what `pump` does, at once."""
        slots, pending, returned = self.slots, self.pending, self._returned
        if self.state is not OPEN or self.is_held:
            returned.clear()
            if self.state is not OPEN:
                self.refuse_callers()
            while self.state is OPEN and pending.callers and not pending.is_full():
                self._admit()  # held, but there is room
            return
        for _ in range(BATCH):
            queue = pending.queue
            if (
                slots.free > 0
                and queue
                and queue[0].state is PENDING
                and not (returned or pending.callers or pending.unconfirmed)
            ):
                self.start(queue[0])  # the most frequent case
            elif returned:
                self._hand_on(returned.popleft())
            elif not self._fill():
                break
        else:
            self.pump_soon()
        self._find_way_out()

    def _fill(self) -> bool:
        """Let the next caller in or start the next job; return whether there was one."""
        pending, slots = self.pending, self.slots
        # Jobs that are held back and fill the room keep nobody from a free slot. (So one
        # job too many is pending if the slot is taken again before the caller gets it.)
        if pending.callers and (
            not pending.is_full() or (slots.free > 0 and pending.first() is None)
        ):
            self._admit()
            return True
        job = pending.head() if slots.free > 0 else None
        if job is not None:
            self.start(job)
        return job is not None

    def _admit(self) -> None:
        has_room = not self.pending.is_full()
        job = self.pending.admit()
        if job is not None:
            note_spawned(job)
            self.telling.tell("job_spawned", job)
            if has_room:
                # Its caller no longer waits. (Without room it was let in for a slot: this
                # may be the caller's own, which is lent to the job when spawn() returns.)
                self.end_wait(self.callers.pop(job, None), None)

    def _hand_on(self, owner: Job[Any]) -> None:
        """Give the slot of a waiting job to a job that it waits for."""
        slots, pending = self.slots, self.pending
        if self.state is not OPEN or self.is_held or not slots.has_one_to_lend(owner):
            return
        job = slots.wanted_by(owner, pending.can_start)
        if job is None and not slots.waits_for_queue(owner):
            return
        if self._lend(owner, job) and pending.callers:
            self.pump_soon()  # there is room for one

    def _lend(self, owner: Job[Any], job: Job[Any] | None) -> bool:
        """Start the job, or the head of the queue, in the owner's slot; False if none."""
        pending = self.pending
        if job is None:
            job = pending.head()
            if job is None and pending.callers and pending.first() is None:
                self._admit()  # all pending jobs are held back
        if job is not None:
            self.start(job, owner=owner)
        return job is not None

    def release(self, number: int) -> None:
        """Release the job with this number: what it was held back for is done."""
        try:
            job = self.pending.release(number)
            if job is not None:
                self.can_start_now(job)
        except BaseException:
            self.mend()
            raise

    def can_start_now(self, job: Job[Any]) -> None:
        """Note that a job may start now; somebody may be waiting for it already."""
        slots = self.slots
        slots.note_start()
        if slots.free <= 0 and not self.is_held:
            waiter = slots.waiter_for(job) or slots.waiter_for(None)
            if waiter is not None:
                self._hand_on(waiter)
        self.pump_soon()

    def look_for_way_out(self) -> None:
        if self.slots.is_stuck() and (self.pending.queue or self.pending.callers):
            self.pump_soon()

    def _find_way_out(self) -> None:
        """If every job that has a slot waits, give one of their slots to another job."""
        pending, slots = self.pending, self.slots
        if not slots.is_stuck() or not (pending.queue or pending.callers):
            return
        found = slots.way_out(pending.can_start)
        if found is not None and self._lend(*found):
            self.pump_soon()

    # -- starting ------------------------------------------------------------------------

    def start(
        self, job: Job[Any], is_new: bool = False, owner: Job[Any] | None = None
    ) -> None:
        """Make a job active, in a free slot or in the owner's, and give it a task."""
        try:
            slots, loop = self.slots, self._binding.loop
            assert loop is not None
            self.active[job.id] = job
            if owner is not None:
                slots.lend(owner, job)
            elif not slots.at_once or job not in slots.at_once:
                slots.free -= 1
            begin(job, loop, is_new)
            if not is_new:
                self.pending.leave(job)
            self._launcher.launch(self, job, is_new)
        except BaseException:
            self.mend()
            raise

    # -- ending --------------------------------------------------------------------------

    def over(self, job: Job[Any], state: JobState, result: Any = None) -> None:
        """Close the books of an active job.

        If something interrupts this, `mend` redoes what follows from the job's state.
        """
        if job.state >= SUCCEEDED and job.id not in self.active:
            self.stray_over(job, None)
            return
        try:
            if job.state < SUCCEEDED:
                state = finish(job, state, result)
            job.keeper = None
            slots, pending = self.slots, self.pending
            if (pending.queue or pending.callers) and not self._is_due:
                self.pump_soon()
            if job.waiters is not None:
                wake(job)
            if slots.at_once or slots.waits or slots.below:
                returned = slots.end(job)
                if returned is not None:
                    self._returned.append(returned)
                    self.pump_soon()
            else:
                slots.free += 1
            del self.active[job.id]
            if state is SUCCEEDED:
                self.succeeded += 1  # at half the cost of a step in a dictionary
            else:
                self.ended[state] += 1
            if self.observers.job_closed is not None:
                self.telling.tell("job_closed", job)
            if job.failure is None or state is HUNG_UP:
                job.task = job.context = None
            else:
                self.telling.failed(job, job.failure, is_let_go=job in self.strays)
            drainers = self.drainers
            if drainers.count and (drainers.inside or slots.at_once or not self.active):
                drainers.ended(job, len(self.active) - len(slots.at_once))
        except BaseException:
            self.mend()
            raise

    def drop(self, job: Job[Any]) -> None:
        """Close a pending job, which never starts."""
        try:
            self._drop(job)
        except BaseException:
            self._drop(job)
            self.mend()
            raise
        if self.observers.job_closed is not None:
            self.telling.tell("job_closed", job)
        forget(job)
        if self.drainers.count:
            self.drainers.when_few()

    def _drop(self, job: Job[Any]) -> None:
        if job.state is PENDING:
            finish(job, CANCELLED)
            self.ended[CANCELLED] += 1
            self.pending.leave(job)
        self.slots.note_end(job)
        job.keeper = None
        while self.pending.callers and not self.pending.is_full():
            self._admit()
        wake(job)
        close_coroutine(job.coro)

    def let_go(self, job: Job[Any]) -> None:
        """Close the books of a job that did not end in time and still runs."""
        self.strays.add(job)
        self.over(job, give_up(job))

    def stray_over(self, job: Job[Any], failure: Failure | None) -> None:
        """Note the end of a job that was let go, and report its failure, if any."""
        if job in self.strays:
            self.strays.discard(job)
            if failure is None:
                forget(job)
            else:
                self.telling.failed(job, failure, is_let_go=False)

    def watch(self, job: Job[Any]) -> None:
        """End the job soon: its task is over."""
        watch(self, job)

    def abandon(self, job: Job[Any]) -> None:
        """Forget a job whose coroutine was thrown away: its loop is gone."""
        self.active.pop(job.id, None)
        if not job.closed:
            finish(job, CANCELLED)
        forget(job)

    def has_ended(self, job: Job[Any]) -> bool:
        """Return whether the job is closed, and not still running after it was let go."""
        return job.closed and job not in self.strays

    def sweep(self) -> None:
        """End jobs whose task is over, or lost, if a KeyboardInterrupt prevented that."""
        is_lost = False
        for job in self.active.values():
            if job.task is None:
                is_lost = is_lost or not self._launcher.is_about_to(job)
            elif job.task.done():
                watch(self, job)
        if is_lost:
            self.mend()

    def mend(self) -> None:
        """Make the books agree again after a KeyboardInterrupt has interrupted them.

        The truth is the state of each job and of its task; all else follows from that.
        """
        for job in list(self.active.values()):
            if job.closed:
                self.over(job, job.state)
                continue
            if job.pending:
                del self.active[job.id]
            elif job.task is None and not self._launcher.is_about_to(job):
                close_coroutine(job.coro)
                self.over(job, CANCELLED)
            elif job.task is not None and job.task.done():
                watch(self, job)
        self.pending.mend()
        self.slots.mend(self.active.values())
        loop = self._binding.loop
        if loop is not None and not loop.is_closed():
            self.pump_soon(again=True)
            self.drainers.when_few()
