"""What the state machine of test_model.py writes down, and how it checks the contract.

After each step: counts, slots, the line, and that jobs and coroutines agree. When all has
settled: that nobody waits without a reason, and deadlines. At the end: what became of
each job, failure and call, and that nothing is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aiohttp_jobs import Job, JobCancelled, JobsError, Scheduler
from aiohttp_jobs.core.job import CANCELLED, FAILED, LET_GO, SUCCEEDED
from aiohttp_jobs.core.scheduler import SchedulerState
from tests.loops import VirtualLoop
from tests.model import LEAVES, Call, Give, Manner, Order, Watched, Work, spawner

__all__ = ("Books",)

FAILED_MESSAGE = "Job processing failed"
LET_GO_MESSAGE = "Job closing timed out"
SHIELD_FAILED_MESSAGE = "Shielded awaitable failed after its caller had gone"


class Books:
    """What is known of one scheduler and of everything around it.

    Args:
        loop: what it is on.
        handler: what the exception handler does besides keeping what it is told.
        options: the scheduler's own.
    """

    def __init__(self, loop: VirtualLoop, handler: str, **options: Any) -> None:
        self.loop = loop
        self.handler = handler
        self.scheduler = Watched(exception_handler=self._handle, **options)
        self.scheduler.on_make = self._on_make
        self.scheduler.on_start = self._on_start
        self.scheduler.on_release = self._on_release
        loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))

        self.works: list[Work] = []
        self.shielded: list[Work] = []
        self.calls: list[Call] = []
        # What held jobs are held back for.
        self.futures: list[asyncio.Future[None]] = []
        # Works whose jobs wait for a slot or for room, in the order in which they came.
        self._line: list[Work] = []
        # What the exception handlers were told of.
        self.reports: list[dict[str, Any]] = []
        self.loop_errors: list[dict[str, Any]] = []
        # What came out of the loop; how often the exception handler raised SystemExit.
        self.left: list[BaseException] = []
        self._exits = 0
        # The log records of closing.
        self._records: list[Any] = []
        # What was found wrong where it could not be raised.
        self._violations: list[str] = []
        self._state = SchedulerState.OPEN

    # -- writing -------------------------------------------------------------------------

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what the log is told of closing."""
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

    def new_work(self, manner: Manner, orders: list[Order]) -> Work:
        work = Work(f"work {len(self.works)}", manner, orders)
        self.works.append(work)
        return work

    def _handle(self, scheduler: Scheduler, context: dict[str, Any]) -> None:
        self.reports.append(context)
        if context["message"] == LET_GO_MESSAGE:
            self._work_of(context["job"]).is_let_go = True
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
            self.loop.create_task(call.perform(), context=contextvars.Context())

    def _spawn_another(self) -> None:
        work = self.new_work("obeys", [Give()])
        work.spawned_by = spawner.get()
        try:
            self.scheduler.spawn_nowait(work.coro, work.name)
        except JobsError:
            work.is_refused = True
        else:
            work.is_accepted = True

    def _on_make(self, job: Job[Any]) -> None:
        work = self._work_of(job)
        work.job = job
        if work.takes_slot and not work.is_held:
            self._line.append(work)

    def _on_release(self, job: Job[Any]) -> None:
        """A held job joins the queue: before those who still wait for room in it."""
        work = self._work_of(job)
        work.is_held = False
        queued = [n for n, other in enumerate(self._line) if self._is_listed(other)]
        self._line.insert(max(queued, default=-1) + 1, work)

    def _on_start(self, job: Job[Any]) -> None:
        work = self._work_of(job)
        work.started = self.loop.time()
        if self.scheduler.closed:
            self._violations.append(f"{work} starts in a closed scheduler")
        if not work.takes_slot:
            return
        if self.scheduler._free <= 0:
            self._violations.append(f"{work} starts without a free slot")
        line = [other for other in self._line if not self._has_gone(other)]
        if line[:1] != [work]:
            self._violations.append(f"{work} starts, and {line} wait")
        self._line.remove(work)

    def _work_of(self, job: Job[Any]) -> Work:
        assert job._name is not None
        return self.works[int(job._name.split()[1])]

    def _is_listed(self, work: Work) -> bool:
        return not work.is_refused and work.job in self.scheduler

    def _has_gone(self, work: Work) -> bool:
        """Does it wait in the line no longer?"""
        assert work.job is not None
        gives_up = work.spawning is not None and work.spawning.is_cancelled
        return work.is_refused or work.job.closed or gives_up

    # -- after each step -----------------------------------------------------------------

    def check_step(self) -> None:
        assert not self._violations
        self._check_counts()
        self._check_slots()
        self._check_line()
        for work in self.works:
            self._check_state(work)
        assert self.scheduler.state >= self._state
        self._state = self.scheduler.state
        if self.handler != "raises":
            errors = [
                context
                for context in self.loop_errors
                if not isinstance(context.get("exception"), LEAVES)
            ]
            assert not errors

    def _check_counts(self) -> None:
        """L1, L5: they are exact at every moment."""
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
        if self._state is SchedulerState.CLOSED:
            assert not listed

    def _check_slots(self) -> None:
        """L1, L2: whoever runs and does not wait has a slot, and nobody else."""
        if self.scheduler.limit is not None:
            taken = [
                work
                for work in self.works
                if work.takes_slot and work.job and work.job.active and not work.lends
            ]
            assert self.scheduler._free == self.scheduler.limit - len(taken), taken

    def _check_line(self) -> None:
        """A2, A3: pending jobs stand in their order, and before those without room."""
        scheduler = self.scheduler
        pending = list(scheduler)[scheduler.active_count :]
        queue = [work for work in map(self._work_of, pending) if not work.is_held]
        assert [work for work in self._line if self._is_listed(work)] == queue
        have_room = [self._is_listed(w) for w in self._line if not self._has_gone(w)]
        assert have_room == sorted(have_room, reverse=True)
        if scheduler.pending_limit:
            # Held jobs do not keep a caller from a free slot. It may be gone by then, for
            # one who had lent it goes on; and the held one may be held no more.
            held = any(work.was_held for work in map(self._work_of, pending))
            assert scheduler.pending_count <= scheduler.pending_limit + held

    def _check_state(self, work: Work) -> None:
        """A job is over when its coroutine is, and not before unless it was let go."""
        job = work.job
        state = inspect.getcoroutinestate(work.coro)
        if work.is_refused:
            assert state == "CORO_CLOSED"
        elif job is None or job.pending:
            assert state == "CORO_CREATED"
        elif job.active:
            assert state != "CORO_CLOSED"
        elif not work.is_let_go:
            assert state == "CORO_CLOSED"

    # -- when all has settled ------------------------------------------------------------

    def check_settled(self) -> None:
        """Nobody waits without a reason, or for longer than to the deadline."""
        scheduler, now = self.scheduler, self.loop.time()
        waiting = [call for call in self.calls if call.waits]
        for call in waiting:
            assert call.deadline is None or now < call.deadline, call
            # E4: one that drains and closes goes on with that.
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
        if not len(scheduler) and not len(scheduler._shields):
            ends = ("drain", "wait_and_close", "close")
            assert not [call for call in waiting if call.what in ends]

    def _check_progress(self, callers: list[Call]) -> None:
        """A3, A4, L2: free slots and free room are used."""
        scheduler = self.scheduler
        if scheduler.closed:
            assert not callers
            return
        pending = list(scheduler)[scheduler.active_count :]
        held = [job for job in pending if self._work_of(job).is_held]
        if len(held) < len(pending) or callers:
            assert scheduler._free <= 0
        if callers:
            assert scheduler.pending_limit
            assert scheduler.pending_count >= scheduler.pending_limit

    # -- at the end ----------------------------------------------------------------------

    def check_end(self) -> None:
        assert self.scheduler.state is SchedulerState.CLOSED
        for call in self.calls:
            assert not call.waits, call
            if call.what == "wait" and call.is_done:
                self._check_wait(call)
        for work in self.works + self.shielded:
            if work.task is not None:
                assert work.cancelled - work.cancelled_by_test <= 1, work  # E1
            elif not work.is_refused:
                work.coro.close()  # its call was never made
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
        self._check_containers()

    def _check_wait(self, call: Call) -> None:
        """R1, R3, R7, R8: a wait gives the outcome of the job, or says why not."""
        work, error = call.target, call.error
        assert work is not None
        assert work.job is not None
        state = work.job._state
        if error is None:
            assert call.result is work.payload
            assert state is SUCCEEDED
        elif isinstance(error, JobCancelled):
            assert state in (CANCELLED, LET_GO)
        elif isinstance(error, asyncio.CancelledError):
            assert call.was_cancelled
        elif isinstance(error, RuntimeError):
            assert call.by is work
        elif isinstance(error, SystemExit):
            assert self.handler == "exits"
        elif state is not FAILED or error is not work.job._outcome[0]:
            assert isinstance(error, TimeoutError)
            assert call.timeout is not None

    def _check_outcome(self, work: Work) -> None:
        """Each accepted job has one outcome, that of its coroutine."""
        job = work.job
        assert job is not None
        assert len(self._told(work, LET_GO_MESSAGE)) == work.is_let_go
        if job._state is SUCCEEDED:
            assert job._outcome is work.payload
            assert work.has_ended
            assert work.error is None
        elif job._state is FAILED and job._outcome[0] is not work.error:
            assert isinstance(job._outcome[0], TimeoutError)  # R4
            assert work.timeout is not None
        elif job._state is LET_GO:
            assert work.is_let_go
        elif job._state is CANCELLED:
            assert work.task is None or isinstance(work.error, asyncio.CancelledError)
        if work.task is not None:
            assert work.found_itself_by == work.spawned_by  # A6

    def _check_failure(self, work: Work) -> None:
        """R2: it reaches those who wait when it happens; else the exception handler."""
        job = work.job
        assert job is not None
        told = self._told(work, FAILED_MESSAGE)
        if work.is_let_go and work.has_failed:
            assert told.pop() is work.error
        if job._state is not FAILED or isinstance(job._outcome[0], LEAVES):
            assert not told
            return
        failure = job._outcome[0]
        receivers = [
            call
            for call in self.calls
            if call.target is work and call.has_received(failure)
        ]
        if told:
            assert told == [failure]
            assert all(call.is_late for call in receivers)
        else:
            assert receivers

    def _told(self, work: Work, message: str) -> list[BaseException]:
        return [
            context["exception"]
            for context in self.reports
            if context["message"] == message and context["job"] is work.job
        ]

    def _check_shielded_failure(self, work: Work) -> None:
        """R2: likewise."""
        told = [
            context
            for context in self.reports
            if context["message"] == SHIELD_FAILED_MESSAGE
            and context["exception"] is work.error
        ]
        received = [
            call
            for call in self.calls
            if call.target is work and call.error is work.error is not None
        ]
        assert len(told) + len(received) == 1 if work.has_failed else not told

    def _check_records(self) -> None:
        """E5: what a close cancelled or never started is told, once."""
        cancelled = Counter(n for record in self._records for n in record.jobs_cancelled)
        unstarted = Counter(
            name for record in self._records for name in record.jobs_never_started
        )
        assert all(times == 1 for times in (cancelled + unstarted).values())
        for work in self.works:
            if work.name in unstarted:
                assert work.started is None
                assert work.is_accepted
            elif work.name in cancelled:
                assert work.started is not None
            elif work.is_accepted and not work.is_targeted and work.timeout is None:
                assert work.started is not None
                assert work.task is not None
                assert work.cancelled <= work.cancelled_by_test

    def _check_what_left(self) -> None:
        """R6: KeyboardInterrupt and SystemExit leave through the loop, each once."""
        if self.loop.get_task_factory() is not None:
            return  # an eager task may raise it to whoever makes the task
        leaves = [w for w in self.works + self.shielded if isinstance(w.error, LEAVES)]
        caught = [call for call in self.calls if isinstance(call.error, SystemExit)]
        raised = len(leaves) + self._exits
        # One that is raised while another one is on its way takes its place.
        left = len(self.left) + len(caught)
        assert left == raised if self.handler != "exits" else left <= raised

    def _check_containers(self) -> None:
        scheduler = self.scheduler
        for container in (
            scheduler._active,
            scheduler._at_once,
            scheduler._strays,
            scheduler._shields._shielded,
            scheduler._shields._strays,
            scheduler._drainers.waiting,
            scheduler._pending.queue,
            scheduler._pending.held,
            scheduler._pending.callers,
            scheduler._pending.unconfirmed,
        ):
            assert not container

    def check_nothing_is_kept(self) -> None:
        """L4: neither the scheduler nor the loop keeps what is over."""
        works = self.works + self.shielded
        refs: list[weakref.ref[Any]] = [
            *(weakref.ref(work.payload) for work in works),
            *(weakref.ref(work.job) for work in works if work.job is not None),
        ]
        del works
        lists: tuple[list[Any], ...] = (
            self.works,
            self.shielded,
            self.calls,
            self.futures,
            self._line,
            self.reports,
            self.loop_errors,
            self.left,
        )
        for known in lists:
            known.clear()
        gc.collect()
        kept = [ref() for ref in refs if ref() is not None]
        assert not kept
