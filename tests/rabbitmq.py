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
import threading
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


class _Log:
    """Reads what a server writes, so that it can go on, and knows when it has started."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        self._stdout = server.stdout
        self.lines: list[str] = []
        self._is_complete = False
        # Set when it has started, or ended.
        self._is_known = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def has_started(self) -> bool:
        """Wait until the server takes connections; return whether it does."""
        self._is_known.wait(PATIENCE)
        return self._is_complete

    def close(self) -> None:
        """Wait until the last line is read of a server that has ended."""
        self._reader.join()
        self._stdout.close()

    def _read(self) -> None:
        for line in self._stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
            if "Server startup complete" in self.lines[-1]:
                self._is_complete = True
                self._is_known.set()
        self._is_known.set()


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
        self._log: _Log | None = None

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

    def _run(self, *command: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        with (self._folder / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,
                **self._options,
            )

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        if self._epmd is None:  # otherwise the server would leave its own behind
            port = str(self._epmd_port)
            self._epmd = self._run("epmd", "-port", port, "-address", "127.0.0.1")
        self._server = self._run(str(PROGRAM), stdout=subprocess.PIPE)
        self._log = _Log(self._server)
        if not self._log.has_started():
            self.stop()
            output = (self._folder / "output").read_text(errors="replace")
            lines = [*output.splitlines(), *self._log.lines]
            raise AssertionError("\n".join(["RabbitMQ has not started:", *lines[-50:]]))

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
            if self._log is not None:
                self._log.close()

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
