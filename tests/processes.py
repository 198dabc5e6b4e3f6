"""Running a Python module in a process of its own, and clients for its server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

__all__ = (
    "ROOT",
    "Command",
    "before_the_next_look",
    "needs_signals",
    "running",
    "send",
    "until",
)

ROOT = Path(__file__).parent.parent

# Seconds after which a process is killed and its test fails; a passing test never waits
# this long.
PATIENCE = 60.0

needs_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="processes cannot be sent these signals"
)


async def until(condition: Callable[[], object]) -> None:
    """Poll until the condition is true, as nothing notifies of it."""
    while not condition():
        await before_the_next_look()


async def before_the_next_look() -> None:
    """Let others work for a moment between two polls."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await asyncio.Event().wait()


class Command:
    """A process that reports its progress by lines on its stdout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdin is not None
        self._stdin: IO[str] = process.stdin
        self.lines: list[str] = []

    def read_until(self, found: Callable[[str], object]) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found(line):
                return self.lines[-1]
        raise AssertionError(f"it has ended after {self.lines}")

    def tell(self, line: str) -> None:
        self._stdin.write(f"{line}\n")
        self._stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return the exit status and what is on stderr."""
        stdout, stderr = self._process.communicate()
        self.lines += (stdout or "").splitlines()
        return self._process.returncode, stderr


@contextlib.contextmanager
def running(
    module: str,
    *arguments: str,
    stdout: int = subprocess.PIPE,
    patience: float = PATIENCE,
) -> Iterator[Command]:
    """Run ``python -m module``, and end it if the test does not."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    watchdog = threading.Timer(patience, process.kill)
    watchdog.start()
    try:
        with process:
            try:
                yield Command(process)
            finally:
                process.kill()
    finally:
        watchdog.cancel()
        watchdog.join()


@contextlib.contextmanager
def send(path: str, port: int) -> Iterator[socket.socket]:
    """Send a GET request, and yield the connection to read the answer from."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        yield connection
