"""Where an active job is suspended."""

from __future__ import annotations

import asyncio
import linecache
import types
from collections.abc import AsyncIterator, Generator

import pytest

from aiohttp_jobs import Scheduler
from aiohttp_jobs.core.stack import places_of
from tests.loops import settle


async def innermost(go: asyncio.Event) -> None:
    await go.wait()


async def by_await(go: asyncio.Event) -> None:
    await innermost(go)


class Lazy:
    def __init__(self, go: asyncio.Event) -> None:
        self._go = go

    def __await__(self) -> Generator[None, None, None]:
        return innermost(self._go).__await__()


async def by_object(go: asyncio.Event) -> None:
    await Lazy(go)


@types.coroutine
def generator(go: asyncio.Event) -> Generator[None, None, None]:
    yield from innermost(go).__await__()


async def by_generator(go: asyncio.Event) -> None:
    await generator(go)


async def numbers(go: asyncio.Event) -> AsyncIterator[int]:
    await innermost(go)
    yield 1


async def by_iteration(go: asyncio.Event) -> None:
    async for _ in numbers(go):
        pass


async def by_anext(go: asyncio.Event) -> None:
    await anext(numbers(go), None)


async def names(job_of: types.FunctionType) -> list[str]:
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(job_of(go))
        await settle()
        found = [frame.name for frame in job.stack()]
        go.set()
        await job
        assert job.stack() == []
    return found


async def test_stack_goes_through_nested_awaits() -> None:
    """The innermost frame is the last one."""
    assert await names(by_await) == ["by_await", "innermost", "wait"]  # type: ignore[arg-type]


async def test_stack_goes_through_everything_that_can_be_awaited() -> None:
    """Objects with __await__, generators, asynchronous generators."""
    assert await names(by_object) == ["by_object", "innermost", "wait"]  # type: ignore[arg-type]
    assert await names(by_generator) == [  # type: ignore[arg-type]
        "by_generator",
        "generator",
        "innermost",
        "wait",
    ]
    assert await names(by_iteration) == [  # type: ignore[arg-type]
        "by_iteration",
        "numbers",
        "innermost",
        "wait",
    ]
    assert await names(by_anext) == [  # type: ignore[arg-type]
        "by_anext",
        "numbers",
        "innermost",
        "wait",
    ]


async def test_stack_of_a_job_that_waits_for_another() -> None:
    """It ends where the job waits for the other one."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        child = await scheduler.spawn(innermost(go))

        async def parent() -> None:
            await child

        job = await scheduler.spawn(parent())
        await settle()
        assert [frame.name for frame in job.stack()] == ["parent", "wait", "_end"]
        go.set()


async def test_pending_job_has_no_stack() -> None:
    """It has not started yet."""
    go = asyncio.Event()
    async with Scheduler(limit=1) as scheduler:
        await scheduler.spawn(innermost(go))
        pending = await scheduler.spawn(innermost(go))
        assert pending.stack() == []
        go.set()


async def test_job_that_looks_at_itself_sees_its_own_frame() -> None:
    """It is running, and not suspended."""

    async def look() -> list[str]:
        await asyncio.sleep(0)
        (job,) = scheduler
        return [frame.name for frame in job.stack()]

    async with Scheduler() as scheduler:
        assert await (await scheduler.spawn(look())) == ["look"]


async def deep(depth: int, go: asyncio.Event) -> None:
    if depth:
        await deep(depth - 1, go)
    else:
        await innermost(go)


async def test_stack_may_be_limited_to_its_innermost_frames() -> None:
    """As for a page, whose cost must not grow with the depth."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(deep(200, go))
        await settle()
        assert len(job.stack()) == 203
        names = ["deep", "innermost", "wait"]
        assert [frame.name for frame in job.stack(limit=3)] == names
        assert [function for _, _, function in places_of(job.coro, 3)] == names
        assert list(job.stack(limit=0)) == places_of(job.coro, 0) == []
        with pytest.raises(ValueError, match="non-negative"):
            job.stack(limit=-1)
        go.set()


async def test_places_are_told_without_reading_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page that is rendered each second may have 25 jobs, each 500 awaits deep."""
    read: list[str] = []
    monkeypatch.setattr(linecache, "checkcache", lambda *names: read.append(str(names)))
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        job = await scheduler.spawn(deep(500, go))
        await settle()
        read.clear()  # in debug mode asyncio itself reads files when a task is made
        places = places_of(job.coro, 3)
        assert len(places) == 3
        assert read == []
        go.set()
