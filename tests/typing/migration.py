"""The types of an application that migrates from aiojobs."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from aiohttp import web

import aiohttp_jobs
import aiohttp_jobs.aiohttp
from aiohttp_jobs import Job, Scheduler, create_scheduler
from aiohttp_jobs._job import Job as PrivateJob
from aiohttp_jobs._scheduler import ExceptionHandler
from aiohttp_jobs._scheduler import Scheduler as PrivateScheduler
from aiohttp_jobs.aiohttp import (
    AIOJOBS_SCHEDULER,
    atomic,
    get_scheduler,
    get_scheduler_from_app,
    get_scheduler_from_request,
    setup,
    shield,
    spawn,
)


async def count() -> int:
    return 1


def report(scheduler: aiohttp_jobs.Scheduler, context: dict[str, Any]) -> None:
    pass


class Counter:
    scheduler: aiohttp_jobs._scheduler.Scheduler
    jobs: set[aiohttp_jobs.Job[int]]
    last: PrivateJob[int] | None = None
    handler: ExceptionHandler = report

    async def start(self) -> None:
        self.scheduler = Scheduler(exception_handler=report)
        self.last = await self.scheduler.spawn(count())
        self.jobs.add(self.last)


async def making() -> None:
    made = await create_scheduler(
        close_timeout=1, limit=None, pending_limit=0, exception_handler=report
    )
    assert_type(made, Scheduler)
    other: PrivateScheduler = made
    assert other

    await create_scheduler(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await create_scheduler(limits=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    create_scheduler().spawn(count())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def setting_up(app: web.Application, options: dict[str, Any]) -> None:
    setup(app, **options)
    aiohttp_jobs.aiohttp.setup(app, limit=10, exception_handler=report)
    assert_type(app[AIOJOBS_SCHEDULER], Scheduler)
    assert_type(get_scheduler_from_app(app), Scheduler | None)


@atomic
async def handler(request: web.Request) -> web.Response:
    assert_type(get_scheduler(request), Scheduler)
    assert_type(get_scheduler_from_request(request), Scheduler | None)
    job = await aiohttp_jobs.aiohttp.spawn(request, count())
    assert_type(job, Job[int])
    assert_type(await spawn(request, count()), Job[int])
    assert_type(shield(request, count()), asyncio.Future[int])
    return web.Response()
