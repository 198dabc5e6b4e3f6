"""An application that puts and runs durable jobs, to be killed at any moment.

It writes down, line by line, which jobs are accepted, begin and end. The operating system
has such a line when the call returns, so it survives the process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

from aiohttp import web

from aiohttp_jobs import SCHEDULER, setup
from aiohttp_jobs.durable import (
    DURABLE,
    GiveUp,
    SQLiteStore,
    Task,
    current_durable,
    durable,
    run_worker,
    setup_durable,
    spawn_durable,
)
from tests.crash.points import die_at

LEDGER = web.AppKey("LEDGER", int)
SECONDS = web.AppKey("SECONDS", float)

# How many callers put jobs at the same time.
CALLERS = 20


def note(app: web.Application, what: str, number: str, attempt: int = 0) -> None:
    os.write(app[LEDGER], f"{what} {number} {os.getpid()} {attempt}\n".encode())


async def run(app: web.Application) -> int:
    current = current_durable()
    assert current is not None
    note(app, "begin", current.id, current.attempt)
    await asyncio.sleep(app[SECONDS])
    return current.attempt


def end(app: web.Application) -> None:
    current = current_durable()
    assert current is not None
    note(app, "end", current.id)


@durable("work")
async def work(app: web.Application) -> None:
    await run(app)
    end(app)


@durable("fail once", backoff=lambda attempt: 0)
async def fail_once(app: web.Application) -> None:
    if await run(app) == 1:
        raise ValueError("once")
    end(app)


@durable("give up")
async def give_up(app: web.Application) -> None:
    await run(app)
    raise GiveUp("always")


TASKS: tuple[Task[[], None], ...] = (work, fail_once, give_up)
# How many of a hundred jobs are of each task.
SHARES = (90, 8, 2)


async def put(app: web.Application, count: int) -> None:
    kinds = [
        task for task, share in zip(TASKS, SHARES, strict=True) for _ in range(share)
    ]
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:
            task = kinds[number * 37 % len(kinds)]
            note(app, "accepted", await spawn_durable(app, task))

    await asyncio.gather(*(call() for _ in range(CALLERS)))


async def end_when_empty(app: web.Application) -> None:
    store = app[DURABLE].store
    assert isinstance(store, SQLiteStore)
    while True:
        numbers = await store.statistics()
        if not numbers.waiting + numbers.delayed + numbers.running:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("file", type=Path)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--put", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.001)
    parser.add_argument("--wait-timeout", type=float, default=60)
    parser.add_argument("--max-crashes", type=int, default=5)
    parser.add_argument("--until-empty", action="store_true")
    parser.add_argument("--die-at")
    options = parser.parse_args()
    if options.die_at is not None:
        die_at(options.die_at)

    async def start(app: web.Application) -> None:
        os.write(1, b"ready\n")

        async def go() -> None:
            if options.put:
                await put(app, options.put)
            if options.until_empty:
                await end_when_empty(app)

        await app[SCHEDULER].spawn(go())

    app = web.Application()
    app[LEDGER] = os.open(options.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    app[SECONDS] = options.seconds
    setup(app, wait_timeout=options.wait_timeout, exception_handler=lambda *_: None)
    store = SQLiteStore(options.file, max_crashes=options.max_crashes)
    setup_durable(app, store, tasks=TASKS)
    app.on_startup.append(start)
    run_worker(app)


if __name__ == "__main__":
    main()
