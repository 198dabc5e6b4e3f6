"""Applications with a dashboard, and helpers to read what a client sees of them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from aiohttp_jobs import SCHEDULER, Job, Scheduler, setup
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.dashboard.process import process_name
from tests.work import Reports

HERE = {"Sec-Fetch-Site": "same-origin"}

if TYPE_CHECKING:
    Client = TestClient[web.Request, web.Application]
else:
    Client = TestClient

Start = Callable[[web.Application], Awaitable[Client]]


async def manage(request: web.Request) -> Access:
    return Access.MANAGE


async def read(request: web.Request) -> Access:
    return Access.READ


async def by_header(request: web.Request) -> Access:
    return Access[request.headers.get("Access", "NONE")]


def make_app(
    authorize: Any = manage,
    *,
    title: str = "Jobs",
    home: str | None = None,
    **options: Any,
) -> web.Application:
    app = web.Application()
    setup(app, exception_handler=Reports(), **options)
    setup_dashboard(app, authorize=authorize, title=title, home=home)
    return app


class PagesTime:
    """The clock of jobs and their pages: it advances by a millisecond at each look,
    however long the machine takes. Loops, deadlines and stores use the real clock."""

    def __init__(self) -> None:
        self._looks = 0
        # Whole numbers, as pages round to milliseconds.
        self._began, self._began_at = int(time.monotonic()), int(time.time())

    def monotonic(self) -> float:
        self._looks += 1
        return self._began + self._looks / 1000

    def time(self) -> float:
        return self._began_at + self._looks / 1000


@contextlib.contextmanager
def pages_time() -> Generator[None]:
    """Let the pages of this process show PagesTime, and no period end by itself."""
    told = PagesTime()
    as_module = SimpleNamespace(monotonic=told.monotonic, time=told.time)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("app", "history", "rows"):
            patch.setattr(f"aiohttp_jobs.dashboard.{name}.time", as_module)
        for name in ("job", "parts"):
            patch.setattr(f"aiohttp_jobs.core.{name}.monotonic", told.monotonic)
        patch.setattr("aiohttp_jobs.dashboard.app.until_next", _an_hour)
        yield


def _an_hour(now: float) -> float:
    return 3600


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Serve an application whose pages show PagesTime; cancel its jobs at the end."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pages_time())

        async def start(app: web.Application) -> Client:
            server = TestServer(app, host="127.0.0.1")
            # aiohttp 3.9 with a recent yarl does not route a Host with a port to
            # sub-applications.
            client = TestClient(server, headers={"Host": "test"})
            await stack.enter_async_context(client)
            if SCHEDULER in app:
                stack.push_async_callback(app[SCHEDULER].close)
            return client

        yield start


async def get(client: Client, path: str, status: int = 200, **headers: str) -> str:
    async with client.get(path, headers=headers) as response:
        assert response.status == status, await response.text()
        return (await response.text()).replace("<wbr>", "")


async def post(client: Client, path: str, **headers: str) -> ClientResponse:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(path, headers=headers, allow_redirects=False) as response:
        await response.read()
        return response


def path_of(job: Job[Any] | int, before: str = "/jobs/job/") -> str:
    """Return the path of the page of a job, or of the job with this number."""
    number = job if isinstance(job, int) else job.id
    return f"{before}{process_name()}-{number}"


def rows(page: str, table: str) -> list[str]:
    """Return the text of each row of a table."""
    (body,) = re.findall(rf'<table class="{table}">.*?<tbody>(.*?)</tbody>', page, re.S)
    return [
        " ".join(re.sub("<[^>]*>", " ", row).split())
        for row in re.findall(r"<tr.*?</tr>", body, re.S)
    ]


def words_of(page: str) -> str:
    """Return all text of a page, in one line."""
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def scheduler_of(client: Client) -> Scheduler:
    assert client.app is not None
    return client.app[SCHEDULER]


class Events:
    """Reads the events of a stream, one after the other."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response

    async def next(self) -> dict[str, str]:
        """Return the fields of the next event; for a comment, ``{"": text}``."""
        fields: dict[str, str] = {}
        while line := (await self._response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        return {name: value.replace("<wbr>", "") for name, value in fields.items()}

    async def until(self, text: str) -> dict[str, str]:
        """Return the first snapshot from now on that shows this."""
        while text not in (event := await self.next()).get("data", ""):
            assert not self._response.content.at_eof()
        return event
