"""One storm, from the start of the server to the verdict."""

from __future__ import annotations

import asyncio
import enum
import itertools
import math
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .crowd import Crowd
from .evidence import Evidence
from .ledger import read_ledger
from .server import DEADLINE, Settings
from .verdict import Verdict, judge

__all__ = ("Server", "Storm")

ROOT: Final = Path(__file__).parent.parent.parent
# Seconds that a busy machine adds: the signal has to arrive, and the end to be noticed.
SLACK: Final = 5.0
# gunicorn checks its signals and its workers once a second.
GUNICORN_TICKS: Final = 2.0
# Seconds after which a storm has failed, whatever it waits for.
PATIENCE: Final = 600.0


class Server(enum.StrEnum):
    """What runs the application."""

    AIOHTTP = "aiohttp"
    CANCELLING = "aiohttp-cancelling"  # handler_cancellation=True
    UVLOOP = "uvloop-cancelling"
    GUNICORN = "gunicorn"
    GUNICORN_CANCELLING = "gunicorn-cancelling"

    @property
    def cancelling(self) -> bool:
        return self.endswith("-cancelling")

    @property
    def gunicorn(self) -> bool:
        return self.startswith("gunicorn")


@dataclass(frozen=True)
class Storm:
    """One storm; the same arguments repeat it.

    Args:
        server: what runs the application.
        seed: determines each request.
        requests: how many begin before SIGTERM.
        connections: how many clients there are at once.
    """

    server: Server
    seed: int
    requests: int
    connections: int

    @property
    def command(self) -> str:
        """The command that repeats this storm."""
        return (
            f"make storm ARGS='--server {self.server} --seed {self.seed} "
            f"--requests {self.requests} --connections {self.connections}'"
        )

    @property
    def deadline(self) -> float:
        """Seconds from SIGTERM within which the server has to end."""
        return DEADLINE + SLACK + GUNICORN_TICKS * self.server.gunicorn

    async def run(self, folder: Path) -> Verdict:
        """Run the storm, with its files in this folder, and judge it."""
        try:
            async with asyncio.timeout(PATIENCE):
                return judge(await self._run(folder / "ledger", folder / "stderr"))
        except BaseException as error:
            error.add_note(f"To repeat it: {self.command}")
            raise

    async def _run(self, database: Path, stderr: Path) -> Evidence:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
            port = sock.getsockname()[1]
            process = await self._start(sock.fileno(), database, stderr)
            # From here on only the server has the socket: once it closes it, clients can
            # no longer connect.
        enough = asyncio.Event()
        crowd = Crowd(port, self.seed, self.connections, self._numbers(enough))
        try:
            took = await self._drive(process, crowd, enough)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Evidence(
            ledger=read_ledger(database),
            stderr=await asyncio.to_thread(stderr.read_text),
            outcomes=crowd.outcomes,
            status=process.returncode,
            took=took,
            deadline=self.deadline,
            leaves_tasks=self.server.gunicorn,
        )

    async def _start(
        self, sock: int, database: Path, stderr: Path
    ) -> asyncio.subprocess.Process:
        settings = Settings(
            database=str(database),
            seed=self.seed,
            socket=sock,
            handler_cancellation=self.server.cancelling,
            uvloop=self.server is Server.UVLOOP,
        )
        with stderr.open("wb") as file:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments(sock),
                cwd=ROOT,
                env=settings.to_environment(),
                pass_fds=[sock],
                stderr=file,
            )

    def _numbers(self, enough: asyncio.Event) -> Iterator[int]:
        """Count without end, and set the event when it is enough."""
        for number in itertools.count(1):
            if number == self.requests:
                enough.set()
            yield number

    async def _drive(
        self, process: asyncio.subprocess.Process, crowd: Crowd, enough: asyncio.Event
    ) -> float:
        """Let the clients in, stop the server meanwhile; return how long it took."""
        await crowd.visit("/")
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.run())
            await enough.wait()
            crowd.stopping = True
            # SIGTERM comes when all slots are taken for good, and jobs are waiting.
            await crowd.visit("/flood")
            process.send_signal(signal.SIGTERM)
            start = time.monotonic()
            try:
                async with asyncio.timeout(self.deadline + 1):
                    await process.wait()
            except TimeoutError:
                process.kill()  # the verdict reports that it was too late
            return time.monotonic() - start

    def _arguments(self, sock: int) -> list[str]:
        if not self.server.gunicorn:
            return ["-m", "tests.storm.server"]
        return [
            *("-m", "gunicorn", "tests.storm.server:make_runner"),
            *("--worker-class", "aiohttp.GunicornWebWorker"),
            *("--bind", f"fd://{sock}"),
            *("--graceful-timeout", str(math.ceil(DEADLINE + SLACK))),
            *("--log-level", "warning"),
            "--no-control-socket",
        ]
