"""The pages: their Python blocks are run, and what they name is there.

Every block has a name, and here a check of the same name that puts it to use. The blocks
of a page share one namespace, as if typed one after the other.
"""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from aiohttp import web

import aiohttp_jobs
from aiohttp_jobs import SCHEDULER, JobState, Scheduler

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.rst",
    "docs/tutorial.rst",
    "docs/howto.rst",
    "docs/cancellation.rst",
    "docs/prometheus.rst",
    "docs/opentelemetry.rst",
    "docs/logging.rst",
    "docs/dashboard.rst",
    "docs/durable.rst",
)
BLOCK = re.compile(
    r"^\.\. code-block:: python\n(?P<options>(?:   :.*\n)*)\n"
    r"(?P<code>(?:(?:   .*)?\n)+)",
    re.MULTILINE,
)


@dataclass
class Page:
    """One page on its way through its blocks."""

    start: Callable[..., Awaitable[Any]]
    capsys: pytest.CaptureFixture[str]
    names: dict[str, Any] = field(default_factory=dict)

    async def serve(self) -> Any:
        """Serve the application that the last block has made; return a client."""
        return await self.start(self.names["app"])

    def printed(self) -> str:
        return self.capsys.readouterr().out

    @asynccontextmanager
    async def held_up(self, name: str) -> AsyncIterator[asyncio.Semaphore]:
        """Let calls of this function stand still from their start until the block ends.

        The semaphore is released whenever one has begun.
        """
        begun, go_on = asyncio.Semaphore(0), asyncio.Event()
        function = self.names[name]

        async def call(*args: Any) -> Any:
            begun.release()
            await go_on.wait()
            return await function(*args)

        with mock.patch.dict(self.names, {name: call}):
            yield begun
            go_on.set()


@contextmanager
def failing(page: Page, name: str) -> Iterator[None]:
    """Let calls of this function fail, until the block ends."""

    async def fail(*args: Any) -> None:
        raise ConnectionError("down")

    with mock.patch.dict(page.names, {name: fail}):
        yield


async def post_and_leave(client: Any, path: str, begun: asyncio.Semaphore) -> None:
    """Go away in the middle of the handler; return when the server has noticed."""
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await begun.acquire()
    writer.close()
    await writer.wait_closed()
    while client.server.handler.connections:  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(0)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The names and the code of a page's blocks, with line numbers as in the page."""
    text = (ROOT / page).read_text()
    for match in BLOCK.finditer(text):
        name = re.search(r":name: (\S+)", match["options"])
        assert name, f"{page}: a Python block without a name: {match[0]}"
        above = text.count("\n", 0, match.start("code"))
        yield name[1], "\n" * above + textwrap.dedent(match["code"])


Check = Callable[[Page], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        assert name not in CHECKS
        CHECKS[name] = function
        return function

    return add


@pytest.mark.parametrize("path", PAGES)
async def test_blocks_run(
    path: str,
    aiohttp_client: Callable[..., Awaitable[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each block does what the page says of it."""
    page = Page(aiohttp_client, capsys, {"__name__": "page"})
    async with asyncio.timeout(60):
        for name, code in blocks(path):
            exec(compile(code, str(ROOT / path), "exec"), page.names)
            await CHECKS[name](page)


def test_every_check_has_a_block() -> None:
    """No check is left over from a block that is gone."""
    named = [name for page in PAGES for name, _ in blocks(page)]
    assert sorted(named) == sorted(CHECKS)


def test_every_python_block_is_found() -> None:
    """Nothing else in the pages says that it is Python: it would not be run."""
    for path in (ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))):
        page = path.relative_to(ROOT).as_posix()
        said = re.findall(r"(?m)^ *\.\. code(?:-block)?:: *py", path.read_text())
        assert len(said) == (len(list(blocks(page))) if page in PAGES else 0), page


@pytest.mark.parametrize("name", aiohttp_jobs.__all__)
def test_reference_documents_name(name: str) -> None:
    """Every public name has its entry."""
    text = (ROOT / "docs/reference.rst").read_text()
    assert re.search(rf"(?m)^\.\. (?:auto)?[a-z]+:: {name}$", text)


def test_messages_of_failures_are_those_of_the_code() -> None:
    """What the reference says an exception handler is told, it is told."""
    text = (ROOT / "docs/reference.rst").read_text()
    section = text.partition("The exception handler\n---")[2].partition("Log records")[0]
    messages = re.findall(r"(?m)^   \* - `([A-Z][^`]+)`$", section)
    core = "\n".join(p.read_text() for p in (ROOT / "aiohttp_jobs/core").glob("*.py"))
    assert len(messages) == 6
    assert [message for message in messages if f'"{message}"' not in core] == []


@pytest.mark.parametrize("page", ["reference", "prometheus", "opentelemetry"])
def test_pages_name_every_outcome(page: str) -> None:
    """Logs, metrics and traces have the same ones, and a new one is not forgotten."""
    text = " ".join((ROOT / f"docs/{page}.rst").read_text().split())
    *others, last = (s.name.lower() for s in JobState if s >= JobState.SUCCEEDED)
    assert f"{', '.join(f'`{name}`' for name in others)} or `{last}`" in text


def test_make_targets_exist() -> None:
    """The commands of the README are in the Makefile."""
    readme = (ROOT / "README.rst").read_text()
    targets = set(re.findall(r"(?:``|\$ )make ([a-z]+)", readme))
    assert {"demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert {t for t in targets if re.search(rf"(?m)^{t}:", makefile)} == targets


def test_links_of_readme_exist() -> None:
    """What the README links to is in the repository."""
    links = re.findall(r"`[^`]+ <([^>:]+)>`_", (ROOT / "README.rst").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_test_sleeps() -> None:
    """No test waits for something by sleeping (the clock of tests/loops.py jumps)."""
    slept = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "tests").glob("*.py")
        if path.name != "loops.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Await) and _is_sleep(ast.unparse(node))
    ]
    assert slept == []


def _is_sleep(code: str) -> bool:
    return code.startswith("await asyncio.sleep(") and code != "await asyncio.sleep(0)"


# -- README.rst -------------------------------------------------------------------------


@check("quick-start-spawn")
async def quick_start_spawn(page: Page) -> None:
    client = await page.serve()
    response = await client.post("/order", data={"email": "ann@example.org"})
    assert (response.status, await response.text()) == (200, "Thank you!")
    await client.close()
    assert page.printed() == "Sent a receipt to ann@example.org\n"


@check("quick-start-atomic")
async def quick_start_atomic(page: Page) -> None:
    client = await page.serve()
    async with page.held_up("charge_card") as begun:
        await post_and_leave(client, "/pay", begun)
    await client.close()
    assert page.printed() == "Paid\n"


@check("quick-start-scheduler")
async def quick_start_scheduler(page: Page) -> None:
    await page.names["main"]()
    assert page.printed() == "328350\n"


# -- docs/tutorial.rst ------------------------------------------------------------------


@check("bare-task")
@check("spawn")
async def sign_up(page: Page) -> None:
    client = await page.serve()
    response = await client.post("/sign-up", data={"email": "ann@example.org"})
    assert await response.text() == "Thank you!"
    await client.close()
    assert page.printed() == "To ann@example.org: Welcome!\n"


@check("exception-handler")
async def exception_handler(page: Page) -> None:
    client = await page.serve()
    assert (await client.post("/remind")).status == 200
    await client.close()
    told = page.printed()
    assert told.startswith(
        "Job processing failed: ConnectionError('the mail server is down') in <Job "
    )


@check("result")
async def result(page: Page) -> None:
    client = await page.serve()
    assert await (await client.post("/words", data="one two three")).text() == "3"


@check("overload")
async def overload(page: Page) -> None:
    client = await page.serve()
    async with page.held_up("make_report"):
        answers = [await client.post("/report") for _ in range(6)]
        scheduler = client.app[SCHEDULER]
        assert (scheduler.active_count, scheduler.pending_count) == (2, 3)
    assert [answer.status for answer in answers] == [202] * 5 + [503]
    assert answers[-1].headers["Retry-After"] == "1"


@check("timeouts")
async def timeouts(page: Page) -> None:
    client = await page.serve()
    assert await (await client.post("/approve")).text() == "approved"
    for name in ("WAIT_AT_MOST", "RUN_AT_MOST"):
        with mock.patch.dict(page.names, {name: 0}):
            async with page.held_up("ask_the_bank"):
                response = await client.post("/approve")
                assert await response.text() == "The bank does not answer"
                assert len(client.app[SCHEDULER]) == 0


async def leave_half_way(page: Page, path: str) -> list[str]:
    log: list[str] = page.names["log"]
    log.clear()
    client = await page.serve()
    async with page.held_up("write_down") as begun:
        await post_and_leave(client, path, begun)
    await client.close()
    return log


@check("atomic")
async def atomic(page: Page) -> None:
    log = await leave_half_way(page, "/transfer")
    assert log == ["take 10 from Ann", "give 10 to Bob"]


@check("atomic-methods")
async def atomic_methods(page: Page) -> None:
    log = await leave_half_way(page, "/deposit")
    assert log == ["take 10 from Cay", "give 10 to Dee"]


@check("shield")
async def shield(page: Page) -> None:
    assert await leave_half_way(page, "/reserve") == ["hold 12A", "book 12A"]


@check("after-response")
async def after_response(page: Page) -> None:
    page.names["log"].clear()
    client = await page.serve()
    assert await (await client.post("/upload")).text() == "received"
    await client.close()
    assert page.names["log"] == ["answer", "scan the file"]


@check("children")
async def children(page: Page) -> None:
    client = await page.serve()
    answer = await (await client.post("/album")).json()
    assert answer == ["100 px", "200 px", "400 px"]


@check("standalone")
async def standalone(page: Page) -> None:
    await page.names["main"]()
    assert page.printed().splitlines() == [f"page {n}" for n in range(20)]


# -- docs/howto.rst ---------------------------------------------------------------------


@check("how-to")
async def how_to(page: Page) -> None:
    assert page.printed() == ""


@check("testing")
async def example_test(page: Page) -> None:
    await page.names["test_subscribe_delivers_a_mail"](page.start)


@check("testing-after-response")
async def example_test_after_response(page: Page) -> None:
    await page.names["test_unsubscribe_delivers_a_mail"](page.start)


@check("testing-without-a-server")
async def example_test_without_a_server(page: Page) -> None:
    await page.names["test_welcome_delivers_a_mail"]()


@check("testing-failures")
async def example_test_of_failures(page: Page) -> None:
    await page.names["test_no_job_fails"](page.start)
    with failing(page, "deliver"), pytest.raises(AssertionError):
        await page.names["test_no_job_fails"](page.start)


@check("bounded")
async def bounded(page: Page) -> None:
    client = await page.serve()
    async with page.held_up("make_thumbnail"):
        answers = [await client.post("/pictures", data=b"picture") for _ in range(55)]
        health = await client.get("/health")
        assert health.status == 503
        assert await health.json() == {"active": 4, "pending": 50}
    assert [answer.status for answer in answers] == [202] * 54 + [503]
    await client.app[SCHEDULER].drain()
    assert (await client.get("/health")).status == 200


@check("retries")
async def retries(page: Page) -> None:
    client = await page.serve()
    await client.post("/publish")
    await client.app[SCHEDULER].drain()
    assert page.printed() == "Called example.org\n"
    no_pauses = mock.patch.dict(page.names, {"PAUSES": (0, 0)})
    with no_pauses, failing(page, "call_hook"), pytest.raises(ConnectionError):
        await page.names["call_hook_until_it_answers"]("example.org")
    assert page.printed().count("will be tried again: ConnectionError('down')") == 2


@check("reporting")
async def reporting(page: Page) -> None:
    client = await page.serve()
    await client.post("/remind")
    await client.close()
    assert page.printed() == (
        "ConnectionError('the mail server is down') "
        "{'message': 'Job processing failed', 'job': 'reminder'}\n"
    )


@check("reporting-by-a-job")
async def reporting_by_a_job(page: Page) -> None:
    client = await page.serve()
    await client.post("/remind")
    await client.close()
    assert page.printed() == "Reported: ConnectionError('the mail server is down')\n"
    # Neither a tracker that is down nor a scheduler that is closed makes it run wild.
    report = page.names["report_later"]
    async with Scheduler(exception_handler=report) as scheduler:
        with failing(page, "tell_the_tracker"):
            await scheduler.spawn(page.names["send_reminder"]())
            await scheduler.drain()
    report(scheduler, {"exception": ConnectionError("down")})
    assert page.printed() == ""


@check("observing")
async def observing(page: Page) -> None:
    client = await page.serve()
    await client.post("/remind")
    await client.app[SCHEDULER].drain()
    assert page.names["counter"].failures == {"reminder": 1}


@check("periodic")
async def periodic(page: Page) -> None:
    ran = asyncio.Semaphore(0)

    async def run() -> None:
        ran.release()
        raise ConnectionError("the database is down")

    app = page.names["app"]
    page.names["add_periodic"](app, 0, run)
    client = await page.serve()
    for _ in range(3):
        await ran.acquire()
    await client.close()
    assert page.printed() == "Removed\n"


@check("closing")
async def closing(page: Page) -> None:
    client = await page.serve()
    assert (await client.delete("/imports/rows")).status == 404
    async with page.held_up("import_file") as begun:
        await client.put("/imports/rows")
        await begun.acquire()
        assert await (await client.delete("/imports/rows")).text() == "stopped"
    assert (await client.delete("/imports/rows")).status == 404


@check("limits")
async def limits(page: Page) -> None:
    client = await page.serve()
    scheduler = client.app[SCHEDULER]
    async with page.held_up("send_newsletter"):
        await client.post("/newsletters")
        assert scheduler.active_count == 2
        response = await client.put("/admin/limit", data={"limit": "8"})
        assert await response.text() == "At most 8 at once\n"
        assert scheduler.active_count == 8
        response = await client.put("/admin/limit", data={"limit": "0"})
        assert response.status == 400
        refused = "This is no limit: limit takes at least 1 or None, not 0\n"
        assert await response.text() == refused
        assert (await client.put("/admin/limit")).status == 400
        await client.put("/admin/limit", data={"limit": "1"})
        assert (scheduler.active_count, scheduler.pending_count) == (8, 12)
    await scheduler.drain()


@check("holding")
async def holding(page: Page) -> None:
    client = await page.serve()
    steps = (
        ("POST", "/admin/queue/hold", "held: 0 running, 0 pending\n"),
        ("POST", "/buy", "Thank you!\n"),
        ("GET", "/admin/queue", "held: 0 running, 1 pending\n"),
        ("POST", "/admin/queue/release", "open: 1 running, 0 pending\n"),
        ("POST", "/admin/queue/hold", "held: 0 running, 0 pending\n"),
        ("POST", "/buy", "Thank you!\n"),
    )
    for method, path, answer in steps:
        form = {"email": "ann@example.org"} if path == "/buy" else None
        response = await client.request(method, path, data=form)
        assert await response.text() == answer
    await client.close()  # which would take a minute if the job were still held
    assert page.printed() == "Sent an invoice to ann@example.org\n" * 2


@check("several")
async def several(page: Page) -> None:
    client = await page.serve()
    async with page.held_up("make_report") as begun:
        assert (await client.post("/reports")).status == 202
        await begun.acquire()
        assert client.app[page.names["REPORTS"]].active_count == 1
        assert client.app[SCHEDULER].active_count == 0
    await client.close()
    assert page.printed() == "Here is the report\n"


@check("sub-application")
async def sub_application(page: Page) -> None:
    client = await page.serve()
    async with page.held_up("rebuild_index") as begun:
        # aiohttp 3.9 and a recent yarl do not route a Host with a port to what is below.
        response = await client.post("/admin/rebuild", headers={"Host": "test"})
        assert response.status == 202
        await begun.acquire()
        assert page.names["admin"][SCHEDULER].active_count == 1
        assert client.app[SCHEDULER].active_count == 0
    await client.close()
    assert page.printed() == "Rebuilt\n"


# -- docs/cancellation.rst --------------------------------------------------------------


def arguments_of_run_app(page: Page, function: str) -> dict[str, Any]:
    with mock.patch.object(web, "run_app", autospec=True) as run_app:
        page.names[function](web.Application())
    return dict(run_app.call_args.kwargs)


@check("handler-cancellation")
async def handler_cancellation(page: Page) -> None:
    assert arguments_of_run_app(page, "run") == {"handler_cancellation": True}


@check("short-times")
async def short_times(page: Page) -> None:
    assert arguments_of_run_app(page, "serve") == {"shutdown_timeout": 5}


@check("gunicorn")
async def gunicorn(page: Page) -> None:
    runner = await page.names["make_runner"]()
    assert isinstance(runner, web.AppRunner)
    assert runner.app[SCHEDULER].wait_timeout == 20
    await runner.setup()
    await runner.cleanup()


# -- docs/prometheus.rst ----------------------------------------------------------------


@check("prometheus")
async def prometheus(page: Page) -> None:
    # The next block adds to this application; it is served there.
    assert page.printed() == ""


@check("prometheus-sub-application")
async def prometheus_sub_application(page: Page) -> None:
    client = await page.serve()
    await client.post("/sign-up", data={"email": "ann@example.org"})
    text = await (await client.get("/metrics")).text()
    told = '{job="send_mail",outcome="succeeded",scheduler="default"} 1.0'
    assert f"aiohttp_jobs_jobs_total{told}" in text
    assert 'aiohttp_jobs_limit{scheduler="admin"} 2.0' in text
    await client.close()


@check("prometheus-collector")
async def prometheus_collector(page: Page) -> None:
    with mock.patch.dict(page.names, start_http_server=mock.Mock()) as names:
        await names["main"]()
        names["start_http_server"].assert_called_once_with(names["PORT"])
    assert list(page.names["jobs_collector"]().collect()) == []


# -- docs/opentelemetry.rst -------------------------------------------------------------


@check("opentelemetry")
async def opentelemetry(page: Page) -> None:
    client = await page.serve()
    response = await client.post("/sign-up", data={"email": "ann@example.org"})
    assert await response.text() == "Thank you!"
    await client.close()


# -- docs/logging.rst -------------------------------------------------------------------


@check("logging")
async def logging_of_jobs(page: Page) -> None:
    record = await logged(page)
    assert re.fullmatch(
        r"Job send_mail: succeeded, waited 0\.\d{3} s, ran 0\.\d{3} s",
        record.getMessage(),
    )


@check("logging-json")
async def logging_as_json(page: Page) -> None:
    app = page.names["app"] = web.Application()
    page.names["setup"](app, observers=[page.names["JobLogger"]()])
    app.router.add_post("/sign-up", page.names["sign_up"])
    line = json.loads(page.names["JsonFormatter"]().format(await logged(page)))
    names = (key for key in line if key.startswith("job_"))
    page_text = (ROOT / "docs/logging.rst").read_text()
    assert [name for name in names if f'"{name}": ' not in page_text] == []
    assert line["job_origin"] == "POST /sign-up"
    with mock.patch("logging.basicConfig") as configure:
        page.names["log_as_json"]()
    (handler,) = configure.call_args.kwargs["handlers"]
    assert isinstance(handler.formatter, page.names["JsonFormatter"])


async def logged(page: Page) -> logging.LogRecord:
    """What is logged of the job of one request."""
    logger, records = logging.getLogger("aiohttp_jobs"), list[logging.LogRecord]()
    handler = logging.Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with mock.patch.object(handler, "emit", records.append):
            client = await page.serve()
            await client.post("/sign-up", data={"email": "ann@example.org"})
            await client.close()
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
    (record,) = records
    return record


# -- docs/dashboard.rst -----------------------------------------------------------------


@check("dashboard")
async def dashboard(page: Page) -> None:
    client = await page.serve()
    # aiohttp 3.9 and a recent yarl do not route a Host with a port to what is below.
    test = {"Host": "test"}
    answers = []
    for user in (None, "eve", "bob", "ann"):
        cookie = {} if user is None else {"Cookie": f"user={user}"}
        response = await client.get(
            "/jobs/", headers=test | cookie, allow_redirects=False
        )
        answers.append((response.status, "not cancel" in await response.text()))
    assert answers == [(302, False), (403, False), (200, True), (200, False)]


# -- docs/durable.rst -------------------------------------------------------------------


@check("durable")
async def durable(page: Page) -> None:
    with TemporaryDirectory() as folder:
        app = page.names["app"] = page.names["make_app"](f"{folder}/jobs.sqlite")
        client = await page.serve()
        response = await client.post("/sign-up", data={"email": "ann@example.org"})
        assert response.status == 200
        while not app[page.names["SENT"]]:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        await client.close()
        (address,) = app[page.names["SENT"]].values()
        assert address == "ann@example.org"
