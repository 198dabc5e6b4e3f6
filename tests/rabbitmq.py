"""A RabbitMQ server for a test: run by an ordinary user, on loopback, in a directory."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ("RabbitMQ", "rabbitmq")

# The rabbitmq-server that Debian puts on the PATH refuses other users; this one does not.
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

# Seconds after which the server has failed to start or stop; a passing test never waits
# this long.
PATIENCE = 120.0

# If the tests run as root, the server and epmd, which need no root rights, run as this.
USER = "rabbitmq"


def find_programs() -> None:
    """Skip the test if a program is missing; with CI=true, fail instead."""
    if PROGRAM.exists() and shutil.which("epmd") and shutil.which("erl"):
        return
    why = "needs RabbitMQ, from Debian's package rabbitmq-server"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class RabbitMQ:
    """A server that can be stopped, killed and started again with what it has kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, dist, self._epmd_port = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
        )
        (folder / "environment.conf").write_text("")
        (folder / "plugins").write_text("[].")
        self._options: dict[str, Any] = {"cwd": folder, "env": self._environment(dist)}
        if os.getuid() == 0:
            user = pwd.getpwnam(USER)
            self._options |= {"user": user.pw_uid, "group": user.pw_gid}
            self._options |= {"extra_groups": []}
            for each in (folder, *folder.iterdir()):
                os.chown(each, user.pw_uid, user.pw_gid)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def _environment(self, dist: int) -> dict[str, str]:
        folder = self._folder
        return {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            # Few threads, and no busy waiting: the test waits for it, and CPUs are few.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._options,
            )

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        if self._epmd is None:  # otherwise the server would leave its own behind
            port = str(self._epmd_port)
            self._epmd = self._run("epmd", "-port", port, "-address", "127.0.0.1")
        self._server = self._run(str(PROGRAM))
        end = time.monotonic() + PATIENCE
        while not self._takes_connections():
            if self._server.poll() is not None or time.monotonic() > end:
                output = (self._folder / "output").read_text(errors="replace")
                self.stop()
                raise AssertionError(f"RabbitMQ has not started:\n{output[-5000:]}")
            time.sleep(0.1)

    def _takes_connections(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(
                ("127.0.0.1", self.port), timeout=PATIENCE
            ) as connection,
        ):
            # It listens a little before it is ready, and sends nothing until then.
            connection.sendall(b"AMQP\0\0\x09\1")
            return bool(connection.recv(1))
        return False

    def stop(self) -> None:
        """Stop the server cleanly, as a restart does. It keeps its data."""
        server, self._server = self._server, None
        if server is None:
            return
        server.terminate()
        try:
            server.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 9)
            server.wait()

    def close(self) -> None:
        """Stop everything that runs."""
        self.stop()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait()


@contextlib.contextmanager
def rabbitmq() -> Iterator[RabbitMQ]:
    """Run a server for the block."""
    if sys.platform == "win32":
        pytest.skip("starts RabbitMQ as on Debian")
    find_programs()
    # Not below pytest's own directory, which the server's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
    try:
        server = RabbitMQ(folder)
        try:
            server.start()
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
