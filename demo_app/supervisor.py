"""The supervisor: starts the server again when it was killed, as the tour does.

It is the parent process. The socket is its own, so that clients who come while the server
is dead wait for the next one, and are not refused.
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

#: Can a process be killed and started again here?
CAN_SUPERVISE = sys.platform != "win32"


def supervise(arguments: Sequence[str], listener: socket.socket) -> int:
    """Run the server in a process of its own, again and again; return its exit status.

    Args:
        arguments: those of its command line.
        listener: the socket that it accepts connections from.
    """
    # The same for all servers: a page that one has made leads to the next one.
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
        # A process group of its own: the terminal sends Ctrl-C to this process alone,
        # which hands it on, or the server would be told twice.
        self._server = subprocess.Popen(
            (*command, "--listener", str(descriptor)),
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
            process_group=0,
        )
        if self.is_ending:  # told so while there was none
            self._server.terminate()
        assert self._server.stdin is not None
        with self._server.stdin as stdin, contextlib.suppress(BrokenPipeError):
            stdin.write(f"{token}\n".encode())
            stdin.flush()
            # The pipe stays open: its end tells the server that this process has gone.
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
    """In the server: take over the socket, and read the token, from the supervisor."""
    token = sys.stdin.readline().strip()
    return socket.socket(fileno=descriptor), token


def watch_supervisor() -> None:
    """In the server: end with the supervisor, as suddenly as that."""
    asyncio.get_running_loop().add_reader(
        sys.stdin.fileno(), os.kill, os.getpid(), signal.SIGKILL
    )
