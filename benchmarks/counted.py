"""The process that callgrind watches: it forks once for each figure.

It reads orders from its input, each a line of JSON: ``["job", coroutine, variant, limit,
count]`` or ``["request", handler, variant]``. It forks for each, so that the imports,
which take half a minute here, happen once and are the same in all figures. When the child
has ended, its process id is written, which is the name of the file with the figure.

A child that serves requests first writes its port. From then on the input is its own:
whenever it has nothing to do, it writes an empty line, and looks at its connections only
after the next `GO`. So how many requests it finds at a time is not left to chance. `END`
ends it.
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

    # Set when `END` comes. While this is None, the selector does not wait for `GO`.
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
    # The work of this loop is part of every figure but the first, so it is kept small. An
    # order arrives in one piece, and the next one comes only after the answer.
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
