"""The supervisor: restarts the server when it is killed, as the tour does.

It is the server's parent process. It owns the socket, so clients that connect while the
server is dead wait for the next one instead of being refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ("CAN_SUPERVISE", "join_supervisor", "supervise", "watch_supervisor")

#: Whether this platform has what the supervisor needs.
CAN_SUPERVISE = sys.platform != "win32"


def supervise(arguments: Sequence[str], listener: socket.socket) -> int:
    """Run the server in a child process until it ends without being killed.

    Return the exit status of the last one.

    Args:
        arguments: the command line arguments of the server.
        listener: the socket to accept connections from.
    """
    # All servers have the same token, so the forms on a page from one work with the next.
    token = secrets.token_urlsafe()
    supervisor = _Supervisor()
    with supervisor.on_signals():
        while True:
            status = supervisor.run(arguments, listener, token)
            if status != -signal.SIGKILL or supervisor.is_ending:
                return status if status >= 0 else 128 - status
            print("The server was killed. Here is the next one:", flush=True)


class _Supervisor:
    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self.is_ending = False

    def run(self, arguments: Sequence[str], listener: socket.socket, token: str) -> int:
        command = (sys.executable, "-m", "demo_app", *arguments)
        descriptor = listener.fileno()
        # In a process group of its own: the terminal then sends Ctrl-C to this process
        # alone, which passes it on. Otherwise the server would get it twice.
        self._server = subprocess.Popen(
            (*command, "--listener", str(descriptor)),
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
            process_group=0,
        )
        if self.is_ending:  # a signal came while there was no server
            self._server.terminate()
        assert self._server.stdin is not None
        with self._server.stdin as stdin, contextlib.suppress(BrokenPipeError):
            stdin.write(f"{token}\n".encode())
            stdin.flush()
            # The pipe stays open until the server ends. If this process dies, the server
            # notices because the pipe closes.
            return self._server.wait()
        return self._server.wait()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._hand_on) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.is_ending = True
        if self._server is not None:
            self._server.send_signal(number)


def join_supervisor(descriptor: int) -> tuple[socket.socket, str]:
    """In the server: take over the socket and the token from the supervisor."""
    token = sys.stdin.readline().strip()
    return socket.socket(fileno=descriptor), token


def watch_supervisor() -> None:
    """In the server: kill this process when the supervisor goes away."""
    asyncio.get_running_loop().add_reader(
        sys.stdin.fileno(), os.kill, os.getpid(), signal.SIGKILL
    )
