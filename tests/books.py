"""What the state machine of test_model.py records, and how it checks the contract.

After each step: counts, slots, the line, and that jobs and coroutines agree. When all has
settled: that nobody waits without a reason, and deadlines. At the end: the outcome of
each job, failure and call, and that nothing is kept. tests/ledger.py has the slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import math
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from aiohttp_jobs import (
    Job,
    JobCancelled,
    JobsError,
    JobState,
    Scheduler,
    SchedulerState,
)
from aiohttp_jobs.core.errors import HungUp
from tests.inside import kept_by
from tests.ledger import Ledger
from tests.loops import VirtualLoop
from tests.model import ENDS, LEAVES, Call, Give, Manner, Order, Work, trail

__all__ = ("Books",)

FAILED_MESSAGE = "Job processing failed"
LET_GO_MESSAGE = "Job closing timed out"
SHIELD_FAILED_MESSAGE = "Shielded awaitable failed after its caller had gone"

EVENTS = ("job_spawned", "job_started", "job_running", "job_closed")


class Watcher:
    """The observer that tells the books of every event.

    Args:
        tell: called with the event and the job.
    """

    def __init__(self, tell: Callable[[str, Job[Any]], None]) -> None:
        self._tell = tell

    def job_spawned(self, job: Job[Any]) -> None:
        self._tell("job_spawned", job)

    def job_started(self, job: Job[Any]) -> None:
        self._tell("job_started", job)

    def job_running(self, job: Job[Any]) -> None:
        self._tell("job_running", job)

    def job_closed(self, job: Job[Any]) -> None:
        self._tell("job_closed", job)


class Meddler(Watcher):
    """An observer that does something foolish, once.

    Args:
        what: called to do it.
        when: after how many events.
    """

    def __init__(self, what: Callable[[], None], when: int) -> None:
        super().__init__(self._count)
        self._what = what
        self._left = when

    def _count(self, event: str, job: Job[Any]) -> None:
        self._left -= 1
        if self._left == -1:
            self._what()


class Books:
    """Everything known about one scheduler and its surroundings.

    Args:
        loop: the loop of the scheduler.
        handler: what the exception handler does besides recording its context.
        meddler: what an observer does once: "raises", "exits" or "spawns".
        meddles_at: after how many events it does so.
        options: the options of the scheduler.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        handler: str,
        meddler: str | None,
        meddles_at: int,
        **options: Any,
    ) -> None:
        self.loop = loop
        self.handler = handler
        self.scheduler = Scheduler(exception_handler=self._handle, **options)
        self.ledger = Ledger(self.scheduler)
        self._watcher = Watcher(self._note)
        self.scheduler.add_observer(self._watcher)
        if meddler is not None:
            self.scheduler.add_observer(
                Meddler(partial(self._do_foolishly, meddler), meddles_at)
            )
        # Observers are not told of this.
        can_start_now = self.scheduler._parts.gate.can_start_now

        def note_and_go_on(job: Job[Any]) -> None:
            self._note_that_it_can_start(self._work_of(job))
            can_start_now(job)

        self.scheduler._parts.gate.can_start_now = note_and_go_on  # type: ignore[method-assign]
        loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))

        self.works: list[Work] = []
        self.shielded: list[Work] = []
        self.calls: list[Call] = []
        # The futures that held back jobs wait for.
        self.futures: list[asyncio.Future[None]] = []
        # How many turns the loop has made.
        self.turns = 0
        # Works whose jobs wait for a slot or for room, in order of arrival.
        self.line: list[Work] = []
        # The contexts that the exception handlers were called with.
        self.reports: list[dict[str, Any]] = []
        self.loop_errors: list[dict[str, Any]] = []
        # The exceptions that left the loop; how often the exception handler or an
        # observer raised SystemExit.
        self.left: list[BaseException] = []
        self._exits = 0
        # The log records.
        self._records: list[Any] = []
        # Violations found where they could not be raised.
        self._violations: list[str] = []
        self._state = SchedulerState.OPEN

    # -- writing -------------------------------------------------------------------------

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the log records."""
        handler = logging.Handler(logging.WARNING)
        handler.emit = self._records.append  # type: ignore[assignment,method-assign]
        logger = logging.getLogger("aiohttp_jobs")
        logger.addHandler(handler)
        logger.propagate = False
        try:
            yield
        finally:
            logger.propagate = True
            logger.removeHandler(handler)

    def make_task(self, call: Call, context: contextvars.Context) -> asyncio.Task[None]:
        """Make the call in a task, in this context or, if need be, in a copy of it."""
        perform = call.perform(self.turns)
        try:
            return self.loop.create_task(perform, context=context)
        except TypeError:
            return context.copy().run(self.loop.create_task, perform)

    def turn(self) -> int:
        """Return the number of the current turn of the loop."""
        return self.turns

    def new_work(self, manner: Manner, orders: list[Order]) -> Work:
        work = Work(f"work {len(self.works)}", manner, orders)
        self.works.append(work)
        return work

    def _handle(self, scheduler: Scheduler, context: dict[str, Any]) -> None:
        self.reports.append(context)
        if asyncio.current_task() is not None or sys.exc_info()[1] is not None:
            self._violations.append("R9: the handler is not called from the loop")
        if "job" in context and not self._work_of(context["job"]).is_here():
            self._violations.append("A6: the handler is called in another context")
        if self.handler == "raises":
            raise LookupError("by the exception handler")
        if self.handler == "exits":
            self._exits += 1
            raise SystemExit
        if self.handler == "spawns":
            contextvars.Context().run(self._spawn_another)
        elif self.handler == "closes":
            call = Call("close", scheduler.close, bound=scheduler.close_timeout)
            self.calls.append(call)
            self.make_task(call, contextvars.Context())

    def _do_foolishly(self, what: str) -> None:
        """Do what an observer should not."""
        if what == "raises":
            raise LookupError("by an observer")
        if what == "exits":
            self._exits += 1
            raise SystemExit
        contextvars.Context().run(self._spawn_another)

    def _spawn_another(self) -> None:
        work = self.new_work("obeys", [Give()])
        trail.set((f"before {work}",))
        self.line.append(work)
        try:
            self.scheduler.spawn_nowait(work.coro, work.name)
        except JobsError:
            work.is_refused = True
        else:
            work.is_accepted = True
        trail.set((f"before {work}", f"after {work}"))

    def _note(self, event: str, job: Job[Any]) -> None:
        work = self._work_of(job)
        work.job = job
        if not work.is_here():
            self._violations.append(f"A6: {event} of {work} is told in another context")
        if event in work.events or EVENTS.index(event) < len(work.events):
            self._violations.append(f"{event} of {work} comes after {work.events}")
        work.events.append(event)
        if job.active and work.started is None:
            self._note_start(work, job)
        elif event == "job_spawned":
            self._note_spawned(work, job)
        elif event == "job_closed":
            self._note_end(work, job)

    def _note_spawned(self, work: Work, job: Job[Any]) -> None:
        if work.is_held_back:
            return
        scheduler = self.scheduler
        queue = [other for other in self._queued() if other is not work]
        work.made_way = scheduler.pending_count > (scheduler.pending_limit or math.inf)
        if work.made_way and queue:
            self._violations.append(f"{work} has come to {queue}, without room")
        spawning = work.spawning
        comes_now = spawning is None or spawning.task is asyncio.current_task()
        is_first = self.waiting()[:1] == [work]
        if comes_now and is_first and self.ledger.free > 0 and not scheduler.held:
            self._violations.append(f"A1: {work} does not start at once")

    def _note_that_it_can_start(self, work: Work) -> None:
        """Let a held back job join the queue, ahead of callers waiting for room."""
        if work.is_held_back:
            work.is_held_back = False
            queued = [n for n, w in enumerate(self.line) if self._is_listed(w)]
            self.line.insert(max(queued, default=-1) + 1, work)

    def _note_start(self, work: Work, job: Job[Any]) -> None:
        work.started = self.loop.time()
        if self.scheduler.closed:
            self._violations.append(f"{work} starts in a closed scheduler")
        if not work.takes_slot:
            return
        if self.scheduler.held:
            self._violations.append(f"{work} starts, and the scheduler holds it")
        if work.is_held_back:
            self._violations.append(f"{work} starts, and is held back")
        lender = self.scheduler._parts.slots.below.get(job)
        wrong = self.ledger.start(
            work,
            None if lender is None else self._work_of(lender),
            next(iter(self.waiting()), None),
        )
        if wrong:
            self._violations.append(wrong)
        self.line.remove(work)

    def _note_end(self, work: Work, job: Job[Any]) -> None:
        self.ledger.end(work)
        work.closed_in = self.turns
        state = inspect.getcoroutinestate(work.coro)
        work.is_let_go = work.started is not None and state != "CORO_CLOSED"

    def _work_of(self, job: Job[Any]) -> Work:
        return self.works[int(job.label.split()[1])]

    def _is_listed(self, work: Work) -> bool:
        return not work.is_refused and work.job in self.scheduler

    def waiting(self) -> list[Work]:
        """Return the works that wait for a slot or for room, in order."""
        return [work for work in self.line if not self._has_gone(work)]

    def _has_gone(self, work: Work) -> bool:
        """Whether the work no longer waits in the line."""
        gives_up = work.spawning is not None and work.spawning.is_cancelled
        return work.is_refused or gives_up or (work.job is not None and work.job.closed)

    def _queued(self) -> list[Work]:
        """Return the works whose jobs are in the queue, in the scheduler's order."""
        works = map(self._work_of, self.scheduler.pending_jobs())
        return [work for work in works if not work.is_held_back]

    # -- after each step -----------------------------------------------------------------

    def check_step(self) -> None:
        assert not self._violations, self._violations[0]
        self._check_counts()
        self._check_slots()
        self._check_line()
        self._check_scheduler_state()
        for work in self.works:
            self._check_state(work)
        for record in self._records:
            if hasattr(record, "observer_method"):
                assert record.args[0] is not self._watcher, record.exc_info
        if self.handler != "raises":
            errors = [
                context
                for context in self.loop_errors
                if not isinstance(context.get("exception"), LEAVES)
            ]
            assert not errors

    def _check_counts(self) -> None:
        """L1, L5: the counts are exact at every moment."""
        scheduler = self.scheduler
        listed = list(scheduler)
        active = listed[: scheduler.active_count]
        pending = listed[scheduler.active_count :]
        assert len(pending) == scheduler.pending_count
        assert len(listed) == len(scheduler) == len(set(listed))
        assert all(job.active and job in scheduler for job in active)
        assert all(job.pending and job in scheduler for job in pending)
        assert {w.job for w in self.works if self._is_listed(w)} == set(listed)
        for work in self.works:
            if work.is_running and not work.is_let_go:
                assert work.job in active
        if scheduler.state is SchedulerState.CLOSED:
            assert not listed

    def _check_slots(self) -> None:
        """L1, L2: exactly the running jobs that have not lent their slot have one."""
        assert self.scheduler.slots_taken == self.ledger.taken
        holders = {work.job for work in self.ledger.holders()}
        for work in self.works:
            if work.job is not None:
                assert work.job.takes_slot == (work.job in holders), work

    def _check_line(self) -> None:
        """A2, A3: pending jobs are in order, and ahead of callers waiting for room."""
        assert [work for work in self.line if self._is_listed(work)] == self._queued()
        have_room = [self._is_listed(work) for work in self.waiting()]
        assert have_room == sorted(have_room, reverse=True)

    def _check_scheduler_state(self) -> None:
        """E4: the scheduler is draining only while somebody drains it."""
        state = self.scheduler.state
        drains = any(
            c.waits and c.what in ("drain", "wait_and_close") for c in self.calls
        )
        if state <= SchedulerState.DRAINING:
            assert (state is SchedulerState.DRAINING) == drains
        assert state >= self._state or self._state is SchedulerState.DRAINING
        self._state = state

    def _check_state(self, work: Work) -> None:
        """A job is over when its coroutine is, and not before unless it was let go."""
        job = work.job
        state = inspect.getcoroutinestate(work.coro)
        if work.is_refused:
            assert state == "CORO_CLOSED"
        elif job is None and self.scheduler.closed:
            assert state in ("CORO_CREATED", "CORO_CLOSED")  # its refusal is on its way
        elif job is None or job.pending:
            assert state == "CORO_CREATED"
        elif job.active:
            assert state != "CORO_CLOSED"
        elif not work.is_let_go:
            assert state == "CORO_CLOSED"

    # -- when all has settled ------------------------------------------------------------

    def check_settled(self) -> None:
        """Nobody waits without a reason, or beyond the deadline."""
        scheduler, now = self.scheduler, self.loop.time()
        waiting = [call for call in self.calls if call.waits]
        for call in waiting:
            assert call.deadline is None or now < call.deadline, call
            # E4: a cancelled wait_and_close() goes on.
            assert not call.is_cancelled or call.what == "wait_and_close", call
            if call.what in ("wait", "close job"):
                assert call.target is not None
                assert call.target.job is not None
                assert not call.target.job.closed, call
        self._check_progress([call for call in waiting if call.what == "spawn"])
        for work in self.works:
            if work.job is not None and work.job.active and work.timeout is not None:
                assert work.started is not None
                if scheduler.close_timeout is not None:
                    assert now < work.started + work.timeout + scheduler.close_timeout
        self._check_drainers([call for call in waiting if call.what in ENDS])

    def _check_progress(self, callers: list[Call]) -> None:
        """A3, A4, L2: free slots and free room are used."""
        scheduler = self.scheduler
        if scheduler.closed:
            assert not callers
            return
        if callers:
            assert scheduler.pending_limit
            assert scheduler.pending_count >= scheduler.pending_limit
        if not scheduler.held:
            queue = self._queued()
            self.ledger.check_settled(queue[0] if queue else None, bool(callers))

    def _check_drainers(self, drainers: list[Call]) -> None:
        """E3, E4: callers that wait for the end do not wait for each other."""
        listed = [work for work in self.works if self._is_listed(work)]
        shielded = [w for w in self.shielded if w.task in self.scheduler._parts.shields]
        shields = self.scheduler.statistics().shielded - len(shielded)
        # Child tasks of a shielded awaitable are not known to be part of it.
        wait = {
            call.by
            for call in drainers
            if call.by in self.works or (call.by and call.by.task is call.task)
        }
        for call in drainers:
            left = listed
            if call.what == "drain":
                left = [work for work in left if work.takes_slot]
                left = [work for work in left if not work.is_held_back]
            left = left + shielded
            if call.by in wait:
                left = [work for work in left if work not in wait]
            assert left or shields, call

    # -- at the end ----------------------------------------------------------------------

    def check_end(self) -> None:
        assert self.scheduler.state is SchedulerState.CLOSED
        for call in self.calls:
            assert not call.waits, call
            if call.what in ("wait", "look back") and call.is_done:
                self._check_wait(call)
        for work in self.works + self.shielded:
            if work.task is not None:
                assert work.cancelled - work.cancelled_by_test <= 1, work  # E1
            elif not work.is_refused:
                work.coro.close()  # its spawn was never called
        for work in self.works:
            if work.is_accepted:
                self._check_outcome(work)
                self._check_failure(work)
            else:
                assert work.task is None, f"{work} was refused, and ran"
        for work in self.shielded:
            self._check_shielded_failure(work)
        self._check_records()
        self._check_what_left()
        assert not kept_by(self.scheduler)
        assert not self.scheduler.slots_taken

    def _check_wait(self, call: Call) -> None:
        """R1, R3, R7, R8: a wait returns the outcome of the job, or says why not."""
        work, error = call.target, call.error
        assert work is not None
        assert work.job is not None
        state = work.job.state
        if error is None:
            assert call.result is work.payload
            assert state is JobState.SUCCEEDED
        elif state is JobState.FAILED and error is work.job.exception():
            pass
        elif isinstance(error, JobCancelled):
            assert state in (JobState.CANCELLED, JobState.LET_GO)
        elif isinstance(error, asyncio.CancelledError):
            assert call.was_cancelled
        elif isinstance(work.error, HungUp) and error is work.error.error:
            assert state is JobState.HUNG_UP
        elif isinstance(error, RuntimeError):
            assert call.by is work
        else:
            assert isinstance(error, TimeoutError)
            assert call.timeout is not None

    def _check_outcome(self, work: Work) -> None:
        """Each accepted job has one outcome, that of its coroutine."""
        job = work.job
        assert job is not None
        assert job.closed
        failure = job.exception()
        if job.state is JobState.SUCCEEDED:
            assert work.has_ended
            assert work.error is None
        elif job.state is JobState.FAILED and failure is not work.error:
            assert isinstance(failure, TimeoutError)  # R4
            assert work.timeout is not None
        elif job.state is JobState.FAILED and isinstance(failure, JobCancelled):
            assert work.has_failed or work.manner == "uncancels"  # R7
        elif job.state is JobState.LET_GO:
            assert work.is_let_go
        elif job.state is JobState.CANCELLED:
            assert work.task is None or isinstance(work.error, asyncio.CancelledError)
            assert not work.has_failed  # R7
        elif job.state is JobState.HUNG_UP:
            assert isinstance(work.error, HungUp)
        if work.task is not None:
            assert work.was_at_home  # A6
        assert work.events[0] == "job_spawned"
        assert work.events[-1] == "job_closed"
        assert ("job_running" in work.events) == (work.task is not None)

    def _check_failure(self, work: Work) -> None:
        """R2: a failure reaches those who wait for it; else the exception handler."""
        job = work.job
        assert job is not None
        told = self._told(work, FAILED_MESSAGE)
        if work.is_let_go and work.has_failed:
            assert told.pop() is work.error
        if work.is_let_go:
            assert not told
            told = self._told(work, LET_GO_MESSAGE)
        else:
            assert not self._told(work, LET_GO_MESSAGE)
        if job.state not in (JobState.FAILED, JobState.LET_GO) or isinstance(
            job.exception(), LEAVES
        ):
            assert not told
            return
        assert job.failure is not None
        failure = job.failure.error
        receivers = [
            call
            for call in self.calls
            if call.target is work
            and (call.by is not work or work.is_let_go)
            and call.what != "look back"
            and call.has_received(failure)
        ]
        if told:
            assert len(told) == 1
            assert told[0] is failure
            # A caller that asked in the turn of the failure would have received it.
            assert all(call.asked_in > work.closed_in for call in receivers)
        else:
            assert receivers

    def _told(self, work: Work, message: str) -> list[BaseException]:
        return [
            context["exception"]
            for context in self.reports
            if context["message"] == message and context["job"] is work.job
        ]

    def _check_shielded_failure(self, work: Work) -> None:
        """R2: the same for the failure of a shielded awaitable."""
        told = [
            context
            for context in self.reports
            if context["message"] == SHIELD_FAILED_MESSAGE
            and context["future"] is work.task
            and context["exception"] is work.error
        ]
        received = [
            call
            for call in self.calls
            if call.target is work and call.error is work.error is not None
        ]
        has_failed = work.has_failed and not isinstance(
            work.error, asyncio.CancelledError
        )
        assert len(told) + len(received) == 1 if has_failed else not told

    def _check_records(self) -> None:
        """E5: a close logs, once, the jobs it cancels or never starts. E3: others run."""
        records = [r for r in self._records if hasattr(r, "jobs_cancelled")]
        cancelled = Counter(name for r in records for name in r.jobs_cancelled)
        unstarted = Counter(name for r in records for name in r.jobs_never_started)
        assert all(times == 1 for times in (cancelled + unstarted).values())
        for work in self.works:
            if work.name in unstarted:
                assert work.started is None
                assert work.is_accepted
            elif work.name in cancelled:
                assert work.started is not None
                assert work.task is not None
            elif work.is_accepted and not work.is_targeted and work.timeout is None:
                assert work.started is not None
                assert work.task is not None
                assert work.cancelled <= work.cancelled_by_test

    def _check_what_left(self) -> None:
        """R6: KeyboardInterrupt and SystemExit leave through the loop, each once."""
        if self.loop.get_task_factory() is not None:
            return  # an eager task may raise it in the caller that creates the task
        leaves = [w for w in self.works + self.shielded if isinstance(w.error, LEAVES)]
        # One that is raised while another one is on its way replaces it.
        left, raised = len(self.left), len(leaves) + self._exits
        assert left <= raised
        if not self._exits:
            assert left == raised

    def check_nothing_is_kept(self) -> None:
        """L4: neither the scheduler nor the loop keeps jobs that are over."""
        works = self.works + self.shielded
        refs: list[weakref.ref[Any]] = [
            *(weakref.ref(work.payload) for work in works),
            *(weakref.ref(work.job) for work in works if work.job is not None),
        ]
        del works
        self.ledger = Ledger(self.scheduler)
        lists: tuple[list[Any], ...] = (
            self.works,
            self.shielded,
            self.calls,
            self.futures,
            self.line,
            self.reports,
            self.loop_errors,
            self.left,
            self._records,
        )
        for known in lists:
            known.clear()
        gc.collect()
        kept = [ref() for ref in refs if ref() is not None]
        assert not kept
