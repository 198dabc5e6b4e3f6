"""The pages on durable jobs: their blocks run, each alone, in real time."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import setup
from aiohttp_jobs.durable import setup_durable
from aiohttp_jobs.taskiq import BrokerStore
from tests.envelopes import MemoryStore
from tests.pages import blocks
from tests.processes import until

Client = Callable[..., Awaitable[Any]]

CODE = {
    block.name: block.code
    for page in ("docs/durable.rst", "docs/brokers.rst")
    for block in blocks(page)
}


def run(name: str) -> dict[str, Any]:
    """Run the block of this name, and return what it has made."""
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(CODE[name], name, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an address without a server; test_taskiq_rabbitmq.py runs the page with one."""
    monkeypatch.setenv("BROKER_URL", "amqp://guest:guest@127.0.0.1:1/")
    # taskiq looks up the module of a task.
    monkeypatch.setitem(sys.modules, "page", ModuleType("page"))


def test_every_block_is_run_below() -> None:
    """No block is left out."""
    assert set(CODE) == {
        *("durable", "brokers-rabbitmq", "brokers-nats", "brokers-from-taskiq")
    }


async def test_durable(aiohttp_client: Client, tmp_path: Path) -> None:
    """The mail is sent."""
    names = run("durable")
    app = names["make_app"](str(tmp_path / "jobs.sqlite"))
    client = await aiohttp_client(app)
    response = await client.post("/sign-up", data={"email": "ann@example.org"})
    assert response.status == 200
    await until(lambda: app[names["SENT"]])
    assert list(app[names["SENT"]].values()) == ["ann@example.org"]


async def test_brokers_rabbitmq(
    aiohttp_client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a server, the client gets 503."""
    client = await aiohttp_client(run("brokers-rabbitmq")["app"])
    response = await client.post("/sign-up", data={"email": "ann@example.org"})
    assert response.status == 503
    assert "Retry-After" in response.headers
    await client.close()
    assert capsys.readouterr().out == ""


async def test_brokers_nats() -> None:
    """It waits longer for an acknowledgement than NATS does by default, and asks again.

    Otherwise it would not notice that a restarted server does not know its request:
    test_taskiq_nats.py tests that with a server.
    """
    broker = run("brokers-nats")["nats_broker"]("nats://127.0.0.1:1")
    config = broker.consumer_config
    assert (config.durable_name, config.ack_wait) == (broker.durable, 3600)
    assert broker.pull_consume_timeout == 5
    BrokerStore(broker)


async def test_brokers_from_taskiq() -> None:
    """A task of taskiq runs on as a durable job."""
    names = run("brokers-from-taskiq")
    app = names["broker"].state.app = web.Application()
    app[names["MAILS"]] = mails = list[int]()
    setup(app)
    setup_durable(app, MemoryStore(), tasks=[names["send_invoice"]])
    runner = web.AppRunner(app)
    await runner.setup()
    task = await names["send_invoice_as_before"].kiq(7)
    assert not (await task.wait_result(timeout=30)).is_err
    await until(lambda: mails)
    assert mails == [7]
    await runner.cleanup()
