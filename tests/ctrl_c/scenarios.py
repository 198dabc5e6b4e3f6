"""The scenarios that are interrupted: each runs a different part of the core.

Nothing is checked here, as an interrupt may have come before; see press.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import Any

from aiohttp_jobs import Job, JobLogger, SchedulerClosed, SchedulerFull
from tests.ctrl_c.press import Scenario, Stage
from tests.loops import later, settle

__all__ = ("SCENARIOS",)


class Observer:
    """Implements every event, and does nothing."""

    def job_spawned(self, job: Job[Any]) -> None:
        pass

    job_started = job_running = job_closed = job_spawned


async def start_at_once(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=2)
    job = await stage.spawn(scheduler, stage.wait())
    stage.go.set()
    await job.wait()


async def start_with_a_name_a_context_and_a_timeout(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=2, observers=[Observer()])
    context = contextvars.copy_context()
    options = {"name": "name", "timeout": 9, "context": context, "origin": "here"}
    job = await stage.spawn(scheduler, stage.wait(), **options)
    await settle()
    stage.go.set()
    await job


async def end_in_the_first_step(stage: Stage) -> None:
    async def nothing() -> None:
        pass

    scheduler = stage.scheduler(limit=1)
    for _ in range(3):
        await stage.spawn(scheduler, nothing())
    await settle()


async def start_pending_jobs(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, observers=[JobLogger()])
    jobs = [await stage.spawn(scheduler, stage.wait()) for _ in range(3)]
    stage.start(jobs[2].wait())
    await settle()
    stage.go.set()
    await asyncio.gather(*(job.wait() for job in jobs))


async def wait_for_room(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, pending_limit=1)
    for _ in range(2):
        await stage.spawn(scheduler, stage.wait())
    callers = [stage.start(stage.spawn(scheduler, stage.wait())) for _ in range(3)]
    await settle()
    callers[1].cancel()
    await settle()
    stage.go.set()
    await asyncio.gather(callers[0], callers[2])
    await scheduler.drain()


async def wait_for_room_in_a_job(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, pending_limit=1)

    async def parent() -> None:
        for _ in range(3):
            await stage.spawn(scheduler, stage.wait())

    job = await stage.spawn(scheduler, parent())
    await settle()
    stage.go.set()
    await job
    await scheduler.drain()


async def share_a_key(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, observers=[Observer()])
    for key in ("a", "b", "a", "b"):
        await stage.spawn(scheduler, stage.wait(), key=key)
    future = stage.loop.create_future()
    for _ in range(2):
        coro = stage.wait()
        stage.keep(scheduler.spawn_after(future, stage.work(coro), key="c"), coro)
    await settle()
    future.set_result(None)
    stage.go.set()
    await scheduler.drain()


async def share_a_key_without_room(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, pending_limit=1)
    for _ in range(2):
        await stage.spawn(scheduler, stage.wait())
    callers = [
        stage.start(stage.spawn(scheduler, stage.wait(), key="a")) for _ in range(4)
    ]
    await settle()
    callers[0].cancel()
    await settle()
    stage.go.set()
    await asyncio.gather(*callers[1:])
    await scheduler.drain()


async def refuse(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, pending_limit=1)
    for _ in range(2):
        coro = stage.wait()
        stage.keep(scheduler.spawn_nowait(stage.work(coro)), coro)
    with contextlib.suppress(SchedulerFull):
        scheduler.spawn_nowait(stage.work(stage.wait()))
    with contextlib.suppress(TypeError):
        await scheduler.spawn(3)  # type: ignore[arg-type]
    with contextlib.suppress(ValueError):
        await scheduler.spawn(stage.work(stage.wait()), timeout=-1)
    await settle()
    stage.go.set()
    await scheduler.drain()
    await scheduler.close()
    with contextlib.suppress(SchedulerClosed):
        await scheduler.spawn(stage.work(stage.wait()))


async def fail_with_waiters(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    job = await stage.spawn(scheduler, stage.fail())
    waiters = [stage.start(job.wait()) for _ in range(2)]
    await stage.spawn(scheduler, stage.wait())
    await asyncio.wait(waiters)
    await settle()
    stage.go.set()


async def fail_without_a_waiter(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, observers=[JobLogger()])
    for _ in range(3):
        await stage.spawn(scheduler, stage.fail())
    await settle()


async def fail_without_an_exception_handler(stage: Stage) -> None:
    stage.loop.set_exception_handler(lambda *told: None)
    scheduler = stage.scheduler(limit=1, exception_handler=None)
    await stage.spawn(scheduler, stage.fail())
    await settle()


async def fail_after_the_waiter_was_cancelled(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)

    async def fail_later() -> None:
        await stage.go.wait()
        await stage.fail()

    job = await stage.spawn(scheduler, fail_later())
    waiter = stage.start(job.wait())
    await settle()
    stage.go.set()
    await asyncio.sleep(0)
    waiter.cancel()
    await settle()


async def close_jobs(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    jobs = [await stage.spawn(scheduler, stage.wait()) for _ in range(3)]
    waiter = stage.start(jobs[0].wait())
    await settle()
    await jobs[1].close()
    closers = [stage.start(jobs[0].close()) for _ in range(2)]
    await asyncio.wait([waiter, *closers])
    await settle()


async def close_a_job_before_its_first_step(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    jobs = [await stage.spawn(scheduler, stage.wait()) for _ in range(2)]
    await jobs[0].close()
    await settle()


async def cancel_the_task_of_a_job(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    tasks = list[Any]()

    async def tell_its_task() -> None:
        tasks.append(asyncio.current_task())
        await stage.go.wait()

    jobs = [await stage.spawn(scheduler, tell_its_task()) for _ in range(2)]
    await settle()
    for task in tasks[:1]:  # none, if the interrupt came before
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await jobs[0]
    await settle()


async def let_a_job_go(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, close_timeout=1)
    jobs = [await stage.spawn(scheduler, stage.stubborn()) for _ in range(2)]
    waiter = stage.start(jobs[0].wait())
    await settle()
    with contextlib.suppress(TimeoutError):
        await jobs[0].close()
    await settle()
    stage.go.set()
    await asyncio.wait([waiter])
    await settle()


async def run_out_of_time(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, close_timeout=1)
    for coro in (stage.wait(), stage.stubborn(), stage.wait()):
        await stage.spawn(scheduler, coro, timeout=1)
    await later(5)
    stage.go.set()
    await settle()


async def wait_for_no_longer(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, close_timeout=1)
    for coro in (stage.wait(), stage.stubborn(), stage.fail()):
        job = await stage.spawn(scheduler, coro)
        with contextlib.suppress(TimeoutError, ZeroDivisionError):
            await job.wait(timeout=2)
    stage.go.set()
    await settle()


async def close_the_scheduler(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=2, pending_limit=1, close_timeout=1)
    for coro in (stage.wait(), stage.stubborn(), stage.wait()):
        await stage.spawn(scheduler, coro)
    caller = stage.start(stage.spawn(scheduler, stage.wait()))
    scheduler.shield(stage.start(stage.wait()))
    await settle()
    closers = [stage.start(scheduler.close()) for _ in range(2)]
    await asyncio.wait([caller, *closers])
    stage.go.set()
    await settle()


async def close_the_scheduler_before_a_first_step(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    await stage.spawn(scheduler, stage.wait())
    await scheduler.close()


async def close_the_scheduler_in_a_job(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=2)

    async def end_it() -> None:
        await scheduler.close()

    await stage.spawn(scheduler, stage.wait())
    job = await stage.spawn(scheduler, end_it())
    await stage.spawn(scheduler, stage.wait())
    await job
    await settle()


async def drain(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    for _ in range(2):
        await stage.spawn(scheduler, stage.wait())
    drainers = [stage.start(scheduler.drain()) for _ in range(2)]
    drainers.append(stage.start(scheduler.wait_and_close()))
    await later(12)  # some records are written meanwhile
    drainers[0].cancel()
    await settle()
    stage.go.set()
    await asyncio.wait(drainers)


async def drain_in_vain(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1, close_timeout=1)
    for _ in range(2):
        await stage.spawn(scheduler, stage.stubborn())
    await scheduler.drain(1)
    await scheduler.wait_and_close(1)
    stage.go.set()
    await settle()


async def drain_in_jobs(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=2)

    async def last() -> None:
        await scheduler.drain()

    jobs = [await stage.spawn(scheduler, last()) for _ in range(2)]
    await stage.spawn(scheduler, stage.wait())
    await settle()
    stage.go.set()
    await asyncio.wait([stage.start(job.wait()) for job in jobs])


async def leave_the_context_manager(stage: Stage) -> None:
    async with stage.scheduler(limit=1) as scheduler:
        for _ in range(2):
            await stage.spawn(scheduler, stage.wait())
        stage.go.set()


async def shield(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)

    async def protect(coro: Any) -> None:
        await scheduler.shield(coro)

    async def fail_later() -> None:
        await stage.go.wait()
        await stage.fail()

    callers = [stage.start(protect(stage.wait())) for _ in range(2)]
    callers += [stage.start(protect(fail_later())) for _ in range(2)]
    await settle()
    callers[0].cancel()
    callers[2].cancel()
    await settle()
    stage.go.set()
    await asyncio.wait(callers)
    await settle()


async def shield_until_the_close(stage: Stage) -> None:
    scheduler = stage.scheduler(close_timeout=1)

    async def protect(coro: Any) -> None:
        await scheduler.shield(coro)

    callers = [stage.start(protect(stage.wait())), stage.start(protect(stage.stubborn()))]
    await settle()
    await scheduler.close()
    stage.go.set()
    await asyncio.wait(callers)


async def lend_a_slot(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)

    async def parent() -> None:
        for _ in range(2):
            await (await stage.spawn(scheduler, stage.wait()))

    job = await stage.spawn(scheduler, parent())
    await stage.spawn(scheduler, stage.wait())
    await settle()
    stage.go.set()
    await job
    await settle()


async def lend_a_slot_and_stop_waiting(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)

    async def parent() -> None:
        child = await stage.spawn(scheduler, stage.wait())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await child
        await stage.go.wait()

    jobs = [await stage.spawn(scheduler, parent()) for _ in range(2)]
    await later(5)
    stage.go.set()
    for job in jobs:
        await job


async def lend_a_slot_through_others(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)

    async def parent() -> None:
        children = [await stage.spawn(scheduler, stage.wait()) for _ in range(2)]
        await asyncio.gather(*(child.wait() for child in children))

    async def at_once() -> None:
        await (await stage.spawn(scheduler, stage.wait()))

    async def grandparent() -> None:
        coro = at_once()
        job = stage.keep(scheduler.spawn_at_once(stage.work(coro)), coro)
        await job

    jobs = [await stage.spawn(scheduler, coro()) for coro in (parent, grandparent)]
    await settle()
    stage.go.set()
    for job in jobs:
        await job


async def hold_a_job_back(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    futures = [stage.loop.create_future() for _ in range(3)]
    jobs = list[Job[Any]]()
    for future in futures:
        coro = stage.wait()
        jobs.append(stage.keep(scheduler.spawn_after(future, stage.work(coro)), coro))
    await settle()
    await jobs[1].close()
    for future in futures:
        future.set_result(None)
    await settle()
    stage.go.set()
    await asyncio.gather(jobs[0].wait(), jobs[2].wait())


async def start_outside_of_the_limit(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    for _ in range(2):
        coro = stage.wait()
        stage.keep(scheduler.spawn_at_once(stage.work(coro)), coro)
    await stage.spawn(scheduler, stage.wait())
    await settle()
    stage.go.set()
    await scheduler.wait_and_close()


async def look_at_it(stage: Stage) -> None:
    scheduler = stage.scheduler(limit=1)
    observer = Observer()
    scheduler.add_observer(observer)
    jobs = [await stage.spawn(scheduler, stage.wait()) for _ in range(3)]
    for job in scheduler:
        job.set_name("renamed")
        str((job, job.id, job.label, job.stack(), job in scheduler))
    scheduler.statistics()
    scheduler.active_jobs(), scheduler.pending_jobs(1)
    scheduler.remove_observer(observer)
    stage.go.set()
    for job in jobs:
        await job
        job.exception()


async def be_refused_a_task(stage: Stage) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError("no more tasks")

    scheduler = stage.scheduler(limit=1)
    factory = stage.loop.get_task_factory()
    stage.loop.set_task_factory(refuse)
    try:
        with contextlib.suppress(OSError):
            await stage.spawn(scheduler, stage.wait())
    finally:
        stage.loop.set_task_factory(factory)
    await settle()


SCENARIOS: tuple[Scenario, ...] = (
    start_at_once,
    start_with_a_name_a_context_and_a_timeout,
    end_in_the_first_step,
    start_pending_jobs,
    wait_for_room,
    wait_for_room_in_a_job,
    share_a_key,
    share_a_key_without_room,
    refuse,
    fail_with_waiters,
    fail_without_a_waiter,
    fail_without_an_exception_handler,
    fail_after_the_waiter_was_cancelled,
    close_jobs,
    close_a_job_before_its_first_step,
    cancel_the_task_of_a_job,
    let_a_job_go,
    run_out_of_time,
    wait_for_no_longer,
    close_the_scheduler,
    close_the_scheduler_before_a_first_step,
    close_the_scheduler_in_a_job,
    drain,
    drain_in_vain,
    drain_in_jobs,
    leave_the_context_manager,
    shield,
    shield_until_the_close,
    lend_a_slot,
    lend_a_slot_and_stop_waiting,
    lend_a_slot_through_others,
    hold_a_job_back,
    start_outside_of_the_limit,
    look_at_it,
    be_refused_a_task,
)
