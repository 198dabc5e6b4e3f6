"""One of the workers that benchmarks/workers.py measures, in a process of its own.

Its arguments are the directory that the workers share, and how many jobs end per second.
It writes its port; then, for each line that it reads, the CPU seconds that it has used.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

from aiohttp import web
from prometheus_client import REGISTRY

import aiohttp_jobs
from aiohttp_jobs import Scheduler
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.dashboard.history import PERIOD, POINTS, History
from aiohttp_jobs.prometheus import setup_metrics

from .server import HOST

NAMES = (
    *("make_report", "send_mail", "resize_image", "sync_stock", "charge_card"),
    *("index_product", "notify_seller", "clean_carts"),
)
LIMIT = 30
PENDING = 100
FAILURES = 40


def _make(name: str) -> Callable[..., Coroutine[Any, Any, None]]:
    async def job(seconds: float, fault: type[Exception] | None = None) -> None:
        await asyncio.sleep(seconds)
        if fault is not None:
            raise fault("the service has not answered")

    job.__name__ = job.__qualname__ = name
    return job


JOBS = [_make(name) for name in NAMES]
FAULTS = (ValueError, LookupError, ConnectionError, TimeoutError, OSError)


async def anybody(request: web.Request) -> Access:
    return Access.MANAGE


async def _fill(scheduler: Scheduler, history: History) -> None:
    """Fill the history of the last five minutes with jobs that ended and failed.

    Leave other jobs running and pending.
    """
    make = itertools.cycle(JOBS)
    begin = time.time() - POINTS * PERIOD
    for period in range(POINTS):
        spawned = [await scheduler.spawn(next(make)(0.001)) for _ in range(20)]
        for job in spawned:
            await job.wait()
        with mock.patch("time.time", return_value=begin + period * PERIOD):
            history.measure(scheduler.statistics())
    for number in range(FAILURES):
        fault = FAULTS[number % len(FAULTS)]
        job = await scheduler.spawn(next(make)(0, fault))
        with contextlib.suppress(*FAULTS):
            await job.wait()
    for number in range(LIMIT + PENDING):
        await scheduler.spawn(next(make)(3600), name=f"number {number}")


async def _work(scheduler: Scheduler, rate: float) -> None:
    make = itertools.cycle(JOBS)
    while True:
        await asyncio.sleep(1 / rate)
        scheduler.spawn_nowait(next(make)(0))


async def _main(share: str, rate: float) -> None:
    histories: list[History] = []

    def remembered(scheduler: Scheduler) -> History:
        histories.append(History(scheduler))
        return histories[0]

    app = web.Application()
    scheduler = aiohttp_jobs.setup(app, limit=LIMIT, pending_limit=0)
    with mock.patch("aiohttp_jobs.dashboard.app.History", remembered):
        setup_dashboard(app, authorize=anybody, share=share)
    setup_metrics(app, registry=REGISTRY, share=share)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    await _fill(scheduler, histories[0])
    scheduler.limit = LIMIT + 1
    work = None
    if rate:
        for job in [*scheduler][LIMIT:]:
            await job.close()
        work = asyncio.create_task(_work(scheduler, rate))
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def asked() -> None:
        if sys.stdin.readline():
            print(time.process_time(), flush=True)
        else:
            ended.set()

    loop.add_reader(sys.stdin, asked)
    print(runner.addresses[0][1], flush=True)
    await ended.wait()
    if work is not None:
        work.cancel()
    for job in reversed([*scheduler]):
        await job.close()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2])))
