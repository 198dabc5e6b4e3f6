"""Jobs with a key, of which there is one at a time (rules A2 to A5, E3, L1 to L4, R8)."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import Coroutine
from typing import Any, Self

import pytest

from aiohttp_jobs import Job, JobState, Scheduler, SchedulerClosed
from aiohttp_jobs.core.errors import SchedulerFull
from tests.inside import kept_by
from tests.loops import later, settle
from tests.work import Boom, Reports, fail, give, nothing, stubborn, wait_for


def never() -> Coroutine[Any, Any, Any]:
    """Make a coroutine that must not run; Python warns if it is not closed either."""
    return fail()


# -- one at a time -----------------------------------------------------------------------


async def test_job_that_is_active_is_given_again() -> None:
    """A5: the new coroutine is closed, and the other arguments are ignored."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go), "first", key="report:42")
        coro = never()
        assert await scheduler.spawn(coro, "second", key="report:42") is job
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
        assert scheduler.spawn_nowait(never(), key="report:42") is job
        assert (job.key, job.name, len(scheduler)) == ("report:42", "first", 1)
        go.set()
        assert await job == "done"


async def test_job_that_is_pending_is_given_again() -> None:
    """A2: it keeps its place."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        job = await scheduler.spawn(give("report"), key="report")
        behind = await scheduler.spawn(nothing())
        assert await scheduler.spawn(never(), key="report") is job
        assert scheduler.pending_jobs() == [job, behind]
        go.set()
        assert await job == "report"


async def test_keys_and_schedulers_are_independent_of_each_other() -> None:
    """Another key, no key, another scheduler: another job."""
    go = asyncio.Event()
    async with Scheduler() as one, Scheduler() as other:
        jobs = {
            await one.spawn(wait_for(go), key="a"),
            await one.spawn(wait_for(go), key="b"),
            await one.spawn(wait_for(go)),
            await one.spawn(wait_for(go)),
            await other.spawn(wait_for(go), key="a"),
        }
        assert len(jobs) == 5
        assert sorted(str(job.key) for job in jobs) == ["None", "None", "a", "a", "b"]
        go.set()


async def test_job_that_is_held_back_is_given_again() -> None:
    """W8: and a spawn that would be held back gets the job that runs already."""
    go = asyncio.Event()
    response = asyncio.get_running_loop().create_future()
    async with Scheduler() as scheduler:
        held: Job[Any]
        held = scheduler.spawn_after(response, give("held"), key="a")
        assert scheduler.spawn_after(response, never(), key="a") is held
        assert await scheduler.spawn(never(), key="a") is held
        running = await scheduler.spawn(wait_for(go), key="b")
        assert scheduler.spawn_after(response, never(), key="b") is running
        response.set_result(None)
        go.set()
        assert await held == "held"


async def test_ten_at_once_make_one() -> None:
    """In one turn of the loop, from ten tasks."""
    ran: list[int] = []

    async def report(number: int) -> int:
        ran.append(number)
        await later(1)
        return number

    async with Scheduler() as scheduler:
        jobs = await asyncio.gather(
            *(scheduler.spawn(report(number), key="report") for number in range(10))
        )
        assert len(set(jobs)) == 1
        await asyncio.gather(*jobs)
    assert len(ran) == 1
    assert scheduler.statistics().joined == 9
    assert scheduler.statistics().closed == 1


async def test_job_that_is_being_cancelled_is_there_yet() -> None:
    """E1: until it has cleaned up, no other job starts."""
    go = asyncio.Event()
    async with Scheduler(close_timeout=None) as scheduler:
        job: Job[Any] = await scheduler.spawn(stubborn(go), key="report")
        await settle()
        closing = asyncio.create_task(job.close())
        await settle()
        assert await scheduler.spawn(never(), key="report") is job
        go.set()
        await closing
        assert await scheduler.spawn(nothing(), key="report") is not job


async def test_job_may_spawn_its_own_key_and_gets_itself() -> None:
    """R8: which it cannot wait for."""

    async def work() -> str:
        job = await scheduler.spawn(never(), key="a")
        with pytest.raises(RuntimeError, match="cannot wait for itself"):
            await job
        return "worked"

    async with Scheduler() as scheduler:
        assert await (await scheduler.spawn(work(), key="a")) == "worked"


async def test_observer_that_spawns_the_key_gets_the_job() -> None:
    """The observer is called in the middle of the first spawn."""
    given: list[Job[Any]] = []

    class Spawner:
        def job_spawned(self, job: Job[Any]) -> None:
            given.append(scheduler.spawn_nowait(never(), key="a"))

        job_started = job_closed = job_spawned

    async with Scheduler() as scheduler:
        job = await scheduler.spawn(wait_for(go := asyncio.Event()), key="a")
        observer = Spawner()
        scheduler.add_observer(observer)
        other = await scheduler.spawn(nothing())
        await other
        assert set(given) == {job}
        scheduler.remove_observer(observer)
        go.set()


async def test_coroutine_of_the_job_itself_is_left_alone() -> None:
    """A5: if it is passed twice by mistake, it runs all the same."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        coro = wait_for(go)
        job = await scheduler.spawn(coro, key="a")
        assert await scheduler.spawn(coro, key="a") is job
        go.set()
        assert await job == "done"


async def test_coroutine_of_the_job_itself_is_left_alone_where_there_is_no_room() -> None:
    """A5, A3: the same without room."""
    async with Full() as full:
        coro = give("once")
        callers = [full.spawn(coro, "a") for _ in range(2)]
        await settle()
        full.go.set()
        jobs = await asyncio.gather(*callers)
        assert len(set(jobs)) == 1
        assert await jobs[0] == "once"


# -- until it ends -----------------------------------------------------------------------


async def is_free(scheduler: Scheduler, key: str) -> bool:
    """Whether a spawn with this key makes a new job."""
    job = await scheduler.spawn(give("new"), key=key)
    return bool(await job == "new")


async def test_key_is_free_in_the_turn_in_which_its_job_ends() -> None:
    """L4: a caller that waits for the job can spawn the next one."""
    async with Scheduler() as scheduler:
        for _ in range(3):
            job = await scheduler.spawn(give(1), key="a")
            assert await job == 1
        assert scheduler.statistics().succeeded == 3


@pytest.mark.parametrize("how", ["fails", "times out", "is cancelled", "is let go"])
async def test_key_is_free_whatever_ends_the_job(how: str) -> None:
    """L4, E0: even if it was let go and still runs."""
    go, reports = asyncio.Event(), Reports()
    async with Scheduler(exception_handler=reports) as scheduler:
        job: Job[Any]
        if how == "fails":
            job = await scheduler.spawn(fail(), key="a")
            with pytest.raises(Boom):
                await job
        elif how == "times out":
            job = await scheduler.spawn(wait_for(go), timeout=1, key="a")
            await later(2)
        elif how == "is cancelled":
            job = await scheduler.spawn(wait_for(go), key="a")
            await job.close()
        else:
            job = await scheduler.spawn(stubborn(go), key="a")
            await settle()
            with pytest.raises(TimeoutError):
                await job.close()
        assert job.closed
        assert await is_free(scheduler, "a")
        assert job.key == "a"
        go.set()


async def test_key_of_a_pending_job_that_is_closed_is_free() -> None:
    """L1, L4: that job never starts."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(wait_for(go))
        job = await scheduler.spawn(never(), key="a")
        await job.close()
        other = await scheduler.spawn(give("other"), key="a")
        assert other is not job
        go.set()
        assert await other == "other"


async def test_nothing_is_kept_of_ended_jobs() -> None:
    """L4: neither keys nor jobs are kept, nor cycles for the garbage collector."""
    gc.disable()
    try:
        async with Scheduler(limit=2, pending_limit=1) as scheduler:
            jobs = [await scheduler.spawn(give(n), key=f"report:{n}") for n in range(9)]
            await scheduler.drain()
            scheduler.hold()
            jobs.append(await scheduler.spawn(nothing(), key="other"))
            for n in range(9):
                with pytest.raises(SchedulerFull):
                    scheduler.spawn_nowait(give(n), key=f"refused:{n}")
            scheduler.release()
            ended = [weakref.ref(job) for job in jobs]
            await scheduler.drain()
            await settle()
            del jobs
            assert [job() for job in ended] == [None] * 10
            assert kept_by(scheduler) == {}
    finally:
        gc.enable()


# -- where there is no room --------------------------------------------------------------


async def test_spawn_nowait_that_is_full_gives_the_job_that_is_there() -> None:
    """A3: this needs no room; another key does."""
    go = asyncio.Event()
    async with Scheduler(limit=1, pending_limit=1) as scheduler:
        active = await scheduler.spawn(wait_for(go), key="a")
        pending = await scheduler.spawn(nothing(), key="b")
        assert scheduler.spawn_nowait(never(), key="a") is active
        assert await scheduler.spawn(never(), key="b") is pending
        for _ in range(2):
            with pytest.raises(SchedulerFull):
                scheduler.spawn_nowait(never(), key="c")
        assert scheduler.statistics().joined == 2
        go.set()
        await pending
        assert await is_free(scheduler, "c")


class Full:
    """A scheduler whose slots and queue are full."""

    def __init__(self, pending: int = 1) -> None:
        self.scheduler = Scheduler(limit=1, pending_limit=pending)
        self.go = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.scheduler.spawn(wait_for(self.go))
        for _ in range(self.scheduler.pending_limit or 0):
            await self.scheduler.spawn(nothing())
        return self

    def spawn(
        self, coro: Coroutine[Any, Any, Any], key: str | None
    ) -> asyncio.Task[Job[Any]]:
        return asyncio.create_task(self.scheduler.spawn(coro, key=key))

    async def __aexit__(self, *error: object) -> None:
        self.go.set()
        await self.scheduler.wait_and_close()


async def test_callers_that_wait_for_room_are_given_the_one_that_gets_in() -> None:
    """A3, A2: even then ten clicks make one report; others keep their places."""
    ran: list[int] = []

    async def report(number: int) -> None:
        ran.append(number)

    async with Full() as full:
        clicks = [full.spawn(report(0), "report")]
        await settle()
        other = full.spawn(report(100), None)
        await settle()
        clicks += [full.spawn(report(number), "report") for number in range(1, 10)]
        await settle()
        assert full.scheduler.callers_waiting == 11
        full.go.set()
        jobs = await asyncio.gather(*clicks)
        assert len(set(jobs)) == 1
        await jobs[0]
        await (await other)
    assert ran == [0, 100]
    statistics = full.scheduler.statistics()
    assert (statistics.joined, statistics.succeeded, statistics.cancelled) == (9, 4, 0)


async def test_caller_that_gives_up_leaves_the_key_to_the_next() -> None:
    """A5: its coroutine never ran, and the other callers lose nothing."""
    async with Full() as full:
        first = full.spawn(never(), "report")
        await settle()
        second = full.spawn(give("second"), "report")
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        full.go.set()
        assert await (await second) == "second"
        assert kept_by(full.scheduler).keys() <= {"keys._jobs"}


async def test_caller_that_gives_up_with_its_place_leaves_the_key_to_the_next() -> None:
    """A5: in each turn from the one in which it was let in."""
    for turns in range(6):
        async with Full() as full:
            first = full.spawn(give("first"), "report")
            await settle()
            second = full.spawn(give("second"), "report")
            await settle()
            full.go.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            was_late = not first.cancel()
            job = await second
            assert await job == ("first" if was_late else "second")
            await asyncio.wait([first])
            assert first.cancelled() is not was_late


async def test_callers_that_get_in_together_have_one_job() -> None:
    """A3: the second one gets a place in the queue, and gives it back."""
    async with Full(pending=2) as full:
        first = full.spawn(give("first"), "report")
        second = full.spawn(give("second"), "report")
        await settle()
        assert full.scheduler.callers_waiting == 2
        full.scheduler.pending_limit = 5
        job = await first
        assert await second is job
        assert full.scheduler.pending_count == 3
        assert full.scheduler.statistics().joined == 1


async def test_job_that_waits_for_room_with_a_key_lends_its_slot() -> None:
    """L2: even if it waits for a job that another caller is to spawn."""
    async with Full() as full:

        async def parent() -> Any:
            return await (await full.scheduler.spawn(give("from inside"), key="child"))

        full.scheduler.pending_limit = 2
        job = await full.scheduler.spawn(parent())
        outside = full.spawn(give("from outside"), "child")
        await settle()
        full.go.set()
        assert await job == await (await outside)


async def test_closing_refuses_the_callers_that_wait() -> None:
    """A4: all of them are refused, and their coroutines are closed."""
    async with Full() as full:
        tasks = [full.spawn(never(), "report") for _ in range(3)]
        await settle()
        await full.scheduler.close()
        for task in tasks:
            with pytest.raises(SchedulerClosed):
                await task
        assert kept_by(full.scheduler) == {}


async def test_closing_beside_the_one_that_gets_in() -> None:
    """A4, E3: in each turn; a caller that has got the job finds it cancelled."""
    for turns in range(7):
        async with Full() as full:
            tasks = [full.spawn(give(1), "report") for _ in range(3)]
            await settle()
            full.go.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            await full.scheduler.close()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            jobs = [each for each in outcomes if isinstance(each, Job)]
            refused = [each for each in outcomes if isinstance(each, SchedulerClosed)]
            assert len(jobs) + len(refused) == 3
            assert len(set(jobs)) <= 1
            assert all(job.closed for job in jobs)
            await settle()
            assert kept_by(full.scheduler) == {}


# -- refused -----------------------------------------------------------------------------


async def test_closing_scheduler_refuses_also_what_is_there() -> None:
    """A4: the job that has the key is about to be cancelled."""
    go = asyncio.Event()
    scheduler = Scheduler(close_timeout=None)
    job = await scheduler.spawn(stubborn(go), key="a")
    await settle()
    closing = asyncio.create_task(scheduler.close())
    await settle()
    with pytest.raises(SchedulerClosed):
        await scheduler.spawn(never(), key="a")
    with pytest.raises(SchedulerClosed):
        scheduler.spawn_nowait(never(), key="a")
    go.set()
    await closing
    assert job.closed


async def test_draining_scheduler_gives_what_is_there() -> None:
    """A4: jobs may still be spawned."""
    go = asyncio.Event()
    scheduler = Scheduler()
    job = await scheduler.spawn(wait_for(go), key="a")
    draining = asyncio.create_task(scheduler.wait_and_close())
    await settle()
    assert await scheduler.spawn(never(), key="a") is job
    go.set()
    await draining
    assert job.state is JobState.SUCCEEDED


async def test_what_is_no_key_is_refused() -> None:
    """A5: with a sentence, and the coroutine is closed."""
    async with Scheduler() as scheduler:
        number: Any = 42
        with pytest.raises(TypeError, match="key takes a str or None, not 42"):
            scheduler.spawn_nowait(never(), key=number)
        with pytest.raises(TypeError, match="key takes a str or None, not 42"):
            await scheduler.spawn(never(), key=number)
        with pytest.raises(TypeError, match="coroutine"):
            scheduler.spawn_nowait(never, key="a")  # type: ignore[arg-type]
        assert await is_free(scheduler, "a")
