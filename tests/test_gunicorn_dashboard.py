"""One dashboard for all workers of a real gunicorn, behind a real nginx."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout
from playwright.async_api import Browser, Page
from playwright.async_api import TimeoutError as PlaywrightTimeout

from tests.processes import PATIENCE, before_the_next_look, until
from tests.test_dashboard_browser import (
    NOT_A_DOUBLE_CLICK,
    axe,
    expect_live,
    knows_ports,
)
from tests.test_demo_browser import TIMEOUT, browser, expect_to_fit
from tests.test_prometheus_workers import gunicorn

__all__ = ("browser",)  # a fixture

pytest.importorskip("gunicorn")
NGINX = Path("/usr/sbin/nginx")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(
        not knows_ports(),
        reason="this aiohttp and this yarl cannot serve sub-applications",
    ),
]

# The file of the docs, for one application on a port. A request that a killed worker has
# not answered is sent again if it is a GET: the server is listed twice for that.
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream shop {{
        server 127.0.0.1:{to} max_fails=0;
        server 127.0.0.1:{to} max_fails=0;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://shop;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def nginx(directory: Path, to: int) -> Iterator[str]:
    """Run nginx in front of an application; yield its address."""
    if not NGINX.exists():
        if os.environ.get("CI") == "true":
            raise RuntimeError("nginx is missing: apt-get install nginx-light")
        pytest.skip("needs nginx")
    port = free_port()
    directory.mkdir()
    text = CONFIGURATION.format(directory=directory, to=to, port=port)
    (directory / "nginx.conf").write_text(text)
    command = [str(NGINX), "-p", str(directory), "-c", str(directory / "nginx.conf")]
    process = subprocess.Popen([*command, "-e", str(directory / "error.log")])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


class Shop:
    """Sends requests to the application, each on a new connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.processes: dict[str, int] = {}

    async def json(self, path: str) -> Any:
        """Return the answer of one of its workers; None if that one has just ended."""
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=20)) as session,
                session.get(self.url + path) as answer,
            ):
                return await answer.json() if answer.status == 200 else None
        except (ClientError, TimeoutError):
            return None

    async def until(self, found: Callable[[Any], bool]) -> Any:
        """Poll the overview until it is as expected."""
        end = time.monotonic() + PATIENCE
        told = None
        while time.monotonic() < end:
            told = await self.json("/jobs/api/v1/overview")
            if told is not None and found(told):
                return told
        raise AssertionError(f"it stays at {told and told['workers']}")

    async def workers(self, number: int = 2) -> dict[int, tuple[str, int]]:
        """Return the name and the process of each worker, once this many answer."""

        def all_there(told: Any) -> bool:
            workers = told["workers"]
            return len(workers) == number and not any(w["trouble"] for w in workers)

        told = await self.until(all_there)
        return {
            worker["number"]: (worker["process"]["name"], worker["process"]["pid"])
            for worker in told["workers"]
        }


@pytest.fixture
def share(tmp_path: Path) -> str:
    return str(tmp_path / "share")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--preload",),
        ("--worker-class=aiohttp.GunicornUVLoopWebWorker",),
    ],
    ids=["plain", "preload", "uvloop"],
)
async def test_workers_stop_go_on_die_and_are_replaced(
    share: str, options: tuple[str, ...]
) -> None:
    """Each worker's page shows all workers that answer, and names those that do not."""
    with gunicorn(share, *options) as server:
        shop = Shop(server.url)
        first = await shop.workers()
        name, process = first[1]
        os.kill(process, signal.SIGSTOP)
        told = await shop.until(
            lambda told: any(w["trouble"] == "does not answer" for w in told["workers"])
        )
        assert told["process"]["pid"] == first[0][1]
        os.kill(process, signal.SIGCONT)
        assert await shop.workers() == first
        os.kill(process, signal.SIGKILL)
        told = await shop.until(
            lambda told: (
                len([w for w in told["workers"] if w["process"]]) == 2
                and name not in json.dumps(told["workers"])
            )
        )
        second = await shop.workers()
        assert second[0] == first[0]
        server.process.send_signal(signal.SIGHUP)
        names = {name for name, _ in second.values()}
        await shop.until(
            lambda told: (
                len(told["workers"]) == 2
                and not any(w["trouble"] for w in told["workers"])
                and names.isdisjoint(w["process"]["name"] for w in told["workers"])
            )
        )
    assert [name for name in os.listdir(share) if name.endswith(".sock")] == []


async def test_recycled_workers_keep_numbers_few(share: str) -> None:
    """With --max-requests, each of four processes was shown beside another one."""
    options = "--max-requests=10", "--graceful-timeout=2"
    with gunicorn(share, *options) as server:
        shop = Shop(server.url)
        names = set[str]()
        while len(names) < 4:
            told = await shop.json("/jobs/api/v1/overview")
            if told is not None:
                names |= {
                    w["process"]["name"] for w in told["workers"] if not w["trouble"]
                }
    numbers = {name for name in os.listdir(share) if name.endswith(".lock")}
    assert len(numbers) <= 4


async def test_pages_of_several_workers_are_accessible_and_fit(
    share: str, browser: Browser
) -> None:
    """With one silent worker, axe finds nothing, and no page is wider than its window."""
    code = axe()
    with gunicorn(share) as server:
        shop = Shop(server.url)
        workers = await shop.workers()
        for kind in ("wait", "fail", "wait"):
            await shop.json(f"/spawn?kind={kind}&name={'report' * 9}&count=12")
        told = await shop.until(lambda told: told["now"]["active"] > 9)
        job = told["active"]["rows"][0]
        owner = workers[job["worker"]]
        other = next(pid for name, pid in workers.values() if name != owner[0])
        for process in (None, other):
            if process is not None:
                os.kill(process, signal.SIGSTOP)
                await shop.until(lambda told: any(w["trouble"] for w in told["workers"]))
            for scheme, width in (("light", 390), ("dark", 1280)):
                page = await browser.new_page(
                    base_url=server.url,
                    color_scheme=scheme,  # type: ignore[arg-type]
                    viewport={"width": width, "height": 900},
                )
                page.set_default_timeout(TIMEOUT)
                for path in (
                    "",
                    "queue",
                    "cancel?search=report",
                    f"job/{job['address']}",
                ):
                    await page.goto(f"/jobs/{path}")
                    if await page.get_by_role("button", name="Pause").count():
                        await page.get_by_role("button", name="Pause").click()
                    await page.evaluate(code)
                    found = await page.evaluate("axe.run()")
                    assert found["violations"] == [], path
                    await expect_to_fit(page)
                await page.close()
        os.kill(other, signal.SIGCONT)


# -- a browser --------------------------------------------------------------------------


CLICKS, CANCELS = 200, 50


# Where the links or buttons of the running jobs are, and whose is at a given point.
PLACES = """at => [...document.querySelectorAll(`table.active ${at}`)].map(found => {
    const box = found.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
})"""
UNDER = """([x, y, at]) => {
    const found = document.elementFromPoint(x, y)?.closest(`table.active tbody ${at}`);
    const row = found?.closest("tr");
    return row ? [row.id.slice(4), row.querySelector("a.name").textContent] : null;
}"""


class Hands:
    """Clicks on jobs and cancels them, and records the results."""

    def __init__(self, shop: Shop, browser: Browser) -> None:
        self.shop = shop
        self.browser = browser
        self.random = random.Random(11)
        # The addresses of the jobs, by name.
        self.spawned: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.clicked = 0
        self.gone = set[str]()
        self.lost: list[str] = []

    async def supply(self) -> None:
        """Keep each worker supplied with jobs for as long as needed."""
        number = 0
        while self.is_busy:
            number += 1
            # Whichever worker answers has spawned them.
            addresses = await self.shop.json(f"/spawn?name=r{number}-x&most=6")
            if addresses:
                self.spawned[f"r{number}-x"] = addresses[0]
            else:
                await before_the_next_look()

    @property
    def is_busy(self) -> bool:
        return self.clicked < CLICKS or len(self.cancelled) < CANCELS

    async def open(self, scripts: bool = True) -> Page:
        # Just high enough to see the running jobs, as painting takes time.
        page = await self.browser.new_page(
            base_url=self.shop.url,
            viewport={"width": 1280, "height": 1400},
            java_script_enabled=scripts,
        )
        page.set_default_timeout(TIMEOUT)
        return page

    async def aim(self, page: Page, at: str) -> tuple[str, str] | None:
        """Move the pointer to one of the running jobs; return the address and name of the
        job it is at, or None if at none. From then on rows do not move."""
        places = await page.evaluate(PLACES, at)
        if not places:
            await page.wait_for_timeout(100)
            return None
        x, y = self.random.choice(places)
        await page.mouse.move(x, y)
        found: list[str] | None = await page.evaluate(UNDER, [x, y, at])
        return None if found is None else (found[0], found[1])

    async def click(self, scripts: bool) -> None:
        """Click on jobs, and check that each click opens the page of that job."""
        page = await self.open(scripts)
        await page.goto("/jobs/")
        while self.clicked < CLICKS:
            found = await self.aim(page, "a.name")
            if found is None:
                await page.reload()
                continue
            address, name = found
            async with page.expect_navigation():
                await page.mouse.down()
                await page.mouse.up()
            assert page.url.endswith(f"/job/{address}")
            text = await page.inner_text("main")
            if name in text:
                assert self.spawned.get(name, address) == address
                assert f"{address.partition('-')[2]} of worker" in text
                self.clicked += 1
            elif address.partition("-")[0] in self.gone:
                assert "has ended" in text
            else:
                self.lost.append(f"{address} {name}: {text!r}")
            await page.mouse.move(5, 5)
            await page.go_back()
        await page.close()

    async def cancel(self) -> None:
        """Cancel jobs, and record which were reported as cancelled."""
        page = await self.open()
        await page.goto("/jobs/")
        await expect_live(page)
        while len(self.cancelled) < CANCELS:
            await page.mouse.move(5, 5)
            found = await self.aim(page, "form.cancel button")
            if found is None:
                continue
            address, name = found
            await page.mouse.down()
            await page.mouse.up()
            await page.wait_for_timeout(NOT_A_DOUBLE_CLICK)
            button = page.locator(f"[id='job-{address}'] form.cancel button")
            if not await button.count() or await button.is_disabled():
                continue  # the job has ended meanwhile
            try:
                async with page.expect_response("**/cancel", timeout=5_000) as response:
                    await page.mouse.down()
                    await page.mouse.up()
                answer = await response.value
            except PlaywrightTimeout:
                continue  # the same, at this very moment
            assert f"/job/{address}/" in answer.url
            if answer.status == 502:
                continue  # the page says that it has to be tried again
            told = await answer.json()
            if told["done"]:
                number = address.partition("-")[2]
                assert f"Job {number} ({name}) is being cancelled" in told["says"]
                self.cancelled.append(name)
            elif self.is_lost(address, told["says"]):
                self.lost.append(f"{address} {name}: {told['says']}")
        await page.close()

    def is_lost(self, address: str, says: str) -> bool:
        """Whether nothing was done though the job was running."""
        is_over = "had ended before" in says or "being cancelled already" in says
        return not is_over and address.partition("-")[0] not in self.gone


async def test_no_click_is_lost_and_no_cancel_hits_another_job(
    share: str, tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 clicks and 50 cancels through nginx, while one worker is killed and another
    one is recycled."""
    log = tmp_path / "cancelled"
    log.touch()
    monkeypatch.setenv("SHOP_CANCELLED", str(log))
    with gunicorn(share, "--graceful-timeout=5") as server:
        await Shop(server.url).workers()
        with nginx(tmp_path / "nginx", server.port) as url:
            shop = Shop(url)
            hands = Hands(shop, browser)

            async def trouble() -> None:
                await until(lambda: hands.clicked > 50 and len(hands.cancelled) > 10)
                workers = await shop.workers()
                hands.gone.add(workers[1][0])
                os.kill(workers[1][1], signal.SIGKILL)
                await until(lambda: hands.clicked > 110 and len(hands.cancelled) > 25)
                workers = await shop.workers()
                hands.gone.add(workers[0][0])
                os.kill(workers[0][1], signal.SIGTERM)

            async with asyncio.TaskGroup() as group:
                group.create_task(hands.supply())
                group.create_task(trouble())
                for scripts in (True, False):
                    group.create_task(hands.click(scripts))
                    group.create_task(hands.cancel())
            assert hands.lost == []
            assert len(hands.gone) == 2
            ended = log.read_text().split()
    told = set(hands.cancelled)
    assert len(told) == len(hands.cancelled) >= CANCELS
    assert told <= set(ended)
    # The other cancelled jobs are those of the recycled worker.
    others = {hands.spawned[name].partition("-")[0] for name in set(ended) - told}
    assert others <= hands.gone
