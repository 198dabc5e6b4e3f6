"""What a process does for other processes: for whom, until when, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector
from aiohttp.test_utils import TestClient, TestServer

from aiohttp_jobs import SCHEDULER, Job, JobState, Scheduler
from aiohttp_jobs.dashboard import Access
from aiohttp_jobs.dashboard.access import Visitor
from aiohttp_jobs.dashboard.answering import packed_query, packed_visitor
from aiohttp_jobs.dashboard.process import address_of, process_name
from aiohttp_jobs.dashboard.query import Query
from aiohttp_jobs.share.asking import Trouble, ask, order
from aiohttp_jobs.share.deadlines import DEADLINE
from aiohttp_jobs.share.folder import Folder
from tests.dashboards import make_app
from tests.loops import settle
from tests.work import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

EVE = packed_visitor(Visitor(Access.MANAGE, "eve\nforged", "10.0.0.9"))
BOB = packed_visitor(Visitor(Access.READ, "bob", "10.0.0.9"))


class Owner:
    """The worker that owns the jobs, as another worker sees it."""

    def __init__(self, share: str, scheduler: Scheduler) -> None:
        self.folder = Folder(share)
        (self.name,) = self.folder.sockets()
        self.address = self.folder.address(str(self.name))
        self.scheduler = scheduler

    async def ask(self, path: str, data: object = None) -> Any:
        path = f"/dashboard/jobs/{path}"
        return await ask(self.name, self.address, path, data)

    async def order(self, path: str, **data: object) -> Any:
        path = f"/dashboard/jobs/{path}"
        return await order(self.name, self.address, path, data)

    async def spawn(self, name: str) -> Job[Any]:
        job = await self.scheduler.spawn(wait_for(asyncio.Event()), name)
        await settle()
        return job


@pytest.fixture
async def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Owner]:
    share = str(tmp_path / "share")
    monkeypatch.setenv("AIOHTTP_JOBS_SHARE", share)
    app = make_app(limit=2)
    async with TestClient(TestServer(app)):
        owner = Owner(share, app[SCHEDULER])
        yield owner
        await app[SCHEDULER].close()
        owner.folder.close()


async def test_all_that_can_be_done_is_done_and_logged_for_whom(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor's name comes with the request; the log has one line."""
    first, second = await owner.spawn("report"), await owner.spawn("monthly")
    process = process_name()
    told = [
        await owner.order("cancel", address=address_of(first.id), visitor=EVE),
        await owner.order("hold", process=process, visitor=EVE),
        await owner.order("release", process=process, visitor=EVE),
        await owner.order("limit", process=process, before=2, limit=5, visitor=EVE),
        await owner.order(
            "cancel-matching",
            query=packed_query(Query(search="monthly")),
            process=process,
            until=time.monotonic(),
            visitor=EVE,
        ),
    ]
    assert [answer.data["told"]["done"] for answer in told] == [True] * 5
    assert {first.state, second.state} <= {JobState.CANCELLED, JobState.STOPPING}
    assert owner.scheduler.limit == 5
    records: list[Any] = [r for r in caplog.records if hasattr(r, "dashboard_action")]
    assert len(records) == 5
    for record in records:
        assert record.dashboard_visitor == "eve\\nforged"
        assert record.dashboard_remote == "10.0.0.9"


@pytest.mark.parametrize(
    "path", ["cancel", "hold", "release", "limit", "cancel-matching"]
)
async def test_nothing_is_done_for_who_may_only_look(owner: Owner, path: str) -> None:
    """Nor by a GET, nor after the deadline, nor without one."""
    job = await owner.spawn("report")
    data = {
        "address": address_of(job.id),
        "process": process_name(),
        "query": packed_query(Query(search="report")),
        "until": time.monotonic() + 60,
        "before": 2,
        "limit": 5,
        "visitor": EVE,
    }
    if path == "release":
        owner.scheduler.hold()
    refused = await owner.order(path, **{**data, "visitor": BOB})
    assert refused.trouble is Trouble.FAILED
    assert (await owner.ask(path, data)).trouble is Trouble.FAILED
    async with ClientSession(connector=UnixConnector(owner.address)) as session:
        for headers, status in (
            ({DEADLINE: repr(time.monotonic() - 1)}, 410),
            ({}, 400),
        ):
            url = f"http://worker/dashboard/jobs/{path}"
            async with session.post(url, json=data, headers=headers) as answer:
                assert answer.status == status
    assert job.state is JobState.ACTIVE
    assert owner.scheduler.limit == 2
    assert owner.scheduler.held == (path == "release")


async def test_what_is_not_there_is_refused_by_a_sentence(owner: Owner) -> None:
    """That is an answer, and does not count as trouble with the worker."""
    path = f"job?address={process_name()}-99999"
    assert "no job 99999" in (await owner.ask(path)).data["refused"]
    answer = await owner.order("cancel", address="0123abcd-1", visitor=EVE)
    assert "another process" in answer.data["refused"]
    answer = await owner.order("hold", process="0123abcd", visitor=EVE)
    assert "another process" in answer.data["refused"]
    assert not owner.scheduler.held
    assert (await owner.ask("nothing")).trouble is Trouble.NOTHING
    assert (await owner.ask("overview", {"nonsense": 1})).trouble is Trouble.FAILED
    queries = {f"?{number}": packed_query(Query()) for number in range(99)}
    answer = await owner.ask("overview", {"queries": queries, "known": {}})
    assert len(answer.data["forgotten"]) == 50
    assert os.getpid() == answer.data["part"]["process"]["pid"]
