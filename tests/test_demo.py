"""The demo shop, over real sockets, and its command line."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import re
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from aiohttp_jobs import SCHEDULER
from demo_app import counting as counting_module
from demo_app import experiment as experiment_module
from demo_app import shop as shop_module
from demo_app.__main__ import verdict
from demo_app.app import make_app
from demo_app.counting import VIEWS
from demo_app.experiment import LABORATORY, Experiment, State
from demo_app.outbox import OUTBOX, Mail, Outbox
from demo_app.serving import listen, serving
from demo_app.shop import ARTICLES, SHOP, Order, Route, Shop, Tally, open_shop
from tests.processes import ROOT, Command, needs_signals, running, send

ORDER = {"customer": "ann@example.org", "article": "lamp", "quantity": "2"}

if TYPE_CHECKING:
    Client = TestClient[web.Request, web.Application]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shop.sqlite3"


@pytest.fixture(autouse=True)
def not_in_the_clone(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the demo saves where no other test finds it."""
    monkeypatch.setenv("DEMO_DATABASE", str(database))
    monkeypatch.delenv("BROKER_URL", raising=False)


@pytest.fixture
def app(database: Path) -> web.Application:
    return make_app(database, mail_takes=0)


@pytest.fixture
async def client(app: web.Application) -> AsyncIterator[Client]:
    server = TestServer(app, host="127.0.0.1")
    async with TestClient(server) as client:
        yield client


class Bank:
    """A bank that confirms a charge when the test says so."""

    def __init__(self) -> None:
        # Set when the expected number of orders has been charged.
        self.charged = asyncio.Event()
        self.expected = 1
        self.confirms = asyncio.Event()

    async def wait(self, shop: Shop, order: Order) -> None:
        self.expected -= 1
        if not self.expected:
            self.charged.set()
        await self.confirms.wait()


@pytest.fixture
async def bank(monkeypatch: pytest.MonkeyPatch) -> Bank:
    bank = Bank()

    async def wait(shop: Shop, order: Order) -> None:
        await bank.wait(shop, order)

    monkeypatch.setattr(shop_module, "BANK_CHARGES_IN", 0)
    monkeypatch.setattr(Shop, "_wait_for_bank", wait)
    return bank


async def join_jobs(app: web.Application) -> None:
    """Wait until all current jobs have ended."""
    for job in app[SCHEDULER]:
        await job.wait()


async def mails_of(app: web.Application, count: int) -> list[Mail]:
    """Wait until this many mails have arrived."""
    while len(mails := await app[OUTBOX].mails()) < count:
        await join_jobs(app)
    return mails


async def get(client: Client, path: str) -> str:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.text()


async def post(client: Client, path: str, **fields: str) -> ClientResponse:
    async with client.post(path, data=fields, allow_redirects=False) as response:
        await response.read()
        return response


def order_request(path: str, **more: str) -> bytes:
    body = urlencode(ORDER | more)
    return (
        f"POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}"
    ).encode()


async def hang_up_when(event: asyncio.Event, client: Client, path: str) -> None:
    """Order, and abort the connection when the event is set."""
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(order_request(path))
    await event.wait()
    writer.transport.abort()


# -- the pages --------------------------------------------------------------------------


async def test_start_page_explains_and_offers_everything(client: Client) -> None:
    """The experiment, both ways to order, the sign-up, and links to the other pages."""
    async with client.get("/") as response:
        page = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for part in (
        'action="/experiment"',
        'formaction="/orders/plain"',
        'formaction="/orders/atomic"',
        'action="/signup"',
        'href="/orders"',
        'href="/outbox"',
        '<span class="decorator">atomic</span>',
        "self._record(charge)",
    ):
        assert part in page


@pytest.mark.parametrize("path", ["/", "/orders", "/outbox", "/experiment"])
async def test_pages_need_no_inline_code_and_no_other_server(
    client: Client, path: str
) -> None:
    """Nothing that the policy would forbid is there; every field has its label."""
    page = await get(client, path)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src)|https?://", page)
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    assert labelled == set(re.findall(r'<(?:input|select)[^>]* id="([^"]+)"', page))
    assert len(re.findall(r'role="status"', page)) == 1


async def test_metrics_count_the_jobs(
    client: Client, app: web.Application, bank: Bank
) -> None:
    """A mail and an atomic order, each by the name of its function."""
    bank.confirms.set()
    await post(client, "/signup", name="Ann", email="ann@example.org")
    await post(client, "/orders/atomic", **ORDER)
    await mails_of(app, 1)
    await join_jobs(app)
    metrics = await get(client, "/metrics")
    for function in ("mail.welcome", "order_atomic"):
        labels = f'job="{function}",outcome="succeeded",scheduler="default"'
        assert f"aiohttp_jobs_jobs_total{{{labels}}} 1.0" in metrics


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost", 200), ("shop.example", 403)],
)
async def test_jobs_are_shown_on_this_machine_only(
    client: Client, host: str, status: int
) -> None:
    """Not to another site, even if its name resolves to this machine (DNS rebinding)."""
    async with client.get("/jobs/", headers={"Host": host}) as response:
        assert response.status == status
        assert ("This process only" in await response.text()) == (status == 200)


@pytest.mark.parametrize("route", list(Route))
async def test_patient_customer_gets_the_order(
    client: Client, app: web.Application, bank: Bank, route: Route
) -> None:
    """A customer who stays has a recorded order, whichever handler took it."""
    bank.confirms.set()
    response = await post(client, f"/orders/{route}", **ORDER)
    assert response.status == 303
    assert response.headers["Location"] == f"/orders?done={route}"
    tally = (await app[SHOP].tally())[route]
    assert (tally.charged, tally.recorded) == (1, 1)
    page = await get(client, f"/orders?done={route}")
    assert f"The order was taken by the {route} handler" in page
    assert "2 × Desk lamp" in page  # noqa: RUF001
    assert "98.00 €" in page


async def test_hanging_up_on_the_plain_handler_leaves_half_an_order(
    client: Client, app: web.Application, bank: Bank
) -> None:
    """The problem: charged, not recorded, and listed as such."""
    await hang_up_when(bank.charged, client, "/orders/plain")
    await app[SHOP].settled()
    assert (await app[SHOP].tally())[Route.PLAIN].half_done == 1
    page = await get(client, "/orders")
    assert "The latest half-done orders" in page
    assert "ann@example.org" in page


async def test_hanging_up_on_the_atomic_handler_loses_nothing(
    client: Client, app: web.Application, bank: Bank
) -> None:
    """The remedy: the handler goes on when its client has gone."""
    await hang_up_when(bank.charged, client, "/orders/atomic")
    page = await get(client, "/orders")
    assert "1 order is under way" in page
    # Which is not the same as half-done.
    assert '<span class="badge neutral">under way</span>' in page
    assert "The latest half-done orders" not in page
    tally = (await app[SHOP].tally())[Route.ATOMIC]
    assert tally == Tally(charged=1, recorded=0, under_way=1)
    assert tally.half_done == 0
    bank.confirms.set()
    await app[SHOP].settled()
    tally = (await app[SHOP].tally())[Route.ATOMIC]
    assert (tally.charged, tally.recorded) == (1, 1)
    assert "The latest half-done orders" not in await get(client, "/orders")


async def test_atomic_order_of_a_killed_server_is_explained(
    client: Client, app: web.Application, bank: Bank
) -> None:
    """No job survives its process: the page admits what `kill -9` leaves behind."""
    order = Order("ann@example.org", ARTICLES["lamp"])
    killed = asyncio.create_task(app[SHOP].take_order(Route.ATOMIC, order))
    await bank.charged.wait()
    killed.cancel()
    await app[SHOP].settled()
    assert "if the server itself was killed" in await get(client, "/orders")
    tally = (await app[SHOP].tally())[Route.ATOMIC]
    assert verdict(tally).startswith("Atomic orders that are half-done: 1. ")


async def test_sign_up_is_answered_and_a_job_sends_the_mail(
    client: Client, app: web.Application
) -> None:
    """The mail arrives at the SMTP server, and the outbox shows it."""
    response = await post(client, "/signup", name="Zoë <b>", email="zoe@example.org")
    assert response.status == 303
    (mail,) = await mails_of(app, 1)
    assert mail.recipient == "zoe@example.org"
    assert mail.subject == "Welcome, Zoë <b>"
    page = await get(client, response.headers["Location"])
    assert "Thank you." in page
    assert "Welcome, Zoë &lt;b&gt;" in page


async def test_outbox_tells_of_mail_on_its_way(
    app: web.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the SMTP server takes its time, the job shows; the drain waits for it."""
    server_goes_on = asyncio.Event()
    take_in = Outbox.handle_DATA

    async def take_in_late(outbox: Outbox, *args: Any) -> str:
        await server_goes_on.wait()
        return await take_in(outbox, *args)

    monkeypatch.setattr(Outbox, "handle_DATA", take_in_late)
    async with TestClient(TestServer(app)) as client:
        await post(client, "/signup", name="Ann", email="ann@example.org")
        page = " ".join((await get(client, "/outbox")).split())
        assert "1 mail is on its way" in page
        server_goes_on.set()
        assert len(await mails_of(app, 1)) == 1


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/orders/plain", ORDER | {"customer": "<i>ann"}, "not an e-mail address"),
        ("/orders/atomic", ORDER | {"customer": ""}, "Enter an e-mail address"),
        ("/orders/atomic", ORDER | {"quantity": "21"}, "whole number from 1 to 20"),
        ("/orders/plain", ORDER | {"quantity": "1e3"}, "whole number from 1 to 20"),
        ("/orders/plain", ORDER | {"article": "moon"}, "Choose one of the articles"),
        ("/signup", {"name": "", "email": "a@b.example"}, "Enter the name"),
        ("/signup", {"name": "Ann", "email": "a@b.example\nx"}, "not an e-mail address"),
        ("/signup", {"name": "A\r\nBcc: x", "email": "a@b.example"}, "on one line"),
        ("/experiment", {"clients": "501"}, "whole number from 1 to 500"),
        ("/experiment", {"clients": "5", "seed": "x"}, "whole number from 0"),
    ],
)
async def test_what_cannot_be_right_is_shown_again(
    client: Client,
    app: web.Application,
    path: str,
    fields: dict[str, str],
    message: str,
) -> None:
    """Status 400, the message, and what was typed; nothing is done."""
    async with client.post(path, data=fields) as response:
        page = await response.text()
        assert response.status == 400
    assert message in page
    assert 'aria-invalid="true"' in page
    typed = fields.get("customer", fields.get("name", "")).partition("\r")[0]
    assert html.escape(typed) in page
    assert "<i>" not in page
    assert (await app[SHOP].tally())[Route.PLAIN].charged == 0
    assert await app[OUTBOX].on_their_way() == 0
    assert app[LABORATORY].latest is None


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"customer=%ff\xff", ""), (b"customer=x", "; charset=klingon")],
)
async def test_body_that_is_no_form_is_refused(
    client: Client, body: bytes, content_type: str
) -> None:
    """A body that cannot be decoded is the client's fault, not the server's."""
    headers = {"Content-Type": f"application/x-www-form-urlencoded{content_type}"}
    async with client.post("/signup", data=body, headers=headers) as response:
        assert response.status == 400


async def test_view_is_counted_after_the_response(
    client: Client, app: web.Application
) -> None:
    """The page does not include its own view, which is counted after the response."""
    assert "None so far" in await get(client, "/")
    await join_jobs(app)
    assert await app[SHOP].views() == {"/": 1}
    await get(client, "/orders")
    async with client.get("/", headers={"Sec-Fetch-Dest": "empty"}) as response:
        await response.read()
    assert await app[VIEWS].read(app[SHOP]) == {"/": 1, "/orders": 1}


async def test_views_do_not_crowd_the_dashboard(
    app: web.Application, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many views take one job, and no view is lost at the end."""
    async with TestClient(TestServer(app, host="127.0.0.1")) as client:
        for _ in range(20):
            await get(client, "/orders")
        await join_jobs(app)
        assert (await get(client, "/jobs/")).count(">page views<") == 1
        monkeypatch.setattr(counting_module, "PAUSE", 0)
        await get(client, "/orders")
        await join_jobs(app)
        assert await app[SHOP].views() == {"/orders": 21}
        monkeypatch.undo()
        await get(client, "/orders")
    async with open_shop(database) as shop:
        assert await shop.views() == {"/orders": 22}


# -- the experiment ---------------------------------------------------------------------


async def test_experiment_tells_plain_from_atomic(
    client: Client, app: web.Application
) -> None:
    """Plain orders are left half-done; atomic ones never, and every client is counted."""
    seen: list[int] = []
    trial = Experiment(60, seed=7, progress=lambda trial: seen.append(trial.done))
    assert client.port is not None
    await trial.run(client.host, client.port)
    await trial.count(app[SHOP])
    assert trial.state is State.FINISHED
    assert seen == list(range(1, 121))
    plain, atomic = trial.rows()
    for row in (plain, atomic):
        assert row.answered + row.hung_up == row.clients == 60
        assert row.failed == 0
    assert plain.tally.half_done > 0
    assert atomic.tally.half_done == 0
    assert atomic.tally.recorded >= atomic.answered


async def test_experiment_runs_as_a_job_of_the_page(
    client: Client, app: web.Application
) -> None:
    """It is started by a form, followed with or without a script, and ends in a table."""
    assert (await post(client, "/experiment", clients="30", seed="7")).status == 303
    page = await get(client, "/experiment")
    assert '<noscript><meta http-equiv="refresh" content="1">' in page
    assert '<progress id="progress" max="60"' in page
    # While it runs, no other one is started.
    assert (await post(client, "/experiment", clients="10", seed="8")).status == 303
    await join_jobs(app)
    async with client.get("/experiment/progress") as response:
        assert await response.json() == {"over": True, "done": 60, "total": 60}
    for path in ("/experiment", "/"):
        page = await get(client, path)
        assert "30 clients, each by both routes; seed 7" in page
        assert re.search(r'<td class="number bad">[1-9]', page)
        assert '<td class="number good">0</td>' in page
        assert "http-equiv" not in page


async def test_shutdown_interrupts_the_experiment_and_ends_its_orders(
    app: web.Application,
    database: Path,
    bank: Bank,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clients hang up, and the atomic orders that were begun are recorded."""
    monkeypatch.setattr(experiment_module, "PATIENCE", (600, 600))
    bank.expected = 2 * 15  # of each route as many as there are clients

    async def confirm(app: web.Application) -> None:
        bank.confirms.set()

    app.on_shutdown.append(confirm)  # after the experiment is interrupted
    async with TestClient(TestServer(app, host="127.0.0.1")) as client:
        await post(client, "/experiment", clients="15")
        await bank.charged.wait()
    trial = app[LABORATORY].latest
    assert trial is not None
    assert trial.state is State.INTERRUPTED
    assert trial.done == 0
    async with open_shop(database) as shop:
        tallies = await shop.tally()
    assert tallies[Route.PLAIN].half_done == 15
    assert (tallies[Route.ATOMIC].charged, tallies[Route.ATOMIC].recorded) == (15, 15)


async def test_progress_without_an_experiment_is_not_found(client: Client) -> None:
    """There is nothing to follow before the first one."""
    assert (await client.get("/experiment/progress")).status == 404


# -- the command line -------------------------------------------------------------------


def demo(
    *arguments: str, stdout: int = subprocess.PIPE
) -> contextlib.AbstractContextManager[Command]:
    return running("demo_app", *arguments, stdout=stdout)


def look_at(path: str, port: int) -> None:
    with send(path, port) as connection:
        assert connection.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"


def count_half_done(database: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT route, sum(orders.id IS NULL) FROM charges"
            " LEFT JOIN orders ON orders.charge = charges.id GROUP BY route"
        )
        return dict(rows.fetchall())


def test_experiment_command_prints_the_table() -> None:
    """The seed, plain lines without a terminal, the table, and the verdict. The README
    shows what it looks like."""
    with demo("experiment", "--clients", "60", "--seed", "7") as command:
        status, stderr = command.end()
    assert (status, stderr) == (0, "")
    output = "\n".join(command.lines)
    assert "--seed 7" in output
    assert "\r" not in output
    assert "120 of 120" in command.lines
    (heads,) = (line for line in command.lines if line.startswith("Route "))
    assert heads in (ROOT / "README.rst").read_text()
    plain = re.search(r"^plain +60 .* (\d+)$", output, re.MULTILINE)
    assert plain is not None
    assert int(plain[1]) > 0
    assert re.search(r"^atomic +60 .* 0$", output, re.MULTILINE)
    assert command.lines[-1] == "No atomic order is half-done."


@needs_signals
def test_ctrl_c_in_the_experiment_leaves_no_atomic_order_half_done(
    database: Path,
) -> None:
    """It says how many jobs are left, lets them end, and says what it found then."""
    arguments = ("experiment", "--clients", "400", "--seed", "7")
    with demo("--database", str(database), *arguments) as command:
        command.read_until(lambda line: line.startswith("80 of 800"))
        command.send(signal.SIGINT)
        status, stderr = command.end()
    assert (status, stderr) == (130, "")
    assert any(re.match(r"Stopping: \d+ jobs are left", line) for line in command.lines)
    assert command.lines[-1].startswith("Interrupted after ")
    assert command.lines[-1].endswith("No atomic order is half-done.")
    half_done = count_half_done(database)
    assert half_done["plain"] > 0
    assert half_done["atomic"] == 0


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_says_where_it_is_and_ends_on_a_signal(
    number: signal.Signals, database: Path
) -> None:
    """The address is the last line of the start; the end is clean."""
    with demo("--port", "0") as command:
        address = command.read_until(lambda line: line.startswith("http"))
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)
        assert found is not None
        look_at("/", int(found[1]))
        started = len(command.lines)
        command.send(number)
        status, stderr = command.end()
    assert (status, stderr) == (0, "")
    assert str(database) in "\n".join(command.lines[:started])
    stopping, stopped = command.lines[started:]
    assert stopping.startswith("Stopping: ")
    assert stopped == "Stopped. No atomic order is half-done."


@needs_signals
def test_second_ctrl_c_cancels_what_the_first_one_lets_end() -> None:
    """Nobody has to wait for a slow bank; the output says what that costs."""
    with demo("--port", "0") as command:
        address = command.read_until(lambda line: line.startswith("http"))
        port = int(address.strip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as customer:
            customer.sendall(order_request("/orders/atomic", slow_bank="yes"))
            look_at("/static/icon.svg", port)
        command.send(signal.SIGINT)
        command.read_until(lambda line: line.startswith("Stopping: "))
        command.send(signal.SIGINT)
        status, stderr = command.end()
    assert status == 0
    # (On a slow machine the drain is logged, too.)
    assert "1 cancelled (order_atomic)\n" in stderr
    assert command.lines[-1].startswith("Stopped. ")


def test_taken_port_is_one_sentence() -> None:
    """No traceback: what is wrong, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with demo("--port", str(port)) as command:
            status, stderr = command.end()
    assert status == 1
    assert re.fullmatch(rf"Port {port} of 127\.0\.0\.1 is taken: .*\.\n", stderr)


@pytest.mark.parametrize("name", ["letter.txt", "no-such-folder/shop.sqlite3"])
def test_database_that_cannot_be_used_is_one_sentence(tmp_path: Path, name: str) -> None:
    """The same for a bad database file."""
    (tmp_path / "letter.txt").write_text(
        "Dear reader, this is no database at all.\n" * 20
    )
    with demo("--port", "0", "--database", str(tmp_path / name)) as command:
        status, stderr = command.end()
    assert status == 1
    assert re.fullmatch(r"The database .* cannot be used: .*\.\n", stderr)


@needs_signals
async def test_first_ctrl_c_cancels_nothing_when_the_server_ends_already(
    app: web.Application, database: Path, bank: Bank
) -> None:
    """An experiment that is over still lets its last orders end; only a second Ctrl-C
    cancels them."""

    async def press_ctrl_c(app: web.Application) -> None:
        signal.raise_signal(signal.SIGINT)
        while not server.interrupted:  # noqa: ASYNC110 (the loop has yet to see it)
            await asyncio.sleep(0)
        bank.confirms.set()

    app.on_shutdown.append(press_ctrl_c)
    listener = listen("127.0.0.1", 0)
    async with asyncio.timeout(10), serving(app, listener) as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(order_request("/orders/atomic"))
        await bank.charged.wait()
        writer.close()
    async with open_shop(database) as shop:
        assert (await shop.tally())[Route.ATOMIC] == Tally(charged=1, recorded=1)


@needs_signals
def test_progress_bar_on_a_terminal() -> None:
    """One line that is redrawn, and that the end or Ctrl-C terminates."""
    whole = in_terminal(20)
    assert re.search(r"\r\[=* *\] 39 of 40\r\[={30}\] 40 of 40\r?\n", whole)
    # Enough clients for Ctrl-C to come before the end.
    broken_off = in_terminal(2000, ctrl_c_at="20 of 4000")
    assert re.search(r"\] \d+ of 4000(\^C)?\r\n(.*\r)?Stopping: ", broken_off)


def in_terminal(clients: int, ctrl_c_at: str = "") -> str:
    """Run an experiment in a terminal of its own; return all that it shows there."""
    import pty  # not on Windows

    shown = ""
    ours, its = pty.openpty()
    arguments = ("experiment", "--clients", str(clients), "--seed", "7")
    with demo(*arguments, stdout=its) as command:
        os.close(its)
        with contextlib.suppress(OSError):  # Linux raises it at the end of the output
            while chunk := os.read(ours, 1024):
                shown += chunk.decode()
                if ctrl_c_at and ctrl_c_at in shown:
                    command.send(signal.SIGINT)
                    ctrl_c_at = ""
        command.end()
    os.close(ours)
    return shown
