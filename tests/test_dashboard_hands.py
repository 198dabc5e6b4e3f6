"""Nothing by accident: real hands on the dashboard, in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, expect

from aiohttp_jobs import JobState, Scheduler
from aiohttp_jobs.dashboard import stream
from aiohttp_jobs.dashboard.process import process_name
from tests.test_dashboard_browser import (
    NOT_A_DOUBLE_CLICK,
    Visit,
    expect_live,
    knows_ports,
    scheduler,
    server,
    table,
    visit,
)

from .test_demo_browser import TIMEOUT, browser
from .work import nothing, wait_for

__all__ = ("browser", "scheduler", "server", "visit")  # fixtures

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not knows_ports(),
        reason="this aiohttp and this yarl cannot serve sub-applications",
    ),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let much happen while the mouse is on its way."""
    monkeypatch.setattr(stream, "PERIOD", 0.02)


async def box_of(row: Any) -> Any:
    return await row.bounding_box()


async def snapshots(page: Page, count: int) -> None:
    """Wait for this many more snapshots."""
    await page.evaluate(
        """count => new Promise(done => {
            const { stream: path } = document.getElementById("live").dataset;
            const stream = new EventSource(path);
            stream.addEventListener("snapshot", () => {
                if (--count > 0) return;
                stream.close();
                done();
            });
        })""",
        count,
    )


async def test_each_cancel_hits_the_job_that_was_aimed_at(
    visit: Visit, scheduler: Scheduler
) -> None:
    """While the jobs before it end and others come, as in a busy shop."""
    scheduler.limit = 6
    page = await visit("/manage/")
    await expect_live(page)
    for number in range(5):
        gates = [asyncio.Event() for _ in range(6)]
        jobs = [await scheduler.spawn(wait_for(go), f"a{number}") for go in gates]
        aimed = jobs[3]
        row = page.locator(f"#job-{process_name()}-{aimed.id}")
        await expect(row).to_be_visible()
        await row.scroll_into_view_if_needed()
        where = await box_of(row.locator("button"))
        x, y = where["x"] + where["width"] / 2, where["y"] + where["height"] / 2
        await page.mouse.move(x, y)
        for go in gates[:3]:  # the rows above it end, so it would move up
            go.set()
        await snapshots(page, 2)
        await page.mouse.click(x, y)
        await expect(row.locator("button")).to_have_text(f"Cancel {aimed.id}?")
        await scheduler.spawn(nothing(), "comes")
        await snapshots(page, 2)
        await page.wait_for_timeout(NOT_A_DOUBLE_CLICK)
        await page.mouse.click(x, y)
        told = f"Job {aimed.id} (a{number}) is being cancelled"
        await expect(page.get_by_role("status")).to_have_text(told)
        states = {job: job.state for job in jobs}
        assert states.pop(aimed) is JobState.CANCELLED
        assert JobState.CANCELLED not in states.values()
        await page.mouse.move(5, 5)
        for go in gates:
            go.set()
        await expect(table(page, "Running").locator("tbody tr")).to_have_count(0)


async def test_rows_are_held_under_a_pointer_and_it_is_said(
    visit: Visit, scheduler: Scheduler
) -> None:
    """Ended jobs are crossed out and cannot be cancelled; new rows come last."""
    first = await scheduler.spawn(wait_for(asyncio.Event()), "first")
    second = await scheduler.spawn(wait_for(asyncio.Event()), "second")
    page = await visit("/manage/")
    await expect_live(page)
    running = table(page, "Running")
    held = running.locator(".hold")
    await expect(held).to_be_hidden()
    rows = running.locator("tbody tr")
    await rows.nth(1).hover()
    before = await box_of(rows.nth(1))
    await first.close()
    await scheduler.spawn(wait_for(asyncio.Event()), "third")
    await expect(rows.nth(0)).to_have_class("over")
    await expect(rows.nth(0).get_by_role("button")).to_be_disabled()
    await expect(held).to_be_visible()
    await expect(rows).to_have_count(2)
    assert await box_of(rows.nth(1)) == before
    await expect(page.locator(".figures")).to_contain_text("1 cancelled")
    assert await box_of(rows.nth(1)) == before, "figures have the room that they had"
    await page.mouse.move(5, 5)
    await expect(rows.nth(0)).to_contain_text("second")
    await expect(rows.nth(1)).to_contain_text("third")
    await expect(held).to_be_hidden()
    assert second.active


async def test_figures_tell_times_while_rows_are_held(
    visit: Visit, scheduler: Scheduler
) -> None:
    """They go on, and never back: not to when they were rendered, if the stream is a new
    one. The rows stand."""
    await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/manage/")
    await expect_live(page)
    longest = page.locator(".figures [data-since]")
    await expect(longest).to_have_text(re.compile(r"[1-9]\.\d s"))
    await page.evaluate(
        """() => {
            const told = document.querySelector(".figures [data-since]");
            window.told = [told.textContent];
            new MutationObserver(() => window.told.push(told.textContent))
                .observe(told, { childList: true, characterData: true, subtree: true });
        }"""
    )
    await table(page, "Running").get_by_role("link", name="stuck").focus()
    await page.keyboard.press("Tab")
    await expect(table(page, "Running").locator(".hold")).to_be_visible()
    row = await table(page, "Running").locator("td.number").text_content()
    count = await page.evaluate("window.told.length")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await page.wait_for_function("count => window.told.length > count + 5", arg=count)
    told = [float(words.split()[0]) for words in await page.evaluate("window.told")]
    assert told == sorted(told)
    assert await table(page, "Running").locator("td.number").text_content() == row


async def test_mouse_that_was_left_there_holds_for_some_seconds(
    visit: Visit, scheduler: Scheduler
) -> None:
    """While it does not move, rows change, even those under it. Once it moves, they are
    held again."""
    first = await scheduler.spawn(wait_for(asyncio.Event()), "first")
    await scheduler.spawn(wait_for(asyncio.Event()), "second")
    page = await visit("/manage/")
    await page.clock.install()
    await expect_live(page)
    running = table(page, "Running")
    rows, held = running.locator("tbody tr"), running.locator(".hold")
    await rows.nth(1).hover()
    await first.close()
    await expect(held).to_be_visible()
    await expect(held).to_have_text("held while you are here")
    await page.clock.fast_forward(9_000)
    await snapshots(page, 2)
    await expect(held).to_be_visible()
    await page.clock.fast_forward(2_000)
    await expect(held).to_be_hidden()
    await expect(rows).to_have_count(1)
    third = await scheduler.spawn(wait_for(asyncio.Event()), "third")
    await expect(rows).to_have_count(2)
    await snapshots(page, 2)
    await expect(held).to_be_hidden()
    where = await box_of(rows.nth(0))
    await page.mouse.move(where["x"] + 20, where["y"] + 5)
    await third.close()
    await expect(held).to_be_visible()
    await expect(rows.nth(1)).to_have_class("over")


async def test_finger_holds_for_some_seconds(
    browser: Browser, server: TestServer, scheduler: Scheduler
) -> None:
    """A lifted finger has no position; a tap elsewhere releases the rows."""
    first = await scheduler.spawn(wait_for(asyncio.Event()), "first")
    second = await scheduler.spawn(wait_for(asyncio.Event()), "second")
    context = await browser.new_context(
        base_url=str(server.make_url("/")),
        has_touch=True,
        viewport={"width": 390, "height": 844},
    )
    page = await context.new_page()
    page.set_default_timeout(TIMEOUT)
    await page.goto("/manage/")
    await expect_live(page)
    rows = table(page, "Running").locator("tbody tr")
    await rows.nth(1).get_by_role("button").tap()
    await expect(rows.nth(1).locator("button")).to_have_text(f"Cancel {second.id}?")
    before = await box_of(rows.nth(1))
    await first.close()
    await expect(rows.nth(0)).to_have_class("over")
    assert await box_of(rows.nth(1)) == before, "an armed button takes no more room"
    await page.locator("h1").tap()
    await expect(rows).to_have_count(1)
    assert second.state is JobState.ACTIVE
    await context.close()


async def test_double_click_cancels_nothing_and_an_armed_button_gives_up(
    visit: Visit, scheduler: Scheduler
) -> None:
    """One button is armed at a time; after some seconds, none."""
    jobs = [await scheduler.spawn(wait_for(asyncio.Event()), "stuck") for _ in range(2)]
    page = await visit("/manage/")
    await expect_live(page)
    one, other = (
        page.locator(f"#job-{process_name()}-{job.id} form.cancel button") for job in jobs
    )
    await one.dblclick()
    await expect(one).to_have_text(f"Cancel {jobs[0].id}?")
    await page.wait_for_timeout(NOT_A_DOUBLE_CLICK)
    await other.click()
    await expect(one).to_have_text("Cancel")
    await expect(other).to_have_text(f"Cancel {jobs[1].id}?")
    await expect(other).to_have_text("Cancel", timeout=10_000)
    await page.keyboard.down("Enter")
    assert all(job.state is JobState.ACTIVE for job in jobs)


async def test_all_that_match_are_cancelled_after_a_question(
    visit: Visit, scheduler: Scheduler
) -> None:
    """From the form, via a page that says how many, to a page that says what was done."""
    jobs = [await scheduler.spawn(wait_for(asyncio.Event()), "report") for _ in range(4)]
    other = await scheduler.spawn(wait_for(asyncio.Event()), "mail")
    page = await visit("/manage/?search=report")
    await page.get_by_role("link", name="Cancel all that match").click()
    await expect(page.get_by_role("heading")).to_have_text("Cancel 4 jobs?")
    await page.get_by_role("button", name="Cancel 4 jobs").click()
    await expect(page.get_by_role("status")).to_have_text("4 jobs cancelled: report x4.")
    assert not other.closed
    await page.get_by_role("link", name="Go back to all jobs").click()
    await expect_live(page)
    assert all(job.state is JobState.CANCELLED for job in jobs)


# -- from another port and another site --------------------------------------------------

ATTACKS = """
<body><form method="post"></form><script>
window.results = {};
async function attack(base, job) {
    const told = window.results;
    const url = base + "/manage/";
    async function seen(name, work) {
        try { told[name] = String(await work()); } catch { told[name] = "refused"; }
    }
    for (const mode of ["cors", "no-cors"])
        for (const method of ["GET", "POST"])
            await seen(`fetch ${mode} ${method}`, async () => {
                const path = method === "GET" ? "" : `job/${job}/cancel`;
                const options = {mode, method, credentials: "include"};
                const answer = await fetch(url + path, options);
                return await answer.text() || "opaque";
            });
    await seen("events", () => new Promise((done, refused) => {
        const source = new EventSource(url + "live", {withCredentials: true});
        source.addEventListener("snapshot", (event) => done(event.data));
        source.addEventListener("error", () => { source.close(); refused(); });
    }));
    await seen("script", () => new Promise((done, refused) => {
        const script = document.createElement("script");
        script.src = url + "static/dashboard.js";
        script.onload = () => done("loaded");
        script.onerror = refused;
        document.body.append(script);
    }));
    await seen("frame", () => new Promise((done) => {
        const frame = document.createElement("iframe");
        frame.src = url;
        frame.onload = () => {
            try { done(frame.contentDocument.body.textContent || "empty"); }
            catch { done("opaque"); }
        };
        document.body.append(frame);
    }));
    navigator.sendBeacon(url + `job/${job}/cancel`);
    navigator.sendBeacon(url + "queue", new URLSearchParams({action: "hold"}));
    await seen("window", () => new Promise((done) => {
        const other = open(url);
        setTimeout(() => done(other === null || other.closed ? "closed" : "open"), 500);
    }));
    return told;
}
</script></body>
"""


@pytest_asyncio.fixture(loop_scope="module")
async def elsewhere() -> AsyncIterator[TestServer]:
    """Serve somebody else's site, on another port."""

    async def show(request: web.Request) -> web.Response:
        return web.Response(text=ATTACKS, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", show)
    server = TestServer(app, host="127.0.0.1")
    async with server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_pages_elsewhere_get_nothing_and_do_nothing(
    browser: Browser,
    server: TestServer,
    elsewhere: TestServer,
    scheduler: Scheduler,
    host: str,
) -> None:
    """By fetch, EventSource, script, frame, beacon, window and form; from another port
    (the same site) and from another site."""
    job = await scheduler.spawn(wait_for(asyncio.Event()), "secret-name")
    page = await browser.new_page()
    page.set_default_timeout(TIMEOUT)
    await page.goto(f"http://{host}:{elsewhere.port}/")
    base = str(server.make_url("/")).rstrip("/")
    address = f"{process_name()}-{job.id}"
    told = await page.evaluate(f"attack({base!r}, {address!r})")
    assert told.pop("window") in ("open", "closed")
    assert set(told) >= {"fetch cors GET", "fetch no-cors POST", "events", "frame"}
    for name, seen in told.items():
        assert seen in ("refused", "opaque", "empty"), name
        assert "secret-name" not in seen
    # And by a form, as a click there would send it.
    await page.evaluate(
        f"document.forms[0].action = '{base}/manage/job/{address}/cancel'"
    )
    await page.evaluate("document.forms[0].submit()")
    await expect(page.get_by_text(re.compile("comes? from another site"))).to_be_visible()
    assert job.state is JobState.ACTIVE
    assert not scheduler.held
    # A link leads to an interstitial page, and a click goes on from there.
    await page.goto(f"http://{host}:{elsewhere.port}/")
    await page.evaluate(
        f"const a = document.createElement('a'); a.href = '{base}/manage/';"
        "a.textContent = 'jobs'; document.body.append(a)"
    )
    await page.get_by_role("link", name="jobs").click()
    await expect(page.get_by_text("You come from another site")).to_be_visible()
    await page.get_by_role("link", name="Go on to the jobs").click()
    await expect(page.get_by_role("link", name="secret-name")).to_be_visible()
    for opened in page.context.pages:
        await opened.close()
