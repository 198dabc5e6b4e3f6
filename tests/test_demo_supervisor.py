"""The process that starts the demo's server again when it is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, needs_signals, running

from .test_demo import database, look_at, not_in_the_clone, order_request

__all__ = ("database", "not_in_the_clone")  # fixtures

pytestmark = [pytest.mark.heavy, needs_signals]

# Takes over the terminal and becomes the demo, as when a shell starts a command.
AS_A_SHELL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'demo_app', *sys.argv[1:]])"
)


class Terminal:
    """A terminal in which a command runs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shown = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        while (found := re.search(pattern, self.shown)) is None:
            assert self._read(), self.shown
        return found

    def read_rest(self) -> None:
        while self._read():
            pass

    def _read(self) -> bool:
        try:
            chunk = os.read(self._descriptor, 1024)
        except OSError:  # Linux raises it at the end of the output
            return False
        self.shown += chunk.decode()
        return bool(chunk)

    def press_ctrl_c(self) -> None:
        os.write(self._descriptor, b"\x03")


@contextlib.contextmanager
def in_terminal(*arguments: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    import pty  # not on Windows

    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", AS_A_SHELL, *arguments],
            cwd=ROOT,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        try:
            yield Terminal(ours), process
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)


def test_ctrl_c_in_a_terminal_reaches_the_server_once() -> None:
    """A second one would cancel the order; a terminal sends it to all its processes."""
    with in_terminal("--port", "0") as (terminal, process):
        found = terminal.read_until(r"http://127\.0\.0\.1:(\d+)/\r\n")
        port = int(found[1])
        with socket.create_connection(("127.0.0.1", port)) as customer:
            customer.sendall(order_request("/orders/atomic", slow_bank="yes"))
            look_at("/static/icon.svg", port)
        terminal.press_ctrl_c()
        terminal.read_rest()
        assert process.wait() == 0
    assert terminal.shown.count("Stopping: ") == 1
    assert "cancelled" not in terminal.shown
    assert terminal.shown.endswith("Stopped. No atomic order is half-done.\r\n")


def test_clients_wait_for_the_next_server(database: Path) -> None:
    """A client that comes while there is no server is answered by the next one."""
    with running("demo_app", "--port", "0") as command:
        server = int(command.read_until(re.compile("^Process ").match).split()[1])
        address = command.read_until(re.compile("^http").match)
        port = int(address.strip("/").rpartition(":")[2])
        os.kill(server, signal.SIGKILL)
        look_at("/", port)
        assert command.read_until(re.compile("^The server was killed").match)
        assert int(command.read_until(re.compile("^Process").match).split()[1]) != server
        command.read_until(lambda line: line.startswith(address))
        command.send(signal.SIGTERM)
        assert command.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGABRT])
def test_server_that_ends_in_another_way_is_not_started_again(
    number: signal.Signals,
) -> None:
    """Its exit status becomes that of the demo."""
    with running("demo_app", "--port", "0") as command:
        server = int(command.read_until(re.compile("^Process ").match).split()[1])
        command.read_until(re.compile("^http").match)
        os.kill(server, number)
        status, _ = command.end()
    assert status == (0 if number is signal.SIGTERM else 128 + number)
