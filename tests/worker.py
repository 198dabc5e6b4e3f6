"""A worker without a server, in a process of its own, for test_durable.py.

It puts a job, reports what happens, and lets the job end when a line comes on stdin. With
the name of a signal as argument, its start-up never ends, and reports when that signal
has come.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from aiohttp import web

from aiohttp_jobs import setup
from aiohttp_jobs.durable import durable, run_worker, setup_durable, spawn_durable
from tests.processes import until


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


@durable("wait")
async def wait(app: web.Application) -> None:
    say("it begins")
    await asyncio.to_thread(sys.stdin.readline)
    say("it ends")


async def put(app: web.Application) -> None:
    await spawn_durable(app, wait)


async def shut_down(app: web.Application) -> None:
    say("shutting down")


async def clean_up(app: web.Application) -> None:
    say("cleaned up")


async def hang(app: web.Application) -> None:
    number = signal.Signals[sys.argv[2]]
    handled_so = signal.getsignal(number)
    say("the start-up hangs")
    await until(lambda: signal.getsignal(number) is not handled_so)
    say("it is told")
    await asyncio.Event().wait()


if __name__ == "__main__":
    app = web.Application()
    setup(app)
    setup_durable(app, sys.argv[1], tasks=[wait])
    app.on_startup.append(hang if len(sys.argv) > 2 else put)
    app.on_shutdown.append(shut_down)
    app.on_cleanup.append(clean_up)
    run_worker(app)
