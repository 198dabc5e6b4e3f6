"""repeat: jobs again and again (rules A3, A6, E3, E4, L1, L4, R2, W2)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import weakref
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import (
    SCHEDULER,
    Job,
    Repeat,
    Scheduler,
    SchedulerClosed,
    cron,
    every,
    in_thread,
    repeat,
    repeats,
    setup,
)
from aiohttp_jobs.repeats import repeat_of, repeats_of
from tests.loops import later, settle
from tests.work import Boom, Reports, nothing, stubborn, wait_for

# The clock's time when the loop's time is 0: a tick of every(60).
START = 1_700_000_040.0

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


class Clock:
    """The wall clock, which advances with the loop's clock, and can be set."""

    def __init__(self) -> None:
        self.offset = START

    def __call__(self) -> float:
        return self.offset + asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(repeats, "time", clock)
    return clock


class Work:
    """A function to repeat, which records when it was called.

    Args:
        clock: the clock that it reads.
        seconds: how long each call takes.
    """

    def __init__(self, clock: Clock, seconds: float = 0) -> None:
        self._clock = clock
        self._seconds = seconds
        self.times: list[int] = []

    async def refresh(self, *args: object) -> None:
        self.times.append(round(self._clock() - START))
        if self._seconds:
            await later(self._seconds)


@pytest.fixture
def work(clock: Clock) -> Work:
    return Work(clock)


@pytest.fixture
def reports() -> Reports:
    return Reports()


# -- when --------------------------------------------------------------------------------


async def test_a_job_comes_at_each_tick(work: Work) -> None:
    """At the ticks of the schedule, not counted from the start."""
    async with Scheduler() as scheduler:
        await later(10)
        repeat(scheduler, every(60), work.refresh)
        await later(200)
        assert work.times == [60, 120, 180]
        assert scheduler.statistics().succeeded == 3


async def test_first_job_may_come_at_once(work: Work) -> None:
    """And the others at their ticks."""
    async with Scheduler() as scheduler:
        await later(10)
        repeat(scheduler, every(60), work.refresh, at_once=True)
        await later(100)
        assert work.times == [10, 60]


async def test_long_times_are_waited_for_in_pieces(work: Work, clock: Clock) -> None:
    """The wall clock may be set meanwhile, and is followed."""
    async with Scheduler() as scheduler:
        repeats_ = repeat(scheduler, cron("0 0 * * *"), work.refresh)
        midnight = repeats_.next_at
        assert midnight is not None
        assert midnight % 86_400 == 0
        await later(100)
        clock.offset = midnight - asyncio.get_running_loop().time() - 10
        await later(70)
        assert len(work.times) == 1
        assert repeats_.next_at == midnight + 86_400


async def test_clock_that_is_put_back_a_little_repeats_no_tick(
    work: Work, clock: Clock
) -> None:
    """A time server may do that."""
    async with Scheduler() as scheduler:
        repeat(scheduler, every(60), work.refresh)
        await later(61)
        clock.offset -= 5
        await later(10)
        assert work.times == [60]
        await later(60)
        assert work.times == [60, 120]


async def test_clock_that_is_put_back_a_lot_is_followed(work: Work, clock: Clock) -> None:
    """Otherwise nothing would be repeated until that time comes again."""
    async with Scheduler() as scheduler:
        repeat(scheduler, every(60), work.refresh)
        await later(61)
        clock.offset -= 86_400
        await later(120)
        assert work.times == [60, 180 - 86_400]


async def test_missed_ticks_are_not_made_up_for(work: Work, clock: Clock) -> None:
    """After a machine has slept, there is one job, and not one for each tick."""
    async with Scheduler() as scheduler:
        repeat(scheduler, every(60), work.refresh)
        await later(30)
        clock.offset += 1000
        await later(70)
        assert work.times == [1060, 1080]


async def test_jitter_comes_later_than_the_tick(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a random time that is new for each job."""
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return len(asked) * 10

    monkeypatch.setattr("random.uniform", uniform)
    async with Scheduler() as scheduler:
        repeats_ = repeat(scheduler, every(60), work.refresh, jitter=50)
        assert repeats_.next_at == START + 70
        await later(65)
        assert repeats_.next_at == START + 70
        await later(150)
        assert work.times == [70, 140, 210]
        assert set(asked) == {(0, 50)}


async def test_schedule_of_ones_own_that_fails_is_told(
    work: Work, reports: Reports
) -> None:
    """R2: and the function is no longer repeated."""

    class Once:
        def __init__(self) -> None:
            self.ticks = [START + 60]

        def next_after(self, moment: float) -> float:
            return self.ticks.pop()

    async with Scheduler(exception_handler=reports) as scheduler:
        repeats_ = repeat(scheduler, Once(), work.refresh)
        await later(200)
        assert repeats_.cancelled
        [context] = reports.contexts
        assert isinstance(context["exception"], IndexError)
        assert "Work.refresh is no longer repeated" in context["message"]


@pytest.mark.parametrize("tick", [-5, 0, float("nan"), None])
async def test_schedule_that_tells_no_later_tick_is_refused(
    work: Work, tick: Any
) -> None:
    """R2: the function would be due again and again, without a pause."""

    class Broken:
        def next_after(self, moment: float) -> Any:
            return None if tick is None else moment + tick

    async with Scheduler() as scheduler:
        with pytest.raises((TypeError, ValueError), match=r"has returned .* next tick"):
            repeat(scheduler, Broken(), work.refresh)
        assert repeats_of(scheduler) == []


# -- what --------------------------------------------------------------------------------


async def test_function_is_called_with_its_arguments() -> None:
    """Each time; the jobs have a name, a timeout and an origin."""
    called: list[tuple[object, ...]] = []

    async def refresh(*args: object) -> None:
        called.append(args)

    async with Scheduler() as scheduler:
        repeats_ = repeat(
            scheduler, every(60), refresh, 1, "b", name="refresh it", timeout=5
        )
        assert [repeats_.job] == [None]
        await later(150)
        job = repeats_.job
        assert job is not None
        assert (job.label, job.origin, job.timeout) == ("refresh it", "every(60)", 5)
    assert called == [(1, "b"), (1, "b")]


async def test_jobs_run_in_a_copy_of_the_context_variables_of_the_start() -> None:
    """A6: the next job does not see what one job sets."""
    seen: list[str] = []

    async def refresh() -> None:
        seen.append(user.get())
        user.set("job")

    async with Scheduler() as scheduler:
        user.set("ann")
        repeat(scheduler, every(60), refresh, at_once=True)
        user.set("bob")
        await later(100)
    assert seen == ["ann", "ann"]


async def test_it_is_no_part_of_the_job_that_has_started_it() -> None:
    """L2: otherwise it would lend that job's slot when it has to wait for room."""
    go = asyncio.Event()

    async def starter() -> None:
        repeat(scheduler, every(60), nothing)
        await go.wait()

    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(starter())
        await settle()
        pending = await scheduler.spawn(nothing())
        await later(70)
        assert (scheduler.active_count, scheduler.callers_waiting) == (1, 1)
        assert pending.pending
        go.set()


async def test_blocking_function_is_repeated_by_in_thread() -> None:
    """in_thread is a function that returns a coroutine."""
    called: list[int] = []
    async with Scheduler(wait_timeout=None) as scheduler:
        repeats_ = repeat(scheduler, every(60), in_thread, called.append, 1)
        assert repeats_.label == "list.append"
        await later(61)
        repeats_.cancel()
        assert repeats_.job is not None
        await repeats_.job
        assert repeats_.job.label == "list.append"
    assert called == [1]


@pytest.mark.parametrize("how", ["raises at the call", "raises", "returns none"])
async def test_failure_is_told_and_survived(how: str, reports: Reports) -> None:
    """R2: each failure is reported."""

    def at_the_call() -> Any:
        raise Boom

    async def inside() -> None:
        raise Boom

    def returns_none() -> Any:
        return None

    function = {
        "raises at the call": at_the_call,
        "raises": inside,
        "returns none": returns_none,
    }[how]
    async with Scheduler(exception_handler=reports) as scheduler:
        repeats_ = repeat(scheduler, every(60), function)
        await later(150)
        assert scheduler.statistics().failed == 2
        assert len(reports.contexts) == 2
        assert function.__qualname__ in repeats_.label
        for context in reports.contexts:
            error = context["exception"]
            assert context["job"].label == function.__qualname__
            if how == "returns none":
                assert "returned None" in str(error)
            else:
                assert isinstance(error, Boom)


async def test_awaitable_is_awaited() -> None:
    """Even one that is not a coroutine."""

    def refresh() -> asyncio.Future[str]:
        future = asyncio.get_running_loop().create_future()
        future.set_result("done")
        return future

    async with Scheduler() as scheduler:
        repeats_ = repeat(scheduler, every(60), functools.partial(refresh))
        assert repeats_.label == refresh.__qualname__
        await later(70)
        assert repeats_.job is not None
        assert await repeats_.job == "done"


# -- never two at once -------------------------------------------------------------------


async def test_tick_is_left_out_while_the_last_job_runs(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """L1: and logged, not repeated afterwards."""
    work = Work(clock, seconds=90)
    async with Scheduler() as scheduler:
        repeats_ = repeat(scheduler, every(60), work.refresh)
        await later(250)
        assert work.times == [60, 180]
        assert repeats_.left_out == 2
    records = [each for each in caplog.records if "is not over yet" in each.message]
    assert [each.levelno for each in records] == [logging.WARNING] * 2
    assert "Work.refresh" in records[0].message
    assert [vars(each)["ticks_left_out"] for each in records] == [1, 2]


async def test_tick_is_left_out_while_the_last_job_is_pending(work: Work) -> None:
    """L1: one job in the queue is enough."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        repeat(scheduler, every(60), work.refresh)
        await later(250)
        assert scheduler.pending_count == 1
        go.set()
        await settle()
        assert work.times == [250]


async def test_full_scheduler_takes_the_job_when_there_is_room(work: Work) -> None:
    """A3: it waits for room like others, and only once."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        await scheduler.spawn(nothing())
        repeats_ = repeat(scheduler, every(60), work.refresh)
        await later(250)
        assert scheduler.callers_waiting == 1
        assert repeats_.left_out == 3
        go.set()
        await settle()
        assert work.times == [250]
        await later(60)
        assert work.times == [250, 300]


# -- the end -----------------------------------------------------------------------------


async def test_cancel_ends_it_and_leaves_the_job_alone(clock: Clock) -> None:
    """It can be cancelled again, and from inside the job."""
    work = Work(clock, seconds=10)
    async with Scheduler() as scheduler:
        repeats_ = repeat(scheduler, every(60), work.refresh)
        await later(65)
        repeats_.cancel()
        assert (repeats_.cancelled, repeats_.next_at) == (True, None)
        assert repeats_.job is not None
        assert repeats_.job.active
        repeats_.cancel()
        await later(200)
        assert work.times == [60]
        assert scheduler.statistics().succeeded == 1


async def test_cancel_while_it_waits_for_room_leaves_no_job(work: Work) -> None:
    """A5."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        await scheduler.spawn(nothing())
        repeats_ = repeat(scheduler, every(60), work.refresh)
        await later(70)
        assert scheduler.callers_waiting == 1
        repeats_.cancel()
        await settle()
        assert scheduler.callers_waiting == 0
        go.set()
    assert work.times == []


async def test_cancel_in_each_turn_of_a_tick(clock: Clock) -> None:
    """A5: the job comes or not, and no coroutine is left over."""
    for turns in range(6):
        work = Work(clock)
        async with Scheduler() as scheduler:
            repeats_ = repeat(scheduler, every(60), work.refresh, at_once=True)
            for _ in range(turns):
                await asyncio.sleep(0)
            repeats_.cancel()
            await later(100)
            assert len(work.times) == scheduler.statistics().closed <= 1


async def test_drain_does_not_wait_for_the_next_tick(clock: Clock) -> None:
    """E4: only for the job that is there."""
    work = Work(clock, seconds=5)
    scheduler = Scheduler()
    repeat(scheduler, every(3600), work.refresh, at_once=True)
    await settle()
    assert await scheduler.drain() is True
    assert round(clock() - START) == 5
    await scheduler.wait_and_close()


async def test_ticks_are_left_out_while_it_drains(clock: Clock) -> None:
    """E4: otherwise a drain might never end; afterwards they come again."""
    work = Work(clock, seconds=50)
    async with Scheduler() as scheduler:
        repeat(scheduler, every(1), work.refresh)
        await later(1.5)
        assert await scheduler.drain() is True
        await later(0.01)
        assert work.times == [1]
        await later(1)
        assert work.times == [1, 52]


async def test_closed_scheduler_ends_it(work: Work) -> None:
    """E3: at its next tick it is forgotten."""
    scheduler = Scheduler()
    repeats_ = repeat(scheduler, every(60), work.refresh)
    await later(61)
    await scheduler.close()
    await later(200)
    assert work.times == [60]
    assert repeats_.cancelled
    assert repeats_of(scheduler) == []
    with pytest.raises(SchedulerClosed):
        repeat(scheduler, every(60), work.refresh)


async def test_close_while_it_waits_for_room_ends_it(work: Work) -> None:
    """A4."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=1, pending_limit=1)
    await scheduler.spawn(wait_for(go))
    await scheduler.spawn(nothing())
    repeats_ = repeat(scheduler, every(60), work.refresh)
    await later(70)
    await scheduler.close()
    await settle()
    assert repeats_.cancelled
    assert work.times == []


async def test_nothing_is_kept_after_the_end(work: Work) -> None:
    """L4: only the last job is kept, and nothing of a repeat that was cancelled."""
    gc.disable()
    try:
        async with Scheduler() as scheduler:
            jobs: list[weakref.ref[Any]] = []

            class Watch:
                def job_closed(self, job: Any) -> None:
                    jobs.append(weakref.ref(job))

            scheduler.add_observer(Watch())
            repeats_ = repeat(scheduler, every(60), work.refresh)
            await later(200)
            assert [job() for job in jobs] == [None, None, repeats_.job]
            repeats_.cancel()
            assert repeats_of(scheduler) == []
    finally:
        gc.enable()


# -- applications ------------------------------------------------------------------------


async def test_application_repeats_from_its_start_to_its_shutdown(work: Work) -> None:
    """W2: the jobs may use the resources of clean-up contexts, even those added later."""
    app = web.Application()
    setup(app)
    seen: list[bool] = []
    is_open = False

    async def refresh() -> None:
        seen.append(is_open)

    async def resource(app: web.Application) -> Any:
        nonlocal is_open
        is_open = True
        yield
        is_open = False

    repeats_ = repeat(app, every(60), refresh, at_once=True)
    app.cleanup_ctx.append(resource)
    assert [repeats_.next_at, repeats_.cancelled] == [None, False]
    runner = web.AppRunner(app)
    await runner.setup()
    assert repeats_.next_at is not None
    await later(70)
    await runner.cleanup()
    assert repeats_.cancelled
    await later(200)
    assert seen == [True, True]


async def test_application_that_runs_repeats_from_now_on(work: Work) -> None:
    """Its scheduler's close ends the repeat."""
    app = web.Application()
    scheduler = setup(app)
    runner = web.AppRunner(app)
    await runner.setup()
    repeats_ = repeat(app, every(60), work.refresh)
    assert repeats_.scheduler is scheduler is app[SCHEDULER]
    await later(70)
    await runner.cleanup()
    await later(70)
    assert repeats_.cancelled
    assert work.times == [60]


async def test_cancelled_before_the_application_starts_it_never_begins(
    work: Work,
) -> None:
    """Nor is it listed."""
    app = web.Application()
    scheduler = setup(app)
    repeat(app, every(60), work.refresh, at_once=True).cancel()
    runner = web.AppRunner(app)
    await runner.setup()
    assert repeats_of(scheduler) == []
    await later(70)
    await runner.cleanup()
    assert work.times == []


async def test_application_without_a_scheduler_is_refused(work: Work) -> None:
    """W1: with a sentence."""
    with pytest.raises(RuntimeError, match=r"setup\(app\) before repeat"):
        repeat(web.Application(), every(60), work.refresh)


# -- looking at it -----------------------------------------------------------------------


async def test_repeats_of_a_scheduler_are_listed(work: Work) -> None:
    """The repeat that is due next comes first."""
    async with Scheduler() as scheduler, Scheduler() as other:
        late = repeat(scheduler, every(3600), work.refresh, name="late")
        soon = repeat(scheduler, every(60), work.refresh)
        repeat(other, every(60), work.refresh)
        assert repeats_of(scheduler) == [soon, late]
        assert soon.next_at == START + 60
        assert "late every(3600) next at 2023-11-14 23:00:00 UTC" in repr(late)
        soon.cancel()
        assert repeats_of(scheduler) == [late]
        assert "Work.refresh every(60) cancelled" in repr(soon)


async def test_observers_know_which_jobs_are_repeated(work: Work) -> None:
    """Until they are told of the end; jobs spawned by repeated jobs are not repeated."""
    seen: list[tuple[str, str, Repeat | None]] = []

    class Watch:
        def _note(self, event: str, job: Job[Any]) -> None:
            seen.append((event, job.label, repeat_of(job)))

        def job_spawned(self, job: Job[Any]) -> None:
            self._note("spawned", job)

        def job_running(self, job: Job[Any]) -> None:
            self._note("running", job)

        def job_closed(self, job: Job[Any]) -> None:
            self._note("closed", job)

    async def refresh() -> None:
        await (await scheduler.spawn(nothing(), "child"))

    async with Scheduler(observers=[Watch()]) as scheduler:
        repeats_ = repeat(scheduler, every(60), refresh, name="refresh")
        await later(70)
        assert set(seen) == {
            (event, name, repeats_ if name == "refresh" else None)
            for event in ("spawned", "running", "closed")
            for name in ("refresh", "child")
        }
        assert repeats_.job is not None
        assert repeat_of(repeats_.job) is None


@pytest.mark.parametrize("seconds", [1e13, 1e300])
async def test_tick_after_the_last_year_can_be_shown(seconds: float) -> None:
    """A date has no year of more than four digits."""
    async with Scheduler() as scheduler:
        repeats_ = repeat(scheduler, every(seconds), nothing)
        assert repr(repeats_).endswith("next at the end of time>")


# -- refused -----------------------------------------------------------------------------


async def test_arguments_are_checked_at_once(work: Work) -> None:
    """A7: each with a sentence that names it."""
    odd: Any
    async with Scheduler() as scheduler:
        for odd, match in (
            ((60, work.refresh), r"schedule takes every\(…\) or cron\(…\), not 60"),
            ((every(60), 5), "function takes a coroutine function, not 5"),
            ((every(60), nothing()), "a coroutine runs once"),
        ):
            with pytest.raises(TypeError, match=match):
                repeat(scheduler, *odd)
        for options, match in (
            ({"name": 5}, "name takes"),
            ({"timeout": -1}, "timeout takes"),
            ({"jitter": -1}, "jitter takes"),
            ({"jitter": None}, "jitter takes"),
        ):
            odd = options
            with pytest.raises((TypeError, ValueError), match=match):
                repeat(scheduler, every(60), work.refresh, **odd)
        assert repeats_of(scheduler) == []


def test_no_loop_is_refused() -> None:
    """A8."""
    with pytest.raises(RuntimeError, match="loop"):
        repeat(Scheduler(), every(60), nothing)


async def test_let_go_job_does_not_keep_the_next_from_coming() -> None:
    """E0: its code may still run, but it counts as closed."""
    go = asyncio.Event()
    async with Scheduler(exception_handler=Reports()) as scheduler:
        repeats_ = repeat(scheduler, every(60), stubborn, go)
        await later(61)
        first = repeats_.job
        assert first is not None
        with pytest.raises(TimeoutError):
            await first.close()
        await later(60)
        assert repeats_.job is not first
        go.set()
