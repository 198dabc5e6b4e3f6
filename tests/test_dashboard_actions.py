"""Actions on the dashboard: it asks first, says what it did, and logs for whom."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import JobState
from aiohttp_jobs.dashboard import Access, steering
from aiohttp_jobs.dashboard.process import process_name
from tests.dashboards import (
    HERE,
    Client,
    Start,
    get,
    make_app,
    path_of,
    scheduler_of,
    start,
    words_of,
)
from tests.loops import settle
from tests.work import nothing, stubborn, wait_for

__all__ = ("start",)  # a fixture

JSON = {"Accept": "application/json"}


async def ann(request: web.Request) -> tuple[Access, str]:
    return Access[request.headers.get("Access", "MANAGE")], "ann\nforged"


async def tell(
    client: Client, path: str, status: int = 200, /, **fields: str
) -> dict[str, Any]:
    """Post a form, and return the answer as a script gets it."""
    async with client.post(path, data=fields or None, headers=HERE | JSON) as response:
        assert response.status == status, await response.text()
        outcome: dict[str, Any] = await response.json()
        return outcome


def fields_of(page: str) -> dict[str, str]:
    """Return the hidden fields of a page's confirmation form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


# -- one job -----------------------------------------------------------------------------


async def test_cancel_tells_number_and_name(start: Start) -> None:
    """Of an active, a stopping, a pending and a closed job."""
    client = await start(make_app(ann, limit=1, close_timeout=60))
    scheduler, go = scheduler_of(client), asyncio.Event()
    job = await scheduler.spawn(stubborn(go), "make_report")
    other = await scheduler.spawn(nothing(), "mail")
    await settle()
    named, other_named = f"Job {job.id} (make_report)", f"Job {other.id} (mail)"
    told = [
        await tell(client, path_of(each) + "/cancel") for each in (job, job, other, other)
    ]
    assert told == [
        {"done": True, "says": f"{named} is being cancelled"},
        {"done": False, "says": f"{named} is being cancelled already"},
        {"done": True, "says": f"{other_named} was cancelled; it had not started"},
        {"done": False, "says": f"{other_named} had ended before: cancelled"},
    ]
    go.set()


async def test_job_of_another_process_is_told_not_to_be_cancelled(start: Start) -> None:
    """A script is told by JSON, a browser by a page with a way back."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
    path = f"/jobs/job/0123abcd-{job.id}/cancel"
    outcome = await tell(client, path, 404)
    assert not outcome["done"]
    assert f"Job {job.id} is of another process" in outcome["says"]
    async with client.post(path, headers=HERE) as response:
        assert response.status == 404
        assert 'href="../../">Go back to all jobs</a>' in await response.text()
    assert job.state is JobState.ACTIVE


async def test_page_asks_before_a_job_is_cancelled(start: Start) -> None:
    """It names the job, for visitors who may cancel; an ended job has no button."""
    client = await start(make_app(ann))
    scheduler = scheduler_of(client)
    job = await scheduler.spawn(wait_for(asyncio.Event()), "make_report")
    await settle()
    path = path_of(job) + "/cancel"
    page = await get(client, path)
    assert f"Cancel job {job.id} ( make_report )?" in words_of(page)
    assert "stands at wait_for, work.py:" in words_of(page)
    assert '<form method="post"' in page
    await get(client, path, 403, Access="READ")
    assert job.state is JobState.ACTIVE
    await job.close()
    page = await get(client, path)
    assert "There is nothing to cancel" in page
    assert "<form" not in page
    await get(client, path_of(12345) + "/cancel", 404)


async def test_job_page_tells_what_has_come_of_it(start: Start) -> None:
    """The form leads to this page without scripts."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()), "make_report")
    await settle()
    async with client.post(path_of(job) + "/cancel", headers=HERE) as response:
        page = await response.text()
    assert f"Job {job.id} ( make_report ): cancelled." in words_of(page)


# -- the log -----------------------------------------------------------------------------


async def test_every_action_is_logged_with_who_did_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """At WARNING, in one line, with fields; the visitor's name cannot forge a line."""
    client = await start(make_app(ann, limit=1))
    scheduler = scheduler_of(client)
    job = await scheduler.spawn(wait_for(asyncio.Event()), "make_report")
    await settle()
    with caplog.at_level(logging.WARNING, "aiohttp_jobs"):
        await tell(client, path_of(job) + "/cancel")
        process = process_name()
        await tell(client, "/jobs/queue", action="hold", process=process)
        await tell(client, "/jobs/queue", action="release", process=process)
        await tell(
            client, "/jobs/queue", action="limit", process=process, before="1", limit="2"
        )
        until = str(asyncio.get_running_loop().time() + 1e9)
        await tell(client, "/jobs/cancel", search="x", until=until, process=process)
    records: list[Any] = [r for r in caplog.records if hasattr(r, "dashboard_action")]
    assert [r.dashboard_action for r in records] == [
        "cancel",
        "hold",
        "release",
        "limit",
        "cancel_all",
    ]
    first = records[0]
    assert first.getMessage() == (
        f"Job {job.id} (make_report) is being cancelled "
        "(asked for on the dashboard by ann\\nforged)"
    )
    assert (first.job_id, first.job_name) == (job.id, "make_report")
    for record in records:
        assert record.levelno == logging.WARNING
        assert record.dashboard_visitor == "ann\\nforged"
        assert record.dashboard_remote == "127.0.0.1"
        assert "\n" not in record.getMessage()


async def test_visitor_without_a_name_is_told_by_address(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """It is enough for `authorize` to return just an Access."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
    await tell(client, path_of(job) + "/cancel")
    assert "by somebody at 127.0.0.1)" in caplog.text


# -- all that fit a filter ---------------------------------------------------------------


async def test_cancel_all_that_match_says_how_many_and_leaves_later_ones(
    start: Start,
) -> None:
    """Jobs that came after the page had asked were not meant; the rest does not match."""
    client = await start(make_app(ann, limit=1))
    scheduler = scheduler_of(client)
    active = await scheduler.spawn(wait_for(asyncio.Event()), "report 1")
    await settle()
    pending = [await scheduler.spawn(nothing(), "report 2") for _ in range(3)]
    other = await scheduler.spawn(nothing(), "mail")
    await get(client, "/jobs/cancel?search=report", 403, Access="READ")
    page = await get(client, "/jobs/cancel?search=report")
    words = words_of(page)
    assert "Cancel 4 jobs?" in words
    assert "1 running job, which is cancelled, and 3 waiting jobs" in words
    assert "report 2 x3, report 1" in words
    later = await scheduler.spawn(nothing(), "report 3")
    assert not active.closed
    outcome = await tell(client, "/jobs/cancel", **fields_of(page))
    assert outcome == {
        "done": True,
        "says": "4 jobs cancelled: report 2 x3, report 1",
    }
    await settle()
    assert {job.state for job in (active, *pending)} == {JobState.CANCELLED}
    assert {job.state for job in (other, later)} == {JobState.SUCCEEDED}
    outcome = await tell(client, "/jobs/cancel", **fields_of(page))
    assert not outcome["done"]


async def test_cancel_all_needs_a_filter_and_its_own_process(start: Start) -> None:
    """An empty filter would match everything; another process has other jobs."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()), "report")
    await settle()
    assert "search for something" in await get(client, "/jobs/cancel", 400)
    fields = {"until": "1e300", "process": process_name()}
    await tell(client, "/jobs/cancel", 400, **fields)
    fields |= {"search": "report", "process": "0123abcd"}
    assert not (await tell(client, "/jobs/cancel", 409, **fields))["done"]
    async with client.post("/jobs/cancel", json={"search": "r"}, headers=HERE) as answer:
        assert answer.status == 415
    fields |= {"until": "soon"}
    async with client.post("/jobs/cancel", data=fields, headers=HERE) as answer:
        assert answer.status == 400
    assert job.state is JobState.ACTIVE


async def test_many_are_cancelled_in_turns(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop gets its turn in between; jobs beyond the bound are mentioned."""
    monkeypatch.setattr(steering, "AT_ONCE", 2)
    monkeypatch.setattr(steering, "MOST", 7)
    client = await start(make_app(limit=1))
    scheduler = scheduler_of(client)
    await scheduler.spawn(wait_for(asyncio.Event()), "first")
    jobs = [await scheduler.spawn(nothing(), "report") for _ in range(9)]
    page = await get(client, "/jobs/cancel?search=report")
    assert "Cancel 6 jobs?" in words_of(page)
    assert "3 more were not looked at" in words_of(page)
    await tell(client, "/jobs/cancel", **fields_of(page))
    assert sum(job.state is JobState.CANCELLED for job in jobs) == 6


# -- the queue ---------------------------------------------------------------------------


async def test_queue_is_held_and_released(start: Start) -> None:
    """The page says what it will do before it does it, and what it did after."""
    client = await start(make_app(ann, limit=1))
    scheduler = scheduler_of(client)
    await get(client, "/jobs/queue", 403, Access="READ")
    page = await get(client, "/jobs/queue")
    assert "No waiting job starts until the queue is released" in page
    fields = fields_of(page)
    assert fields["action"] == "hold"
    outcome = await tell(client, "/jobs/queue", **fields)
    assert outcome["done"]
    assert outcome["says"].startswith("The queue is held: 0 jobs wait")
    assert bool(scheduler.held)
    assert not (await tell(client, "/jobs/queue", **fields))["done"]
    job = await scheduler.spawn(nothing())
    page = await get(client, "/jobs/queue")
    assert "Waiting jobs start again" in page
    async with client.post("/jobs/queue", data=fields_of(page), headers=HERE) as answer:
        assert "The queue is released." in await answer.text()
    await settle()
    assert job.state is JobState.SUCCEEDED


async def test_limit_is_changed_from_what_was_seen(start: Start) -> None:
    """If two visitors change it at once, the second one is told, and changes nothing."""
    client = await start(make_app(ann, limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    for _ in range(3):
        await scheduler.spawn(wait_for(go))
    page = await get(client, "/jobs/queue?limit=2")
    assert "Change the limit from 1 to 2?" in words_of(page)
    assert "1 waiting job will start at once." in words_of(page)
    outcome = await tell(client, "/jobs/queue", **fields_of(page))
    assert outcome == {"done": True, "says": "The limit was changed from 1 to 2"}
    assert scheduler.limit == 2
    second = {**fields_of(page), "limit": "5"}
    outcome = await tell(client, "/jobs/queue", **second)
    assert not outcome["done"]
    assert "somebody has changed it from 1 to 2 meanwhile" in outcome["says"]
    assert scheduler.limit == 2
    page = await get(client, "/jobs/queue?limit=")
    assert "from 2 to no limit?" in words_of(page)
    await tell(client, "/jobs/queue", **fields_of(page))
    assert scheduler.statistics().limit is None
    go.set()


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "x", "1" * 20, "²"])
async def test_limit_that_cannot_be_is_refused(start: Start, limit: str) -> None:
    """With a sentence, both by the confirmation page and by the action itself."""
    client = await start(make_app(limit=3))
    async with client.get("/jobs/queue", params={"limit": limit}) as answer:
        assert answer.status == 400
    fields = {"action": "limit", "process": process_name(), "before": "3"}
    fields |= {"limit": limit}
    async with client.post("/jobs/queue", data=fields, headers=HERE) as answer:
        assert answer.status == 400
        assert "limit takes a number" in await answer.text()
    assert scheduler_of(client).limit == 3


async def test_unknown_action_and_other_process_do_nothing(start: Start) -> None:
    """Neither holds a queue by mistake."""
    client = await start(make_app())
    fields = {"action": "explode", "process": process_name()}
    async with client.post("/jobs/queue", data=fields, headers=HERE) as answer:
        assert answer.status == 400
    await tell(client, "/jobs/queue", 409, action="hold", process="0123abcd")
    assert not scheduler_of(client).held
