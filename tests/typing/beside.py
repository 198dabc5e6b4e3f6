"""The types of the parts beside the core: in_thread, repeat, drain_jobs."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, assert_type

from aiohttp import web
from aiohttp.test_utils import TestClient

from aiohttp_jobs import Job, Repeat, Scheduler, cron, every, in_thread, repeat, spawn
from aiohttp_jobs.testing import SpawnedJobs, drain_jobs


def add(one: int, two: int = 2) -> int:
    return one + two


async def refresh(name: str) -> int:
    return len(name)


async def in_threads(request: web.Request, executor: Executor) -> None:
    assert_type(await in_thread(add, 1), int)
    assert_type(await in_thread(add, 1, two=3), int)
    assert_type(await in_thread(add, 1, executor=executor), int)
    assert_type(await spawn(request, in_thread(add, 1), key="add"), Job[int])
    assert_type(in_thread.cancelled(), bool)

    await in_thread(add, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await in_thread(add, three=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await in_thread(5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def repeating(app: web.Application, scheduler: Scheduler) -> None:
    assert_type(repeat(app, every(60), refresh, "a"), Repeat)
    repeat(scheduler, cron("0 7 * * *"), refresh, "a", name="b", jitter=5, at_once=True)
    repeat(app, every(60), in_thread, add, 5)
    repeat(app, every(60), lambda: refresh("a"))

    repeat(app, every(60), refresh, 5)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    repeat(app, 60, refresh, "a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    repeat(app, every(60), add, 5)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def testing(
    client: TestClient[Any, Any], app: web.Application, spawned_jobs: SpawnedJobs
) -> None:
    await drain_jobs(client)
    await drain_jobs(app, timeout=None)
    assert_type(spawned_jobs[0], Job[Any])
    assert_type(spawned_jobs.names, list[str])
    with spawned_jobs.held():
        pass

    await drain_jobs(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
