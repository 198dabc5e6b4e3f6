"""The types of Scheduler and Job, without aiohttp."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, assert_type

from aiohttp_jobs import (
    ExceptionHandler,
    Job,
    JobLogger,
    JobState,
    Scheduler,
    Statistics,
)


async def count() -> int:
    return 1


async def greet() -> str:
    return "hello"


async def spawning(scheduler: Scheduler) -> None:
    context = contextvars.copy_context()
    assert_type(await scheduler.spawn(count()), Job[int])
    assert_type(await scheduler.spawn(greet(), "greeter", timeout=0.5), Job[str])
    assert_type(scheduler.spawn_nowait(count(), timeout=5, context=context), Job[int])
    assert_type(scheduler.spawn_at_once(greet(), name="greeter"), Job[str])
    future = asyncio.ensure_future(count())
    assert_type(scheduler.spawn_after(future, greet()), Job[str])

    await scheduler.spawn(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await scheduler.spawn(future)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await scheduler.spawn(count(), nane="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await scheduler.spawn(count(), "a", 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await scheduler.spawn(count(), timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await scheduler.spawn_nowait(count(), context={})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job: Job[int] = scheduler.spawn(count())  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert job


async def waiting(job: Job[int], other: Job[str]) -> None:
    assert_type(await job, int)
    assert_type(await job.wait(), int)
    assert_type(await job.wait(timeout=0.5), int)
    assert_type(await other, str)
    assert_type(await asyncio.wait_for(job.wait(), 1), int)
    numbers, words = await asyncio.gather(job, other.wait())
    assert_type(numbers, int)
    assert_type(words, str)

    await job.wait(0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await job.wait(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text: str = await job  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert text


async def jobs(job: Job[int]) -> None:
    assert_type(job.active, bool)
    assert_type(job.pending, bool)
    assert_type(job.closed, bool)
    assert_type(job.state, JobState)
    assert_type(job.get_name(), str | None)
    assert_type(job.label, str)
    assert_type(job.origin, str | None)
    assert_type(job.started_at, float | None)
    assert_type(job.exception(), BaseException | None)
    assert_type(job.stack(), traceback.StackSummary)
    job.set_name("counter")
    await job.close(timeout=5)

    awaitable: Awaitable[int] = job
    wider: Job[float] = job  # a reader of floats can read ints
    assert awaitable
    assert wider
    narrower: Job[bool] = job  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert narrower
    job.active = False  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    job.set_name(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await job.close(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def shielding(scheduler: Scheduler, job: Job[str]) -> None:
    assert_type(scheduler.shield(count()), asyncio.Future[int])
    assert_type(await scheduler.shield(count()), int)
    assert_type(await scheduler.shield(asyncio.ensure_future(greet())), str)
    assert_type(await scheduler.shield(job), str)

    scheduler.shield(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scheduler.shield(count(), timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def on_failure(scheduler: Scheduler, context: dict[str, Any]) -> None:
    pass


class Reporter:
    """An exception handler may be any callable, with any result."""

    def __call__(self, scheduler: Scheduler, context: dict[str, Any]) -> bool:
        return True


def options() -> None:
    Scheduler()
    Scheduler(close_timeout=1, wait_timeout=2.5, limit=10, pending_limit=0)
    Scheduler(close_timeout=None, wait_timeout=None, limit=None, pending_limit=None)
    handler: ExceptionHandler = on_failure
    Scheduler(exception_handler=handler)
    Scheduler(exception_handler=Reporter())
    Scheduler(exception_handler=lambda scheduler, context: context["message"])

    Scheduler(observers=[JobLogger()])

    Scheduler(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Scheduler(limits=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Scheduler(limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(limit=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(pending_limit="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(close_timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(wait_timeout=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(observers=JobLogger())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(observer=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Scheduler(exception_handler=count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Scheduler(exception_handler=lambda context: None)  # type: ignore[misc,arg-type]  # pyright: ignore[reportArgumentType]


async def looking(scheduler: Scheduler) -> None:
    for job in scheduler:
        assert_type(job, Job[Any])
    assert_type(len(scheduler), int)
    assert_type(scheduler.active_jobs(5), list[Job[Any]])
    assert_type(scheduler.pending_jobs(), list[Job[Any]])
    assert_type(scheduler.statistics(), Statistics)
    assert_type(scheduler.statistics().longest_running, float)
    assert_type(scheduler.statistics().running_since, float | None)
    assert_type(scheduler.limit, int | None)
    assert_type(scheduler.pending_limit, int | None)
    assert_type(scheduler.close_timeout, float | None)
    assert_type(scheduler.wait_timeout, float | None)
    assert_type(scheduler.active_count, int)
    assert_type(scheduler.pending_count, int)
    assert_type(scheduler.closed, bool)
    handler: Callable[[Scheduler, dict[str, Any]], object] | None
    handler = scheduler.exception_handler
    assert handler

    scheduler.statistics().failed = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    scheduler.limit = 5
    scheduler.limit = None
    scheduler.pending_limit = 0
    scheduler.hold()
    scheduler.release()


async def ending(scheduler: Scheduler) -> None:
    closing: Coroutine[Any, Any, None] = scheduler.close()
    await closing
    await scheduler.wait_and_close(timeout=1)
    await scheduler.wait_and_close(None)
    assert_type(await scheduler.drain(0.5), bool)
    async with Scheduler() as entered:
        assert_type(entered, Scheduler)

    with Scheduler():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    await scheduler.wait_and_close("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
