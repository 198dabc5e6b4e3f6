"""The dashboard as seen by a browser without scripts, and by a hostile site."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import subprocess
import sys
import time
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import aiohttp_jinja2
import jinja2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

import aiohttp_jobs.dashboard
from aiohttp_jobs import SCHEDULER, JobState, Scheduler, setup
from aiohttp_jobs.dashboard import (
    Access,
    app,
    data,
    history,
    overview,
    setup_dashboard,
    stream,
)
from aiohttp_jobs.dashboard.charts import backlog, run_times, throughput
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.dashboard.process import process_name
from aiohttp_jobs.dashboard.query import Query
from aiohttp_jobs.dashboard.record import raised_by
from aiohttp_jobs.dashboard.words import (
    OUTCOMES,
    STATES,
    ago,
    breakable,
    duration,
    since,
)
from tests.clients import serving
from tests.dashboards import (
    HERE,
    Events,
    Start,
    by_header,
    get,
    make_app,
    manage,
    path_of,
    post,
    read,
    rows,
    scheduler_of,
    start,
    words_of,
)
from tests.loops import VirtualLoop, later, settle
from tests.work import Boom, Reports, fail, hang_up, nothing, stubborn, wait_for

__all__ = ("start",)  # a fixture

FOLDER = Path(aiohttp_jobs.dashboard.__file__).parent
SECRET = "hunter2"


# -- who may do what ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "looks", "cancels"),
    [("NONE", 403, 403), ("READ", 200, 403), ("MANAGE", 200, 303)],
)
async def test_access_decides(
    start: Start, access: str, looks: int, cancels: int
) -> None:
    """For every address; visitors who may not cancel see no button, and are refused."""
    client = await start(make_app(by_header, limit=1))
    go = asyncio.Event()
    job = await scheduler_of(client).spawn(wait_for(go))
    for path in ("/jobs/", path_of(job), "/jobs/static/dashboard.css"):
        page = await get(client, path, looks, Access=access)
        assert ('<form class="cancel' in page) == (
            access == "MANAGE" and "css" not in path
        )
    for path in ("/jobs/live", path_of(job) + "/live"):
        async with client.get(path, headers={"Access": access}) as response:
            assert response.status == looks
    response = await post(client, path_of(job) + "/cancel", Access=access, **HERE)
    assert response.status == cancels
    assert (job.state is JobState.ACTIVE) == (access != "MANAGE")


async def test_authorize_may_answer_itself(start: Start) -> None:
    """An HTTPException passes through: a redirect to a login page, for example."""

    async def authorize(request: web.Request) -> Access:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})

    client = await start(make_app(authorize))
    async with client.get("/jobs/") as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Basic"


@pytest.mark.parametrize("answer", [True, None, 2, "MANAGE"])
async def test_answer_that_is_no_access_lets_nobody_in(start: Start, answer: Any) -> None:
    """A truth value is not a permission."""

    async def authorize(request: web.Request) -> Any:
        return answer

    client = await start(make_app(authorize))
    await get(client, "/jobs/", 500)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://test"}, 403),
        ({"Origin": "http://test"}, 303),
        ({"Origin": "https://TEST"}, 303),
        ({"Origin": "http://test.evil.example"}, 403),
        ({"Origin": "http://test:81"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_other_sites_are_refused(
    start: Start, headers: dict[str, str], status: int
) -> None:
    """Sec-Fetch-Site decides, else Origin; with neither, the request is refused."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
    response = await post(client, path_of(job) + "/cancel", **headers)
    assert response.status == status
    assert (job.state is JobState.ACTIVE) == (status == 403)


async def test_get_changes_nothing(start: Start) -> None:
    """Cancelling takes a POST; GET only asks for confirmation."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
    await get(client, path_of(job) + "/cancel")
    assert job.state is JobState.ACTIVE


@pytest.mark.parametrize("path", ["/jobs/", "/jobs/job/9", "/jobs/static/dashboard.js"])
async def test_every_answer_has_a_strict_policy(start: Start, path: str) -> None:
    """Nothing inline, nothing from elsewhere, no framing; for errors too."""
    client = await start(make_app())
    async with client.get(path) as response:
        policy = response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] in ("no-store", "no-cache")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_pages_have_nothing_inline_and_nothing_from_elsewhere() -> None:
    """And everything that a browser loads is small."""
    files = [
        path for part in ("static", "templates") for path in (FOLDER / part).iterdir()
    ]
    assert sum(path.stat().st_size for path in files) < 75_000
    for path in files:
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text), path
        assert not re.search(r"<script(?! src=)", text), path
        assert re.findall(r"https?://[^\"' ]+", text) in (
            [],
            ["http://www.w3.org/2000/svg"],
        )


# -- what is shown -----------------------------------------------------------------------


async def test_overview_shows_all_without_scripts(start: Start) -> None:
    """Figures, active jobs and where they are, pending jobs in order, recent jobs."""
    client = await start(make_app(limit=2, pending_limit=9))
    scheduler, go = scheduler_of(client), asyncio.Event()
    await scheduler.spawn(fail(), "broken", origin="POST /orders")
    await scheduler.spawn(nothing())
    await settle()
    await scheduler.spawn(wait_for(go), "first", origin="GET /a/{b}")
    await scheduler.spawn(stubborn(go), "second")
    dropped = await scheduler.spawn(nothing(), "dropped")
    await scheduler.spawn(nothing(), "third")
    await scheduler.spawn(nothing(), "fourth")
    await dropped.close()
    page = await get(client, "/jobs/")
    first, second = rows(page, "active")
    assert re.search(
        r"^first \d+ wait_for GET /a/\{b\} .* wait_for, work.py:\d+ Cancel$", first
    )
    assert re.match(r"second \d+ stubborn ", second)
    third, fourth = rows(page, "pending")
    assert re.match(r"1 third \d+ nothing ", third)
    assert re.match(r"2 fourth \d+ nothing ", fourth)
    dropped_row, *others = rows(page, "recent")
    assert "cancelled, never started" in dropped_row
    assert any(re.search(r"^nothing \d+ succeeded .* ms ", row) for row in others)
    assert any(
        re.search(r"^broken \d+ fail .* failed .*Boom: boom", row) for row in others
    )
    words = words_of(page)
    assert "Running 2 2 of 2 slots taken, longest " in words
    assert "Waiting 2 of 9 longest " in words
    assert page.count("<caption") == page.count("<table") == 5
    assert page.count('role="status"') == 1
    assert page.count("<svg") == 3
    go.set()


async def test_figures_tell_slots_from_jobs(start: Start) -> None:
    """W5: there may be more active jobs than slots, which is no fault."""
    client = await start(make_app(limit=1, pending_limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    for _ in range(2):
        await scheduler.spawn(wait_for(go))
        scheduler.spawn_at_once(wait_for(go))
    caller = asyncio.create_task(scheduler.spawn(wait_for(go)))
    await settle()
    words = words_of(await get(client, "/jobs/"))
    assert re.search(
        r"Running 3 1 of 1 slot taken, longest [\d.]+ ms ?\. 2 without a slot: ", words
    )
    assert re.search(
        r"Waiting 1 of 1 longest [\d.]+ ms ?\. 1 caller without room Failed", words
    )
    go.set()
    await caller


async def test_client_that_has_hung_up_is_shown_and_is_no_failure(start: Start) -> None:
    """W4: it is counted, listed and filtered separately."""
    client = await start(make_app())
    scheduler = scheduler_of(client)
    job = await scheduler.spawn(hang_up(), "pay", origin="POST /pay")
    await scheduler.spawn(nothing(), "mail")
    await scheduler.drain()
    page = await get(client, "/jobs/")
    words = words_of(page)
    assert "Failed 0 none let go Succeeded 1 0 cancelled, 1 hung up on" in words
    assert 'class="trouble"' not in page
    assert '<option value="hung_up">hung up on</option>' in page
    (row,) = rows(await get(client, "/jobs/?outcome=hung_up"), "recent")
    assert re.search(r"^pay \d+ hang_up POST /pay hung up on .* ms just now$", row)
    assert rows(await get(client, "/jobs/?outcome=failed"), "recent") == []
    page = await get(client, path_of(job))
    assert '<span class="word hung_up">hung up on</span>' in page
    assert "Exception" not in page


async def test_page_says_that_pending_jobs_are_held(start: Start) -> None:
    """Every page says so, live, until they are released."""
    client = await start(make_app())
    scheduler = scheduler_of(client)
    scheduler.hold()
    job = await scheduler.spawn(nothing())
    for path in ("/jobs/", path_of(job)):
        page = await get(client, path)
        assert "Waiting jobs are <strong>held</strong>: none starts until" in page
    words = words_of(await get(client, "/jobs/"))
    assert re.search(r"Waiting 1 of 10,000 held , longest [\d.]+ ms Failed", words)
    async with asyncio.timeout(20), client.get("/jobs/live") as response:
        await Events(response).until("<strong>held</strong>")
    scheduler.release()
    assert "are <strong>held" not in await get(client, "/jobs/")


async def test_page_shows_a_limit_that_was_changed(start: Start) -> None:
    """More jobs may have started before than there are slots now."""
    client = await start(make_app(limit=2))
    scheduler, go = scheduler_of(client), asyncio.Event()
    for _ in range(3):
        await scheduler.spawn(wait_for(go))
    scheduler.limit, scheduler.pending_limit = 1, 5
    page = await get(client, "/jobs/")
    assert "Running 2 2 of 1 slot taken" in words_of(page)
    assert "Waiting 1 of 5" in words_of(page)
    go.set()


async def test_page_says_which_process_it_shows(start: Start) -> None:
    """It shows only this one, by host name and process id."""
    page = await get(await start(make_app()), "/jobs/")
    assert "This process only" in page
    assert "give setup_dashboard() a directory by share=" in words_of(page)
    assert f"<strong>{socket.gethostname()}</strong>" in page
    assert f"<strong>{os.getpid()}</strong>" in page


async def test_everything_is_escaped(start: Start) -> None:
    """A name, an origin, a message and a search may hold markup."""
    evil = "<script>alert('x')</script>"

    async def raise_evil() -> None:
        raise Boom(evil)

    client = await start(make_app(limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    ended = await scheduler.spawn(raise_evil(), evil, origin=evil)
    await settle()
    active = await scheduler.spawn(wait_for(go), evil, origin=evil)
    await scheduler.spawn(nothing(), f'"{evil}', origin=evil)
    paths = ("/jobs/", path_of(active), path_of(ended))
    for path in paths:
        async with client.get(path, params={"search": evil, "name": evil}) as response:
            page = await response.text()
        assert page.count("<script") == 1, path
        assert "&lt;script&gt;alert(" in page
    go.set()


async def test_no_values_are_shown(start: Start) -> None:
    """Neither arguments nor locals, of running jobs and of failed ones."""

    async def log_in(password: str, go: asyncio.Event | None = None) -> None:
        copy = password * 2
        if go is not None:
            await go.wait()
        raise Boom(f"{len(copy)} letters")

    client = await start(make_app())
    scheduler, go = scheduler_of(client), asyncio.Event()
    failed = await scheduler.spawn(log_in(SECRET))
    active = await scheduler.spawn(log_in(SECRET, go))
    await settle()
    seen = [
        await get(client, path) for path in ("/jobs/", path_of(active), path_of(failed))
    ]
    assert "await go.wait()" in seen[1]
    assert "raise Boom(" in seen[2]
    assert "14 letters" in seen[2]
    assert SECRET not in "".join(seen)
    go.set()


async def test_page_of_a_job_that_has_failed_tells_the_whole_story(start: Start) -> None:
    """The exception and its causes, each with its frames."""

    async def outer() -> None:
        try:
            await fail()
        except Boom as error:
            raise LookupError("no such order") from error

    client = await start(make_app())
    job = await scheduler_of(client).spawn(outer(), "order", origin="POST /orders")
    await settle()
    page = await get(client, path_of(job))
    for part in (
        "order",
        "POST /orders",
        "failed",
        "Spawned",
        "Started",
        "Ended",
        " UTC",
    ):
        assert part in page
    assert page.index("no such order") < page.index("tests.work.Boom")
    assert page.index("tests.work.Boom") < page.index("the cause of")
    assert re.search(r"work.py:\d+</span> in <strong>fail", page)
    assert "<form method" not in page


async def test_job_that_is_let_go_shows_where_it_hangs(start: Start) -> None:
    """E0: it may still run, though nobody waits for it any more."""
    client = await start(make_app(close_timeout=0))
    go = asyncio.Event()
    job = await scheduler_of(client).spawn(stubborn(go), "stubborn")
    await settle()
    with pytest.raises(TimeoutError):
        await job.close()
    (row,) = rows(await get(client, "/jobs/?outcome=let_go"), "recent")
    assert re.search(r"^stubborn \d+ let go still at stubborn, work.py:\d+ ", row)
    page = await get(client, path_of(job))
    assert "Where it was when it was let go" in page
    assert "await go.wait()" in page
    go.set()
    await settle()


async def test_unknown_job_is_not_found(start: Start) -> None:
    """It is neither shown, followed nor cancelled."""
    client = await start(make_app())
    path = path_of(12345678)
    assert "no job 12345678" in await get(client, path, 404)
    await get(client, path + "/live", 404)
    assert (await post(client, path + "/cancel", **HERE)).status == 404
    await get(client, path + "9" * 5000, 404)


async def test_job_of_another_process_is_not_taken_for_one_of_this(start: Start) -> None:
    """Behind a proxy or after a restart, the same number may mean another job."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
    path = f"/jobs/job/0123abcd-{job.id}"
    assert "of another process" in await get(client, path, 404)
    await get(client, path + "/live", 404)
    assert (await post(client, path + "/cancel", **HERE)).status == 404
    assert job.state is JobState.ACTIVE


def test_every_process_has_a_name_of_its_own() -> None:
    """Workers may be forked after everything has been imported and set up."""
    mine = process_name()
    assert mine == process_name()
    with mock.patch("os.getpid", return_value=-1):
        assert process_name() != mine


async def test_name_that_cannot_be_encoded_is_shown_escaped(start: Start) -> None:
    """A file name may not be valid text, see PEP 383."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()), "\udcff.txt")
    for path in ("/jobs/", path_of(job)):
        assert "\\udcff.txt" in await get(client, path)
    async with asyncio.timeout(20), client.get("/jobs/live") as response:
        await Events(response).until("\\udcff.txt")


async def test_cancel_works_on_active_pending_and_closed_jobs(start: Start) -> None:
    """E1: it leads to the job's page, and waiters are told as without a dashboard."""
    client = await start(make_app(limit=1))
    scheduler = scheduler_of(client)
    active = await scheduler.spawn(wait_for(asyncio.Event()))
    pending = await scheduler.spawn(nothing())
    for job in (pending, active, active):
        response = await post(client, path_of(job) + "/cancel", **HERE)
        assert response.status == 303
        assert response.headers["Location"] == path_of(job, "../../job/") + "?told=cancel"
        await settle()
        assert job.state is JobState.CANCELLED
        assert "cancelled" in await get(client, path_of(job))
    assert pending.started_at is None


async def test_job_that_takes_its_time_to_end_is_shown_as_being_cancelled(
    start: Start,
) -> None:
    """To visitors who may only look, too; and there is no button to cancel it again."""
    client = await start(make_app(by_header, close_timeout=60))
    go = asyncio.Event()
    job = await scheduler_of(client).spawn(stubborn(go), "stubborn")
    await settle()
    url = path_of(job) + "/cancel"
    assert (await post(client, url, Access="MANAGE", **HERE)).status == 303
    for access in ("READ", "MANAGE"):
        for path in ("/jobs/", path_of(job)):
            page = await get(client, path, Access=access)
            assert "being cancelled" in page
            assert '<form class="cancel' not in page
    go.set()


async def test_failure_under_cancellation_still_reaches_the_handler(start: Start) -> None:
    """R2: the dashboard does not wait for the job, so the failure is still reported."""

    async def break_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom("late")

    client = await start(make_app())
    scheduler = scheduler_of(client)
    job = await scheduler.spawn(break_when_cancelled())
    await settle()
    await post(client, path_of(job) + "/cancel", **HERE)
    await settle()
    assert isinstance(scheduler.exception_handler, Reports)
    assert scheduler.exception_handler.messages == ["Job processing failed"]


async def test_filters_leave_out_what_does_not_fit(start: Start) -> None:
    """By words, by name and by outcome; they stay in the links of the pages."""
    client = await start(make_app(limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    for number in range(30):
        await scheduler.spawn(nothing(), f"mail {number}")
    failed = await scheduler.spawn(fail(), origin="POST /Orders")
    await scheduler.drain()
    await scheduler.spawn(wait_for(go), "import")
    assert len(rows(await get(client, "/jobs/"), "recent")) == 25
    page = await get(client, "/jobs/?search=MAIL")
    assert rows(page, "active") == []
    assert 'href="./?search=MAIL&amp;recent=2#recent"' in page
    assert len(rows(await get(client, "/jobs/?search=mail&recent=2"), "recent")) == 5
    assert len(rows(await get(client, "/jobs/?recent=99"), "recent")) == 6
    by_number = f"search={failed.id}"
    searches = (by_number, "search=orders", "search=boom", "name=fail")
    for query in (*searches, "outcome=failed"):
        (row,) = rows(await get(client, f"/jobs/?{query}"), "recent")
        assert re.match(r"fail \d+ POST /Orders failed", row)
    everything = rows(await get(client, "/jobs/?outcome=nonsense&recent=x"), "recent")
    assert len(everything) == 25
    go.set()


def test_every_state_has_its_word_and_every_outcome_its_filter() -> None:
    """A new one must not be forgotten."""
    assert list(STATES) == [state.name.lower() for state in JobState]
    assert get_args(data.State) == tuple(STATES)
    closed = [state.name.lower() for state in JobState if state >= JobState.SUCCEEDED]
    assert list(OUTCOMES) == closed


def test_words_and_durations_are_what_people_read() -> None:
    """From a fraction of a millisecond to days; long names may be broken into lines."""
    seconds = (0.0004, 0.34, 0.9999, 3.21, 59.99, 72, 7500, 100_000)
    words = ["0.4 ms", "340 ms", "1.0 s", "3.2 s", "1 min 00 s", "1 min 12 s"]
    assert [duration(s) for s in seconds] == [*words, "2 h 05 min", "1 d 03 h"]
    assert breakable("a_b.c<d>") == "a_<wbr>b.<wbr>c&lt;d&gt;"
    assert [ago(s) for s in (0.3, 5.2, 72)] == ["just now", "5 s ago", "1 min ago"]


def test_what_began_a_little_later_by_another_clock_has_just_begun() -> None:
    """Workers may differ by some milliseconds: nothing runs for less than no time."""
    for words, says in (("duration", "0.0 ms"), ("ago", "just now")):
        told = since(1000.009, 1000.0, words)
        assert told == f'<span data-since="1000.009" data-as="{words}">{says}</span>'


def point(**values: Any) -> data.Point:
    """Return a point of the charts in which nothing else happened."""
    empty: Any = dict.fromkeys(("succeeded", "failed", "cancelled", "hung_up"), 0)
    empty |= {"p50": None, "p90": None, "pending": 0, "waited": 0.0}
    point: data.Point = empty | values
    return point


def test_charts_show_what_was_counted() -> None:
    """Bars have the right height, stay within the drawing, and are put into words."""
    points = [
        point(),
        point(
            succeeded=35,
            failed=5,
            cancelled=5,
            hung_up=5,
            p50=0.2,
            p90=2.0,
            pending=500,
            waited=12,
        ),
    ]
    chart = throughput(points)
    assert {bar.kind: bar.height for bar in chart.bars} == {
        "failed": 6,
        "cancelled": 6,
        "hung_up": 6,
        "succeeded": 42,
    }
    assert min(bar.y for bar in chart.bars) == 0
    assert (chart.top, chart.says) == (
        "10/s",
        "50 ended, 5 failed, peak 10.0/s",
    )
    chart = run_times(points)
    assert {bar.kind: bar.height for bar in chart.bars} == {"p90": 60, "p50": 6}
    assert "p50 200 ms, p90 2.0 s" in chart.says
    assert throughput([]).bars == run_times([point()]).bars == ()
    chart = backlog(points, 400)
    assert {bar.kind: bar.height for bar in chart.bars} == {"pending": 60}
    assert chart.line == "292.5,60 297.5,24"
    assert (chart.top, chart.line_top) == ("500 jobs", "20.0 s")
    assert chart.says == "now 400 waiting, peak 500 and 12.0 s"
    assert {bar.x for bar in chart.bars} == {295}, "the latest is at the right end"


# -- the history -------------------------------------------------------------------------


async def test_history_is_bounded_and_keeps_failures_apart() -> None:
    """L4: a flood of successes does not wash a failure away."""
    scheduler = Scheduler(exception_handler=Reports())
    past = History(scheduler)
    scheduler.add_observer(past)
    failed = await scheduler.spawn(fail())
    for _ in range(history.MOST_ENDS + 50):
        await scheduler.spawn(nothing())
    await scheduler.drain()
    records = list(past.records())
    assert len(records) == history.MOST_ENDS + 1
    assert records[-1].id == failed.id
    assert [r.closed_at for r in records] == sorted(
        (r.closed_at for r in records), reverse=True
    )
    assert len({record.id for record in records}) == len(records)
    await scheduler.close()


async def test_clients_that_hang_up_push_no_failure_out() -> None:
    """L4: there may be many of them, and only one failure."""
    scheduler = Scheduler(exception_handler=Reports())
    past = History(scheduler)
    scheduler.add_observer(past)
    failed = await scheduler.spawn(fail())
    for _ in range(max(history.MOST_FAILURES, history.MOST_ENDS) + 50):
        await scheduler.spawn(hang_up())
    await scheduler.drain()
    *others, last = past.records()
    assert last.id == failed.id
    assert {record.state for record in others} == {JobState.HUNG_UP}
    assert len(others) == history.MOST_ENDS
    await scheduler.close()


async def test_history_keeps_neither_job_nor_result_nor_exception() -> None:
    """L4: a record is text and numbers."""

    class Result:
        pass

    class Heavy(Exception):
        pass

    async def give() -> Result:
        return Result()

    async def break_down() -> None:
        raise Heavy("heavy")

    scheduler = Scheduler(exception_handler=lambda scheduler, context: None)
    past = History(scheduler)
    scheduler.add_observer(past)
    good, bad = await scheduler.spawn(give()), await scheduler.spawn(break_down())
    await scheduler.drain()
    kept: list[weakref.ref[Any]] = [weakref.ref(good), weakref.ref(bad)]
    kept += [weakref.ref(await good), weakref.ref(bad.exception() or Heavy())]
    del good, bad
    gc.collect()
    assert [ref() for ref in kept] == [None] * 4
    assert {record.label.rpartition(".")[2] for record in past.records()} == {
        "give",
        "break_down",
    }
    await scheduler.close()


def test_description_of_an_exception_is_bounded() -> None:
    """Its message, its frames, and the number of its causes; whatever its code does."""

    def dig(depth: int) -> None:
        if not depth:
            raise Boom("x" * 10**6)
        dig(depth - 1)

    error: BaseException
    try:
        dig(100)
    except Boom as boom:
        error = boom
    (raised,) = raised_by(error)
    assert len(raised.message) <= 1000
    assert len(raised.frames) == 30
    assert raised.frames[-1][2].endswith("dig")
    for _ in range(20):
        error, error.__cause__ = Boom(), error
    assert len(raised_by(error)) == 5
    error.__cause__ = error
    assert len(raised_by(error)) == 1

    class Mute(Exception):
        def __str__(self) -> str:
            raise Boom("str")

    assert "cannot be shown" in str(raised_by(Mute())[0])
    assert raised_by(None) == ()


async def test_figures_are_measured_by_the_period() -> None:
    """Counts and run times of the jobs that have ended since the last measurement."""
    scheduler = Scheduler(exception_handler=Reports())
    past = History(scheduler)
    scheduler.add_observer(past)
    for coro in (nothing(), nothing(), fail(), hang_up()):
        await scheduler.spawn(coro)
    await scheduler.drain()
    past.measure(scheduler.statistics())
    past.measure(scheduler.statistics())
    *_, busy, idle = past.points
    assert (busy["succeeded"], busy["failed"], busy["cancelled"]) == (2, 1, 0)
    assert busy["hung_up"] == 1
    assert busy["p50"] is not None
    assert idle == point()
    for _ in range(history.POINTS):
        past.measure(scheduler.statistics())
    assert len(past.points) == history.POINTS
    await scheduler.close()


async def test_timer_measures_while_the_application_runs(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the clean-up, which removes the observer."""
    measured = asyncio.Event()

    def measure(self: History, now: Any) -> None:
        measured.set()

    monkeypatch.setattr(History, "measure", measure)
    monkeypatch.setattr(app, "until_next", lambda now: 0)
    application = make_app()
    client = await start(application)
    await measured.wait()
    await client.close()
    measured.clear()
    await settle()
    assert not measured.is_set()
    assert application[SCHEDULER]._parts.gate.observers.job_closed is None


async def test_page_is_quick_with_many_pending_jobs(start: Start) -> None:
    """The cost of a page does not grow with the number of pending jobs."""
    client = await start(make_app(limit=1, pending_limit=0))
    scheduler = scheduler_of(client)
    past = History(scheduler)
    for _ in range(1001):
        await scheduler.spawn(wait_for(asyncio.Event()))
    query = Query(search="nowhere")

    def cost() -> float:
        times = []
        for _ in range(20):
            start = time.process_time()
            overview.overview(scheduler, past, query)
            times.append(time.process_time() - start)
        return min(times)

    few = cost()
    for _ in range(100_000):
        await scheduler.spawn(nothing())
    assert cost() < few * 5 + 0.001
    await get(client, "/jobs/")  # loads the templates
    tracemalloc.start()
    page = await get(client, "/jobs/?name=nowhere")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert "100,000 more are waiting" in page


# -- where it is mounted -----------------------------------------------------------------


def addresses(page: str) -> set[str]:
    found = re.findall(r'(?:href|src|action|data-stream)="([^"]+)"', page)
    return {address.partition("?")[0].partition("#")[0] for address in found}


async def test_addresses_are_relative_and_lead_somewhere(start: Start) -> None:
    """They work below any path, without being told: a proxy may strip a prefix."""
    client = await start(make_app(limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    active = await scheduler.spawn(wait_for(go), "named")
    await scheduler.spawn(nothing(), "pending")
    for path in ("/jobs/", path_of(active)):
        page = await get(client, path)
        for address in addresses(page):
            assert not re.match("/|[a-z]+:", address), address
            url = client.make_url(path).join(URL(address))
            assert url.path.startswith("/jobs/")
            if not address.endswith(("live", "cancel")):
                await get(client, url.path)
    go.set()


async def test_proxy_may_strip_the_path_and_change_the_scheme(start: Start) -> None:
    """It serves the application below another path without saying so; all works there."""
    inner = await start(make_app())
    job = await scheduler_of(inner).spawn(wait_for(asyncio.Event()), "proxied")

    async def forward(request: web.Request) -> web.Response:
        headers = {k: v for k, v in request.headers.items() if k in ("Origin", "Host")}
        async with inner.request(
            request.method,
            "/" + request.match_info["path"],
            headers=headers,
            allow_redirects=False,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k == "Location"}
            return web.Response(
                body=await answer.read(), status=answer.status, headers=kept
            )

    proxy = web.Application()
    proxy.router.add_route("*", "/outer/{path:.*}", forward)
    client = await start(proxy)
    assert "proxied" in await get(client, "/outer/jobs")
    page = await get(client, "/outer" + path_of(job))
    for address in addresses(page):
        if not address.endswith(("live", "cancel")):
            url = client.make_url("/outer" + path_of(job)).join(URL(address))
            await get(client, url.path)
    path = "/outer" + path_of(job) + "/cancel"
    async with client.post(path, headers={"Origin": "https://test"}) as response:
        assert response.url.path == "/outer" + path_of(job)
        assert "cancelled" in await response.text()


async def test_address_without_slash_leads_to_the_page(start: Start) -> None:
    """By a relative redirect, behind a proxy too."""
    client = await start(make_app())
    for query in ("", "?search=a%20b&name=c"):
        async with client.get("/jobs" + query, allow_redirects=False) as response:
            assert response.status == 302
            assert response.headers["Location"] == "jobs/" + query
    assert "This process only" in await get(client, "/jobs")


async def test_nested_below_a_sub_application(start: Start) -> None:
    """With the scheduler of the parent, passed explicitly, and a path of its own."""
    parent, child = web.Application(), web.Application()
    scheduler = setup(parent)
    setup_dashboard(child, "/office/jobs", authorize=manage, scheduler=scheduler)
    parent.add_subapp("/admin", child)
    client = await start(parent)
    job = await scheduler.spawn(wait_for(asyncio.Event()), "nested")
    page = await get(client, "/admin/office/jobs/")
    assert "nested" in page
    assert path_of(job, "job/") in addresses(page)
    response = await post(client, "/admin/office" + path_of(job) + "/cancel", **HERE)
    assert response.status == 303
    await get(client, "/admin/office" + path_of(job))


async def test_two_in_one_process_do_not_meet(start: Start) -> None:
    """Each shows its own scheduler to its own visitors."""
    other = Scheduler()
    application = make_app()
    setup_dashboard(application, "/other", authorize=read, scheduler=other)
    client = await start(application)
    await scheduler_of(client).spawn(wait_for(asyncio.Event()), "mine")
    await other.spawn(wait_for(asyncio.Event()), "theirs")
    mine, theirs = await get(client, "/jobs/"), await get(client, "/other/")
    assert "mine" in mine
    assert "theirs" not in mine
    assert "theirs" in theirs
    assert "mine" not in theirs
    assert '<form class="cancel' not in theirs
    await other.close()


@pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
async def test_host_may_use_the_template_library_itself(start: Start) -> None:
    """The host's environment, globals and context processors stay its own."""

    async def processor(request: web.Request) -> dict[str, Any]:
        return {"now": "host", "links": "host"}

    application = make_app()
    aiohttp_jinja2.setup(
        application,
        loader=jinja2.DictLoader({"base.html": "of the host", "overview.html": "host"}),
        context_processors=[processor],
    )

    async def show(request: web.Request) -> web.Response:
        return aiohttp_jinja2.render_template("base.html", request, {})

    application.router.add_get("/", show)
    client = await start(application)
    assert await get(client, "/") == "of the host"
    assert "This process only" in await get(client, "/jobs/")


def test_only_the_dashboard_needs_more_than_aiohttp() -> None:
    """The rest does not import it; without its library, an error says what to install."""
    code = """
import sys, aiohttp_jobs
assert not {"jinja2", "aiohttp_jinja2", "aiohttp_jobs.dashboard"} & set(sys.modules)
sys.modules["aiohttp_jinja2"] = None
try:
    import aiohttp_jobs.dashboard
except ImportError as error:
    assert "aiohttp-jobs[dashboard]" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"authorize": None}, TypeError, "authorize"),
        ({"authorize": lambda request: Access.MANAGE}, TypeError, "coroutine function"),
        ({"prefix": "jobs"}, ValueError, "prefix"),
        ({"prefix": "/"}, ValueError, "prefix"),
        ({"prefix": "/all jobs"}, ValueError, "prefix"),
        ({"prefix": "/{jobs}"}, ValueError, "prefix"),
        ({"prefix": "/café"}, ValueError, "prefix"),
        ({"prefix": 3}, TypeError, "prefix"),
        ({"scheduler": 3}, TypeError, "scheduler"),
    ],
)
def test_bad_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    """A7: by name, at the call; and `authorize` has no default that lets everybody in."""
    application = web.Application()
    setup(application)
    with pytest.raises(error, match=says):
        setup_dashboard(application, **{"authorize": manage, **arguments})
    with pytest.raises(TypeError, match="authorize"):
        setup_dashboard(application)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes an aiohttp"):
        setup_dashboard(None, authorize=manage)  # type: ignore[arg-type]


def test_application_without_scheduler_or_frozen_is_refused() -> None:
    """W1: each case has its own sentence."""
    application = web.Application()
    with pytest.raises(RuntimeError, match="setup"):
        setup_dashboard(application, authorize=manage)
    setup(application)
    application.freeze()
    with pytest.raises(RuntimeError, match="runs already"):
        setup_dashboard(application, authorize=manage)


def test_object_with_a_coroutine_method_may_authorize() -> None:
    """An instance whose __call__ is a coroutine function is accepted, too."""

    class Gate:
        async def __call__(self, request: web.Request) -> Access:
            return Access.READ

    application = web.Application()
    setup(application)
    assert setup_dashboard(application, authorize=Gate()) is not application


# -- live --------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let streams send as often as there is something new."""
    monkeypatch.setattr(stream, "PERIOD", 0.001)


@pytest.mark.usefixtures("quick")
async def test_stream_sends_numbered_snapshots(start: Start) -> None:
    """Each has everything that the page shows, as jobs come and go."""
    client = await start(make_app())
    go = asyncio.Event()
    async with asyncio.timeout(20), client.get("/jobs/live") as response:
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        events = Events(response)
        assert list(await events.next()) == ["retry"]
        first = await events.next()
        assert first["event"] == "snapshot"
        assert "Nothing runs just now" in first["data"]
        job = await scheduler_of(client).spawn(wait_for(go), "comes and goes")
        second = await events.until("comes and goes")
        assert int(second["id"]) > int(first["id"])
        assert rows(second["data"], "active")[0].startswith("comes and goes")
        assert path_of(job, "job/") + "/cancel" in second["data"]
        go.set()
        third = await events.until("Nothing runs just now")
        assert rows(third["data"], "recent")[0].startswith("comes and goes")


@pytest.mark.usefixtures("quick")
async def test_stream_shows_what_the_filters_of_its_page_let_through(
    start: Start,
) -> None:
    """And the cancel buttons only to visitors who may cancel."""
    client = await start(make_app(by_header))
    for name in ("mail", "import"):
        await scheduler_of(client).spawn(wait_for(asyncio.Event()), name)
    url = "/jobs/live?search=mail"
    async with (
        asyncio.timeout(20),
        client.get(url, headers={"Access": "READ"}) as reader,
        client.get(url, headers={"Access": "MANAGE"}) as manager,
    ):
        seen = (await Events(reader).until("mail"))["data"]
        assert len(rows(seen, "active")) == 1
        assert "<form" not in seen
        assert "<form" in (await Events(manager).until("mail"))["data"]


@pytest.mark.usefixtures("quick")
async def test_stream_of_a_job_follows_it_to_its_end(start: Start) -> None:
    """It shows where the job is suspended, then what it has raised."""
    client = await start(make_app())
    go = asyncio.Event()
    job = await scheduler_of(client).spawn(fail(go))
    async with asyncio.timeout(20), client.get(path_of(job) + "/live") as response:
        events = Events(response)
        assert "await event.wait()" in (await events.until("suspended"))["data"]
        go.set()
        assert "Boom" in (await events.until("Exception"))["data"]


def test_snapshots_are_at_most_two_a_second() -> None:
    """However much happens; but not too few, as proxies close silent connections."""
    assert 0.5 <= stream.PERIOD <= 15


async def test_streams_of_the_same_page_are_rendered_once() -> None:
    """Ten visitors cost as much as one."""
    rendered: list[int] = []
    streams = stream.Streams()

    async def render() -> stream.Live:
        rendered.append(1)
        await settle()
        return stream.Live(1.5, {"a": "content"})

    one, other = stream._Shown(), stream._Shown()
    await asyncio.gather(*(streams._render(one, render) for _ in range(10)))
    assert (len(rendered), one.number) == (1, 1)
    assert one.since(0) is one.since(0)
    await streams._render(other, render)
    assert other.number == 2


def test_slow_page_is_rendered_once_for_all_who_wait_for_it() -> None:
    """However long it takes, as where a worker does not answer: who has waited for it
    has it."""
    rendered: list[int] = []
    streams, shown = stream.Streams(), stream._Shown()

    async def render() -> stream.Live:
        rendered.append(1)
        await later(stream.PERIOD)
        return stream.Live(1.5, {"a": "content"})

    async def look() -> None:
        await asyncio.gather(*(streams._render(shown, render) for _ in range(10)))
        assert len(rendered) == 1
        await later(stream.PERIOD)
        await streams._render(shown, render)
        assert len(rendered) == 2

    with contextlib.closing(VirtualLoop()) as loop:
        loop.run_until_complete(look())


async def test_streams_are_capped(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many gets 503; one that leaves makes room."""
    monkeypatch.setattr(stream, "MOST", 1)
    monkeypatch.setattr(stream, "PERIOD", 0.001)
    client = await start(make_app())
    async with client.get("/jobs/live"), client.get("/jobs/live") as refused:
        assert refused.status == 503
        assert refused.headers["Retry-After"]
    async with asyncio.timeout(20):
        status = 503
        while status == 503:
            async with client.get("/jobs/live") as response:
                status = response.status
    assert status == 200


async def test_stream_ends_after_its_life(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser reconnects, and is authorised again."""
    monkeypatch.setattr(stream, "LIFE", 0)
    client = await start(make_app())
    async with asyncio.timeout(20), client.get("/jobs/live") as response:
        assert (await response.text()).startswith("retry: ")


class Stalling:
    """Serves a stream to a client that does not read, until the connection is full."""

    def __init__(self) -> None:
        self.streams = stream.Streams()
        self.request: web.Request | None = None
        self.ended = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.request = request
        try:
            return await self.streams.serve(request, "key", self.render)
        finally:
            self.ended.set()

    async def render(self) -> stream.Live:
        return stream.Live(1.5, {"a": os.urandom(50_000).hex()})

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/", self.handle)
        async with TestServer(app, host="127.0.0.1") as server:
            with socket.create_connection((server.host, server.port)) as client:
                client.setblocking(False)
                client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                while not self.is_full():  # noqa: ASYNC110 (nothing tells of it)
                    await asyncio.sleep(0)
                yield

    def is_full(self) -> bool:
        transport = self.request and self.request.transport
        return bool(transport and transport.get_write_buffer_size() > 2**16)


@pytest.mark.usefixtures("quick")
async def test_client_that_does_not_read_does_not_hold_up_a_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For example a laptop that sleeps: data for it cannot all be sent."""
    monkeypatch.setattr(stream, "PATIENCE", None)
    stalling = Stalling()
    async with asyncio.timeout(20), stalling.served():
        stalling.streams.end()
        await stalling.ended.wait()


@pytest.mark.usefixtures("quick")
async def test_client_that_does_not_read_loses_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not take up a place for ever."""
    monkeypatch.setattr(stream, "PATIENCE", 0.1)
    stalling = Stalling()
    async with asyncio.timeout(20), stalling.served():
        await stalling.ended.wait()
        assert stalling.streams._places == []


@pytest.mark.usefixtures("quick")
async def test_client_that_has_gone_leaves_its_place_though_nothing_is_new() -> None:
    """It does not take a failing send to notice that."""
    stalling = Stalling()
    app = web.Application()
    app.router.add_get("/", stalling.handle)
    same = stream.Live(1.5, {"a": "the same"})
    with mock.patch.object(stalling, "render", return_value=same):
        async with serving(app) as server, asyncio.timeout(10):
            client = await server.send("GET", "/")
            await client.receive_some()
            await client.hang_up()
            await stalling.ended.wait()


@pytest.mark.parametrize("atomic_methods", [(), {"GET"}])
async def test_open_dashboard_does_not_hold_up_a_shutdown(
    start: Start, atomic_methods: Any
) -> None:
    """The streams end first, even if the host makes every handler atomic."""
    client = await start(make_app(atomic_methods=atomic_methods))
    async with asyncio.timeout(20), client.get("/jobs/live") as response:
        await Events(response).until("Running jobs")
        await client.server.close()
        await response.read()


async def test_stream_is_refused_when_the_application_shuts_down(start: Start) -> None:
    """A browser that reconnects must not hold up the shutdown either."""
    client = await start(make_app())
    async with client.get("/jobs/live"):
        assert client.app is not None
        await client.app.shutdown()  # by hand: the server still answers
        await get(client, "/jobs/live", 503)
