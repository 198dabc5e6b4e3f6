"""The pages: their Python blocks run, and everything that they name exists.

Each block runs alone, as if pasted into an empty file, see tests/pages.py. If the page
shows a session with curl, or the output of the program, that is compared; a check of the
block's name tests what else the page says about it.
"""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiohttp import web

import aiohttp_jobs
from aiohttp_jobs import SCHEDULER, JobState, Scheduler
from aiohttp_jobs.repeats import repeats_of
from aiohttp_jobs.testing import drain_jobs
from tests.loops import later, make_loop, run
from tests.pages import Block, Page, blocks, type_in

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.rst",
    "docs/tutorial.rst",
    "docs/which-tool.rst",
    "docs/howto.rst",
    "docs/threads.rst",
    "docs/repeat.rst",
    "docs/cancellation.rst",
    "docs/prometheus.rst",
    "docs/workers.rst",
    "docs/opentelemetry.rst",
    "docs/sentry.rst",
    "docs/logging.rst",
    "docs/sqlalchemy.rst",
    "docs/starlette.rst",
    "docs/dashboard.rst",
)
# Pages whose blocks other tests run, test_pytest_plugin.py and test_docs_durable.py, with
# the number of these blocks.
FILES = {
    "docs/brokers.rst": 3,
    "docs/durable.rst": 1,
    "docs/testing-applications.rst": 5,
}
# Blocks that continue the file of another one, and say so.
GOES_ON: dict[str, str] = {}
# Pages that use threads, which a clock that jumps does not know about.
REAL_TIME = {"docs/sqlalchemy.rst", "docs/threads.rst"}
ALL = {block.name: (path, block) for path in PAGES for block in blocks(path)}


@asynccontextmanager
async def held_up(page: Page, name: str) -> AsyncIterator[asyncio.Semaphore]:
    """Hold calls of this function at their start until the block ends.

    The semaphore is released whenever a call has begun.
    """
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()
    function = page.names[name]

    async def call(*args: Any) -> Any:
        begun.release()
        await go_on.wait()
        return await function(*args)

    with mock.patch.dict(page.names, {name: call}):
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
    """Hang up in the middle of the handler; return when the server has noticed."""
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await begun.acquire()
    writer.close()
    await writer.wait_closed()
    while client.server.handler.connections:  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(0)


Check = Callable[[Page], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        assert name not in CHECKS
        CHECKS[name] = function
        return function

    return add


@pytest.mark.parametrize("name", ALL)
def test_block_runs_alone(
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A file with nothing but this block does what its page shows and says."""
    monkeypatch.chdir(tmp_path)
    path, block = ALL[name]
    checks: list[Check] = []
    if block.session or block.prints is not None:
        checks.append(lambda page: follow(page, block))
    if name in CHECKS:
        checks.append(CHECKS[name])
    for check in checks:
        loop = asyncio.new_event_loop() if path in REAL_TIME else make_loop("serving")
        run(loop, partial(run_block, capsys, name, check), [], True)


async def run_block(capsys: pytest.CaptureFixture[str], name: str, check: Check) -> None:
    """Run a block, after the blocks that it continues, and then its check."""
    names = [name]
    while names[0] in GOES_ON:
        names.insert(0, GOES_ON[names[0]])
    page = Page(capsys)
    try:
        for path, block in map(ALL.__getitem__, names):
            page.run(block.code, path)
        await check(page)
    finally:
        await page.end()
        page.printed()


async def follow(page: Page, block: Block) -> None:
    """Do what the page says, and compare the results with what it shows."""
    if block.session:
        client = await page.serve()
        for command, output in block.session:
            answer = await type_in(client, command)
            assert (command, answer.rstrip("\n")) == (command, output.rstrip("\n"))
        await client.close()
    elif page.main is not None:
        await page.run_main()
    if block.prints is not None:
        assert page.printed() == block.prints
    if block.name == "bare-task":
        await later(2)  # only a test waits for this task


def test_every_block_is_checked() -> None:
    """Each block shows something or has a check, and no check is left over."""
    shown = {name for name, (_, block) in ALL.items() if block.session or block.prints}
    assert sorted(ALL.keys() - shown - CHECKS.keys()) == []
    assert sorted(CHECKS.keys() - ALL.keys()) == []


def test_every_python_block_is_found() -> None:
    """No other block in the pages says that it is Python: it would not be run."""
    for path in (ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))):
        page = path.relative_to(ROOT).as_posix()
        said = re.findall(r"(?m)^ *\.\. code(?:-block)?:: *py", path.read_text())
        found = len(list(blocks(page))) if page in PAGES else FILES.get(page, 0)
        assert len(said) == found, page


def test_sessions_are_followed() -> None:
    """Every session with curl is compared."""
    for path in PAGES:
        shown = (ROOT / path).read_text().count("$ curl ")
        shown -= (ROOT / path).read_text().count("https://shop.example/")
        followed = [c for block in blocks(path) for c, _ in block.session]
        assert shown == sum(command.startswith("curl") for command in followed), path


@pytest.mark.parametrize("name", aiohttp_jobs.__all__)
def test_reference_documents_name(name: str) -> None:
    """Every public name has its entry."""
    text = (ROOT / "docs/reference.rst").read_text()
    assert re.search(rf"(?m)^\.\. (?:auto)?[a-z]+:: {name}$", text)


def test_messages_of_failures_are_those_of_the_code() -> None:
    """The reference has the messages that an exception handler really gets."""
    text = (ROOT / "docs/reference.rst").read_text()
    section = text.partition("The exception handler\n---")[2].partition("Log records")[0]
    messages = re.findall(r"(?m)^   \* - `([A-Z][^`]+)`$", section)
    core = "\n".join(p.read_text() for p in (ROOT / "aiohttp_jobs/core").glob("*.py"))
    assert len(messages) == 6
    assert [message for message in messages if f'"{message}"' not in core] == []


@pytest.mark.parametrize("page", ["reference", "prometheus", "opentelemetry"])
def test_pages_name_every_outcome(page: str) -> None:
    """Logs, metrics and traces have the same outcomes, and a new one is not forgotten."""
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
    """Everything that the README links to is in the repository."""
    links = re.findall(r"`[^`]+ <([^>:]+)>`_", (ROOT / "README.rst").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_test_sleeps() -> None:
    """No test waits by sleeping in real time (the clock of tests/loops.py jumps)."""
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
    """The response comes at once, the receipt five seconds later, before the exit."""
    client = await page.serve()
    begun = page.now()
    await client.post("/order", data={"email": "ann@example.org"})
    assert page.printed() == ""
    assert page.now() - begun < 1
    await client.close()
    assert page.printed() == "Sent a receipt to ann@example.org\n"
    assert page.now() - begun == pytest.approx(5, abs=1)


@check("quick-start-atomic")
async def quick_start_atomic(page: Page) -> None:
    """Without `@atomic` it prints nothing."""
    _, block = ALL["quick-start-atomic"]
    page.run(block.code.replace("@atomic\n", ""), "README.rst")
    await follow(page, replace(block, prints=""))


# -- docs/tutorial.rst ------------------------------------------------------------------


@check("bare-task")
async def bare_task(page: Page) -> None:
    client = await page.serve()
    await client.post("/sign-up", data={"email": "ann@example.org"})
    assert page.printed() == ""
    await later(2)
    assert page.printed() == "To ann@example.org: Welcome!\n"


@check("overload")
async def overload(page: Page) -> None:
    client = await page.serve()
    answers = [await client.post("/report") for _ in range(6)]
    scheduler = client.app[SCHEDULER]
    assert (scheduler.active_count, scheduler.pending_count) == (2, 3)
    assert answers[-1].headers["Retry-After"] == "1"


@check("timeouts")
async def timeouts(page: Page) -> None:
    client, begun = await page.serve(), page.now()
    await client.post("/approve", data={"seconds": "60"})
    assert page.now() - begun == pytest.approx(5, abs=1)
    assert len(client.app[SCHEDULER]) == 0


@check("children")
async def children(page: Page) -> None:
    client, begun = await page.serve(), page.now()
    await client.post("/album")
    assert page.now() - begun == pytest.approx(3, abs=0.5)


@check("standalone")
async def standalone(page: Page) -> None:
    begun = page.now()
    await page.run_main()
    assert page.now() - begun == pytest.approx(2, abs=0.5)


# -- docs/howto.rst ---------------------------------------------------------------------


@check("bounded")
async def bounded(page: Page) -> None:
    client = await page.serve()
    answers = [await client.post("/pictures", data=b"picture") for _ in range(55)]
    health = await client.get("/health")
    assert (health.status, await health.text()) == (503, "4 active, 50 pending\n")
    assert [answer.status for answer in answers] == [202] * 54 + [503]
    await client.app[SCHEDULER].drain(timeout=None)
    assert (await client.get("/health")).status == 200


@check("retries")
async def retries(page: Page) -> None:
    with failing(page, "call_hook"), pytest.raises(ConnectionError):
        await page.names["call_hook_until_it_answers"]("example.org")
    assert page.printed().count("next attempt in") == 3


@check("reporting-by-a-job")
async def reporting_by_a_job(page: Page) -> None:
    """It does not run wild if the tracker is down or the scheduler closed."""
    report = page.names["report_later"]
    async with Scheduler(exception_handler=report) as scheduler:
        with failing(page, "tell_the_tracker"):
            await scheduler.spawn(page.names["send_reminder"]())
            await scheduler.drain()
    report(scheduler, {"exception": ConnectionError("down")})
    assert page.printed() == ""


@check("periodic")
async def periodic(page: Page) -> None:
    client = await page.serve()
    await drain_jobs(client)
    assert page.printed() == "Removed\n"


@check("key")
async def key(page: Page) -> None:
    client = await page.serve()
    for number in (42, 42, 43):
        await client.post(f"/reports/{number}")
    assert client.app[SCHEDULER].active_count == 2


@check("limits")
async def limits(page: Page) -> None:
    client = await page.serve()
    scheduler = client.app[SCHEDULER]
    await client.post("/newsletters")
    await client.put("/admin/limit", data={"limit": "8"})
    assert (await client.put("/admin/limit")).status == 400
    await client.put("/admin/limit", data={"limit": "1"})
    assert (scheduler.active_count, scheduler.pending_count) == (8, 12)


@check("holding")
async def holding(page: Page) -> None:
    """A shutdown releases the held jobs, or it would take a minute."""
    client, begun = await page.serve(), page.now()
    await client.post("/admin/queue/hold")
    await client.post("/buy", data={"email": "ann@example.org"})
    await client.close()
    assert page.now() - begun < 30
    assert page.printed() == "Sent an invoice to ann@example.org\n"


@check("several")
async def several(page: Page) -> None:
    client = await page.serve()
    await client.post("/reports")
    assert client.app[page.names["REPORTS"]].active_count == 1
    assert client.app[SCHEDULER].active_count == 0


@check("sub-application")
async def sub_application(page: Page) -> None:
    client = await page.serve()
    # aiohttp 3.9 and a recent yarl do not route a Host with a port to what is below.
    await client.post("/admin/rebuild", headers={"Host": "test"})
    assert page.names["admin"][SCHEDULER].active_count == 1
    assert client.app[SCHEDULER].active_count == 0


# -- docs/cancellation.rst --------------------------------------------------------------


@check("handler-cancellation")
async def handler_cancellation(page: Page) -> None:
    """With the option off, the handler runs on."""
    _, block = ALL["handler-cancellation"]
    page.options = {}
    await follow(page, replace(block, prints="Done\n"))


@check("short-times")
async def short_times(page: Page) -> None:
    assert page.options == {"shutdown_timeout": 5}
    assert page.served is not None
    assert page.served[SCHEDULER].wait_timeout == 20


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
    client = await page.serve()
    await client.post("/sign-up", data={"email": "ann@example.org"})
    await client.app[SCHEDULER].drain()
    text = await (await client.get("/metrics")).text()
    told = '{job="send_mail",outcome="succeeded",scheduler="default"} 1.0'
    assert f"aiohttp_jobs_jobs_total{told}" in text


@check("prometheus-collector")
async def prometheus_collector(page: Page) -> None:
    with mock.patch.dict(page.names, start_http_server=mock.Mock()) as names:
        await page.run_main()
        names["start_http_server"].assert_called_once_with(9100)
    assert list(page.names["jobs_collector"]().collect()) == []


# -- docs/threads.rst -------------------------------------------------------------------


@check("threads")
async def threads(page: Page) -> None:
    client = await page.serve()
    assert await (await client.post("/pdf")).text() == "It is being made.\n"
    await drain_jobs(client)
    assert page.printed() == "report.pdf is ready\n"
    await client.post("/pdf")
    [job] = client.app[SCHEDULER]
    await job.close(timeout=30)
    assert re.fullmatch(r"(report\.pdf is given up at page \d\n)?", page.printed())


@check("threads-executor")
async def threads_executor(page: Page) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = await page.serve()
    await client.post("/print")
    await client.close()
    assert page.printed() == "printed.pdf is ready\n"


# -- docs/repeat.rst --------------------------------------------------------------------


@check("repeat")
async def repeated(page: Page) -> None:
    client = await page.serve()
    [found] = repeats_of(client.app[SCHEDULER])
    assert repr(found.schedule) == "every(2)"
    await client.close()
    assert found.cancelled


@check("repeat-by-hand")
async def repeated_by_hand(page: Page) -> None:
    client = await page.serve()
    told = await (await client.get("/refresh")).json()
    assert told["next_at"] % 3600 == 0
    assert told["cancelled"] is False
    await drain_jobs(client)
    assert page.printed() == "Refreshed\n"
    await client.delete("/refresh")
    told = await (await client.get("/refresh")).json()
    assert told == {"next_at": None, "cancelled": True}


# -- docs/sentry.rst --------------------------------------------------------------------


@check("sentry")
async def sentry(page: Page) -> None:
    # init() patches other libraries, which only tests/test_sentry.py may do.
    with mock.patch("sentry_sdk.init") as init:
        client = await page.serve()
        init.assert_called_once()
    form = {"user": "ann", "email": "ann@example.org"}
    assert await (await client.post("/sign-up", data=form)).text() == "Thank you!"
    await drain_jobs(client)


# -- docs/logging.rst -------------------------------------------------------------------


@check("logging")
async def logging_of_jobs(page: Page) -> None:
    with logged() as records:
        client = await page.serve()
        await client.post("/sign-up", data={"email": "ann@example.org"})
        await client.close()
    [record] = records
    assert re.fullmatch(
        r"Job send_mail: succeeded, waited \d+\.\d{3} s, ran \d+\.\d{3} s",
        record.getMessage(),
    )


@check("logging-json")
async def logging_as_json(page: Page) -> None:
    with logged() as records, mock.patch("logging.basicConfig") as configure:
        await page.run_main()
    (handler,) = configure.call_args.kwargs["handlers"]
    [record] = records
    line = json.loads(handler.format(record))
    page_text = (ROOT / "docs/logging.rst").read_text()
    shown = json.loads(
        page_text.partition("code-block:: json")[2]
        .partition("\n\n\n")[0]
        .partition("For busy")[0]
    )
    assert line.keys() == shown.keys()
    varying = ("job_id", "job_wait_seconds", "job_run_seconds", "message")
    assert {k: v for k, v in line.items() if k not in varying} == {
        k: v for k, v in shown.items() if k not in varying
    }


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """Collect the package's log records."""
    logger, records = logging.getLogger("aiohttp_jobs"), list[logging.LogRecord]()
    handler = logging.Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with mock.patch.object(handler, "emit", records.append):
            yield records
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


# -- docs/workers.rst -------------------------------------------------------------------


@check("workers")
async def workers(page: Page) -> None:
    """The directory of the page does not exist here: it is refused as the page says."""
    runner = web.AppRunner(page.names["app"])
    with pytest.raises(RuntimeError, match="share='/run/shop/workers' cannot be opened"):
        await runner.setup()
    await runner.cleanup()


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
