"""Helpers for tests of applications: drain_jobs, SpawnedJobs (rules E4, R2, W8)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request

from aiohttp_jobs import (
    JobCancelled,
    Scheduler,
    atomic,
    setup,
    shield,
    spawn,
    spawn_nowait,
)
from aiohttp_jobs.testing import Recording, SpawnedJobs, drain_jobs
from tests.clients import one_route
from tests.work import Boom, Reports, fail, give, hang_up, nothing, stubborn, wait_for

Start = Callable[..., Awaitable[Any]]


class Site:
    """An application whose handler does what the test says."""

    def __init__(self, **options: Any) -> None:
        self.done: list[str] = []
        self.reports = Reports()
        self.app = one_route(self.handler)
        options.setdefault("exception_handler", self.reports)
        self.scheduler = setup(self.app, **options)
        self.do: Callable[[web.Request], Awaitable[object]] = self.later

    async def handler(self, request: web.Request) -> web.Response:
        await self.do(request)
        return web.Response()

    async def later(self, request: web.Request) -> None:
        await spawn(request, self.work(), after_response=True)

    async def work(self, name: str = "work") -> None:
        await asyncio.sleep(0)
        self.done.append(name)


@pytest.fixture
def site() -> Site:
    return Site()


# -- drain_jobs --------------------------------------------------------------------------


async def test_drain_waits_for_jobs_after_the_response(
    site: Site, aiohttp_client: Start
) -> None:
    """W8: these wait for the end of the request, which the client does not see."""
    client = await aiohttp_client(site.app)
    for _ in range(20):
        await client.get("/")
    await drain_jobs(client)
    assert site.done == ["work"] * 20


async def test_drain_waits_for_what_the_jobs_spawn(
    site: Site, aiohttp_client: Start
) -> None:
    """E4: and for the jobs that those spawn."""

    async def parent(depth: int) -> None:
        await site.work(str(depth))
        if depth:
            await site.scheduler.spawn(parent(depth - 1))

    async def do(request: web.Request) -> None:
        await spawn(request, parent(3))

    site.do = do
    client = await aiohttp_client(site.app)
    await client.get("/")
    await drain_jobs(client)
    assert site.done == ["3", "2", "1", "0"]


async def test_drain_takes_a_server_an_application_and_a_scheduler(site: Site) -> None:
    """Even if there is nothing to wait for."""
    async with TestServer(site.app) as server:
        for where in (server, site.app, site.scheduler):
            site.done.clear()
            await drain_jobs(where)
            await site.scheduler.spawn(site.work())
            await drain_jobs(where)
            assert site.done == ["work"]
    await drain_jobs(site.scheduler)


async def test_drain_takes_sub_applications_too(aiohttp_client: Start) -> None:
    """E4: also if a job of one application spawns into another."""
    parent, below, silent = Site(), Site(), web.Application()
    silent.add_subapp("/below", below.app)
    parent.app.add_subapp("/silent", silent)

    async def back_and_forth(depth: int) -> None:
        await parent.work()
        if depth:
            other = below if depth % 2 else parent
            await other.scheduler.spawn(back_and_forth(depth - 1))

    client = await aiohttp_client(parent.app)
    await parent.scheduler.spawn(back_and_forth(5))
    await drain_jobs(client)
    assert len(parent.done) == 6
    await client.get("/silent/below/")
    await drain_jobs(client)
    assert below.done == ["work"]


async def test_drain_does_not_wait_for_atomic_handlers(
    site: Site, aiohttp_client: Start
) -> None:
    """Such as an open WebSocket, during which the test waits for jobs."""

    @atomic
    async def chat(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await spawn(request, site.work())
        async for _ in socket:
            pass
        return socket

    site.app.router.add_get("/chat", chat)
    client = await aiohttp_client(site.app)
    async with client.ws_connect("/chat"):
        await drain_jobs(client)
        assert site.done == ["work"]


async def test_drain_takes_handlers_that_are_called_without_a_server(
    site: Site,
) -> None:
    """W8: the job is not held back for the end of the test's own task."""
    response = await site.handler(make_mocked_request("GET", "/", app=site.app))
    assert response.status == 200
    await drain_jobs(site.app)
    assert site.done == ["work"]
    await site.scheduler.close()


async def test_drain_that_takes_too_long_names_what_is_left(site: Site) -> None:
    """E0: the jobs are left alone."""
    go = asyncio.Event()
    jobs = [await site.scheduler.spawn(wait_for(go), name) for name in ("a", "b", "a")]
    with pytest.raises(TimeoutError, match=r"0.01 s .* not ended: a x2, b$"):
        await drain_jobs(site.scheduler, timeout=0.01)
    assert all(job.active for job in jobs)
    go.set()
    await drain_jobs(site.scheduler)
    await site.scheduler.close()


async def test_drain_raises_what_nobody_was_there_to_receive(site: Site) -> None:
    """R2: in a group, with the names; even failures from before."""
    async with site.scheduler as scheduler:
        await scheduler.spawn(fail(), "first")
        await scheduler.drain()
        assert len(site.reports.contexts) == 1
        await scheduler.spawn(fail(), "second")
        await scheduler.spawn(nothing())
        with pytest.raises(
            ExceptionGroup, match="2 jobs have failed: first, second"
        ) as e:
            await drain_jobs(scheduler)
        assert [type(error) for error in e.value.exceptions] == [Boom, Boom]
        await drain_jobs(scheduler)  # raises them only once
        await scheduler.spawn(fail(), "third")
        with pytest.raises(ExceptionGroup, match="A job has failed: third"):
            await drain_jobs(scheduler)


async def test_drain_raises_nothing_that_somebody_has_received(site: Site) -> None:
    """R2: whether at once, or later when the exception handler was already told."""
    async with site.scheduler as scheduler:
        for waits in (True, False):
            job = await scheduler.spawn(fail())
            if not waits:
                await scheduler.drain()
            with pytest.raises(Boom):
                await job
        job = await scheduler.spawn(wait_for(asyncio.Event()))
        with pytest.raises(TimeoutError):
            await job.wait(timeout=0)
        job = await scheduler.spawn(wait_for(asyncio.Event()))
        await job.close()
        await scheduler.spawn(hang_up())
        await drain_jobs(scheduler)


async def test_drain_raises_what_was_let_go(site: Site) -> None:
    """E0: that is reported as a failure, too."""
    go = asyncio.Event()
    await site.scheduler.spawn(stubborn(go))
    await asyncio.sleep(0)
    await site.scheduler.close()
    with pytest.raises(ExceptionGroup) as caught:
        await drain_jobs(site.scheduler)
    assert caught.group_contains(TimeoutError, match="did not end in time")
    go.set()


async def test_drain_refuses_what_has_no_scheduler() -> None:
    """With a sentence."""
    with pytest.raises(RuntimeError, match=r"call aiohttp_jobs.setup\(app\)"):
        await drain_jobs(web.Application())
    something: Any = object()
    with pytest.raises(TypeError, match="takes a test client"):
        await drain_jobs(something)
    with pytest.raises(ValueError, match="timeout"):
        await drain_jobs(Scheduler(), timeout=-1)


# -- SpawnedJobs -------------------------------------------------------------------------


@pytest.fixture
def recorded() -> Iterator[SpawnedJobs]:
    jobs = SpawnedJobs()
    recording = Recording(jobs)
    recording.start()
    yield jobs
    recording.stop()


async def test_spawned_jobs_are_recorded(site: Site, recorded: SpawnedJobs) -> None:
    """Of existing schedulers and new ones; but no atomic handlers."""

    @atomic
    async def handler(request: web.Request) -> web.Response:
        spawn_nowait(request, nothing(), "b")
        await shield(request, nothing())
        return web.Response()

    async with site.scheduler as scheduler, Scheduler(limit=1) as other:
        await scheduler.spawn(nothing(), "a")
        await handler(make_mocked_request("GET", "/", app=site.app))
        go = asyncio.Event()
        await other.spawn(wait_for(go, mark="c"))
        pending = await other.spawn(nothing(), "d")
        assert recorded.names == ["a", "b", "wait_for", "d"]
        assert (len(recorded), recorded[-1]) == (4, pending)
        assert [job.pending for job in recorded[2:]] == [False, True]
        go.set()
    assert repr(recorded) == "<SpawnedJobs ['a', 'b', 'wait_for', 'd']>"


async def test_arguments_of_a_spawned_job_are_told(recorded: SpawnedJobs) -> None:
    """All of them by name, but not its local variables."""

    async def work(one: int, *more: int, two: str = "b", **others: Any) -> None:
        three = one
        del one, three

    async with Scheduler() as scheduler:
        job = await scheduler.spawn(work(1, 2, 3, five=5))
        assert recorded.arguments_of(job) == {
            "one": 1,
            "more": (2, 3),
            "two": "b",
            "others": {"five": 5},
        }
        await job
        assert recorded.arguments_of(job)["one"] == 1


async def test_held_jobs_do_not_run(
    site: Site, recorded: SpawnedJobs, aiohttp_client: Start
) -> None:
    """At the end of the block they are cancelled; other jobs run as before."""

    async def do(request: web.Request) -> None:
        await spawn(request, site.work("held"))
        await spawn(request, site.work("after the response"), after_response=True)

    client = await aiohttp_client(site.app)
    site.do = do
    with recorded.held():
        await client.get("/")
        assert [job.pending for job in recorded] == [True, True]
        new = Scheduler()
        job = await new.spawn(give("never"))
        assert job.pending
    assert [job.closed for job in recorded] == [True, True, True]
    with pytest.raises(JobCancelled):
        await job
    await drain_jobs(client)
    assert site.done == []
    await site.scheduler.spawn(site.work("free"))
    await drain_jobs(client)
    assert site.done == ["free"]
    assert await (await new.spawn(give(1))) == 1
    await new.close()


async def test_jobs_that_were_pending_before_are_held_and_run_later(
    site: Site, recorded: SpawnedJobs
) -> None:
    """And a scheduler that the test itself holds stays held."""
    async with Scheduler(limit=1) as scheduler:
        go = asyncio.Event()
        await scheduler.spawn(wait_for(go))
        pending = await scheduler.spawn(give("later"))
        site.scheduler.hold()
        with recorded.held():
            go.set()
            await asyncio.sleep(0)
            assert pending.pending
        assert await pending == "later"
        assert site.scheduler.held
        site.scheduler.release()
    await site.scheduler.close()


async def test_held_blocks_do_not_nest(recorded: SpawnedJobs) -> None:
    """With a sentence."""
    with recorded.held():
        with pytest.raises(RuntimeError, match="already held"), recorded.held():
            pass
        async with Scheduler() as scheduler:
            job = await scheduler.spawn(nothing())
            assert job.pending
            await job.close()


def test_scheduler_of_another_loop_is_left_alone(recorded: SpawnedJobs) -> None:
    """It belongs to a test that is over."""
    old = Scheduler()

    async def run(scheduler: Scheduler) -> None:
        scheduler.check_loop()
        with recorded.held():
            job = await scheduler.spawn(nothing())
            assert job.pending

    asyncio.run(run(old))
    new = Scheduler()
    asyncio.run(run(new))
    assert (old.held, new.held) == (False, False)


async def test_spawned_jobs_are_an_observer(site: Site) -> None:
    """For users without pytest."""
    jobs = SpawnedJobs()
    async with Scheduler(observers=[jobs]) as scheduler:
        await scheduler.spawn(nothing(), "a")
    assert jobs.names == ["a"]
    with contextlib.suppress(Boom):
        await drain_jobs(scheduler)
