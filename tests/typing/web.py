"""The types of functions that take an application or a request, and of add-ons."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from aiohttp import web
from prometheus_client import CollectorRegistry

from aiohttp_jobs import (
    SCHEDULER,
    Job,
    JobLogger,
    Scheduler,
    get_scheduler,
    get_scheduler_from_app,
    get_scheduler_from_request,
    setup,
    shield,
    spawn,
    spawn_nowait,
)
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.prometheus import setup_metrics


async def count() -> int:
    return 1


def on_failure(scheduler: Scheduler, context: dict[str, Any]) -> None:
    pass


def setting_up(app: web.Application) -> None:
    assert_type(setup(app), Scheduler)
    setup(app, close_timeout=1, wait_timeout=2.5, limit=None, pending_limit=0)
    setup(app, exception_handler=on_failure, atomic_methods={"POST", "PUT"})
    setup(app, atomic_methods=["POST"], observers=(JobLogger(),))

    setup()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    setup("app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    setup(app, 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    setup(app, limits=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    setup(app, limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    setup(app, close_timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    setup(app, exception_handler=count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    setup(app, atomic_methods={1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def finding(app: web.Application, request: web.Request) -> None:
    assert_type(app[SCHEDULER], Scheduler)
    assert_type(get_scheduler(request), Scheduler)
    assert_type(get_scheduler_from_app(app), Scheduler | None)
    assert_type(get_scheduler_from_request(request), Scheduler | None)

    get_scheduler(app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    get_scheduler_from_app(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def may_read(request: web.Request) -> Access:
    return Access.READ


async def may_manage(request: web.Request) -> tuple[Access, str]:
    return Access.MANAGE, "ann"


async def may_both(request: web.Request) -> Access | tuple[Access, str | None]:
    return Access.MANAGE, None


async def is_staff(request: web.Request) -> bool:
    return True


def on_top(app: web.Application, registry: CollectorRegistry) -> None:
    assert_type(setup_dashboard(app, authorize=may_read), web.Application)
    setup_dashboard(app, "/admin/jobs", authorize=may_read, scheduler=app[SCHEDULER])
    setup_dashboard(app, authorize=may_manage, title="Shop jobs", home="/")
    setup_dashboard(app, authorize=may_both, home=None)
    setup_metrics(app, "/metrics", registry=registry, name="mail")

    setup_dashboard(app)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    setup_dashboard(app, authorize=is_staff)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    setup_dashboard(app, "/jobs", may_read)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    setup_metrics(app, registri=registry)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class SpawningView(web.View):
    async def get(self) -> web.Response:
        assert_type(await spawn(self.request, count()), Job[int])
        await spawn(self, count())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return web.Response()


async def spawning(request: web.Request) -> None:
    job = await spawn(request, count(), "counter", timeout=5, after_response=True)
    assert_type(job, Job[int])
    assert_type(await job, int)
    assert_type(spawn_nowait(request, count(), after_response=True), Job[int])

    wrong: Job[int] = spawn(request, count())  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert wrong
    await spawn(count())  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    await spawn(request, count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await spawn(request, count(), timeot=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await spawn(request, count(), "counter", 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    spawn_nowait(request, count(), after_response="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def shielding(request: web.Request, job: Job[str]) -> None:
    assert_type(shield(request, count()), asyncio.Future[int])
    assert_type(await shield(request, count()), int)
    assert_type(await shield(request, asyncio.ensure_future(count())), int)
    assert_type(await shield(request, job), str)

    await shield(count())  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    await shield(request, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
