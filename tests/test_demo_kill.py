"""The demo's mail survives kill -9: real processes, on a file and over RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from demo_app.mail import jobs_file
from tests.processes import Command, needs_signals, running, until
from tests.rabbitmq import rabbitmq

pytestmark = [pytest.mark.heavy, needs_signals]

SIGN_UPS = 500
# How many clients sign up at once.
AT_ONCE = 20
# Seconds after which a demo is ended and its test fails; a passing test never waits this
# long.
PATIENCE = 240.0


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.sqlite3"
    monkeypatch.setenv("DEMO_DATABASE", str(path))
    monkeypatch.delenv("BROKER_URL", raising=False)
    return path


class Demo:
    """A demo that runs: a supervisor, and a server that it starts."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.read_start()

    def read_start(self) -> None:
        """Read which process the server is, and where."""
        found = self.command.read_until(re.compile("^Process ").match)
        self.server = int(found.split()[1])
        self.address = self.command.read_until(re.compile("^http").match)


@contextlib.contextmanager
def demo() -> Iterator[Demo]:
    arguments = ("--port", "0", "--mail-takes", "0.3")
    with running("demo_app", *arguments, patience=PATIENCE) as command:
        yield Demo(command)


async def sign_up(
    address: str, names: range, accepted: set[str], now: Callable[[], None]
) -> None:
    """Sign people up; note each one that is accepted, and report it."""
    room = asyncio.Semaphore(AT_ONCE)
    async with ClientSession(address) as session:

        async def one(recipient: str) -> None:
            form = {"name": "Ann", "email": recipient}
            with contextlib.suppress(ClientError, OSError):
                async with (
                    room,
                    session.post("/signup", data=form, allow_redirects=False) as answer,
                ):
                    assert answer.status == 303
                    accepted.add(recipient)
                    now()

        async with asyncio.TaskGroup() as group:
            for number in names:
                group.create_task(one(f"guest-{number}@example.org"))


def recipients(database: Path) -> list[tuple[str, int]]:
    """Return who has received a mail, and from which process."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT recipient, process FROM mails").fetchall()


async def everybody_has_mail(database: Path, accepted: set[str]) -> set[int]:
    """Wait until everybody has one mail; return which processes have sent them."""
    async with asyncio.timeout(PATIENCE):
        await until(lambda: accepted <= {to for to, _ in recipients(database)})
    found = recipients(database)
    assert len({to for to, _ in found}) == len(found)
    return {process for _, process in found}


async def test_killed_server_is_started_again_and_every_mail_arrives(
    database: Path,
) -> None:
    """Only clients whose requests the dead process had read are refused. The others wait
    for the next process."""
    accepted = set[str]()
    with demo() as shop:
        first = shop.server

        def maybe_kill() -> None:
            if len(accepted) == SIGN_UPS // 2:
                os.kill(first, signal.SIGKILL)

        await sign_up(shop.address, range(SIGN_UPS), accepted, maybe_kill)
        shop.read_start()
        assert len(accepted) >= SIGN_UPS - AT_ONCE
        senders = await everybody_has_mail(database, accepted)
        assert shop.server in senders
        shop.command.send(signal.SIGINT)
        status, errors = shop.command.end()
    assert status == 0, errors


async def test_demo_that_was_killed_as_a_whole_sends_every_mail_when_started_again(
    database: Path,
) -> None:
    """The server ends with its supervisor, and a new start takes over the jobs left."""
    accepted = set[str]()
    with demo() as shop:
        first = shop.server

        def maybe_kill() -> None:
            if len(accepted) == SIGN_UPS // 2:
                shop.command.send(signal.SIGKILL)

        await sign_up(shop.address, range(SIGN_UPS), accepted, maybe_kill)
        shop.command.end()
        await until(lambda: not Path(f"/proc/{first}").exists())
    assert SIGN_UPS // 2 <= len(accepted) < SIGN_UPS
    with demo() as shop:
        assert shop.server in await everybody_has_mail(database, accepted)


async def test_mail_goes_over_rabbitmq_and_survives_a_kill(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with BROKER_URL, with fewer people."""
    accepted = set[str]()
    with rabbitmq() as server:
        monkeypatch.setenv("BROKER_URL", server.url)
        with demo() as shop:
            assert any("127.0.0.1" in line for line in shop.command.lines[:3])

            def maybe_kill() -> None:
                if len(accepted) == 60:
                    os.kill(shop.server, signal.SIGKILL)

            await sign_up(shop.address, range(100), accepted, maybe_kill)
            assert len(accepted) >= 60
            shop.read_start()
            assert shop.server in await everybody_has_mail(database, accepted)
            shop.command.send(signal.SIGTERM)
            assert shop.command.end()[0] == 0
    assert not jobs_file(database).exists()


def test_address_that_is_no_brokers_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No traceback: what is wrong, and what to do."""
    monkeypatch.setenv("BROKER_URL", "localhost")
    with running("demo_app", "--port", "0") as command:
        status, errors = command.end()
    assert status == 1
    assert errors.startswith("BROKER_URL takes an address such as amqp://")
    assert errors.count("\n") == 1
