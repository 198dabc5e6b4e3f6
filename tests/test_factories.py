"""Task factories that do something else than run the coroutine (rule A9), and contexts
that are given to several jobs.

The other tests of the core, on the loops of tests/loops.py, check that everything works
under factories that do run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from aiohttp_jobs import Job, JobCancelled, JobState, Scheduler
from aiohttp_jobs.core.running import JobTask
from tests.factories import Dropping, contextless, strangely_named
from tests.loops import VirtualLoop, later, settle
from tests.work import Boom, Reports, fail, give, stubborn, wait_for

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


@contextlib.contextmanager
def tasks_made_by(factory: Any) -> Iterator[None]:
    """Use the factory in this block only, and not for the tasks of the test itself."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def is_closed(coro: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def outcome_of(job: Job[Any]) -> object:
    """Return what waiting for the job returns or raises, if it ends."""
    async with asyncio.timeout(10):
        try:
            return await job
        except Exception as error:
            return error
        except JobCancelled as error:
            return error


async def check_it_works(scheduler: Scheduler) -> None:
    """Check that the one slot is free, and that the scheduler closes."""
    async with asyncio.timeout(10):
        assert scheduler.slots_taken == 0
        assert len(scheduler) == 0
        assert await (await scheduler.spawn(give(1))) == 1
        await scheduler.close()
    assert scheduler.state.name == "CLOSED"


# -- the task ends, and the coroutine has never run --------------------------------------

DROPPED = OSError("dropped")
WAYS_TO_DROP = [
    pytest.param(lambda: Dropping("result"), id="result"),
    pytest.param(lambda: Dropping(DROPPED), id="exception"),
    pytest.param(lambda: Dropping(asyncio.CancelledError()), id="cancelled"),
    pytest.param(lambda: Dropping(cancels=True), id="cancelled at once"),
]
Drop = Callable[[], Dropping]


@pytest.mark.parametrize("drop", WAYS_TO_DROP)
async def test_task_ends_without_running_the_coroutine_job_is_over(drop: Drop) -> None:
    """A9: whatever ends a job's task ends the job, and nothing is left of it."""
    scheduler, coro = Scheduler(limit=1), wait_for(asyncio.Event())
    with tasks_made_by(drop()):
        job = await scheduler.spawn(coro)
    waiters = [asyncio.create_task(outcome_of(job)) for _ in range(2)]
    await settle()
    assert job.closed
    assert is_closed(coro)
    assert all(waiter.done() for waiter in waiters)
    await check_it_works(scheduler)


@pytest.mark.parametrize("drop", WAYS_TO_DROP)
async def test_task_of_a_pending_job_ends_without_running_it(drop: Drop) -> None:
    """A9: also if the end of another job starts it, and somebody waits for it already."""
    go, coro = asyncio.Event(), wait_for(asyncio.Event())
    scheduler = Scheduler(limit=1)
    first = await scheduler.spawn(wait_for(go))
    second = await scheduler.spawn(coro)
    waiter = asyncio.create_task(outcome_of(second))
    await settle()
    with tasks_made_by(drop()):
        go.set()
        await settle()
    assert await first == "done"
    assert second.closed
    assert is_closed(coro)
    assert waiter.done()
    await check_it_works(scheduler)


@pytest.mark.parametrize("drop", WAYS_TO_DROP)
async def test_very_many_jobs_are_dropped_one_after_the_other(drop: Drop) -> None:
    """A9, L3: each passes its slot on, without recursion."""
    scheduler = Scheduler(limit=1, pending_limit=0, exception_handler=lambda *told: None)
    with tasks_made_by(drop()):
        jobs = [await scheduler.spawn(give(n)) for n in range(500)]
        async with asyncio.timeout(10):
            assert await scheduler.drain()
    assert all(job.closed for job in jobs)
    await check_it_works(scheduler)


@pytest.mark.parametrize("drop", WAYS_TO_DROP)
async def test_job_outside_of_the_limit_is_dropped(drop: Drop) -> None:
    """A9, W5: it is no longer counted either."""
    scheduler, coro = Scheduler(limit=1), wait_for(asyncio.Event())
    with tasks_made_by(drop()):
        job = scheduler.spawn_at_once(coro)
    await outcome_of(job)
    assert is_closed(coro)
    await check_it_works(scheduler)


@pytest.mark.parametrize("drop", WAYS_TO_DROP)
async def test_child_is_dropped_while_its_parent_waits_for_it(drop: Drop) -> None:
    """A9, L2: the slot that was lent comes back."""
    scheduler, outcomes = Scheduler(limit=1), list[object]()

    async def parent() -> None:
        child = await scheduler.spawn(wait_for(asyncio.Event()))
        assert child.pending
        with tasks_made_by(drop()):
            outcomes.append(await outcome_of(child))
        outcomes.append(await outcome_of(await scheduler.spawn(give("next"))))

    job = await scheduler.spawn(parent())
    async with asyncio.timeout(10):
        await job
    assert outcomes[1:] == ["next"]
    await check_it_works(scheduler)


async def test_exception_of_a_task_that_never_ran_is_the_jobs_failure() -> None:
    """A9, R2: either the waiter gets it or the exception handler, once."""
    reports = Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    with tasks_made_by(Dropping(DROPPED)):
        job = await scheduler.spawn(give(1))
    waiter = asyncio.create_task(outcome_of(job))
    await settle()
    assert waiter.result() is DROPPED
    assert job.state is JobState.FAILED
    assert reports.contexts == []
    with tasks_made_by(Dropping(DROPPED)):
        await scheduler.spawn(give(1))
    await settle()
    assert [context["exception"] for context in reports.contexts] == [DROPPED]
    await check_it_works(scheduler)


async def test_cancellation_of_a_task_that_never_ran_cancels_the_job() -> None:
    """A9, R7: waiters get JobCancelled, and no failure is reported."""
    reports = Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    with tasks_made_by(Dropping(cancels=True)):
        job = await scheduler.spawn(give(1))
    with pytest.raises(JobCancelled):
        async with asyncio.timeout(10):
            await job
    assert job.state is JobState.CANCELLED
    await settle()
    assert reports.contexts == []
    await check_it_works(scheduler)


async def test_task_that_waits_for_ever_instead_of_running_is_cancelled() -> None:
    """A9, E3: close() and job.close() cancel the task, and that ends the job."""

    async def wait_instead() -> None:
        await asyncio.Event().wait()

    def never(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        coros.append(coro)  # keeps a reference to it, and never runs it
        return asyncio.Task(wait_instead(), loop=loop, **options)

    coros = list[Any]()
    scheduler, first, second = Scheduler(limit=2), give(1), give(2)
    with tasks_made_by(never):
        closed = await scheduler.spawn(first)
        left = await scheduler.spawn(second)
    await settle()
    assert scheduler.active_count == 2
    async with asyncio.timeout(10):
        await closed.close()
        assert is_closed(first)
        assert scheduler.active_count == 1
        await scheduler.close()
    assert left.closed
    assert is_closed(second)
    assert len(scheduler) == 0


@pytest.mark.eager
async def test_task_that_never_ran_is_done_when_it_is_made() -> None:
    """A9: an eager task has ended before create_task() returns it."""

    async def instead() -> str:
        return "instead"

    def drop(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        options["eager_start"] = True
        return asyncio.Task(instead(), loop=loop, **options)

    scheduler, coro = Scheduler(limit=1), wait_for(asyncio.Event())
    with tasks_made_by(drop):
        job = await scheduler.spawn(coro)
        await outcome_of(job)
        for job in [await scheduler.spawn(give(n)) for n in range(100)]:
            await outcome_of(job)
    assert is_closed(coro)
    await check_it_works(scheduler)


# -- the task ends, and the coroutine has not --------------------------------------------


async def test_task_ends_before_the_coroutine_job_is_over() -> None:
    """A9: the coroutine, which nobody will ever resume, is closed."""
    log = list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    async def abandon(coro: Any) -> None:
        coro.send(None)

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        return asyncio.Task(abandon(coro), loop=loop, **options)

    scheduler, coro = Scheduler(limit=1), work()
    with tasks_made_by(factory):
        job = await scheduler.spawn(coro)
    await outcome_of(job)
    assert is_closed(coro)
    assert log == ["cleaned up"]
    await check_it_works(scheduler)


async def test_factory_that_bounds_the_time_ends_the_job() -> None:
    """A9: its wrapper cancels the coroutine and raises TimeoutError instead."""

    async def bound(coro: Any) -> Any:
        async with asyncio.timeout(1):
            return await coro

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        return asyncio.Task(bound(coro), loop=loop, **options)

    reports = Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    coro = wait_for(asyncio.Event())
    with tasks_made_by(factory):
        job = await scheduler.spawn(coro)
    await outcome_of(job)
    assert job.closed
    assert is_closed(coro)
    await check_it_works(scheduler)


async def test_factory_that_swallows_failures_ends_the_job() -> None:
    """A9: the outcome of its task counts, even if the coroutine has failed."""

    async def swallow(coro: Any) -> None:
        with contextlib.suppress(Boom):
            await coro

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        return asyncio.Task(swallow(coro), loop=loop, **options)

    scheduler = Scheduler(limit=1, exception_handler=Reports())
    with tasks_made_by(factory):
        job = await scheduler.spawn(fail())
    await outcome_of(job)
    assert job.closed
    await check_it_works(scheduler)


async def test_job_of_a_foreign_task_is_let_go_and_ends_later() -> None:
    """A9, E0: the end of a task whose job was let go no longer changes anything."""
    go, reports = asyncio.Event(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports, close_timeout=1)

    async def trace(coro: Any) -> Any:
        return await coro

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        return asyncio.Task(trace(coro), loop=loop, **options)

    with tasks_made_by(factory):
        job = await scheduler.spawn(stubborn(go))
    await settle()
    with pytest.raises(TimeoutError):
        await job.close()
    await check_it_works(scheduler)
    go.set()
    await settle()
    assert job.state is JobState.LET_GO
    assert reports.contexts == []


# -- the factory makes no task -----------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError("no"), TypeError("no"), asyncio.CancelledError()]
)
@pytest.mark.parametrize("pending", [False, True], ids=["at once", "pending"])
async def test_factory_raises_the_job_has_ended(
    error: BaseException, pending: bool
) -> None:
    """A9, R2: its slot is free, its coroutine closed, and the failure is reported."""
    reports, go, coro = Reports(), asyncio.Event(), give(1)
    scheduler = Scheduler(limit=1, exception_handler=reports)

    def refuse(*args: Any, **options: Any) -> Any:
        raise error

    if pending:
        await scheduler.spawn(wait_for(go))
        await settle()
    with tasks_made_by(refuse):
        job = await scheduler.spawn(coro)
        go.set()
        await settle()
    assert job.closed
    assert is_closed(coro)
    if isinstance(error, Exception):
        assert [context["exception"] for context in reports.contexts] == [error]
        assert await outcome_of(job) is error
    await check_it_works(scheduler)


async def test_factory_returns_what_is_no_task_the_job_has_failed() -> None:
    """A9: there is nothing that could run, and nothing that could end."""
    reports, coro = Reports(), give(1)
    scheduler = Scheduler(limit=1, exception_handler=reports)
    with tasks_made_by(lambda *args, **options: None):
        job = await scheduler.spawn(coro)
    await settle()
    assert job.state is JobState.FAILED
    assert is_closed(coro)
    assert len(reports.contexts) == 1
    await check_it_works(scheduler)


@pytest.mark.parametrize("named", ["name", None])
async def test_factory_returns_a_future_its_end_is_the_jobs(named: str | None) -> None:
    """A9: asyncio requires only a future, which has no name and runs nothing."""
    future = asyncio.get_running_loop().create_future()
    scheduler = Scheduler(limit=1, exception_handler=Reports())
    coro = wait_for(asyncio.Event())
    with tasks_made_by(lambda *args, **options: future):
        job = await scheduler.spawn(coro, named)
    await settle()
    if job.active:
        future.set_result("result")
    await outcome_of(job)
    assert job.label
    assert is_closed(coro)
    await check_it_works(scheduler)


# -- a TypeError: of its signature, or from inside? --------------------------------------


async def test_type_error_after_the_first_step_no_second_run() -> None:
    """A9: the coroutine has begun, so it is not given to the factory again."""
    log = list[str]()

    async def work() -> None:
        log.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    def run_and_raise(loop: Any, coro: Any, **options: Any) -> Any:
        coro.send(None)
        raise TypeError("a mistake of the factory")

    scheduler, coro = Scheduler(limit=1, exception_handler=Reports()), work()
    with tasks_made_by(run_and_raise):
        job = await scheduler.spawn(coro)
    outcome = await outcome_of(job)
    assert str(outcome) == "a mistake of the factory"
    assert log == ["begun", "cleaned up"]
    assert is_closed(coro)
    await check_it_works(scheduler)


async def test_type_error_from_inside_is_what_is_told() -> None:
    """A9, R2: and not the TypeError of a second, useless call."""

    def mistaken(loop: Any, coro: Any, **options: Any) -> Any:
        raise TypeError("a mistake of the factory")

    scheduler = Scheduler(limit=1, exception_handler=Reports())
    with tasks_made_by(mistaken):
        job = await scheduler.spawn(give(1), "name", context=contextvars.copy_context())
    assert str(await outcome_of(job)) == "a mistake of the factory"
    await check_it_works(scheduler)


# -- a factory that takes neither name nor context ---------------------------------------


class NewerLoop(VirtualLoop):
    """Hands names and contexts to the task factory, as asyncio does since 3.13.3."""

    def create_task(self, coro: Any, **options: Any) -> Any:
        options = {name: value for name, value in options.items() if value is not None}
        if (factory := self.get_task_factory()) is not None:
            return factory(self, coro, **options)
        return asyncio.Task(coro, loop=self, **options)


def as_one(name: str) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(user.set, name)
    return context


@pytest.mark.parametrize("make_loop", [VirtualLoop, NewerLoop])
def test_factory_of_two_arguments_runs_jobs_with_names_and_contexts(
    make_loop: Callable[[], VirtualLoop],
) -> None:
    """A9, A6: started at once or later, each in the context of its spawner."""
    seen = list[tuple[str | None, str]]()

    async def work(name: str | None) -> None:
        await asyncio.sleep(0)
        seen.append((name, user.get()))

    async def request(scheduler: Scheduler, name: str) -> list[Job[None]]:
        user.set(name)
        explicit = as_one(f"{name} given")
        return [
            await scheduler.spawn(work(name)),
            await scheduler.spawn(work("named"), "a name"),
            await scheduler.spawn(work("explicit"), "b name", context=explicit),
        ]

    async def main() -> None:
        async with Scheduler(limit=1) as scheduler:
            jobs = list[Job[None]]()
            for name in ("alice", "bob"):
                jobs += await asyncio.create_task(request(scheduler, name))
            await asyncio.gather(*(job.wait() for job in jobs))
            assert [job.get_name() for job in jobs[1:3]] == ["a name", "b name"]

    with contextlib.closing(make_loop()) as loop:
        loop.set_task_factory(contextless)  # type: ignore[arg-type]
        loop.run_until_complete(main())
    assert seen == [
        (name, who)
        for one in ("alice", "bob")
        for name, who in ((one, one), ("named", one), ("explicit", f"{one} given"))
    ]


def test_job_in_the_context_that_runs_just_now() -> None:
    """A9: a context that is entered cannot be entered again."""
    seen = list[str]()

    async def note() -> None:
        seen.append(user.get())

    async def parent(scheduler: Scheduler, context: contextvars.Context) -> None:
        user.set("parent")
        job = await scheduler.spawn(note(), context=context)
        await job

    async def main() -> None:
        async with Scheduler(limit=1) as scheduler:
            context = contextvars.copy_context()
            await scheduler.spawn(parent(scheduler, context), context=context)

    with contextlib.closing(VirtualLoop()) as loop:
        loop.set_task_factory(contextless)  # type: ignore[arg-type]
        loop.run_until_complete(main())
    assert len(seen) == 1


# -- names -------------------------------------------------------------------------------


async def test_factory_names_the_task_after_the_users_function() -> None:
    """A9: tasks show the user's coroutine by name, even to a factory that asks for it."""
    go, seen = asyncio.Event(), list[str]()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        seen.extend((coro.__name__, coro.__qualname__))
        return strangely_named(loop, coro, **options)

    async with Scheduler() as scheduler:
        with tasks_made_by(factory):
            unnamed = await scheduler.spawn(wait_for(go))
            named = await scheduler.spawn(wait_for(go), "invoice 7")
        assert seen == ["wait_for"] * 4
        assert named.get_name() == named.label == "invoice 7"
        assert unnamed.label == "wait_for"
        go.set()


@pytest.mark.parametrize("asked", ["repr", "coroutine", "both"])
async def test_a_task_shows_the_users_coroutine_to_whoever_looks(asked: str) -> None:
    """A9: in its repr(), which debug mode and warnings use, and by get_coro()."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        with tasks_made_by(None):
            job = await scheduler.spawn(wait_for(go))
        task: Any = job.task
        if asked != "coroutine":
            assert "coro=<wait_for() running at" in repr(task)
        if asked != "repr":
            coro = task.get_coro()
            assert (coro.__name__, coro.__qualname__) == ("wait_for", "wait_for")
        go.set()
        await job
        assert "coro=<wait_for()" in repr(task)


async def test_a_task_without_its_job_can_be_shown() -> None:
    """A9: a KeyboardInterrupt may separate it from its job before it is shown."""

    async def _run() -> None:  # has the name of what a job's task runs
        pass

    task = JobTask(_run(), loop=asyncio.get_running_loop())
    assert "_run" in repr(task)
    await task


# -- one context for several jobs --------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2])
async def test_jobs_in_one_context_wait_for_their_children(limit: int) -> None:
    """A9, L2: neither mistakes the other one's job for its own: each slot goes to a child
    of its owner and comes back."""

    async def parent(name: str) -> list[str]:
        children = [await scheduler.spawn(give(f"{name} {n}")) for n in range(2)]
        await asyncio.sleep(0)
        return [await child for child in children]

    context = contextvars.copy_context()
    async with Scheduler(limit=limit) as scheduler:
        jobs = [await scheduler.spawn(parent(n), context=context) for n in ("a", "b")]
        async with asyncio.timeout(10):
            assert [await job for job in jobs] == [["a 0", "a 1"], ["b 0", "b 1"]]
        assert scheduler.slots_taken == 0


@pytest.mark.parametrize("limit", [1, 2])
async def test_jobs_in_one_context_wait_for_children_in_it_too(limit: int) -> None:
    """A9, L2: however deep."""

    async def parent(depth: int) -> int:
        if not depth:
            return 0
        await asyncio.sleep(0)
        child = await scheduler.spawn(parent(depth - 1), context=context)
        return 1 + await child

    context = contextvars.copy_context()
    async with Scheduler(limit=limit) as scheduler:
        jobs = [await scheduler.spawn(parent(5), context=context) for _ in range(2)]
        async with asyncio.timeout(10):
            assert [await job for job in jobs] == [5, 5]
        assert scheduler.slots_taken == 0


async def test_job_that_waits_lends_its_own_slot_and_not_its_neighbours() -> None:
    """A9, L2: of two jobs in one context, the one that works keeps its slot."""
    go, rest = asyncio.Event(), asyncio.Event()

    async def parent() -> str:
        await asyncio.sleep(0)  # an eager job begins before the others exist
        child = await scheduler.spawn(wait_for(go))
        assert child.pending
        return str(await child)

    context = contextvars.copy_context()
    async with Scheduler(limit=2) as scheduler:
        waiting = await scheduler.spawn(parent(), context=context)
        working = await scheduler.spawn(wait_for(rest), context=context)
        stranger = await scheduler.spawn(wait_for(rest))
        await settle()
        assert not waiting.takes_slot
        assert working.takes_slot
        assert stranger.pending
        go.set()
        async with asyncio.timeout(10):
            assert await waiting == "done"
        rest.set()
    assert scheduler.slots_taken == 0


async def test_job_that_closes_spares_itself_and_not_its_neighbour() -> None:
    """A9, E3: a job in the same context is still another job."""
    log = list[str]()

    async def neighbour() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("neighbour cancelled")
            raise

    async def closer() -> None:
        await asyncio.sleep(0)
        await scheduler.close()
        log.append("closed")

    context = contextvars.copy_context()
    scheduler = Scheduler(limit=3)
    others = [await scheduler.spawn(neighbour(), context=context)]
    closing = await scheduler.spawn(closer(), context=context)
    others.append(await scheduler.spawn(neighbour(), context=context))
    async with asyncio.timeout(10):
        await closing
    assert closing.state is JobState.SUCCEEDED
    assert [job.state for job in others] == [JobState.CANCELLED] * 2
    assert log == ["neighbour cancelled", "neighbour cancelled", "closed"]
    await scheduler.close()
    assert scheduler.state.name == "CLOSED"


async def test_job_that_drains_waits_for_its_neighbour() -> None:
    """A9, E4: it waits for all but itself."""
    log = list[str]()

    async def neighbour() -> None:
        await later(5)
        log.append("neighbour")

    async def drainer() -> None:
        await asyncio.sleep(0)
        await scheduler.drain()
        log.append("drained")

    context = contextvars.copy_context()
    async with Scheduler(limit=2) as scheduler:
        await scheduler.spawn(neighbour(), context=context)
        job = await scheduler.spawn(drainer(), context=context)
        await job
    assert log == ["neighbour", "drained"]


async def test_job_waits_for_its_neighbour_and_not_for_itself() -> None:
    """A9, R8: the task, not the context, identifies the caller."""
    jobs, refused = list[Job[Any]](), list[str]()

    async def ask() -> Any:
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError) as caught:
            await jobs[0].wait()
        refused.append(str(caught.value))
        return await jobs[1]

    context = contextvars.copy_context()
    async with Scheduler(limit=2) as scheduler:
        jobs.append(await scheduler.spawn(ask(), context=context))
        jobs.append(await scheduler.spawn(give(1), context=context))
        assert await jobs[0] == 1
    assert len(refused) == 1
    assert "itself" in refused[0]


@pytest.mark.not_on("contextless")
async def test_task_in_the_context_of_a_job_that_has_ended_is_nobodys() -> None:
    """A9, E3: a close by it counts as coming from outside, and waits for all."""
    context = contextvars.copy_context()
    scheduler, other = Scheduler(limit=2), wait_for(asyncio.Event())
    first = await scheduler.spawn(give(1), context=context)
    await first
    second = await scheduler.spawn(other, context=context)
    await settle()
    async with asyncio.timeout(10):
        await asyncio.create_task(scheduler.close(), context=context)
    assert second.closed
    assert is_closed(other)
    assert len(scheduler) == 0
    assert scheduler.state.name == "CLOSED"


@pytest.mark.not_on("contextless")
async def test_task_in_the_context_of_active_jobs_waits_for_a_pending_one() -> None:
    """A9, L2: it is not specified whose slot it lends, only that all end."""
    go = asyncio.Event()
    context = contextvars.copy_context()
    async with Scheduler(limit=2) as scheduler:
        for _ in range(2):
            await scheduler.spawn(wait_for(go), context=context)
        pending = await scheduler.spawn(wait_for(go))
        waiter = asyncio.create_task(pending.wait(), context=context)
        await settle()
        go.set()
        async with asyncio.timeout(10):
            assert await waiter == "done"
    assert scheduler.slots_taken == 0
