"""Durable jobs over a real NATS server that is restarted, as the page about brokers says.

The server is started here; without one these tests are skipped, or fail with CI=true.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiohttp_jobs import StoreUnavailable
from aiohttp_jobs.taskiq import BrokerStore
from tests.envelopes import envelope
from tests.pages import blocks
from tests.processes import before_the_next_look

pytestmark = [pytest.mark.heavy, pytest.mark.one_loop]

# Seconds after which waiting is a failure; a passing test never waits this long.
PATIENCE = 120.0

# The block of the page that is about NATS.
BLOCK = "brokers-nats"

# Debian's package nats-server installs it where only root's PATH looks.
PROGRAM = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class NATS:
    """A server on loopback that can be restarted with what it has kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port: int = found.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self._port}"
        self._server: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        assert PROGRAM is not None
        options = ["-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", "kept"]
        server = self._server = subprocess.Popen(
            [PROGRAM, *options],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,  # has room for a few lines per connection
            text=True,
        )
        assert server.stderr is not None
        told = list[str]()
        # In case it hangs: reading its output ends when it is killed.
        alarm = threading.Timer(PATIENCE, server.kill)
        alarm.start()
        for line in server.stderr:
            told.append(line)
            if "Server is ready" in line:
                break
        else:
            raise AssertionError(f"NATS has not started:\n{''.join(told)}")
        alarm.cancel()

    def stop(self) -> None:
        """Stop the server cleanly."""
        server, self._server = self._server, None
        if server is not None:
            server.terminate()
            server.communicate(timeout=PATIENCE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NATS]:
    if PROGRAM is None or sys.platform == "win32":
        why = "needs nats-server, from Debian's package of that name"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    server = NATS(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def test_jobs_run_after_a_restart_of_the_server(server: NATS) -> None:
    """A listener gets jobs again, though the server has forgotten its requests."""
    names: dict[str, Any] = {"__name__": "page"}
    [code] = [each.code for each in blocks("docs/brokers.rst") if each.name == BLOCK]
    exec(compile(code, BLOCK, "exec"), names)
    store = BrokerStore(names["nats_broker"](server.url))
    async with asyncio.timeout(PATIENCE):
        await store.start(["mail"], worker=True)
        await store.put(envelope("mail", arguments="[[1], {}]"))
        [delivery] = await store.fetch(10)
        store.ack(delivery)
        fetching = asyncio.ensure_future(store.fetch(10))
        await before_the_next_look()  # the fetch asks the server for jobs
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        while True:
            try:
                await store.put(envelope("mail", arguments="[[2], {}]"))
                break
            except StoreUnavailable:
                await before_the_next_look()
        [delivery] = await fetching
        assert delivery.envelope.unpack()[0] == [2]
        store.ack(delivery)
        await store.stop()
