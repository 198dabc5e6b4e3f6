"""The dashboard's pages on durable jobs: what they show, and how they handle faults."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from time import time
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import setup
from aiohttp_jobs.dashboard import setup_dashboard
from aiohttp_jobs.dashboard.durable_data import Turned
from aiohttp_jobs.durable import (
    DURABLE,
    DurableStatistics,
    SQLiteStore,
    StoreUnavailable,
    durable,
    setup_durable,
    spawn_durable,
)
from tests.dashboards import (
    Client,
    Events,
    Start,
    by_header,
    get,
    make_app,
    manage,
    read,
    rows,
    start,
    words_of,
)
from tests.envelopes import MemoryStore, look, opened
from tests.glass import Glass
from tests.processes import until

__all__ = ("start",)  # a fixture

SECRET = "hunter2"


@durable("mail.welcome", max_attempts=1)
async def mail(app: web.Application, address: str, fails: bool = False) -> None:
    if fails:
        raise ValueError("\x1b[31mno such host")


@durable("wait")
async def wait(app: web.Application, address: str) -> None:
    await asyncio.Event().wait()


def make(store: Any, authorize: Any = manage, **options: Any) -> web.Application:
    app = make_app(authorize, wait_timeout=0)
    setup_durable(app, store, tasks=[mail, wait], **options)
    return app


async def fill(client: Client) -> str:
    """Put a job into each state; return the id of the dead one."""
    app = client.app
    assert app is not None
    store = app[DURABLE].store
    assert isinstance(store, SQLiteStore)
    path = Path(store.path)
    dead = await spawn_durable(app, mail, SECRET, True)
    await until(lambda: look(path, "SELECT id FROM aiohttp_jobs WHERE state = 3"))
    await spawn_durable(app, wait, SECRET)
    await until(lambda: app[DURABLE].running_count)
    await spawn_durable(app, wait.options(key="k7", priority=3), SECRET)
    await spawn_durable(app, mail.options(delay=3600), SECRET)
    app[DURABLE].inspection._answers.clear()
    return dead


async def test_page_shows_what_is_where(start: Start, tmp_path: Path) -> None:
    """Dead jobs with the last line of the reason, running ones with their process; never
    the arguments of a job."""
    client = await start(make(tmp_path / "jobs.sqlite", limit=1))
    dead = await fill(client)
    page = await get(client, "/jobs/durable")
    words = words_of(page)
    assert "Waiting 1 the first for" in words
    assert "Running 1 1 in process" in words
    assert "Delayed 1 not due yet" in words
    assert "Dead 1 failed for good, kept" in words
    [row] = rows(page, "kept dead")
    assert f"mail.welcome {dead}" in row
    assert r"ValueError: \x1b[31mno such host" in row
    assert "just now" in row
    [row] = rows(page, "kept running")
    assert row.startswith("wait ")
    assert f":{os.getpid()} 1 " in row
    [row] = rows(page, "kept waiting")
    assert "key k7" in row
    [row] = rows(page, "kept delayed")
    assert "59 min" in row or "1 h" in row
    assert SECRET not in page
    assert "Of its attempts 0 succeeded, 0 failed and are tried again, 1 failed" in words


async def test_dead_job_has_a_page_with_its_traceback(
    start: Start, tmp_path: Path
) -> None:
    """Control characters are escaped; arguments are not shown."""
    client = await start(make(tmp_path / "jobs.sqlite", limit=1))
    dead = await fill(client)
    page = await get(client, f"/jobs/durable/dead/{dead}")
    assert "Traceback (most recent call last):\n" in page
    assert r"ValueError: \x1b[31mno such host" in page
    assert ", in mail" in page
    assert SECRET not in page
    assert "No durable job nobody is dead" in await get(
        client, "/jobs/durable/dead/nobody", 404
    )


async def test_first_page_says_how_many_are_where(start: Start, tmp_path: Path) -> None:
    """Live, like all of it; with a link to the page of durable jobs."""
    client = await start(make(tmp_path / "jobs.sqlite", limit=1))
    page = words_of(await get(client, "/jobs/"))
    assert "Durable jobs : 0 waiting, 0 running, 0 delayed, 0 dead" in page
    await fill(client)
    page = await get(client, "/jobs/")
    told = '<p id="durable" class="durable trouble"><a href="durable">Durable jobs</a>'
    assert told in page
    assert "1 running, 1 delayed, 1 dead" in words_of(page)
    async with client.get("/jobs/live") as response:
        await Events(response).until("1 running, 1 delayed, <strong>1 dead")


async def test_page_is_live(start: Start, tmp_path: Path) -> None:
    """Snapshots have everything below the heading."""
    app = make(tmp_path / "jobs.sqlite", worker=False)
    client = await start(app)
    page = await get(client, "/jobs/durable?waiting=2")
    assert 'data-stream="durable/live?waiting=2"' in page
    async with client.get("/jobs/durable/live") as response:
        events = Events(response)
        await events.until("nothing waits")
        number = await spawn_durable(app, mail, SECRET)
        event = await events.until(number)
        assert SECRET not in event["data"]


async def test_lists_have_pages(start: Start, tmp_path: Path) -> None:
    """Of 25 rows, up to the thousandth job; a page beyond the last shows the last one."""
    app = make(tmp_path / "jobs.sqlite", worker=False)
    client = await start(app)
    await asyncio.gather(*(spawn_durable(app, mail, SECRET) for _ in range(1030)))
    for _ in range(3):
        await spawn_durable(app, mail.options(delay=900), SECRET)
    page = await get(client, "/jobs/durable?delayed=9")
    assert len(rows(page, "kept waiting")) == 25
    assert "The first 1,000 are listed; 30 more are waiting." in page
    assert '<a href="durable?waiting=2&amp;delayed=9#waiting" rel="next">' in page
    assert len(rows(page, "kept delayed")) == 3
    assert "Page 40 of 40" in await get(client, "/jobs/durable?waiting=99")
    first, second = [
        json.loads(await get(client, f"/jobs/api/v1/durable?waiting={number}"))
        for number in (1, 2)
    ]
    ids = [
        {row["id"] for row in each["tables"]["waiting"]["rows"]}
        for each in (first, second)
    ]
    assert len(ids[0] | ids[1]) == 50


def test_page_that_makes_no_sense_is_the_first() -> None:
    """Whatever the address says."""
    for text in ("0", "-1", "x", "", "9" * 20, "\u0661"):
        assert Turned.of({"dead": text}) == Turned()
    turned = Turned.of({"dead": "2", "waiting": "3", "other": "4"})
    assert str(turned) == "?dead=2&waiting=3"
    assert turned.with_page("dead", 1) == "?waiting=3"
    assert str(Turned()) == "?"


async def test_json_has_the_same(start: Start, tmp_path: Path) -> None:
    """In the versioned interface, for visitors who may look."""
    client = await start(make(tmp_path / "jobs.sqlite", read, limit=1))
    dead = await fill(client)
    text = await get(client, "/jobs/api/v1/durable")
    found = json.loads(text)
    assert SECRET not in text
    assert found["version"] == 1
    assert found["store"] == "SQLiteStore"
    assert found["faults"] == []
    assert found["now"].pop("oldest_waiting") >= 0
    assert found["now"] == {"waiting": 1, "delayed": 1, "running": 1, "dead": 1}
    assert found["here"]["running"] == 1
    assert found["here"]["attempts"]["buried"] == 1
    [job] = found["tables"]["dead"]["rows"]
    assert job["id"] == dead
    assert job["attempt"] == 1
    assert job["buried"] == pytest.approx(time(), abs=60)
    [job] = found["tables"]["waiting"]["rows"]
    assert (job["key"], job["priority"]) == ("k7", 3)
    told = json.loads(await get(client, f"/jobs/api/v1/durable/dead/{dead}"))
    assert told["job"]["id"] == dead
    assert told["reason"].startswith("Traceback")
    refused = json.loads(await get(client, "/jobs/api/v1/durable/dead/x", 404))
    assert "No durable job x is dead" in refused["error"]


async def test_visitor_who_may_look_sees_no_button(start: Start, tmp_path: Path) -> None:
    """And a visitor without access sees nothing."""
    client = await start(make(tmp_path / "jobs.sqlite", by_header, limit=1))
    dead = await fill(client)
    for path in ("/jobs/durable", f"/jobs/durable/dead/{dead}"):
        page = await get(client, path, Access="MANAGE")
        assert "Retry…" in page
        page = await get(client, path, Access="READ")
        assert "Retry" not in page
        assert "Drop" not in page
    for path in (
        *("durable", "durable/live", f"durable/dead/{dead}", "api/v1/durable"),
        f"api/v1/durable/dead/{dead}",
    ):
        await get(client, f"/jobs/{path}", 403)


async def test_application_without_durable_jobs_says_so(start: Start) -> None:
    """The first page does not mention them."""
    client = await start(make_app())
    assert "urable jobs<" not in await get(client, "/jobs/")
    says = "This application has no durable jobs"
    assert says in await get(client, "/jobs/durable", 404)
    assert says in await get(client, "/jobs/durable/dead/x", 404)
    assert says in await get(client, "/jobs/durable/live", 404)
    assert says in await get(client, "/jobs/api/v1/durable", 404)
    assert says in await get(client, "/jobs/api/v1/durable/dead/x", 404)


async def test_durable_jobs_of_another_scheduler_are_not_shown(
    start: Start, tmp_path: Path
) -> None:
    """A sub-application's dashboard shows its own durable jobs; given its parent's
    scheduler, it shows those of the parent."""
    app = web.Application()
    scheduler = setup(app)
    setup_durable(app, tmp_path / "jobs.sqlite", tasks=[mail])
    own, parents = web.Application(), web.Application()
    setup(own)
    setup_dashboard(own, authorize=manage)
    setup_dashboard(parents, authorize=manage, scheduler=scheduler)
    app.add_subapp("/own", own)
    app.add_subapp("/parents", parents)
    client = await start(app)
    await get(client, "/own/jobs/durable", 404)
    assert "Nothing is dead." in await get(client, "/parents/jobs/durable")


@pytest.mark.parametrize(
    "fault", [StoreUnavailable("the file x is full"), ZeroDivisionError("no")]
)
async def test_store_that_is_down_is_a_sentence(start: Start, fault: Exception) -> None:
    """On each page, and never 500. When the store is back, so are the figures."""
    store = Glass()
    app = make(store)
    client = await start(app)
    store.fault = fault
    says = "The store cannot be looked into just now: "
    assert says in await get(client, "/jobs/durable")
    assert "something is wrong with their store" in await get(client, "/jobs/")
    assert says in await get(client, "/jobs/durable/dead/x", 503)
    found = json.loads(await get(client, "/jobs/api/v1/durable"))
    assert found["now"] is None
    assert found["tables"] == {}
    assert says in found["faults"][0]
    refused = json.loads(await get(client, "/jobs/api/v1/durable/dead/x", 503))
    assert refused["error"]
    store.fault = None
    app[DURABLE].inspection._answers.clear()
    assert "Nothing is dead." in await get(client, "/jobs/durable")


async def test_store_that_fails_half_way_is_a_sentence(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has the figures, but not the lists."""
    store = Glass()
    store.figures = DurableStatistics(1, 1, 1, 1, 5.0)

    async def jobs(*args: Any) -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "jobs", jobs)
    client = await start(make(store))
    assert "just now: gone." in await get(client, "/jobs/durable")


async def test_what_cannot_be_kept_is_told(start: Start) -> None:
    """Even if the store can be inspected."""
    store = Glass()
    app = make(store)
    client = await start(app)
    app[DURABLE]._upkeep.lost(StoreUnavailable("the disk is full"))
    page = await get(client, "/jobs/durable")
    assert "Durable jobs cannot be kept just now: the disk is full." in page
    assert "Nothing is dead." in page


async def test_store_that_hangs_holds_no_page_up(start: Start) -> None:
    """One page waits for it; the next ones come at once, with a sentence."""
    store = Glass()
    client = await start(make(store))
    store.go.clear()
    async with asyncio.timeout(30):
        for _ in range(50):
            assert "not answered within 1 s" in await get(client, "/jobs/durable")
            await get(client, "/jobs/")
    assert store.asked == ["statistics"]


async def test_however_many_look_the_store_is_asked_once(start: Start) -> None:
    """Once a second, for all pages together."""
    store = Glass()
    store.figures = DurableStatistics(1, 0, 0, 0, 5.0)
    client = await start(make(store))
    pages = ["/jobs/durable", "/jobs/", "/jobs/api/v1/durable"] * 10
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(get(client, path) for path in pages))
    seconds = asyncio.get_running_loop().time() - began
    for question in ("statistics", "waiting 25 0"):
        assert 1 <= store.asked.count(question) <= 1 + seconds


async def test_store_of_a_broker_shows_what_the_process_knows(start: Start) -> None:
    """And says why it does not know more."""
    app = make(MemoryStore())
    client = await start(app)
    await spawn_durable(app, mail, SECRET)
    await until(lambda: app[DURABLE].attempts["succeeded"])
    page = words_of(await get(client, "/jobs/durable"))
    assert "MemoryStore does not tell what it keeps" in page
    assert "Of its attempts 1 succeeded" in page
    first = await get(client, "/jobs/")
    assert "0 running in this process" in words_of(first)
    assert '"durable trouble"' not in first
    found = json.loads(await get(client, "/jobs/api/v1/durable"))
    assert found["silent"].startswith("MemoryStore does not tell")
    assert found["faults"] == []


async def test_names_of_others_are_cut_and_escaped(start: Start, tmp_path: Path) -> None:
    """A task's name, a key or an origin cannot inject anything into the page."""
    path = tmp_path / "jobs.sqlite"
    app = make(path, worker=False)
    client = await start(app)
    await spawn_durable(app, mail, SECRET)
    odd = "<script>\u202e" + "x" * 5000
    with opened(path) as connection:
        connection.execute("UPDATE aiohttp_jobs SET task = ?, origin = ?", (odd, odd))
        connection.execute("UPDATE aiohttp_jobs SET key = ?, id = ?", (odd, odd))
    page = await get(client, "/jobs/durable")
    assert "<script>" not in page.replace('<script src="', "")
    assert "\u202e" not in page
    assert "x" * 1000 not in page
