"""Shielding (rules R2, E3, E4 for shielded awaitables)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from aiohttp_jobs import JobCancelled, JobState, Scheduler, SchedulerClosed
from tests.loops import later, make_loop, settle
from tests.work import Boom, Reports, fail, give, nothing, stubborn, wait_for

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

LOST = "Shielded awaitable failed after its caller had gone"


class Awaitable3:
    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        return 3


def as_task() -> Awaitable[int]:
    return asyncio.create_task(give(3))


def as_future() -> Awaitable[int]:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, 3)
    return future


@pytest.mark.parametrize("make", [lambda: give(3), as_task, as_future, Awaitable3])
async def test_shield_gives_the_outcome(make: Callable[[], Awaitable[int]]) -> None:
    """Compatibility: it takes what asyncio.shield takes, and returns the result."""
    async with Scheduler() as scheduler:
        assert await scheduler.shield(make()) == 3


async def test_shield_raises_the_exception_and_tells_nobody_else() -> None:
    """R2: a failure that its caller receives is not reported."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        outer = scheduler.shield(fail(go))
        go.set()
        with pytest.raises(Boom):
            await outer
    assert reports.contexts == []


async def test_caller_is_cancelled_what_is_shielded_goes_on() -> None:
    """Compatibility: like asyncio.shield."""
    go, log = asyncio.Event(), list[str]()

    async def work() -> None:
        await go.wait()
        log.append("ended")

    async def caller() -> None:
        await scheduler.shield(work())

    async with Scheduler() as scheduler:
        task = asyncio.create_task(caller())
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
    assert log == ["ended"]


async def test_failure_after_the_caller_has_gone_is_reported_once() -> None:
    """R2: shielded awaitables whose caller has gone report their failures, too."""
    go, reports = asyncio.Event(), Reports()

    async def caller() -> None:
        await scheduler.shield(fail(go))

    async with Scheduler(exception_handler=reports) as scheduler:
        task = asyncio.create_task(caller())
        await settle()
        task.cancel()
        await settle()
        go.set()
    assert reports.messages == [LOST]
    assert isinstance(reports.contexts[0]["exception"], Boom)


async def test_caller_is_cancelled_in_the_turn_of_the_failure() -> None:
    """R2: the failure has arrived, and its caller is cancelled before receiving it."""
    reports = Reports()
    inner = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        await scheduler.shield(inner)

    async with Scheduler(exception_handler=reports) as scheduler:
        task = asyncio.create_task(caller())
        await settle()
        inner.set_exception(Boom("boom"))
        await asyncio.sleep(0)  # the outer future has it, but the caller has not run yet
        task.cancel()
        with pytest.raises((asyncio.CancelledError, Boom)) as caught:
            await task
        received = isinstance(caught.value, Boom)
    assert len(reports.contexts) == 1 - received


async def test_failure_that_nobody_ever_awaits_is_reported_once() -> None:
    """R2: a caller that has dropped what shield() returned counts as gone."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        scheduler.shield(fail(go))
        kept = scheduler.shield(fail(go))
        waited_for = asyncio.gather(scheduler.shield(fail(go)), return_exceptions=True)
        await settle()
        go.set()
        await settle()
        assert [context["message"] for context in reports.contexts] == [LOST]
        del kept
        await settle()
        assert [context["message"] for context in reports.contexts] == [LOST] * 2
        assert [type(each) for each in await waited_for] == [Boom]
    assert [type(context["exception"]) for context in reports.contexts] == [Boom] * 2


async def test_failure_that_nobody_awaits_while_another_caller_does() -> None:
    """R2: a caller that receives it does so for all."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        inner = asyncio.ensure_future(fail(go))
        scheduler.shield(inner)
        outer = scheduler.shield(inner)
        go.set()
        with pytest.raises(Boom):
            await outer
    assert reports.contexts == []


def test_failure_that_nobody_awaits_is_dropped_after_the_loop_has_ended() -> None:
    """R2: then the loop's own handler is told, as for any future."""
    told, kept = list[str](), list[Any]()

    async def main() -> None:
        kept.append(Scheduler().shield(fail()))
        await settle()

    with contextlib.closing(make_loop("asyncio")) as loop:
        loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
        loop.run_until_complete(main())
    assert told == []
    kept.clear()
    assert told == [LOST]


async def test_one_of_two_callers_has_gone() -> None:
    """R2: if two callers shield it, its failure reaches the one still there, and nobody
    else."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        inner = asyncio.create_task(fail(go))
        gone, there = scheduler.shield(inner), scheduler.shield(inner)
        gone.cancel()
        go.set()
        with pytest.raises(Boom):
            await there
    assert reports.contexts == []


async def test_both_of_two_callers_have_gone() -> None:
    """R2: if two callers shield it, its failure is reported once."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        inner = asyncio.create_task(fail(go))
        for _ in range(2):
            scheduler.shield(inner).cancel()
        go.set()
    assert reports.messages == [LOST]


@pytest.mark.parametrize("stays", [0, 1, None])
async def test_of_two_callers_some_are_cancelled_in_the_turn_of_the_failure(
    stays: int | None,
) -> None:
    """R2: the failure reaches one that stays; if none does, the handler, once."""
    reports = Reports()
    inner = asyncio.get_running_loop().create_future()
    received = list[int]()

    async def caller(number: int) -> None:
        try:
            await scheduler.shield(inner)
        except Boom:
            received.append(number)

    async with Scheduler(exception_handler=reports) as scheduler:
        tasks = [asyncio.create_task(caller(number)) for number in range(2)]
        await settle()

        def cancel(future: asyncio.Future[None]) -> None:
            for number, task in enumerate(tasks):
                if number != stays:
                    task.cancel()

        inner.add_done_callback(cancel)  # called right after the shield's own
        inner.set_exception(Boom("boom"))
        await asyncio.wait(tasks)
    assert received == ([] if stays is None else [stays])
    assert reports.messages == ([LOST] if stays is None else [])


async def test_caller_that_is_closed_by_hand_keeps_no_other_waiting() -> None:
    """R2: nor does it count as having received a failure that has not come yet."""
    inner = asyncio.get_running_loop().create_future()

    async def caller() -> Any:
        return await scheduler.shield(inner)

    async with Scheduler() as scheduler:
        task = asyncio.create_task(caller())
        await settle()
        other = caller()
        other.send(None)
        other.close()
        inner.set_result(1)
        assert await task == 1


async def test_one_who_awaits_it_is_cancelled_in_the_turn_of_the_failure() -> None:
    """R2: the other one receives the failure, and nobody else."""
    reports = Reports()
    inner = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await outer

    async with Scheduler(exception_handler=reports) as scheduler:
        outer = scheduler.shield(inner)
        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await settle()
        inner.add_done_callback(lambda inner: outer.done() and first.cancel())
        inner.set_exception(Boom("boom"))
        ends = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(ends[1], Boom)
    assert reports.contexts == []


async def test_caller_that_has_gone_is_forgotten_while_the_rest_goes_on() -> None:
    """L4: a long shielded awaitable does not keep the callers that waited for it once."""
    async with Scheduler() as scheduler:
        inner = asyncio.get_running_loop().create_future()
        gone = weakref.ref(scheduler.shield(inner))
        outer = gone()
        assert outer is not None
        outer.cancel()
        del outer
        assert gone() is None
        inner.set_result(None)


# The wrappers of these factories keep the coroutine in a reference cycle of their own.
@pytest.mark.not_on("delegating", "generating")
async def test_failure_that_was_received_is_kept_by_nothing() -> None:
    """L4: not even by a cycle that only the garbage collector would find."""
    seen = list[weakref.ref[Boom]]()
    go = asyncio.Event()

    async def caller() -> None:
        try:
            await scheduler.shield(fail(go))
        except Boom as error:
            seen.append(weakref.ref(error))

    async with Scheduler() as scheduler:
        gc.disable()
        try:
            task = asyncio.create_task(caller())
            await settle()
            go.set()
            await task
            await settle()
            assert [ref() for ref in seen] == [None]
        finally:
            gc.enable()


def test_exception_handler_that_exits_keeps_no_close_waiting() -> None:
    """R6, E7: the handler is told that the shielded awaitable did not end, and exits."""
    go = asyncio.Event()

    def handler(scheduler: Scheduler, context: dict[str, Any]) -> None:
        raise SystemExit("stop")

    async def main() -> None:
        scheduler.shield(stubborn(go))
        await settle()
        await scheduler.close()

    scheduler = Scheduler(exception_handler=handler, close_timeout=1)
    with contextlib.closing(make_loop("asyncio")) as loop:
        task = loop.create_task(main())
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
        loop.run_until_complete(task)
        go.set()
        loop.run_until_complete(settle())


async def test_result_that_nobody_is_left_to_receive_is_dropped() -> None:
    """R2: only a failure has to reach somebody."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        scheduler.shield(wait_for(go)).cancel()
        go.set()
    assert reports.contexts == []


async def test_shielded_awaitable_that_is_cancelled_cancels_its_caller() -> None:
    """Compatibility: like asyncio.shield."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        inner = asyncio.create_task(wait_for(go))
        outer = scheduler.shield(inner)
        inner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer


async def test_what_is_shielded_waits_for_a_job_that_is_closed_its_callers_hear() -> None:
    """R7: nobody has cancelled the callers, nor the awaitable that they shield."""
    go, reports, told = asyncio.Event(), Reports(), list[BaseException]()

    async def work() -> None:
        await job

    async def call() -> None:
        try:
            await scheduler.shield(inner)
        except asyncio.CancelledError as error:
            told.append(error)
            raise

    async with Scheduler(exception_handler=reports) as scheduler:
        job = await scheduler.spawn(wait_for(go), "export")
        inner = asyncio.create_task(work())
        first = await scheduler.spawn(call())
        second = await scheduler.spawn(call())
        await settle()
        await job.close()
    assert [str(error) for error in told] == ["Job export was cancelled"] * 2
    assert first.state is second.state is JobState.FAILED
    assert [context["exception"] for context in reports.contexts] == told


async def test_what_is_shielded_is_cancelled_with_the_job_that_it_waits_for() -> None:
    """R7: it was cancelled itself then, and so are its callers."""
    go = asyncio.Event()

    async def work() -> None:
        try:
            await job
        finally:
            await job.close()
            await job

    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go))
        inner = asyncio.create_task(work())
        outer = scheduler.shield(inner)
        await settle()
        inner.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
    assert not isinstance(caught.value, JobCancelled)
    assert outer.cancelled()


async def test_what_is_shielded_is_told_of_in_its_callers_context() -> None:
    """A6: even if another task closes, and a timer ends it; also for later failures."""
    told, go = list[tuple[str, str]](), asyncio.Event()

    def tell(scheduler: Scheduler, context: dict[str, Any]) -> None:
        told.append((context["message"], user.get()))

    async def work() -> None:
        await stubborn(go)
        raise Boom

    async def call() -> None:
        user.set("alice")
        with contextlib.suppress(asyncio.CancelledError):
            await scheduler.shield(work())

    async def close() -> None:
        user.set("bob")
        await scheduler.close()

    scheduler = Scheduler(exception_handler=tell)
    caller = asyncio.create_task(call())
    await settle()
    caller.cancel()
    await asyncio.create_task(close())
    go.set()
    await settle()
    assert told == [
        ("Shielded awaitable closing timed out", "alice"),
        (LOST, "alice"),
    ]


async def test_what_is_done_already_is_given_back() -> None:
    """Compatibility: a done future needs no shield."""
    inner = asyncio.get_running_loop().create_future()
    inner.set_result(3)
    async with Scheduler() as scheduler:
        assert scheduler.shield(inner) is inner


async def test_close_cancels_what_is_shielded_once_and_its_caller_is_told() -> None:
    """E1, E3: one cancellation, and the caller gets CancelledError."""
    cancelled = list[int]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            await later(1)
            raise

    scheduler = Scheduler(close_timeout=9)
    outer = scheduler.shield(work())
    await settle()
    closes = [asyncio.create_task(scheduler.close()) for _ in range(2)]
    await asyncio.gather(*closes)
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert cancelled == [1]


async def test_close_without_a_bound_cancels_what_is_shielded_once() -> None:
    """E1: also with a close_timeout of None, and however often close() is called."""
    go, cancelled = asyncio.Event(), list[float]()
    scheduler = Scheduler(close_timeout=None)
    outer = scheduler.shield(stubborn(go, cancelled))
    await settle()
    first = asyncio.create_task(scheduler.close())
    await settle()
    second = asyncio.create_task(scheduler.close())
    await settle()
    assert len(cancelled) == 1
    go.set()
    await asyncio.gather(first, second)
    assert await outer == "late"


async def test_clean_up_may_shield_while_it_closes_and_is_bounded() -> None:
    """E0, E3: clean-up code may protect itself; it gets close_timeout and no more."""
    loop = asyncio.get_running_loop()
    log, reports = list[str](), Reports()

    async def clean_up(seconds: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await scheduler.shield(later(seconds))
            log.append(f"{seconds} s")

    scheduler = Scheduler(close_timeout=3, exception_handler=reports)
    await scheduler.spawn(clean_up(1))
    await scheduler.spawn(clean_up(99))
    await settle()
    start = loop.time()
    await scheduler.close()
    assert log == ["1 s"]
    assert loop.time() - start == pytest.approx(3, abs=0.1)
    assert sorted(reports.messages) == [
        "Job closing timed out",
        "Shielded awaitable closing timed out",
    ]
    await later(200)
    assert log == ["1 s", "99 s"]


async def test_what_clean_up_shields_late_does_not_hold_the_close_up() -> None:
    """E0: the close is a hard deadline, even for a shield that begins just before it."""
    loop = asyncio.get_running_loop()
    log, reports = list[str](), Reports()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for n in range(2):
                await scheduler.shield(later(2))
                log.append(f"part {n}")
            with pytest.raises(SchedulerClosed):
                scheduler.shield(nothing())

    scheduler = Scheduler(close_timeout=3, exception_handler=reports)
    await scheduler.spawn(clean_up())
    await settle()
    start = loop.time()
    await scheduler.close()
    assert loop.time() - start == pytest.approx(3, abs=0.1)
    assert sorted(reports.messages) == [
        "Job closing timed out",
        "Shielded awaitable closing timed out",
    ]
    await later(9)
    assert log == ["part 0", "part 1"]
    assert len(reports.messages) == 2


async def test_what_was_let_go_may_be_shielded_again_and_fails_to_that_caller() -> None:
    """R2, E0: clean-up that shields it receives the failure, and nobody else is told."""
    go, reports = asyncio.Event(), Reports()

    async def overtime() -> None:
        await stubborn(go)
        raise Boom("boom")

    async def closes() -> None:
        inner = asyncio.create_task(overtime())
        scheduler.shield(inner).cancel()
        await settle()
        await scheduler.close()
        await later(1)
        assert inner not in scheduler._parts.shields
        outer = scheduler.shield(inner)
        assert inner in scheduler._parts.shields
        go.set()
        with pytest.raises(Boom):
            await outer

    scheduler = Scheduler(close_timeout=1, exception_handler=reports)
    await (await scheduler.spawn(closes()))
    assert reports.messages == ["Shielded awaitable closing timed out"]
    assert len(scheduler._parts.shields) == 0
    await scheduler.close()


async def test_job_that_closes_may_shield_afterwards() -> None:
    """E3: the job that a close spares may protect what it does, for close_timeout."""
    log, reports = list[str](), Reports()

    async def closer() -> None:
        await asyncio.sleep(0)  # an eager job would be alone, and close at once
        await scheduler.close()
        await later(9)
        await scheduler.shield(later(2))
        log.append("ended")

    scheduler = Scheduler(close_timeout=3, exception_handler=reports)
    await (await scheduler.spawn(closer()))
    assert log == ["ended"]
    assert reports.contexts == []


async def test_closed_scheduler_refuses_to_shield_and_closes_the_coroutine() -> None:
    """A4, A5: nobody would wait for it."""
    scheduler = Scheduler()
    await scheduler.close()
    coro = nothing()
    with pytest.raises(SchedulerClosed, match="a new shield"):
        scheduler.shield(coro)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await coro


@pytest.mark.parametrize("what", [3, None, nothing])
async def test_what_cannot_be_awaited_is_refused(what: Any) -> None:
    """A5: with TypeError, like asyncio.shield."""
    async with Scheduler() as scheduler:
        with pytest.raises(TypeError, match="awaitable"):
            scheduler.shield(what)
        assert len(scheduler) == 0


async def test_future_of_another_loop_is_refused() -> None:
    """A8: the future belongs to its own loop; the error says so."""
    other = asyncio.new_event_loop()
    try:
        future = other.create_future()
        async with Scheduler() as scheduler:
            with pytest.raises((RuntimeError, ValueError), match="loop"):
                scheduler.shield(future)
            await scheduler.close()
    finally:
        other.close()


async def test_shielded_awaitable_leaves_nothing_behind() -> None:
    """L4: neither the shield nor what it protected is kept."""

    class Thing:
        pass

    async def work(thing: Thing) -> None:
        await asyncio.sleep(0)

    async with Scheduler() as scheduler:
        thing = Thing()
        ref = weakref.ref(thing)
        await scheduler.shield(work(thing))
        del thing
        await settle()
        gc.collect()
        assert ref() is None
        assert len(scheduler._parts.shields) == 0


async def test_keyboard_interrupt_out_of_a_shield_is_not_reported_besides() -> None:
    """R6: it leaves through the loop."""
    reports = Reports()
    inner = asyncio.get_running_loop().create_future()
    async with Scheduler(exception_handler=reports) as scheduler:
        scheduler.shield(inner).cancel()
        inner.set_exception(KeyboardInterrupt())
    assert reports.contexts == []
