"""in_thread: functions that block, in threads and in processes (A6, E0, E1, L1, R2)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import multiprocessing
import operator
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from aiohttp_jobs import JobCancelled, JobState, Scheduler, in_thread
from tests.loops import later, make_loop, settle
from tests.work import Boom, Reports, give, nothing

# Seconds after which a thread goes on by itself; a passing test never waits this long.
PATIENCE = 30

user: contextvars.ContextVar[str] = contextvars.ContextVar("user")


class Blocking:
    """A function that blocks its thread until `go_on` is called.

    Args:
        error: the exception that it raises in the end.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self._begun = threading.Event()
        self._go = threading.Event()
        self._error = error
        # Whether it was cancelled, when it ended.
        self.was_cancelled: bool | None = None

    def __call__(self) -> str:
        self._begun.set()
        assert self._go.wait(PATIENCE)
        self.was_cancelled = in_thread.cancelled()
        if self._error is not None:
            raise self._error
        return "returned"

    async def begins(self) -> None:
        """Wait until it blocks in its thread. No timer runs out meanwhile."""
        await settle()
        assert self._begun.wait(PATIENCE)

    def go_on(self) -> None:
        self._go.set()


class Closed(asyncio.Event):
    """Set when a job is closed, without receiving its failure."""

    def job_closed(self, job: Any) -> None:
        self.set()


class ByHand(Executor):
    """Calls nothing: the test decides the outcome of the function.

    Args:
        future: represents the function's end.
    """

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._future


def never_called() -> str:
    raise AssertionError


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def one_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


# -- what it calls, and where ------------------------------------------------------------


async def test_result_of_the_function_is_that_of_the_job() -> None:
    """R1: the function is called with the arguments, in another thread."""

    def work(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs, threading.current_thread() is threading.main_thread()

    async with Scheduler() as scheduler:
        job = await scheduler.spawn(in_thread(work, 1, 2, function=3))
        assert await job == ((1, 2), {"function": 3}, False)


async def test_executor_of_ones_own_calls_it(one_thread: ThreadPoolExecutor) -> None:
    """And not the loop's default executor."""
    async with Scheduler() as scheduler:
        here = one_thread.submit(threading.get_ident).result()
        assert await in_thread(threading.get_ident, executor=one_thread) == here
        job = await scheduler.spawn(in_thread(threading.get_ident, executor=one_thread))
        assert await job == here


async def test_coroutine_has_the_name_of_the_function() -> None:
    """E5: log records and dashboards name the function, and not its wrapper."""
    async with Scheduler() as scheduler:
        for function, name in (
            (math.factorial, "factorial"),
            (functools.partial(functools.partial(math.factorial)), "factorial"),
            (Reports().contexts.copy, "list.copy"),
            (operator.itemgetter(0), "itemgetter"),
        ):
            coro: Any = in_thread(function, [5])  # type: ignore[call-overload]
            assert coro.__qualname__ == name
            coro.close()
        job = await scheduler.spawn(in_thread(math.factorial, 5))
        assert job.label == "factorial"
        assert await job == 120


async def test_function_has_the_context_variables_of_its_job() -> None:
    """A6: in a copy, so nobody else sees what it sets."""

    def work() -> str:
        before = user.get()
        user.set("eve")
        return before

    async with Scheduler() as scheduler:
        user.set("ann")
        job = await scheduler.spawn(in_thread(work))
        user.set("bob")
        assert await job == "ann"
        assert user.get() == "bob"
        context = contextvars.copy_context()
        context.run(user.set, "carol")
        job = await scheduler.spawn(in_thread(work), context=context)
        assert await job == "carol"
        assert context[user] == "carol"


async def test_function_may_spawn_by_its_loop_as_a_part_of_its_job() -> None:
    """L2: it waits in its thread for a job that needs the only slot."""
    loop = asyncio.get_running_loop()

    async def spawn_and_wait() -> Any:
        return await (await scheduler.spawn(give("child")))

    def work() -> Any:
        return asyncio.run_coroutine_threadsafe(spawn_and_wait(), loop).result(PATIENCE)

    async with Scheduler(limit=1) as scheduler:
        assert await (await scheduler.spawn(in_thread(work))) == "child"


async def test_what_is_no_function_is_refused_at_once() -> None:
    """A5: with a sentence, before anything is queued."""
    coro = nothing()
    with pytest.raises(TypeError, match="a coroutine needs no thread"):
        in_thread(coro)  # type: ignore[call-overload]
    coro.close()
    with pytest.raises(TypeError, match="coroutine function"):
        in_thread(nothing).close()
    with pytest.raises(TypeError, match="takes a function, not 5"):
        in_thread(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"executor takes a .*Executor or None, not 5"):
        in_thread(print, executor=5)  # type: ignore[call-overload]


async def test_refused_job_never_calls_its_function() -> None:
    """A5: and leaves no warning behind."""
    called: list[int] = []
    scheduler = Scheduler()
    await scheduler.close()
    with pytest.raises(RuntimeError, match="closed"):
        await scheduler.spawn(in_thread(called.append, 1))
    assert called == []


# -- failures ----------------------------------------------------------------------------


async def test_what_the_function_raises_is_raised(reports: Reports) -> None:
    """R1, R2: in the waiter; otherwise the exception handler is told."""

    def work() -> None:
        raise Boom("boom")

    async with Scheduler(exception_handler=reports) as scheduler:
        with pytest.raises(Boom):
            await (await scheduler.spawn(in_thread(work)))
        closed = Closed()
        scheduler.add_observer(closed)
        await scheduler.spawn(in_thread(work))
        await closed.wait()
    assert [type(context["exception"]) for context in reports.contexts] == [Boom]


async def test_stop_iteration_fails_and_hangs_nobody() -> None:
    """R10: no future accepts this exception."""
    with pytest.raises(RuntimeError, match="next raised StopIteration") as caught:
        await in_thread(next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_has_to_leave_leaves_through_the_loop(kind: type[BaseException]) -> None:
    """R6: even if it is raised in another thread."""

    def work() -> None:
        raise kind

    loop = make_loop("asyncio")
    scheduler = Scheduler()

    async def run() -> None:
        job = await scheduler.spawn(in_thread(work))
        with pytest.raises(kind):
            await job

    with pytest.raises(kind):
        loop.run_until_complete(run())
    loop.run_until_complete(settle())
    assert len(scheduler) == 0
    loop.run_until_complete(scheduler.close())
    loop.close()


async def test_executor_that_is_shut_down_fails_the_job(
    one_thread: ThreadPoolExecutor,
) -> None:
    """E5: a function that never ran is reported, and not silently cancelled."""
    blocking = Blocking()
    async with Scheduler() as scheduler:
        first = await scheduler.spawn(in_thread(blocking, executor=one_thread))
        await blocking.begins()
        queued = await scheduler.spawn(in_thread(math.factorial, 5, executor=one_thread))
        await settle()
        one_thread.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(RuntimeError, match="factorial was never called"):
            await queued
        with pytest.raises(RuntimeError, match="shutdown"):
            await in_thread(math.factorial, 5, executor=one_thread)
        blocking.go_on()
        assert await first == "returned"


@pytest.mark.parametrize("fails", [False, True])
async def test_end_keeps_nothing_of_it_alive(
    one_thread: ThreadPoolExecutor, fails: bool
) -> None:
    """L4: nor does it leave cycles for the collector."""

    class Thing:
        def work(self, other: Thing) -> None:
            if fails:
                raise Boom

    def spawn() -> tuple[Any, list[weakref.ref[Any]]]:
        one, other = Thing(), Thing()
        coro = in_thread(one.work, other, executor=one_thread)
        return scheduler.spawn_nowait(coro), [weakref.ref(one), weakref.ref(other)]

    async with Scheduler() as scheduler:
        job, things = spawn()
        if fails:
            with pytest.raises(Boom) as caught:
                await job
            error = weakref.ref(caught.value)
            del caught
            things.append(error)
        else:
            await job
        del job
        # A thread drops its references only after it has reported the result.
        await in_thread(int, executor=one_thread)
        await settle()
        assert [thing() for thing in things] == [None] * len(things)


# -- cancellation ------------------------------------------------------------------------


async def test_cancelled_job_ends_when_its_function_has_returned() -> None:
    """L1, E1: it keeps its slot until then, and the function can find out."""
    async with Scheduler(limit=1, close_timeout=None) as scheduler:
        blocking = Blocking()
        job = await scheduler.spawn(in_thread(blocking))
        await blocking.begins()
        behind = await scheduler.spawn(give("next"))
        closing = asyncio.create_task(job.close())
        await settle()
        assert (job.state, behind.pending) == (JobState.STOPPING, True)
        blocking.go_on()
        await closing
        assert blocking.was_cancelled is True
        assert job.state is JobState.CANCELLED
        with pytest.raises(JobCancelled):
            await job
        assert await behind == "next"


async def test_function_that_nobody_cancels_is_told_so() -> None:
    """And so is code outside any such function."""
    assert in_thread.cancelled() is False
    assert await in_thread(in_thread.cancelled) is False


async def test_close_lets_go_at_its_deadline_and_tells_by_name(reports: Reports) -> None:
    """E0: its thread goes on undisturbed, but the job counts as closed."""
    blocking = Blocking()
    scheduler = Scheduler(exception_handler=reports)
    job = await scheduler.spawn(in_thread(blocking))
    task = job.task
    assert task is not None
    await blocking.begins()
    await scheduler.close()
    assert (job.state, len(scheduler)) == (JobState.LET_GO, 0)
    [context] = reports.contexts
    assert context["message"] == "Job closing timed out"
    assert "Blocking did not end in time" in str(context["exception"])
    blocking.go_on()
    await asyncio.wait([task])
    assert blocking.was_cancelled is True
    assert len(reports.contexts) == 1


async def test_failure_after_it_was_let_go_is_told(reports: Reports) -> None:
    """R2, E0: once."""
    blocking = Blocking(Boom())
    scheduler = Scheduler(exception_handler=reports)
    job = await scheduler.spawn(in_thread(blocking))
    task = job.task
    assert task is not None
    await blocking.begins()
    await scheduler.close()
    blocking.go_on()
    await asyncio.wait([task])
    await settle()
    assert reports.messages == ["Job closing timed out", "Job processing failed"]


async def test_drain_waits_until_the_function_has_returned() -> None:
    """E4: and nobody has cancelled it."""
    blocking = Blocking()
    scheduler = Scheduler(wait_timeout=None)
    job = await scheduler.spawn(in_thread(blocking))
    await blocking.begins()
    draining = asyncio.create_task(scheduler.drain())
    await later(60)
    assert not draining.done()
    blocking.go_on()
    assert await draining is True
    assert await job == "returned"
    assert blocking.was_cancelled is False
    await scheduler.close()


async def test_timeout_of_the_job_is_a_deadline_for_the_function(
    reports: Reports,
) -> None:
    """R4, E0: the job is cancelled, let go, and has failed."""
    blocking = Blocking()
    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(in_thread(blocking), timeout=5)
        task = job.task
        await blocking.begins()
        with pytest.raises(TimeoutError, match="Blocking ran longer than 5 s"):
            await job
        assert task is not None
        blocking.go_on()
        await asyncio.wait([task])


async def test_failure_of_a_cancelled_function_is_told(reports: Reports) -> None:
    """R2: the cancellation does not hide it."""
    async with Scheduler(close_timeout=None, exception_handler=reports) as scheduler:
        blocking = Blocking(Boom())
        job = await scheduler.spawn(in_thread(blocking))
        await blocking.begins()
        closing = asyncio.create_task(job.close())
        await settle()
        blocking.go_on()
        with pytest.raises(Boom):
            await closing
        assert job.state is JobState.FAILED


async def test_function_that_has_returned_in_the_same_turn_is_cancelled() -> None:
    """Like a coroutine that is cancelled while its future has a result already."""
    for turns in range(6):
        future = Future[str]()
        task = asyncio.create_task(in_thread(never_called, executor=ByHand(future)))
        await settle()
        future.set_running_or_notify_cancel()
        future.set_result("returned")
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert turns > 0
            assert await task == "returned"


async def test_cancelled_again_and_again_it_still_waits() -> None:
    """No second cancellation separates the job from its thread."""
    blocking = Blocking()
    task = asyncio.create_task(in_thread(blocking))
    await blocking.begins()
    for number in range(3):
        task.cancel(f"reason {number}")
        await settle()
        assert not task.done()
    blocking.go_on()
    with pytest.raises(asyncio.CancelledError, match="reason 0"):
        await task


async def test_timeouts_of_asyncio_work() -> None:
    """They recognize the cancellation as their own."""
    blocking = Blocking()

    async def work() -> None:
        async with asyncio.timeout(1):
            await in_thread(blocking)

    task = asyncio.create_task(work())
    await blocking.begins()
    await later(2)
    assert not task.done()
    blocking.go_on()
    with pytest.raises(TimeoutError):
        await task
    assert blocking.was_cancelled is True


@pytest.mark.parametrize("is_default", [False, True])
async def test_function_that_has_not_begun_never_does(
    one_thread: ThreadPoolExecutor, is_default: bool
) -> None:
    """E1, L1: if all threads are busy, its job ends at once, and nothing is called."""
    executor: Executor | None = one_thread
    if is_default:
        asyncio.get_running_loop().set_default_executor(one_thread)
        executor = None
    called: list[int] = []
    blocking = Blocking()
    async with Scheduler() as scheduler:
        first = await scheduler.spawn(in_thread(blocking, executor=executor))
        await blocking.begins()
        jobs = [
            await scheduler.spawn(in_thread(called.append, number, executor=executor))
            for number in range(3)
        ]
        await settle()
        assert jobs[1].active
        await jobs[1].close()
        assert jobs[1].state is JobState.CANCELLED
        blocking.go_on()
        await asyncio.gather(first, jobs[0], jobs[2])
    assert sorted(called) == [0, 2]


def test_loop_that_is_thrown_away_tells_the_function() -> None:
    """It goes on by itself."""
    loop = make_loop("asyncio")

    async def begin() -> tuple[Blocking, Any]:
        blocking, executor = Blocking(), ThreadPoolExecutor(1)
        coro = in_thread(blocking, executor=executor)
        coro.send(None)
        await blocking.begins()
        coro.close()
        return blocking, executor

    blocking, executor = loop.run_until_complete(begin())
    blocking.go_on()
    executor.shutdown()
    assert blocking.was_cancelled is True
    loop.run_until_complete(settle())
    loop.close()


# -- processes ---------------------------------------------------------------------------


@pytest.mark.heavy
def test_functions_run_in_processes_by_their_executor() -> None:
    """Results and failures come back; a cancelled job waits for its process."""
    context = multiprocessing.get_context("spawn")
    manager = multiprocessing.Manager()

    async def run(executor: ProcessPoolExecutor) -> None:
        async with Scheduler(close_timeout=None) as scheduler:
            user.set("ann")
            job = await scheduler.spawn(in_thread(math.factorial, 5, executor=executor))
            assert await job == 120
            for function, argument, error in (
                (operator.truediv, 0, ZeroDivisionError),
                (_next, 0, RuntimeError),
            ):
                with pytest.raises(error):
                    await in_thread(function, 1, argument, executor=executor)
            begun, go = manager.Event(), manager.Event()
            job = await scheduler.spawn(
                in_thread(_stand_still, begun, go, executor=executor)
            )
            await in_thread(begun.wait, PATIENCE)
            closing = asyncio.create_task(job.close())
            await in_thread(begun.wait, PATIENCE)
            assert job.active
            await in_thread(go.set)
            await closing
            assert job.state is JobState.CANCELLED

    with manager, ProcessPoolExecutor(1, mp_context=context) as executor:
        asyncio.run(run(executor))


def _next(*args: int) -> Any:
    return next(iter(()))


def _stand_still(begun: threading.Event, go: threading.Event) -> bool:
    begun.set()
    go.wait(PATIENCE)
    return in_thread.cancelled()


if sys.version_info >= (3, 14):

    def test_functions_run_in_interpreters() -> None:
        """They are threads, and yet only take what can be pickled."""
        from concurrent.futures import InterpreterPoolExecutor

        with InterpreterPoolExecutor(1) as executor:
            assert asyncio.run(in_thread(math.factorial, 5, executor=executor)) == 120
