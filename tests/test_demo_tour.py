"""The tour of the demo: each step does what the page says, and shows how."""

from __future__ import annotations

import asyncio
import contextlib
import html
import inspect
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aiohttp_jobs import SCHEDULER, JobState
from demo_app import access, mail, tour, views
from demo_app.app import make_app
from demo_app.outbox import OUTBOX, Outbox
from demo_app.source import highlight, source_of
from demo_app.tour import TOUR

from .test_demo import (
    app,
    client,
    database,
    get,
    join_jobs,
    mails_of,
    not_in_the_clone,
    post,
)

if TYPE_CHECKING:
    from .test_demo import Client

__all__ = ("app", "client", "database", "not_in_the_clone")  # fixtures

STEPS = ("mail", "failing", "hanging")


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


async def press(client: Client, path: str) -> str:
    """Press the button of the tour with this path; return the next page."""
    assert client.app is not None
    token = client.app[TOUR].token
    response = await post(client, path, token=token)
    assert response.status == 303
    return await get(client, response.headers["Location"])


async def test_tour_shows_the_code_that_runs(client: Client) -> None:
    """All five steps, each with the source of its functions, which are short."""
    text = text_of(await get(client, "/"))
    for function in (
        views.order_plain,
        mail.send_welcome.function,
        tour.sign_up_many,
        tour.count_stock,
        tour.start_failing,
        tour.ask_warehouse,
        tour.start_hanging,
        access.authorize,
        access.add_dashboard,
    ):
        code = inspect.getsource(function)
        assert len(code.splitlines()) <= 10
        assert " ".join(code.split()) in text
    for step in ("orders", "mail", "failing", "hanging", "dashboard"):
        assert f'<section class="step" id="{step}"' in await get(client, "/")


def test_highlighted_code_is_the_code() -> None:
    """Nothing is lost or added, and none of it is taken for HTML."""
    code = inspect.getsource(tour) + "x = f'<b>{1 < 2}</b>'  # <script>\n"
    assert html.unescape(re.sub(r"</?span[^>]*>", "", highlight(code))) == code
    shown = highlight("@atomic\nasync def f() -> None:  # why\n    return 'a < b'")
    assert shown == (
        '<span class="decorator">@</span><span class="decorator">atomic</span>\n'
        '<span class="keyword">async</span> <span class="keyword">def</span> f() -&gt; '
        '<span class="keyword">None</span>:  <span class="comment"># why</span>\n'
        '    <span class="keyword">return</span> '
        '<span class="string">&#39;a &lt; b&#39;</span>'
    )


def test_source_is_shown_without_its_docstring() -> None:
    """The page says in its own words what the code does."""
    assert "promised" not in source_of(mail.compose)
    assert '"""' not in source_of(mail.compose, tour.kill_server)
    assert "async def kill_server" in re.sub("<[^>]+>", "", source_of(tour.kill_server))


async def test_people_sign_up_and_the_page_says_who_has_sent_their_mail(
    client: Client,
    app: web.Application,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the last mail has arrived, the page of the step reloads; then it says so."""
    monkeypatch.setattr(tour, "GUESTS", 30)
    server_goes_on = asyncio.Event()
    take_in = Outbox.handle_DATA

    async def take_in_late(outbox: Outbox, *args: Any) -> str:
        await server_goes_on.wait()
        return await take_in(outbox, *args)

    monkeypatch.setattr(Outbox, "handle_DATA", take_in_late)
    page = await press(client, "/tour/mail")
    assert "0 of 30 mails have arrived" in text_of(page)
    assert '<noscript><meta http-equiv="refresh"' in page
    server_goes_on.set()
    await mails_of(app, 30)
    page = await get(client, "/tour/mail")
    assert "All 30 mails have arrived" in text_of(page)
    assert re.search(r"\d+ \(this one\)\s*30 ", text_of(page))
    assert "http-equiv" not in page
    # Mail that comes again is counted, and kept once.
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (job_id,) = connection.execute("SELECT id FROM mails LIMIT 1").fetchone()
    message = mail.compose(job_id, "Guest", "guest@example.org")
    await app[OUTBOX].send(message)
    page = await get(client, "/tour/mail")
    assert "1 of them came twice" in text_of(page)
    assert len(await app[OUTBOX].mails()) == 30


async def test_failing_job_is_reported_and_shown(
    client: Client, app: web.Application, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, on the page and on the dashboard."""
    page = await press(client, "/tour/failing")
    assert "This page did not wait for it" in text_of(page)
    assert "http-equiv" in page
    job = app[TOUR].failing
    assert job is not None
    await app[SCHEDULER].drain()
    page = await get(client, "/tour/failing")
    (record,) = (each for each in caplog.records if each.name == "asyncio")
    assert record.getMessage().startswith("Job processing failed")
    assert f"Job {job.id} has failed: KeyError: 'clock'" in text_of(page)
    assert "http-equiv" not in page
    assert "stock count" in await get(client, "/jobs/?search=stock+count")


async def test_hanging_job_is_found_and_cancelled(
    client: Client, app: web.Application
) -> None:
    """Ten clicks make one job; the page says where it waits, and can cancel it."""
    for _ in range(10):
        page = await press(client, "/tour/hanging")
    job = app[TOUR].hanging
    assert job is not None
    assert [each.id for each in app[SCHEDULER] if each.key == "warehouse"] == [job.id]
    assert "in ask_warehouse, line " in text_of(page)
    assert "return str(await answer)" in text_of(page)
    page = await press(client, "/tour/hanging/cancel")
    assert job.state is JobState.CANCELLED
    assert f"Job {job.id} is over: cancelled." in text_of(page)


async def test_nothing_is_killed_that_would_not_be_started_again(
    client: Client, app: web.Application
) -> None:
    """Without a supervisor there is no button, nor an action behind it."""
    assert "Kill the server" not in await get(client, "/")
    response = await post(client, "/tour/kill", token=app[TOUR].token)
    assert response.status == 404


@pytest.mark.parametrize(
    ("token", "host"),
    [("", "127.0.0.1"), ("guessed", "127.0.0.1"), ("it", "shop.example")],
)
async def test_others_cannot_kill_the_server(
    database: Path, monkeypatch: pytest.MonkeyPatch, token: str, host: str
) -> None:
    """Neither a page of another site nor another machine."""
    monkeypatch.setattr(tour, "die", None)
    app = make_app(database, mail_takes=0, token="it")
    async with TestClient(TestServer(app, host="127.0.0.1")) as client:
        assert "Kill the server" in await get(client, "/")
        async with client.post(
            "/tour/kill", data={"token": token}, headers={"Host": host}
        ) as response:
            assert response.status == 403


@pytest.mark.parametrize("path", ["mail", "failing", "hanging", "hanging/cancel"])
async def test_forms_of_another_site_are_refused(
    client: Client, app: web.Application, path: str
) -> None:
    """And the answer helps visitors to whom it happens by accident."""
    async with client.post(f"/tour/{path}", data={"token": "ö"}) as response:
        assert response.status == 403
        assert "reload" in await response.text()
    await join_jobs(app)
    assert await app[OUTBOX].latest_batch() is None
    assert app[TOUR].failing is None
    assert app[TOUR].hanging is None


async def test_there_are_no_other_steps(client: Client) -> None:
    """A step by itself is at an address of its own; nothing else is."""
    for step in STEPS:
        assert f'id="{step}"' in await get(client, f"/tour/{step}")
    assert (await client.get("/tour/nowhere")).status == 404
