"""What callgrind counts: a process that forks once for each figure.

It obeys orders from its input, a line of JSON each: ``["job", coroutine, variant, limit,
count]`` or ``["request", handler, variant]``. For each it forks, so that the imports,
which take half a minute here, are made once and are the same in all figures. When the
fork has ended, its process id is written, which the file with the figure has as its name.

A fork that serves requests first writes its port. From there on the input is its own:
whenever it has nothing to do it writes an empty line, and looks at its connections only
after the next `GO`. So it finds as many requests at a time as it is meant to, and chance
has no part in that. `END` ends it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import selectors
from functools import partial
from typing import Final

from aiohttp import web

from . import jobs, server

__all__ = ("END", "GO")

INPUT: Final = 0
OUTPUT: Final = 1
GO, END = b".", b"!"


class Gate(selectors.DefaultSelector):
    """A selector that waits for `GO` before it waits for its files."""

    # Set when `END` comes. None while it does not wait.
    end: asyncio.Event | None = None

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        if self.end is not None and (timeout is None or timeout > 0):
            os.write(OUTPUT, b"\n")
            if os.read(INPUT, 1) != GO:
                self.end.set()
                self.end, timeout = None, 0
        return super().select(timeout)


async def serve(app: web.Application, gate: Gate) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, server.HOST, 0).start()
    os.write(OUTPUT, b"%d\n" % runner.addresses[0][1])
    gate.end = end = asyncio.Event()
    await end.wait()
    await runner.cleanup()


def run_jobs(what: str, who: str, limit: int | None, count: int) -> None:
    asyncio.run(jobs.VARIANTS[who, limit](jobs.WORKS[what], count))


def run_server(what: str, who: str) -> None:
    gate = Gate()
    app = server.application(who, server.VARIANTS[what, who])
    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, gate)) as runner:
        runner.run(serve(app, gate))


def obey() -> None:
    # What is done here stands in the figures too, but for the first, so it is little. An
    # order comes in one piece, and nothing follows before it has been answered.
    while order := os.read(INPUT, select.PIPE_BUF):
        if pid := os.fork():
            if os.waitpid(pid, 0)[1]:
                raise SystemExit(f"This could not be counted: {order!r}")
            os.write(OUTPUT, b"%d\n" % pid)
        else:
            kind, *arguments = json.loads(order)
            (run_jobs if kind == "job" else run_server)(*arguments)
            os._exit(0)


if __name__ == "__main__":
    gc.disable()
    obey()
