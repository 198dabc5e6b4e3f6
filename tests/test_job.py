"""One job: results and failures (rules R1 to R9), closing it (E0 to E2)."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest

from aiohttp_jobs import Job, JobCancelled, Scheduler
from aiohttp_jobs.core.errors import HungUp
from aiohttp_jobs.core.job import begin
from aiohttp_jobs.core.states import JobState
from tests.loops import later, make_loop, settle
from tests.work import Boom, Reports, fail, give, stubborn, wait_for


@pytest.fixture
def reports() -> Reports:
    return Reports()


# -- R1 ----------------------------------------------------------------------------------


async def test_any_number_of_waiters_get_the_result() -> None:
    """R1: to any number of waiters, before and after the end."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go))
        waiters = [asyncio.create_task(job.wait()) for _ in range(3)]
        await settle()
        go.set()
        assert await asyncio.gather(*waiters) == ["done"] * 3
        assert await job == "done"
        assert await job.wait(timeout=0) == "done"


async def test_any_number_of_waiters_get_the_exception(reports: Reports) -> None:
    """R1, R2: the failure reaches all waiters, and not the exception handler too."""
    go = asyncio.Event()
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(fail(go))
        waiters = [asyncio.create_task(job.wait()) for _ in range(3)]
        await settle()
        go.set()
        for waiter in waiters:
            with pytest.raises(Boom):
                await waiter
        with pytest.raises(Boom) as caught:
            await job
        frames = [entry.name for entry in caught.traceback]
        assert frames.count("fail") == 1
        assert "_run" not in frames  # the package's own frame is not shown
    assert reports.contexts == []


async def test_traceback_does_not_grow_with_the_waiters(reports: Reports) -> None:
    """R1: each waiter gets the traceback as it was at the failure."""
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(fail())
        lengths = []
        for _ in range(3):
            with pytest.raises(Boom) as caught:
                await job
            lengths.append(len(caught.traceback))
        assert len(set(lengths)) == 1


# -- R2 ----------------------------------------------------------------------------------


async def test_failure_without_waiter_reaches_the_handler_once(reports: Reports) -> None:
    """R2: each failure reaches somebody, once: if nobody waits, the handler."""
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(fail(), "name")
        await settle()
        with pytest.raises(Boom) as caught:
            await job  # a late waiter gets it too
    (context,) = reports.contexts
    assert context["message"] == "Job processing failed"
    assert context["job"] is job
    assert context["exception"] is caught.value
    debug = asyncio.get_running_loop().get_debug()
    assert ("source_traceback" in context) is debug
    if debug:
        assert context["source_traceback"][-1].filename == __file__


async def test_waiter_that_was_cancelled_before_does_not_count(reports: Reports) -> None:
    """R2: a waiter that was cancelled before does not count."""
    go = asyncio.Event()
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(fail(go))
        waiter = asyncio.create_task(job.wait())
        await settle()
        waiter.cancel()
        await asyncio.wait([waiter])
        go.set()
        await settle()
    assert reports.messages == ["Job processing failed"]


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_of_two_waiters_one_was_cancelled(
    reports: Reports, cancel_first: bool
) -> None:
    """R2: the waiter that is still alive gets the failure, and the handler does not."""
    go = asyncio.Event()
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(fail(go))
        waiters = [asyncio.create_task(job.wait()) for _ in range(2)]
        await settle()
        waiters[not cancel_first].cancel()
        await asyncio.wait([waiters[not cancel_first]])
        go.set()
        with pytest.raises(Boom):
            await waiters[cancel_first]
    assert reports.contexts == []


@pytest.mark.in_order
async def test_waiter_that_is_cancelled_in_the_turn_of_the_failure(
    reports: Reports,
) -> None:
    """R2: it was woken, but never received the failure: the handler gets it, once."""
    go = asyncio.Event()
    async with Scheduler(exception_handler=reports) as scheduler:

        async def fail_and_cancel() -> None:
            await go.wait()
            asyncio.get_running_loop().call_soon(cancel)
            raise Boom

        def cancel() -> None:
            for waiter in waiters:
                waiter.cancel()

        job = await scheduler.spawn(fail_and_cancel())
        waiters = [asyncio.create_task(job.wait()) for _ in range(2)]
        await settle()
        go.set()
        await asyncio.wait(waiters)
        assert all(waiter.cancelled() for waiter in waiters)
        with pytest.raises(Boom):
            await job
    assert reports.messages == ["Job processing failed"]


async def test_failure_goes_through_nested_jobs_once(reports: Reports) -> None:
    """R2: a job that waits for another one is a waiter like any other."""

    async def parent() -> None:
        await (await scheduler.spawn(fail()))

    async with Scheduler(exception_handler=reports) as scheduler:
        # Under an eager task factory the child has failed before anybody can wait.
        job = await scheduler.spawn(parent())
        with pytest.raises(Boom):
            await job
    assert len(reports.contexts) <= 2


# -- R3 ----------------------------------------------------------------------------------


async def test_cancelling_a_waiter_leaves_the_job_alone() -> None:
    """R3: cancelling a waiter leaves the job alone."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go))
        waiter = asyncio.create_task(job.wait())
        await settle()
        waiter.cancel()
        await asyncio.wait([waiter])
        assert waiter.cancelled()
        assert job.active
        go.set()
        assert await job == "done"


async def test_expired_wait_cancels_the_job() -> None:
    """R3: wait(timeout=) that expires cancels the job and raises TimeoutError."""
    loop = asyncio.get_running_loop()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(asyncio.Event()), "slow")
        start = loop.time()
        with pytest.raises(TimeoutError, match="slow did not end within 3 s"):
            await job.wait(timeout=3)
        assert loop.time() - start == pytest.approx(3)
        assert job.closed
        with pytest.raises(JobCancelled):
            await job


async def test_expired_wait_for_a_pending_job_drops_it() -> None:
    """R3: then a pending job never starts."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        job = await scheduler.spawn(wait_for(go))
        with pytest.raises(TimeoutError):
            await job.wait(timeout=1)
        assert job.closed
        assert scheduler.pending_count == 0
        go.set()


async def test_wait_that_was_cancelled_does_nothing_later() -> None:
    """R3: a wait whose caller was cancelled does nothing later."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go))
        waiter = asyncio.create_task(job.wait(timeout=1))
        await settle()
        waiter.cancel()
        await later(5)
        assert job.active
        go.set()
        assert await job == "done"


async def test_wait_that_is_cancelled_in_the_turn_of_its_deadline() -> None:
    """R3: if its caller was cancelled first, the job is left alone."""
    loop = asyncio.get_running_loop()
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go))
        # Both timers are due in one turn; the caller gets no turn in between.
        waiter: asyncio.Task[str]
        loop.call_later(1 - 1e-10, lambda: waiter.cancel())
        waiter = loop.create_task(job.wait(timeout=1))
        await asyncio.wait([waiter])
        assert waiter.cancelled()
        assert job.active
        go.set()
        assert await job == "done"


async def test_expired_wait_carries_the_failure_of_the_clean_up(
    reports: Reports,
) -> None:
    """R2, R3: a failure while being cancelled is the cause, and is not reported."""

    async def bad_clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom

    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(bad_clean_up())
        with pytest.raises(TimeoutError) as caught:
            await job.wait(timeout=1)
        assert isinstance(caught.value.__cause__, Boom)
    assert reports.contexts == []


async def test_result_in_the_turn_of_the_deadline_counts() -> None:
    """R3: a job that has ended has not timed out."""
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(later(1))
        await job.wait(timeout=1.0001)


@pytest.mark.parametrize("timeout", ["1", -1, True, float("nan")])
async def test_bad_wait_timeout_is_refused(timeout: Any) -> None:
    """A7: the error names the argument, and the job is left alone."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go))
        with pytest.raises((TypeError, ValueError), match="timeout"):
            await job.wait(timeout=timeout)
        with pytest.raises((TypeError, ValueError), match="timeout"):
            await job.close(timeout=timeout)
        assert job.active
        go.set()


# -- R4 ----------------------------------------------------------------------------------


async def test_spawn_timeout_bounds_the_run_from_its_start(reports: Reports) -> None:
    """R4: the timeout bounds the run itself; the job fails with TimeoutError."""
    loop = asyncio.get_running_loop()
    async with Scheduler(limit=1, exception_handler=reports) as scheduler:
        await scheduler.spawn(later(10))
        job = await scheduler.spawn(wait_for(asyncio.Event()), "slow", timeout=3)
        with pytest.raises(TimeoutError, match="slow ran longer than 3 s"):
            await job
        assert loop.time() >= 13
        assert job.closed
        await (await scheduler.spawn(give(1), timeout=3))
        unseen = await scheduler.spawn(wait_for(asyncio.Event()), timeout=1)
        await later(2)
        assert unseen.closed
    (context,) = reports.contexts
    assert context["job"] is unseen
    assert isinstance(context["exception"], TimeoutError)


@pytest.mark.parametrize("how", ["returns", "fails", "swallows"])
async def test_job_whose_time_is_up_has_failed_however_it_ends(
    how: str, reports: Reports
) -> None:
    """R4: it fails with TimeoutError, however it takes the cancellation."""
    go = asyncio.Event()

    async def work() -> None:
        try:
            await go.wait()
        except asyncio.CancelledError:
            if how == "fails":
                raise Boom from None
            if how == "swallows":
                await stubborn(go)

    scheduler = Scheduler(exception_handler=reports, close_timeout=2)
    job = await scheduler.spawn(work(), timeout=1)
    with pytest.raises(TimeoutError) as caught:
        await job
    assert isinstance(caught.value.__cause__, Boom) is (how == "fails")
    go.set()
    await settle()
    await scheduler.close()
    assert reports.messages == []


async def test_job_that_swallows_the_end_of_its_time_is_told_once(
    reports: Reports,
) -> None:
    """R4: if it swallows that cancellation, it is reported once, when it is let go."""
    go = asyncio.Event()
    scheduler = Scheduler(exception_handler=reports, close_timeout=2)
    job = await scheduler.spawn(stubborn(go), timeout=1)
    await later(9)
    (context,) = reports.contexts
    assert context["message"] == "Job closing timed out"
    assert "ran longer than 1 s" in str(context["exception"])
    assert job.exception() is context["exception"]
    go.set()
    await scheduler.close()
    assert len(reports.contexts) == 1


# -- R5 ----------------------------------------------------------------------------------


async def test_handler_that_raises_is_reported_with_both_exceptions(
    loop_errors: list[dict[str, Any]],
) -> None:
    """R5: its own failure is reported to the loop's handler, with both exceptions."""

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        raise LookupError("handler")

    async with Scheduler(exception_handler=handler, limit=1) as scheduler:
        await scheduler.spawn(fail())
        job = await scheduler.spawn(give("next"))
        assert await job == "next"
    (context,) = loop_errors
    assert isinstance(context["exception"], LookupError)
    assert isinstance(context["exception"].__context__, Boom)
    assert isinstance(context["context"]["exception"], Boom)


async def test_failures_go_to_the_loops_handler_by_default(
    loop_errors: list[dict[str, Any]],
) -> None:
    """R5: without a handler, failures go to the loop's, with the job in the context."""
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(fail(), "mail", origin="POST /mails")
    (context,) = loop_errors
    assert context["message"] == "Job processing failed"
    assert context["job"] is job
    assert isinstance(context["exception"], Boom)
    named = (context["job_id"], context["job_name"], context["job_origin"])
    assert named == (job.id, "mail", "POST /mails")


async def test_call_exception_handler_is_public(
    reports: Reports, loop_errors: list[dict[str, Any]]
) -> None:
    """Compatibility: the handler can be called directly, even before the first job."""
    Scheduler(exception_handler=reports).call_exception_handler({"message": "mine"})
    assert reports.messages == ["mine"]
    Scheduler().call_exception_handler({"message": "loop's"})
    assert loop_errors == [{"message": "loop's"}]


# -- R6 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=pytest.mark.eager)])
def test_keyboard_interrupt_leaves_through_the_loop(
    kind: type[BaseException], eager: bool, reports: Reports
) -> None:
    """R6: it leaves through the loop as it does in asyncio; the books stay right."""
    loop = asyncio.new_event_loop()
    if eager:
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
    scheduler = Scheduler(exception_handler=reports, limit=1)
    ran = []

    async def interrupt() -> None:
        if not eager:
            await asyncio.sleep(0)
        raise kind("stop")

    async def go_on() -> None:
        ran.append(1)

    async def main() -> None:
        await scheduler.spawn(interrupt())
        await scheduler.spawn(go_on())
        await asyncio.Event().wait()

    task = loop.create_task(main()) if not eager else None
    with pytest.raises(kind):
        loop.run_until_complete(task or main())

    async def after() -> None:
        await scheduler.spawn(go_on())
        await settle()
        await scheduler.close()

    loop.run_until_complete(after())
    if task is not None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()
    assert len(ran) == (1 if eager else 2)
    assert len(scheduler) == 0
    assert scheduler._parts.slots.free == 1
    assert reports.contexts == []


def test_exception_handler_that_exits_keeps_nobody_waiting() -> None:
    """R6, E7: SystemExit leaves through the loop; waits for the end still return."""

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        raise SystemExit("stop")

    async def bad_clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await later(1)
            raise Boom

    async def main() -> None:
        await scheduler.spawn(bad_clean_up())
        await settle()
        await scheduler.close()

    scheduler = Scheduler(exception_handler=handler, close_timeout=None)
    with contextlib.closing(make_loop("asyncio")) as loop:
        task = loop.create_task(main())
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
        loop.run_until_complete(task)


def test_exception_handler_that_exits_does_not_lose_a_job_that_is_let_go() -> None:
    """R6: the handler is told of both, and the job is kept as long as it runs."""
    go, messages = asyncio.Event(), list[str]()

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        messages.append(context["message"])
        raise SystemExit("stop")

    async def main() -> None:
        await scheduler.spawn(stubborn(go), timeout=1)
        await later(2)

    scheduler = Scheduler(exception_handler=handler)
    with contextlib.closing(make_loop("asyncio")) as loop:
        task = loop.create_task(main())
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
        assert len(scheduler._parts.gate.strays) == 1
        loop.run_until_complete(task)
        go.set()
        loop.run_until_complete(settle())
    assert messages == ["Job closing timed out"]
    assert scheduler._parts.gate.strays == set()


@pytest.mark.eager
def test_keyboard_interrupt_out_of_an_eager_start_harms_no_other_job(
    reports: Reports,
) -> None:
    """R6, A9: the failure of the job whose slot it took is reported, and a drain ends."""
    go = asyncio.Event()

    async def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        await scheduler.spawn(fail(go))
        await scheduler.spawn(interrupt())
        go.set()
        await scheduler.wait_and_close()

    scheduler = Scheduler(exception_handler=reports, limit=1, wait_timeout=None)
    with contextlib.closing(make_loop("eager")) as loop:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        loop.run_until_complete(task)
    assert reports.messages == ["Job processing failed"]


async def test_other_base_exception_is_a_failure_like_others(reports: Reports) -> None:
    """R6: any other BaseException is a failure like others."""

    class Odd(BaseException):
        pass

    async def odd(error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    async with Scheduler(exception_handler=reports, limit=1) as scheduler:
        for error in (Odd(), GeneratorExit()):
            job = await scheduler.spawn(odd(error))
            with pytest.raises(type(error)):
                await job
            await scheduler.spawn(odd(error))
            await settle()
        assert scheduler.active_count == 0
    assert len(reports.contexts) == 2


# -- R7 ----------------------------------------------------------------------------------


async def test_waiting_for_a_closed_job_raises_job_cancelled() -> None:
    """R7: JobCancelled is a CancelledError that the waiter can tell from its own."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        active = await scheduler.spawn(wait_for(go), "active")
        pending = await scheduler.spawn(wait_for(go), "pending")
        waiters = [asyncio.create_task(job.wait()) for job in (active, pending)]
        await settle()
        await pending.close()
        await active.close()
        for waiter, name in zip(waiters, ("active", "pending"), strict=True):
            with pytest.raises(JobCancelled, match=f"Job {name} was cancelled"):
                await waiter
        assert issubclass(JobCancelled, asyncio.CancelledError)


async def test_job_that_cancels_itself_is_cancelled() -> None:
    """R7: a job that raises CancelledError is closed as cancelled."""

    async def give_up() -> None:
        raise asyncio.CancelledError

    async with Scheduler() as scheduler:
        job = await scheduler.spawn(give_up())
        with pytest.raises(JobCancelled):
            await job
        assert job.state is JobState.CANCELLED


async def test_job_that_is_cancelled_before_its_first_step() -> None:
    """R7, A5: its coroutine is closed, the books are right, and nothing warns."""
    async with Scheduler(limit=1) as scheduler:
        job = await scheduler.spawn(wait_for(asyncio.Event()))
        await job.close()
        assert job.closed
        assert scheduler._parts.slots.free == 1


async def test_task_of_a_job_that_somebody_cancels() -> None:
    """R7: whoever cancels the task, the job is cancelled and the books are right."""
    async with Scheduler(limit=1) as scheduler:
        started = asyncio.Event()
        for wait in (False, True):

            async def work() -> None:
                started.set()
                await asyncio.Event().wait()

            before = asyncio.all_tasks()
            job = await scheduler.spawn(work())
            if wait:
                await started.wait()
            for task in asyncio.all_tasks() - before:
                task.cancel()
            with pytest.raises(JobCancelled):
                await job
            assert scheduler.active_count == 0


# -- R8 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["wait for", "close"])
async def test_job_that_waits_for_or_closes_itself(verb: str) -> None:
    """R8: it gets a RuntimeError that says why."""
    jobs: list[Job[None]] = []

    async def work() -> None:
        await asyncio.sleep(0)
        await (jobs[0].wait() if verb == "wait for" else jobs[0].close())

    async with Scheduler() as scheduler:
        jobs.append(await scheduler.spawn(work(), "me"))
        with pytest.raises(RuntimeError, match=f"Job me cannot {verb} itself"):
            await jobs[0]


# -- R9 ----------------------------------------------------------------------------------


async def test_exception_handler_is_called_from_the_loop() -> None:
    """R9: with no current task and no sys.exc_info(), even if a timer ends the job, and
    for a shielded awaitable."""
    seen, go = list[tuple[str, object, object]](), asyncio.Event()

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        told = context["message"], asyncio.current_task(), sys.exc_info()[0]
        seen.append(told)

    async def protect() -> None:
        await scheduler.shield(fail(go))

    scheduler = Scheduler(limit=1, close_timeout=1, exception_handler=handler)
    await scheduler.spawn(fail())
    await scheduler.spawn(stubborn(go), timeout=1)
    caller = asyncio.create_task(protect())
    await settle()
    caller.cancel()
    await later(5)
    go.set()
    await scheduler.wait_and_close()
    await settle()
    assert len(seen) >= 3
    assert {(task, error) for _, task, error in seen} == {(None, None)}


# -- E0, E1, E2: closing one job ---------------------------------------------------------


async def test_close_is_a_hard_deadline(reports: Reports) -> None:
    """E0, R2: close returns on time, tells only its caller, and lets the job go."""
    loop = asyncio.get_running_loop()
    go, cancelled = asyncio.Event(), list[float]()
    async with Scheduler(exception_handler=reports, limit=1) as scheduler:
        job = await scheduler.spawn(stubborn(go, cancelled), "stubborn")
        await settle()
        waiter = asyncio.create_task(job.wait())
        await settle()
        start = loop.time()
        with pytest.raises(TimeoutError, match="stubborn did not end in time"):
            await job.close(timeout=3)
        assert loop.time() - start == pytest.approx(3)
        assert job.closed
        assert len(scheduler) == 0
        with pytest.raises(JobCancelled):
            await waiter
        assert await (await scheduler.spawn(give("slot is free"))) == "slot is free"
        await later(100)
        assert reports.contexts == []
        assert len(cancelled) == 1  # E1: its clean-up goes on undisturbed
        go.set()
        await settle()
        assert scheduler._parts.gate.strays == set()


async def test_default_close_timeout_is_the_schedulers() -> None:
    """E0: None is the scheduler's close_timeout."""
    loop = asyncio.get_running_loop()
    go = asyncio.Event()
    async with Scheduler(close_timeout=7, exception_handler=Reports()) as scheduler:
        job = await scheduler.spawn(stubborn(go))
        await settle()
        start = loop.time()
        with pytest.raises(TimeoutError):
            await job.close()
        assert loop.time() - start == pytest.approx(7)
        go.set()


async def test_expired_wait_gives_the_job_its_close_timeout(reports: Reports) -> None:
    """E0: wait(timeout=) that expires gives the job close_timeout to end, then raises."""
    loop = asyncio.get_running_loop()
    go = asyncio.Event()
    async with Scheduler(close_timeout=5, exception_handler=reports) as scheduler:

        async def slow_clean_up() -> None:
            try:
                await go.wait()
            finally:
                await later(2)

        job = await scheduler.spawn(slow_clean_up())
        start = loop.time()
        with pytest.raises(TimeoutError):
            await job.wait(timeout=1)
        assert loop.time() - start == pytest.approx(3)
        assert reports.contexts == []
        job2 = await scheduler.spawn(stubborn(go))
        start = loop.time()
        with pytest.raises(TimeoutError):
            await job2.wait(timeout=1)
        assert loop.time() - start == pytest.approx(6)
        await settle()
        assert reports.messages == ["Job closing timed out"]
        go.set()


async def test_failure_after_it_was_let_go_is_reported(reports: Reports) -> None:
    """R2: the failure of a job that was let go reaches the handler."""
    go = asyncio.Event()

    async def late_failure() -> None:
        await stubborn(go)
        raise Boom

    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(late_failure())
        await settle()
        with pytest.raises(TimeoutError):
            await job.close(timeout=1)
        go.set()
        await settle()
    assert reports.messages == ["Job processing failed"]


async def test_job_is_cancelled_at_most_once() -> None:
    """E1: however often and by whomever it is closed; the earliest deadline counts."""
    loop = asyncio.get_running_loop()
    go, cancelled = asyncio.Event(), list[float]()
    scheduler = Scheduler(close_timeout=50, exception_handler=Reports())
    job = await scheduler.spawn(stubborn(go, cancelled), timeout=1)
    await settle()
    start = loop.time()
    closers = [
        asyncio.create_task(job.close(timeout=30)),
        asyncio.create_task(job.close(timeout=3)),
        asyncio.create_task(job.close(timeout=40)),
        asyncio.create_task(scheduler.close()),
    ]
    await asyncio.wait(closers)
    assert loop.time() - start == pytest.approx(3)
    assert len(cancelled) == 1
    assert [type(closer.exception()) for closer in closers] == [TimeoutError] * 3 + [
        type(None)
    ]
    go.set()
    await settle()


async def test_closing_a_closed_job_does_nothing() -> None:
    """E1: whatever can be closed can be closed twice."""
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(give(1))
        await job
        await job.close()
        assert await job == 1


async def test_close_raises_what_the_job_raised_while_cancelled(
    reports: Reports,
) -> None:
    """R2: the closer is a waiter too, and gets the failure."""

    async def bad_clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom

    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(bad_clean_up())
        await settle()
        with pytest.raises(Boom):
            await job.close()
    assert reports.contexts == []


async def test_close_in_the_clean_up_of_a_cancelled_task() -> None:
    """E2: job.close() from a task that is being cancelled runs to its end."""
    go, steps = asyncio.Event(), list[str]()

    async def slow_clean_up() -> None:
        try:
            await go.wait()
        finally:
            await later(0.05)
            steps.append("job")

    async def owner() -> None:
        job = await scheduler.spawn(slow_clean_up())
        try:
            await asyncio.Event().wait()
        finally:
            await job.close()
            steps.append("owner")

    async with Scheduler() as scheduler:
        task = asyncio.create_task(owner())
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert steps == ["job", "owner"]


async def test_cancellation_that_arrives_while_closing_gets_through(
    reports: Reports,
) -> None:
    """E2: a cancellation that arrives while close waits gets through; deadlines stay."""
    go = asyncio.Event()
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(stubborn(go))
        await settle()
        closer = asyncio.create_task(job.close(timeout=5))
        await settle()
        closer.cancel()
        await asyncio.wait([closer])
        assert closer.cancelled()
        assert job.active
        await later(6)
        assert job.closed
        assert reports.messages == ["Job closing timed out"]
        go.set()


async def test_close_without_a_bound_waits_as_long_as_it_takes() -> None:
    """E0: a close_timeout of None is no bound."""
    go = asyncio.Event()
    scheduler = Scheduler(close_timeout=None)
    job = await scheduler.spawn(stubborn(go))
    await settle()
    closer = asyncio.create_task(job.close())
    await later(1000)
    assert not closer.done()
    go.set()
    await closer
    await scheduler.close()


# -- looking at it -----------------------------------------------------------------------


async def test_state_as_its_owner_sees_it() -> None:
    """Compatibility: active, pending, closed, names and reprs are as in aiojobs."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        first = await scheduler.spawn(wait_for(go))
        second = await scheduler.spawn(wait_for(go), name="second")
        assert repr(first).startswith("<Job coro=<<coroutine object wait_for")
        assert repr(second).startswith("<Job pending coro=<<coroutine object wait_for")
        name = first.get_name()
        assert name is not None
        # "None" under the eager factory of 3.13.0; the last under one that names tasks.
        assert name.startswith("Task-") or name in ("None", "wait_for (traced)")
        assert second.get_name() == "second"
        second.set_name("renamed")
        assert second.get_name() == "renamed"
        first.set_name("first")
        go.set()
        await second
        assert (second.active, second.pending, second.closed) == (False, False, True)
        assert repr(second).startswith("<Job closed coro=<<coroutine object wait_for")
        assert first.get_name() == "first"
        assert second.get_name() == "renamed"


async def test_unnamed_job_is_called_as_its_task_until_its_end_is_told() -> None:
    """Compatibility: an exception handler may ask for the name; the label stays."""
    go, told = asyncio.Event(), list[tuple[str | None, str]]()

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        told.append((context["job"].get_name(), context["job"].label))

    async with Scheduler(exception_handler=handler) as scheduler:
        job = await scheduler.spawn(fail(go))
        named = job.get_name()
        assert named is not None
        go.set()
        await settle()
        assert told == [(named, "fail")]
        assert (job.get_name(), job.label) == (None, "fail")


async def test_illegal_move_is_refused() -> None:
    """A job's state changes in one place, which refuses to go back."""
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(give(1))
        await job
        with pytest.raises(AssertionError, match="SUCCEEDED to ACTIVE"):
            begin(job, asyncio.get_running_loop(), is_new=True)


async def test_job_whose_client_has_gone_has_not_failed(reports: Reports) -> None:
    """W4: a client's own hang-up is no failure of the job; it is counted separately."""
    error = ConnectionResetError("gone")

    async def answer() -> None:
        raise HungUp(error)

    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(answer())
        await settle()
        assert job.state is JobState.HUNG_UP
        assert job.exception() is None
        with pytest.raises(ConnectionResetError) as caught:
            await job
        assert caught.value is error
        await job.close()
        statistics = scheduler.statistics()
        assert (statistics.hung_up, statistics.failed, statistics.closed) == (1, 0, 1)
    assert reports.contexts == []
