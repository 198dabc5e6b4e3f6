"""The demo shop in a real browser, as visitors use it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, async_playwright, expect

from demo_app.app import make_app
from demo_app.shop import ARTICLES, SHOP, Order, Route, Shop

from .test_demo import Bank, bank

# One browser for all, and so one loop.
pytestmark = [pytest.mark.heavy, pytest.mark.asyncio(loop_scope="module")]

__all__ = ("bank",)  # a fixture

PAGES = ("/", "/experiment", "/orders", "/outbox")
OPTIONS = (
    "--no-sandbox",  # a container may not allow one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT = 20_000  # milliseconds
# Records layout shifts that the visitor did not cause.
WATCH_SHIFTS = """
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries())
            if (!entry.hadRecentInput) shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
"""

Visit = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "Chromium is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=TIMEOUT)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def server(tmp_path: Path) -> AsyncIterator[TestServer]:
    app = make_app(tmp_path / "shop.sqlite3", mail_takes=0)
    server = TestServer(app, host="127.0.0.1")
    async with server:
        yield server


def shop_of(server: TestServer) -> Shop:
    assert server.app is not None
    return server.app[SHOP]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, server: TestServer) -> AsyncIterator[Visit]:
    """Open a page of the shop. In the end the browser must not have complained."""
    complaints: list[str] = []

    def complain(text: str) -> None:
        if "Failed to load resource" not in text:  # the pages report this themselves
            complaints.append(text)

    pages: list[Page] = []

    async def visit(path: str, **options: Any) -> Page:
        page = await browser.new_page(base_url=str(server.make_url("/")), **options)
        pages.append(page)
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        await page.add_init_script(WATCH_SHIFTS)
        await page.goto(path)
        return page

    yield visit
    for page in pages:
        await page.close()
    assert complaints == []


async def run_small_experiment(page: Page) -> None:
    await page.get_by_text("Options").click()
    await page.get_by_label("Clients").fill("30")
    await page.get_by_label("Seed").fill("7")
    await page.get_by_role("button", name="Run the experiment").click()
    await expect(page.get_by_role("progressbar")).to_be_visible()


async def expect_to_fit(page: Page) -> None:
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    assert not await page.evaluate(too_wide), page.url


async def expect_table(page: Page) -> None:
    half_done = page.locator("tbody td:nth-of-type(4)")
    await expect(half_done).to_have_text([re.compile("^[1-9]"), "0"])


async def test_experiment_runs_without_leaving_the_page(visit: Visit) -> None:
    """The bar, then the table in the same place: nothing moves, no focus is lost."""
    page = await visit("/", viewport={"width": 390, "height": 844})
    await run_small_experiment(page)
    # The bar moves: it is seen with some of the orders.
    await expect(page.locator("#count")).to_have_text(re.compile("^[1-9][0-9]? of 60"))
    place = await page.locator("#experiment").bounding_box()
    await expect_table(page)
    assert page.url.endswith("/")
    assert await page.locator("#experiment").bounding_box() == place
    assert await page.evaluate("window.shifts") == []
    await expect(page.get_by_role("heading", name="The experiment")).to_be_focused()
    await expect(page.locator("#status")).to_contain_text("never recorded")
    await expect(page.get_by_role("button", name="Run it again")).to_be_enabled()
    await expect_to_fit(page)


async def test_experiment_runs_without_scripts(visit: Visit) -> None:
    """Then a page of its own reloads itself until the table is there."""
    page = await visit("/", java_script_enabled=False)
    await run_small_experiment(page)
    assert page.url.endswith("/experiment")
    await expect_table(page)


async def test_page_says_so_when_the_server_has_gone(visit: Visit) -> None:
    """The bar does not just stand still."""
    page = await visit("/")
    await page.route("/experiment/progress", lambda route: route.abort())
    await run_small_experiment(page)
    status = page.locator("#status")
    await expect(status).to_have_text(re.compile("^The server does not answer any more"))
    await expect(status).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("route", list(Route))
async def test_closing_the_tab_hangs_up(
    visit: Visit,
    server: TestServer,
    bank: Bank,
    route: Route,
) -> None:
    """The start page asks visitors to try this, and it does what the page says."""
    page = await visit("/")
    await page.get_by_role("button", name=f"Order, {route}").click(no_wait_after=True)
    await bank.charged.wait()
    await page.close()
    if route is Route.ATOMIC:
        bank.confirms.set()
    shop = shop_of(server)
    await shop.settled()
    tally = (await shop.tally())[route]
    assert (tally.charged, tally.half_done) == (1, int(route is Route.PLAIN))


async def test_pages_fit_phone_and_desktop(
    visit: Visit,
    server: TestServer,
    bank: Bank,
) -> None:
    """No page is wider than its window, however long the text in its tables."""
    shop = shop_of(server)
    order = Order(f"{'client' * 10}@{'shop' * 10}.example", ARTICLES["lamp"], 20)
    half_done = asyncio.create_task(shop.take_order(Route.PLAIN, order))
    await bank.charged.wait()
    half_done.cancel()
    bank.confirms.set()
    await shop.take_order(Route.ATOMIC, order)
    page = await visit("/")
    for path in PAGES:
        await page.goto(path)
        for width in (320, 390, 1280):
            await page.set_viewport_size({"width": width, "height": 844})
            await expect_to_fit(page)
