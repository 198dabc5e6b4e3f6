"""The tour from end to end: a real browser, real processes, and a real kill -9."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.processes import needs_signals
from tests.test_demo_kill import Demo, database, demo

from .test_dashboard_browser import axe, knows_ports
from .test_demo_browser import TIMEOUT, browser, expect_to_fit

__all__ = ("browser", "database")  # fixtures

# One browser for all, and so one loop.
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.asyncio(loop_scope="module"),
    needs_signals,
    pytest.mark.skipif(
        not knows_ports(),
        reason="this aiohttp and this yarl cannot serve sub-applications",
    ),
]

Visit = Callable[..., Awaitable[Page]]

PAGES = ("/", "/tour/mail", "/tour/failing", "/tour/hanging")


@pytest.fixture
def shop(database: Path) -> Iterator[Demo]:
    """A demo in processes of its own, as `make demo` starts it."""
    with demo() as shop:
        yield shop


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, shop: Demo) -> AsyncIterator[Visit]:
    """Open a page. In the end the browser must not have complained."""
    complaints: list[str] = []
    pages: list[Page] = []

    async def visit(path: str = "/", **options: Any) -> Page:
        page = await browser.new_page(base_url=shop.address, **options)
        pages.append(page)
        page.set_default_timeout(TIMEOUT)

        def complain(text: str) -> None:
            if "Failed to load resource" not in text:  # while the server is dead
                complaints.append(text)

        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        await page.goto(path)
        return page

    yield visit
    for page in pages:
        await page.close()
    assert complaints == []


def step(page: Page, name: str) -> Locator:
    return page.locator(f"section#{name}")


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name).click()


async def expect_in(page: Page, name: str, words: str) -> None:
    # Longer than elsewhere: hundreds of mails have to be sent meanwhile.
    await expect(step(page, name)).to_contain_text(re.compile(words), timeout=120_000)


async def kill_in_the_middle(page: Page, shop: Demo) -> None:
    """Sign people up, and kill the server when it has sent some of the mail."""
    first = shop.server
    await press(page, "Sign up 500 people")
    await expect_in(page, "mail", r"[1-9]\d* of 500 mails have arrived")
    await press(page, "Kill the server")
    await asyncio.to_thread(shop.read_start)
    assert shop.server != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    await expect_in(page, "mail", "All 500 mails have arrived")
    # Both processes have sent some.
    rows = step(page, "mail").locator("tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(0)).to_contain_text(f"{first} (gone)")
    await expect(rows.nth(1)).to_contain_text(f"{shop.server} (this one)")


async def test_tour_from_the_first_step_to_the_last(visit: Visit, shop: Demo) -> None:
    """Each step by a click, without leaving the page; and the dashboard has it all."""
    page = await visit("/", viewport={"width": 390, "height": 844})
    await expect(page.locator("header nav a")).to_have_count(5)

    await press(page, "Run the experiment")
    await expect(page.locator("#verdict")).to_contain_text("of the atomic ones, none.")

    await kill_in_the_middle(page, shop)

    await press(page, "Start a failing job")
    await expect_in(page, "failing", "has failed: KeyError: 'clock'")

    await press(page, "Start a hanging job")
    await expect_in(page, "hanging", r"waits in ask_warehouse, line \d+")
    assert page.url == shop.address
    assert await page.locator("#status").get_attribute("class") == "hidden"
    await expect_to_fit(page)

    await page.get_by_role("link", name="Open the dashboard").click()
    main = page.locator("main")
    for words in ("stock count", "ask_warehouse", "KeyError", "mail.welcome"):
        await expect(main).to_contain_text(words)
    assert await page.get_by_text("page views", exact=True).count() <= 1

    await page.goto("/")
    await press(page, "Cancel it")
    await expect_in(page, "hanging", "is over: cancelled")
    shop.command.send(signal.SIGINT)
    status, _ = await asyncio.to_thread(shop.command.end)
    assert status == 0


async def test_tour_without_scripts(visit: Visit, shop: Demo) -> None:
    """The steps then have pages of their own, which reload by themselves. Not even these
    are refused while the server is dead."""
    page = await visit("/", java_script_enabled=False)
    await kill_in_the_middle(page, shop)
    assert page.url.endswith("/tour/mail")
    await page.get_by_role("link", name="All steps of the tour").click()
    await press(page, "Start a failing job")
    await expect_in(page, "failing", "has failed: KeyError: 'clock'")
    await page.goto("/")
    await press(page, "Start a hanging job")
    await press(page, "Cancel it")
    await expect_in(page, "hanging", "is over: cancelled")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_tour_is_accessible_and_fits(visit: Visit, shop: Demo, scheme: str) -> None:
    """axe finds nothing, before and after the steps were taken; nothing is too wide, and
    the navigation stays in one line."""
    code = axe()
    page = await visit("/", color_scheme=scheme)

    async def look(path: str) -> None:
        for width in (320, 390, 1280):
            await page.set_viewport_size({"width": width, "height": 900})
            await expect_to_fit(page)
            if width == 320:
                continue
            if width == 390:
                links = await page.locator("header nav a").all()
                boxes = [await link.bounding_box() for link in links]
                tops = {box["y"] for box in boxes if box is not None}
                assert len(tops) == 1, (path, width)
            await page.evaluate(code)
            found = await page.evaluate("axe.run()")
            assert found["violations"] == [], (path, width)

    await look("/")
    await press(page, "Start a failing job")
    await press(page, "Start a hanging job")
    await press(page, "Sign up 500 people")
    await expect_in(page, "failing", "has failed")
    await expect_in(page, "hanging", "waits in")
    await expect_in(page, "mail", "All 500 mails have arrived")
    for path in PAGES:
        await page.goto(path)
        await look(path)
    await page.goto("/")
    await press(page, "Cancel it")
    await expect_in(page, "hanging", "is over")
