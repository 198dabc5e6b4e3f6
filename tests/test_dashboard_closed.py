"""The dashboard is closed: to strangers, to readers who want to act, and to other sites.

These attacks were first tried by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import re
import socket
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError, web
from yarl import URL

from aiohttp_jobs import JobState, Scheduler
from aiohttp_jobs.dashboard import Access, stream
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.dashboard.process import process_name
from aiohttp_jobs.dashboard.record import MOST_LETTERS, cut
from tests.dashboards import (
    HERE,
    Client,
    Events,
    Start,
    by_header,
    get,
    make_app,
    manage,
    path_of,
    scheduler_of,
    start,
)
from tests.loops import settle
from tests.work import Boom, Reports, fail, nothing, wait_for

__all__ = ("start",)  # a fixture

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
SITES = ("same-origin", "same-site", "cross-site", "none", "", "Same-Origin", "x")


def paths(job: Any) -> list[str]:
    """Return all paths that the dashboard answers, and odd ways to write them."""
    own = path_of(job)
    known = [
        *("/jobs", "/jobs/", "/jobs/live", "/jobs/cancel", "/jobs/queue"),
        *(own, f"{own}/live", f"{own}/text", f"{own}/cancel"),
        *("/jobs/api/v1/overview", "/jobs/api/v1/pending?search=1"),
        *(path_of(job, "/jobs/api/v1/job/"), "/jobs/static/dashboard.js"),
    ]
    odd = [
        *("/jobs//", "/jobs/./", "/jobs/%2e/", "/jobs/job/..%2f", "/JOBS/", "/jobs/;x"),
        *(f"{own}//cancel", f"{own}/cancel/", f"{own}/CANCEL", "/jobs/static/../"),
        *("/jobs/static/..%2f..%2fapp.py", "/jobs/static/%2e%2e/app.py", "/jobs/static/"),
        *("/jobs/x", "/jobs/job/0-0", "/jobs/api/v2/overview", "/jobs/%00"),
    ]
    return known + odd


def as_(access: str) -> list[tuple[str, str]]:
    """Return the headers of a visitor with this access, from the same site."""
    return [("Access", access), *HERE.items()]


def is_empty(text: str) -> bool:
    """Whether the text says nothing about jobs."""
    return "secret-name" not in text and "wait_for" not in text


async def ask(
    client: Client, method: str, path: str, headers: list[tuple[str, str]]
) -> tuple[int, str, Any]:
    """Send the path exactly as it is; return status, text and headers."""
    url = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
    async with client.session.request(
        method, url, headers=[("Host", "test"), *headers], allow_redirects=False
    ) as answer:
        if answer.content_type == "text/event-stream":
            return answer.status, "", answer.headers
        return answer.status, await answer.text(), answer.headers


async def test_nobody_gets_anything_by_any_method_and_path(start: Start) -> None:
    """They get neither a page nor a hint of what exists, and nothing happens."""
    client = await start(make_app(by_header))
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()), "secret-name")
    await settle()
    for method, path in itertools.product(METHODS, paths(job)):
        status, text, _ = await ask(client, method, path, as_("NONE"))
        # The server itself does not know every method.
        assert status in ((400, 403, 404) if method == "BREW" else (403, 404)), path
        assert is_empty(text), (method, path)
    assert job.state is JobState.ACTIVE


async def test_reader_changes_nothing_by_any_method_and_path(start: Start) -> None:
    """And does not get the confirmation pages."""
    client = await start(make_app(by_header, limit=1))
    scheduler = scheduler_of(client)
    job = await scheduler.spawn(wait_for(asyncio.Event()), "secret-name")
    await settle()
    for method, path in itertools.product(METHODS, paths(job)):
        status, text, _ = await ask(client, method, path, as_("READ"))
        assert status < 500, (method, path)
        if method not in ("GET", "HEAD"):
            assert status in ((400, 403, 404) if method == "BREW" else (403, 404)), path
        elif re.search("cancel$|queue$", path):
            assert status in (403, 404), (method, path)
        assert "<form method" not in text, (method, path)
    assert job.state is JobState.ACTIVE
    assert not scheduler.held


def is_right(method: str, sites: tuple[str, ...], origins: tuple[str, ...]) -> bool:
    """Whether the request may pass; written independently of the code under test."""
    looks = method == "GET"
    if sites:
        return set(sites) <= ({"same-origin", "none"} if looks else {"same-origin"})
    good = set(origins) <= {"http://test", "https://TEST"}
    return good and (looks or bool(origins))


async def test_every_combination_of_headers_is_judged(start: Start) -> None:
    """By Sec-Fetch-Site, else by Origin; sending a header twice is no way around it."""
    client = await start(make_app())
    scheduler = scheduler_of(client)
    job = await scheduler.spawn(wait_for(asyncio.Event()), "secret-name")
    await settle()
    site_lists = [(), *((site,) for site in SITES), ("same-origin", "cross-site")]
    one_origin = (
        "http://test",
        "https://TEST",
        "http://evil.example",
        "null",
        "http://[",
    )
    origin_lists = [(), *((o,) for o in one_origin), ("http://test", "http://evil")]
    reads = ["/jobs/", "/jobs/live", path_of(job), "/jobs/api/v1/overview"]
    count = 0
    for sites, origins in itertools.product(site_lists, origin_lists):
        headers = [("Sec-Fetch-Site", site) for site in sites]
        headers += [("Origin", origin) for origin in origins]
        for method, path in (*(("GET", p) for p in reads), ("POST", "/jobs/queue")):
            status, text, _ = await ask(client, method, path, headers)
            passes = is_right(method, sites, origins)
            # A form that passes has no fields here, so it does nothing either.
            expected = (200 if method == "GET" else 415) if passes else 403
            assert status == expected, (method, path, headers)
            assert passes or is_empty(text)
            count += 1
    assert count == len(site_lists) * len(origin_lists) * 5
    assert job.state is JobState.ACTIVE


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_link_on_another_site_leads_to_a_door(start: Start, site: str) -> None:
    """It says nothing, does not call `authorize`, and a click goes on from this site."""
    asked: list[str] = []

    async def authorize(request: web.Request) -> Access:
        asked.append(request.path)
        return Access.READ

    client = await start(make_app(authorize))
    await scheduler_of(client).spawn(wait_for(asyncio.Event()), "secret-name")
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    async with client.get("/jobs/?search=x", headers=headers) as response:
        page = await response.text()
        assert response.status == 403
        assert response.content_type == "text/html"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert '<a href="">Go on to the jobs</a>' in page, "to this very address"
    assert is_empty(page)
    assert asked == []


async def test_answers_keep_themselves_to_this_origin(start: Start) -> None:
    """All of them: pages, files, streams, JSON, errors."""
    client = await start(make_app())
    job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
    for path in (*paths(job)[1:13], "/jobs/job/0-0", "/jobs/x"):
        _, _, headers = await ask(client, "GET", path, as_("READ"))
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "Access-Control-Allow-Origin" not in headers, path


# -- streams -----------------------------------------------------------------------------


async def test_stream_asks_again_and_ends_when_the_permission_is_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every half minute; a redirect to a login counts as a no, and so does an error."""
    assert stream.CHECK <= 30
    monkeypatch.setattr(stream, "CHECK", 0)
    monkeypatch.setattr(stream, "PERIOD", 0.001)
    answer: Any = Access.MANAGE

    async def authorize(request: web.Request) -> Access:
        if isinstance(answer, Exception):
            raise answer
        access: Access = answer
        return access

    client = await start(make_app(authorize))
    for later in (Access.NONE, Access.READ, web.HTTPFound("/login"), Boom()):
        answer = Access.MANAGE
        async with asyncio.timeout(20), client.get("/jobs/live") as response:
            events = Events(response)
            await events.until("Running jobs")
            await events.next()  # it goes on
            answer = later
            with contextlib.suppress(ClientPayloadError):  # an error cuts it off
                while not response.content.at_eof():
                    await response.content.readany()


async def by_name(request: web.Request) -> tuple[Access, str]:
    return Access.READ, request.headers.get("Name", "ann")


async def test_one_visitor_cannot_take_all_places(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visitor with most gives one up to one with none; equals keep what they have."""
    monkeypatch.setattr(stream, "MOST", 4)
    client = await start(make_app(by_name))

    async def watch(name: str) -> Any:
        response = await client.get("/jobs/live", headers={"Name": name})
        return response if response.status == 200 else response.status

    greedy = [await watch("greedy") for _ in range(4)]
    assert await watch("greedy") == 503
    first = await watch("ann")
    assert first != 503
    async with asyncio.timeout(20):
        await greedy[0].content.read()  # the oldest one has ended
    second = await watch("bob")
    assert second != 503
    assert await watch("greedy") == 503, "two of four, and others one each"
    for response in (*greedy, first, second):
        response.close()


# -- what is injected --------------------------------------------------------------------

TURN = "\u202e"
PAYLOADS = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</title></style></textarea><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\r\n\r\ndata: forged\r\nevent: snapshot\n\n",
    "\u2028data: forged\u2029",
    f"a{TURN}b\u2066c\u2069d",
    "\x00\x1b[2J\x7f",
)


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_payload_in_every_field_stays_text(
    start: Start, monkeypatch: pytest.MonkeyPatch, payload: str
) -> None:
    """In name, origin, coroutine, message, note, class, host and search; on pages, in
    live updates, plain text and JSON."""
    monkeypatch.setattr(socket, "gethostname", lambda: payload)
    client = await start(make_app(limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    error = type(payload.replace("\0", ""), (Exception,), {"__module__": payload})(
        payload
    )
    error.add_note(payload)

    async def work(error: Exception | None = None) -> None:
        if error is not None:
            raise error
        await go.wait()

    work.__qualname__ = work.__name__ = payload
    options: Any = {"name": payload, "origin": payload}
    failed = await scheduler.spawn(work(error), **options)
    await settle()
    active = await scheduler.spawn(work(), **options)
    await scheduler.spawn(nothing(), **options)
    pages = ["/jobs/", path_of(failed), path_of(active), path_of(active) + "/cancel"]
    seen = [await get(client, path) for path in pages]
    for fields in ({"search": payload}, {"name": payload}):
        for path in ("/jobs/", "/jobs/cancel"):
            async with client.get(path, params=fields) as response:
                assert response.status < 500
                seen.append(await response.text())
    for path in ("/jobs/live", path_of(failed) + "/live"):
        async with asyncio.timeout(20), client.get(path) as response:
            event = await Events(response).until("<h1" if "job/" in path else "<dl")
            assert set(event) == {"event", "id", "data"}
            assert event["event"] == "snapshot"
            seen.append(event["data"])
    for page in seen:
        assert not re.search("<(img|svg/|style)", page)
        assert page.count("<script") <= 1
        assert "49" not in page or "{{ 7" not in payload or "{{ 7 * 7 }}" in page
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\u2028]", page)
    for path in (path_of(failed) + "/text", "/jobs/api/v1/overview"):
        text = await get(client, path)
        assert TURN not in text
    json.loads(text)
    go.set()


def test_what_turns_text_round_is_written_out() -> None:
    """It is visible and has no effect; names in right-to-left scripts are not changed."""
    assert cut(f"a{TURN}b") == "a\\u202eb"
    assert cut("\x1b[2J\r") == "\\x1b[2J\\r"
    for name in ("שלום עולם", "مرحبا", "a\tb\nc", "می‌خواهم", "naïve ✓"):
        assert cut(name) == name


async def test_names_are_cut_where_they_enter(start: Start) -> None:
    """L4: memory is bounded, and so are pages and lines of the log."""
    long = "x" * 100_000
    scheduler = Scheduler(exception_handler=Reports())
    past = History(scheduler)
    scheduler.add_observer(past)
    for coro in (nothing(), fail()):
        await scheduler.spawn(coro, long, origin=long)
    await scheduler.drain()
    for record in past.records():
        assert len(record.name or "") == len(record.origin or "") == MOST_LETTERS
    await scheduler.close()
    client = await start(make_app())
    await scheduler_of(client).spawn(wait_for(asyncio.Event()), long, origin=long)
    assert len(await get(client, "/jobs/")) < 30_000
    method = "B" * 5000
    async with client.request(method, "/nowhere") as response:
        assert response.status < 500


async def test_form_that_is_too_much_is_refused(start: Start) -> None:
    """It is too long, has the same field twice, or a file instead of text."""
    client = await start(make_app(manage))
    files = {"action": io.BytesIO(b"hold"), "process": process_name()}
    async with client.post("/jobs/queue", data=files, headers=HERE) as response:
        assert response.status == 415
    form = {"Content-Type": "application/x-www-form-urlencoded"} | HERE
    text = f"action=hold&process={process_name()}&x={'y' * 2_000_000}".encode()
    body = io.BytesIO(text)
    # An older aiohttp hangs up on such a client.
    with contextlib.suppress(ServerDisconnectedError):
        async with client.post("/jobs/queue", data=body, headers=form) as response:
            assert response.status in (400, 413)
    assert not scheduler_of(client).held
