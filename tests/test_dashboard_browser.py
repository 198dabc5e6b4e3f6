"""The dashboard in a real browser: live, by keyboard, in light and dark."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from aiohttp_jobs import SCHEDULER, JobState, Scheduler, setup
from aiohttp_jobs.dashboard import Access, setup_dashboard, stream, words
from aiohttp_jobs.dashboard.process import process_name
from aiohttp_jobs.durable import (
    DURABLE,
    SQLiteStore,
    durable,
    setup_durable,
    spawn_durable,
)

from .envelopes import look
from .processes import until
from .test_demo_browser import TIMEOUT, browser, expect_to_fit
from .work import Reports, fail, hang_up, nothing, wait_for

__all__ = ("browser",)  # a fixture

# Where `make axe` puts it.
AXE = Path(__file__).parent.parent / ".axe/node_modules/axe-core/axe.min.js"
# Milliseconds after which a second press is no longer a double click.
NOT_A_DOUBLE_CLICK = 500
LOOK = "document.activeElement.textContent"
# Lets the page wait for three snapshots of the stream that it opens next.
COUNT_SNAPSHOTS = """() => {
    let shown = 0;
    window.threeSnapshots = new Promise((done) => {
        window.EventSource = class extends EventSource {
            addEventListener(name, listener) {
                super.addEventListener(name, (event) => {
                    listener(event);
                    if (name === "snapshot" && ++shown === 3) done();
                });
            }
        };
    });
}"""

Visit = Callable[..., Awaitable[Page]]


def knows_ports() -> bool:
    """Whether a Host with a port, as browsers send it, is routed to sub-applications:
    aiohttp 3.9 with a recent yarl does not."""
    try:
        return make_mocked_request("GET", "/", {"Host": "test:80"}).url.port == 80
    except ValueError:
        return False


pytestmark = [
    pytest.mark.heavy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not knows_ports(),
        reason="this aiohttp and this yarl cannot serve sub-applications",
    ),
]


async def by_path(request: web.Request) -> Access:
    """Give access by the path: three dashboards, for three kinds of visitor."""
    return Access[request.path.split("/")[1].upper()]


async def lead_to_log_in(request: web.Request) -> web.Response:
    raise web.HTTPFound("/log-in")


async def log_in(request: web.Request) -> web.Response:
    return web.Response(text="Who are you?", content_type="text/html")


@durable("mail.welcome", max_attempts=1)
async def mail(app: web.Application, fails: bool) -> None:
    if fails:
        raise ValueError("no such host " * 20)
    await asyncio.Event().wait()


@pytest_asyncio.fixture(loop_scope="module")
async def server(tmp_path: Path) -> AsyncIterator[TestServer]:
    app = web.Application()
    scheduler = setup(app, limit=2, exception_handler=Reports())
    setup_durable(app, tmp_path / "jobs.sqlite", tasks=[mail], limit=1)
    for access in Access:
        setup_dashboard(app, f"/{access.name.lower()}", authorize=by_path)
    app.router.add_post("/logged-out/cancel", lead_to_log_in)
    app.router.add_get("/log-in", log_in)
    server = TestServer(app, host="127.0.0.1")
    async with server:
        yield server
        await scheduler.close()


@pytest.fixture
def scheduler(server: TestServer) -> Scheduler:
    assert server.app is not None
    return server.app[SCHEDULER]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, server: TestServer) -> AsyncIterator[Visit]:
    """Open pages; at the end, fail for complaints of the browser that are unexpected."""
    complaints: list[str] = []

    pages: list[Page] = []

    async def visit(path: str, expects: str = "", **options: Any) -> Page:
        page = await browser.new_page(base_url=str(server.make_url("/")), **options)
        pages.append(page)
        page.set_default_timeout(TIMEOUT)

        def complain(message: ConsoleMessage) -> None:
            if not expects or expects not in message.text:
                complaints.append(message.text)

        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(path)
        return page

    yield visit
    for page in pages:
        await page.close()
    assert complaints == []


def table(page: Page, name: str) -> Any:
    return page.get_by_role("table", name=re.compile(f"^{name} jobs"))


async def cancel(page: Page) -> None:
    """Press the button twice, slowly enough to mean it."""
    button = page.locator("form.cancel button")
    await button.click()
    await page.wait_for_timeout(NOT_A_DOUBLE_CLICK)
    await button.click()


async def expect_live(page: Page) -> None:
    await expect(page.get_by_role("status")).to_have_text("Live")


async def test_job_appears_and_ends_without_reloading(
    visit: Visit, scheduler: Scheduler
) -> None:
    """Each table changes in turn, without the page being loaded again."""
    page = await visit("/manage/")
    await page.evaluate("window.loadedOnce = true")
    await expect_live(page)
    go = asyncio.Event()
    await scheduler.spawn(wait_for(go), "import of rows", origin="POST /imports/{name}")
    row = table(page, "Running").get_by_role("row", name="import of rows")
    await expect(row).to_contain_text("POST /imports/{name}")
    await expect(row).to_contain_text("wait_for, work.py:")
    go.set()
    row = table(page, "Recent").get_by_role("row", name="import of rows")
    await expect(row).to_contain_text("succeeded")
    await expect(page.get_by_text("Nothing runs just now.")).to_be_visible()
    assert await page.evaluate("window.loadedOnce")


async def test_cancel_button_cancels_and_the_keyboard_keeps_its_place(
    visit: Visit, scheduler: Scheduler
) -> None:
    """Snapshots keep the focus; when its row has gone, it is at the table."""
    job = await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    other = await scheduler.spawn(wait_for(asyncio.Event()), "other")
    page = await visit("/manage/")
    await expect_live(page)
    button = page.get_by_role("button", name=f"Cancel job {job.id}, stuck")
    await button.focus()
    await other.close()
    await expect(table(page, "Running").locator("tr.over")).to_contain_text("other")
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(button).to_have_text(f"Cancel {job.id}?")
    await expect(button).to_be_focused()
    assert job.state is JobState.ACTIVE
    await page.wait_for_timeout(NOT_A_DOUBLE_CLICK)
    await page.keyboard.press("Enter")
    told = f"Job {job.id} (stuck) is being cancelled"
    await expect(page.get_by_role("status")).to_have_text(told)
    row = table(page, "Recent").get_by_role("row", name="stuck")
    await expect(row).to_contain_text("cancelled")
    assert job.closed
    assert "Running jobs" in await page.evaluate(LOOK)


async def test_job_that_is_not_cancelled_is_not_said_to_be(
    browser: Browser, visit: Visit, scheduler: Scheduler, server: TestServer
) -> None:
    """A visitor who was logged out meanwhile gets the login page, which is no success."""
    job = await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/manage/")
    await expect_live(page)
    await page.get_by_role("button", name="Pause").click()
    await page.evaluate("for (const f of document.forms) f.action = '/logged-out/cancel'")
    await cancel(page)
    status = page.get_by_role("status")
    await expect(status).to_contain_text(f"Job {job.id} (stuck) could not be cancelled")
    assert job.active


async def test_another_process_answers_for_the_cancelled_job(
    visit: Visit, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy, it cannot cancel the job, and says so."""
    job = await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/manage/", expects="404")
    await expect_live(page)
    monkeypatch.setattr("aiohttp_jobs.dashboard.source.process_name", lambda: "another")
    await cancel(page)
    status = page.get_by_role("status")
    await expect(status).to_contain_text(f"Job {job.id} is of another process than")
    assert job.state is JobState.ACTIVE


async def test_another_process_answers_the_page_says_which(
    visit: Visit, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart, or behind a proxy; live, like the jobs, and the buttons lead to
    jobs of the new process."""
    monkeypatch.setattr(stream, "PERIOD", 0.01)
    await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/manage/")
    await expect_live(page)
    monkeypatch.setattr("os.getpid", lambda: 123456789)
    await expect(page.locator("header")).to_contain_text("process 123456789")
    form = page.locator("#active form")
    await expect(form).to_have_attribute("action", re.compile(process_name()))
    draining = asyncio.create_task(scheduler.drain())
    await expect(page.locator("header")).to_contain_text("The scheduler is draining")
    draining.cancel()
    await expect(page.locator("header")).not_to_contain_text("draining")
    scheduler.hold()
    await expect(page.locator("header")).to_contain_text("Waiting jobs are held")


async def test_cancel_works_without_scripts(visit: Visit, scheduler: Scheduler) -> None:
    """A page asks first; Chromium sends its form as same-origin; the job's page shows the
    outcome."""
    job = await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/manage/", java_script_enabled=False)
    await expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("heading")).to_have_text(
        f"Cancel job {job.id} (stuck)?"
    )
    assert job.state is JobState.ACTIVE
    await page.get_by_role("button", name=f"Cancel job {job.id}").click()
    await expect(page.get_by_role("heading", name="stuck")).to_be_visible()
    await page.reload()
    await expect(page.locator(".facts")).to_contain_text("cancelled")


async def test_form_on_another_site_is_refused(
    browser: Browser, scheduler: Scheduler, server: TestServer
) -> None:
    """With the headers of a real browser, not ones made up by a test."""
    job = await scheduler.spawn(wait_for(asyncio.Event()))
    page = await browser.new_page()
    target = server.make_url(f"/manage/job/{process_name()}-{job.id}/cancel")
    await page.set_content(f'<form method="post" action="{target}"><button>Win</button>')
    await page.get_by_role("button").click()
    await expect(page.get_by_text("comes from another site")).to_be_visible()
    assert job.active


async def test_who_types_keeps_the_place_while_the_page_changes(
    visit: Visit, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first live update on: changes in the page do not take the focus away."""
    go, serve = asyncio.Event(), stream.Streams.serve

    async def later(*arguments: Any, **options: Any) -> Any:
        await go.wait()
        return await serve(*arguments, **options)

    monkeypatch.setattr(stream.Streams, "serve", later)
    page = await visit("/manage/")
    await page.evaluate(
        """() => {
            window.moved = 0;
            new MutationObserver((changes) => {
                for (const { removedNodes } of changes)
                    for (const node of removedNodes) window.moved += node.id ? 1 : 0;
            }).observe(document.getElementById("live"), { childList: true });
        }"""
    )
    box = page.get_by_label("Number, name, origin or error")
    await box.fill("ma")
    go.set()
    await expect_live(page)
    await scheduler.spawn(wait_for(asyncio.Event()), "comes")
    row = table(page, "Running").get_by_role("row", name="comes")
    await expect(row).to_be_visible()
    await expect(box).to_be_focused()
    await page.keyboard.type("il")
    await expect(box).to_have_value("mail")
    assert await page.evaluate("window.moved") == 0


async def test_filter_finds_the_failure_and_its_traceback(
    visit: Visit, scheduler: Scheduler
) -> None:
    """From the first page to the line that raised."""
    for number in range(30):
        await scheduler.spawn(nothing(), f"mail {number}")
    await scheduler.spawn(fail(), "order", origin="POST /orders")
    await scheduler.drain()
    page = await visit("/read/")
    await page.locator("select[name=outcome]").select_option("failed")
    await page.get_by_role("button", name="Filter").click()
    rows = table(page, "Recent").locator("tbody tr")
    await expect(rows).to_have_count(1)
    await expect_live(page)
    await expect(rows).to_have_count(1)
    await rows.get_by_role("link", name="order").click()
    trace = page.get_by_role("region", name="Traceback of tests.work.Boom")
    await expect(trace).to_contain_text('raise Boom("boom")')
    await page.get_by_role("link", name="All jobs").click()
    await page.get_by_label("Number, name, origin or error").fill("mail")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("search=mail"))
    await page.get_by_role("link", name="Next").click()
    await expect(rows).to_have_count(5)


async def test_who_may_only_look_sees_no_button(
    visit: Visit, scheduler: Scheduler
) -> None:
    """And is told why."""
    await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/read/")
    await expect_live(page)
    await expect(page.get_by_role("link", name="stuck")).to_be_visible()
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    await expect(page.get_by_text("You may look, not cancel.")).to_be_visible()


async def test_who_may_nothing_is_refused(browser: Browser, server: TestServer) -> None:
    """With a sentence, and no job in it."""
    page = await browser.new_page(base_url=str(server.make_url("/")))
    response = await page.goto("/none/")
    assert response is not None
    assert response.status == 403
    await expect(page.get_by_text("You may not see the jobs")).to_be_visible()


async def test_pause_stops_what_moves(
    visit: Visit, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is closed; the same button opens it again."""
    monkeypatch.setattr(stream, "PERIOD", 0.01)
    page = await visit("/manage/")
    await expect_live(page)
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("status")).to_have_text("Paused")
    await scheduler.spawn(nothing(), "unseen")
    await expect(page.get_by_role("link", name="unseen")).to_have_count(0)
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("link", name="unseen")).to_be_visible()


async def test_page_of_another_version_says_so(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tab that was left open while a new release was deployed, with other sections."""
    monkeypatch.setattr(stream, "PERIOD", 0.05)
    page = await visit("/manage/")
    await expect_live(page)
    await page.evaluate("document.getElementById('backlog').remove()")
    await page.evaluate(COUNT_SNAPSHOTS)
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_role("button", name="Resume").click()
    status = page.get_by_role("status")
    await expect(status).to_have_text(re.compile("Reload the page: .* another version"))
    # Only the first snapshot has the section that the page lacks.
    await page.evaluate("window.threeSnapshots")
    await expect(status).to_have_text(re.compile("Reload the page: .* another version"))


async def test_times_go_on_though_nothing_else_changes(
    visit: Visit, scheduler: Scheduler
) -> None:
    """The page itself updates them, by the server's clock: no row is sent again."""
    await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    page = await visit("/manage/")
    await expect_live(page)
    time = table(page, "Running").locator("td.number span")
    before = await time.text_content()
    await page.evaluate("document.querySelector('.active th').marked = true")
    await expect(time).not_to_have_text(before or "")
    await expect(time).to_have_text(re.compile(r"[1-9]\.\d s"))
    assert await page.evaluate("document.querySelector('.active th').marked")


async def test_page_tells_times_in_the_words_of_the_server(visit: Visit) -> None:
    """The times that it was loaded with come from the server."""
    page = await visit("/read/")
    seconds = [
        *(0.0, 0.0004, 0.0099, 0.00996, 0.3, 0.9994, 0.9996, 1.01, 59.94, 59.96),
        *(60, 61.4, 599.7, 3599.4, 3599.6, 3661, 86399.6, 90000, 864000.7, 119.7),
        *(n**2.3 / 7 for n in range(150)),
    ]
    for name in ("ago", "duration", "roughly"):
        told = await page.evaluate(
            """async ([name, seconds]) => {
                const words = await import(new URL("static/words.js", location));
                return seconds.map(words[name]);
            }""",
            [name, seconds],
        )
        assert told == [getattr(words, name)(each) for each in seconds]
        told = await page.evaluate(
            """async (span) => {
                const { tellTimes } = await import(new URL("static/words.js", location));
                const root = document.createElement("p");
                root.innerHTML = span;
                root.firstChild.textContent = "";
                tellTimes(root, 1000);
                return root.innerHTML;
            }""",
            span := words.since(1000.009, 1000, name),
        )
        assert told == span


async def test_hidden_tab_closes_its_stream(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the server nothing until it is seen again."""
    monkeypatch.setattr(stream, "PERIOD", 0.01)
    opened, closed = asyncio.Semaphore(0), asyncio.Semaphore(0)
    serve = stream.Streams.serve

    async def watched(*arguments: Any, **options: Any) -> Any:
        opened.release()
        try:
            return await serve(*arguments, **options)
        finally:
            closed.release()

    monkeypatch.setattr(stream.Streams, "serve", watched)
    page = await visit("/manage/")
    await opened.acquire()
    await expect_live(page)
    hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    await page.evaluate(hide + tell)
    await closed.acquire()
    await page.evaluate("delete document.hidden;" + tell)
    await opened.acquire()


async def bury(server: TestServer) -> str:
    """Make a dead durable job; return its id."""
    assert server.app is not None
    store = server.app[DURABLE].store
    assert isinstance(store, SQLiteStore)
    path = Path(store.path)
    dead = await spawn_durable(server.app, mail, True)
    await until(lambda: look(path, "SELECT id FROM aiohttp_jobs WHERE state = 3"))
    return dead


async def test_dead_job_is_dropped_in_two_steps(visit: Visit, server: TestServer) -> None:
    """From the first page to the live list, and back to that."""
    page = await visit("/manage/")
    await expect_live(page)
    await expect(page.locator("p.durable")).to_contain_text("0 dead")
    dead = await bury(server)
    await expect(page.locator("p.durable")).to_contain_text("1 dead")
    await page.get_by_role("link", name="Durable jobs").click()
    await expect_live(page)
    row = table(page, "Dead").get_by_role("row", name=dead)
    await expect(row).to_contain_text("ValueError: no such host")
    await row.get_by_role("link", name="mail.welcome").click()
    trace = page.get_by_role("region", name="Traceback")
    await expect(trace).to_contain_text('raise ValueError("no such host " * 20)')
    await page.get_by_role("link", name="Durable jobs").click()
    await page.get_by_role("button", name=f"Drop job {dead}, mail.welcome").click()
    await expect(page.get_by_role("heading")).to_have_text(
        "Drop the dead job mail.welcome?"
    )
    await page.get_by_role("button", name="Drop the job").click()
    await expect(
        page.get_by_text(f"Durable job {dead} (mail.welcome) was")
    ).to_be_visible()
    await page.get_by_role("link", name="Go back to the durable jobs").click()
    await expect_live(page)
    await expect(page.get_by_text("Nothing is dead.")).to_be_visible()


def axe() -> str:
    path = Path(os.environ.get("AXE", AXE))
    if not path.exists():
        reason = "axe-core is not there: run 'make axe', or name its axe.min.js in AXE"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_pages_are_accessible_and_fit(
    visit: Visit, scheduler: Scheduler, server: TestServer, scheme: str, width: int
) -> None:
    """axe finds no fault in anything that a page can show, and no page is wider than its
    window."""
    code = axe()
    broken = await scheduler.spawn(fail(), "order " * 20, origin="POST /orders")
    dropped = await scheduler.spawn(wait_for(asyncio.Event()))
    await dropped.close()
    await scheduler.spawn(hang_up())
    for number in range(30):
        await scheduler.spawn(nothing(), f"{'mail' * 30} {number}")
    await scheduler.drain()
    active = await scheduler.spawn(wait_for(asyncio.Event()), "stuck")
    await scheduler.spawn(wait_for(asyncio.Event()), "x" * 150)
    scheduler.hold()
    await scheduler.spawn(nothing(), "pending", origin="GET /")
    dead = await bury(server)
    assert server.app is not None
    for key in (None, "k" * 100):
        await spawn_durable(server.app, mail.options(key=key), False)
    await spawn_durable(server.app, mail.options(delay=60), False)
    viewport = {"width": width, "height": 900}
    page = await visit("/manage/", color_scheme=scheme, viewport=viewport)
    jobs = [f"job/{process_name()}-{job.id}" for job in (active, broken)]
    for path in ("", "?search=nowhere", *jobs, "durable"):
        await page.goto(f"/manage/{path}")
        await expect_live(page)
        # A snapshot must not replace anything while axe measures.
        await page.get_by_role("button", name="Pause").click()
        await page.evaluate(code)
        found = await page.evaluate("axe.run()")
        assert found["violations"] == [], path
        await expect_to_fit(page)
    for path in (f"dead/{dead}", f"dead/{dead}/retry", f"dead/{dead}/drop", "drop"):
        await page.goto(f"/manage/durable/{path}")
        await page.evaluate(code)
        found = await page.evaluate("axe.run()")
        assert found["violations"] == [], path
        await expect_to_fit(page)
