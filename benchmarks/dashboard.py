"""CPU time per job beside a dashboard that somebody looks at.

The jobs do not run flat out as in the other tables: an open page is rendered once a
second, however many jobs end, so its cost is per second and not per job. Few and cheap
jobs show it best.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from aiohttp import web

import aiohttp_jobs
from aiohttp_jobs.dashboard import Access, setup_dashboard

from .measure import take
from .report import Table, spread
from .server import HOST

__all__ = ("looked_at",)

PENDING = 100_000
LIMIT = 100
# Seconds that each job sleeps, which determines how many end per second.
SLEEP = 0.1
RATE = int(LIMIT / SLEEP)

NONE, CLOSED, OPEN = "no dashboard", "dashboard, nobody looks", "dashboard open"


async def sleeps() -> None:
    await asyncio.sleep(SLEEP)


async def anybody(request: web.Request) -> Access:
    return Access.MANAGE


@contextlib.asynccontextmanager
async def application(variant: str) -> AsyncIterator[tuple[aiohttp_jobs.Scheduler, int]]:
    """Run an application, and yield its scheduler and its port."""
    app = web.Application()
    scheduler = aiohttp_jobs.setup(app, limit=LIMIT, pending_limit=0)
    if variant != NONE:
        setup_dashboard(app, authorize=anybody)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        yield scheduler, runner.addresses[0][1]
    finally:
        # One by one: jobs that are cancelled by closing the scheduler are logged.
        for job in reversed([*scheduler]):
            await job.close()
        await runner.cleanup()


@contextlib.contextmanager
def page(port: int) -> Iterator[Callable[[], int]]:
    """Keep a live page open, in a thread of its own, and yield a counter of snapshots."""
    count = 0

    def read() -> None:
        nonlocal count
        while received := client.recv(2**16):
            count += received.count(b"event: snapshot")

    with socket.create_connection((HOST, port)) as client:
        client.sendall(f"GET /jobs/live HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        reader = threading.Thread(target=read)
        reader.start()
        yield lambda: count
        client.shutdown(socket.SHUT_RDWR)
        reader.join()


async def _cpu_time(variant: str, seconds: float) -> float:
    """Return the CPU seconds per job, of the loop's thread alone."""
    async with application(variant) as (scheduler, port):
        with page(port) if variant == OPEN else contextlib.nullcontext() as snapshots:
            for _ in range(PENDING + LIMIT):
                scheduler.spawn_nowait(sleeps())
            await asyncio.sleep(SLEEP * 2)
            ended, start = scheduler.statistics().succeeded, time.thread_time()
            await asyncio.sleep(seconds)
            used = time.thread_time() - start
            if snapshots is not None and snapshots() < seconds:
                raise RuntimeError(f"Only {snapshots()} snapshots in {seconds} s")
            return used / (scheduler.statistics().succeeded - ended)


def looked_at(runner: asyncio.Runner, seconds: float, rounds: int) -> Table:
    """Compare an application without a dashboard with one that somebody looks at."""
    table = Table(
        "CPU time per job beside a dashboard",
        f"{RATE:,} jobs end in a second, each of which has slept for {SLEEP} s, and "
        f"some {PENDING:,} are pending; {seconds} s for each sample, medians of {rounds} "
        "rounds, in brackets the quartiles.",
        ("Variant", "µs per job", f"of {NONE}"),
    )
    samples = take(
        {
            variant: lambda variant=variant: runner.run(  # type: ignore[misc]
                _cpu_time(variant, seconds)
            )
            for variant in (NONE, CLOSED, OPEN)
        },
        rounds,
    )
    for variant in (NONE, CLOSED, OPEN):
        ratio = samples.ratio(variant, NONE)
        table.add(variant, f"{samples.median(variant) * 1e6:.1f}", spread(ratio))
        if variant == CLOSED:
            table.target("Time per job beside a dashboard", 1.1, ratio)
    return table
