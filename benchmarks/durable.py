"""Durable jobs in a file: what it costs to keep them, and to run them."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from aiohttp import web
from huey import SqliteHuey

import aiohttp_jobs
from aiohttp_jobs.durable import SQLiteStore, durable, setup_durable, spawn_durable

from .jobs import OURS
from .measure import Samples, Spread, take
from .report import Table, spread

__all__ = ("enqueued", "many_kept", "worked_off")

CALLERS = 100
PLAIN, HUEY = "sqlite3, a transaction each", "Huey's SqliteHuey"
MEBIBYTE = 2**20
# Below this many jobs a second, the speed of a queue is that of the disk.
SLOW = 1_500

_left = 0
_all_ran: asyncio.Event


@durable("benchmark.work")
async def work(app: web.Application, number: int) -> None:
    global _left
    _left -= 1
    if not _left:
        _all_ran.set()


@asynccontextmanager
async def application(
    store: SQLiteStore, *, limit: int = 10, worker: bool
) -> AsyncIterator[web.Application]:
    app = web.Application()
    aiohttp_jobs.setup(app)
    setup_durable(app, store, tasks=[work], limit=limit, worker=worker)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        yield app
    finally:
        await runner.cleanup()


class Enqueuing:
    """Puts jobs into a new file in several ways, and keeps the measurements by name.

    Args:
        count: how many jobs.
    """

    def __init__(self, runner: asyncio.Runner, count: int) -> None:
        self._runner = runner
        self._count = count
        self.cpu: dict[str, list[float]] = {}
        self.rows_per_wait: list[float] = []
        # The lag of the loop while it is idle, and while one caller puts jobs.
        self.idle_lags: list[float] = []
        self.lags: list[float] = []

    def by_hand(self) -> float:
        with TemporaryDirectory() as folder:
            connection = sqlite3.connect(Path(folder, "jobs"), isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, data BLOB)")
            with self._timed(PLAIN) as clock:
                for number in range(self._count):
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute(
                        "INSERT INTO jobs (data) VALUES (?)", (b"%d" % number,)
                    )
                    connection.execute("COMMIT")
            connection.close()
            return clock.wall

    def by_huey(self) -> float:
        with TemporaryDirectory() as folder:
            queue = SqliteHuey(filename=str(Path(folder, "jobs")), fsync=True)

            @queue.task()  # type: ignore[untyped-decorator]
            def work_of_huey(number: int) -> None:
                pass

            with self._timed(HUEY) as clock:
                for number in range(self._count):
                    work_of_huey(number)
            queue.storage.close()
            return clock.wall

    def by_us(self, callers: int) -> float:
        return self._runner.run(self._by_us(callers))

    async def _by_us(self, callers: int) -> float:
        async def call(numbers: range) -> None:
            for number in numbers:
                await spawn_durable(app, work, number)

        with TemporaryDirectory() as folder:
            store = SQLiteStore(Path(folder, "jobs"))
            async with application(store, worker=False) as app:
                await spawn_durable(app, work, -1)  # one-time work is done after this
                before = store.counts.lasting
                with self._timed(_ours(callers)) as clock:
                    await asyncio.gather(
                        *(call(range(first, self._count, callers))
                          for first in range(callers))
                    )  # fmt: skip
                if callers == 1:  # a hundred callers are a hundred calls in one turn
                    await self._note_lags(call(range(self._count)))
                if callers == CALLERS:
                    waits = store.counts.lasting - before
                    self.rows_per_wait.append(self._count / waits)
                return clock.wall

    async def _note_lags(self, putting: Coroutine[None, None, None]) -> None:
        """Watch the loop while it is idle, and while one caller puts jobs.

        These jobs are not timed, as looking every millisecond takes time, too.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await _watch_lag(self.idle_lags)
        watch = asyncio.create_task(_watch_lag(self.lags))
        await putting
        watch.cancel()

    def _timed(self, name: str) -> _Clock:
        return _Clock(self.cpu.setdefault(name, []), self._count)


class _Clock:
    """Times a block, and notes its CPU seconds per job."""

    def __init__(self, cpu: list[float], count: int) -> None:
        self._cpu = cpu
        self._count = count
        self.wall = 0.0

    def __enter__(self) -> Self:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *raised: object) -> None:
        self.wall = time.perf_counter() - self._start[0]
        self._cpu.append((time.process_time() - self._start[1]) / self._count)


async def _watch_lag(lags: list[float]) -> None:
    """Note every millisecond how late the loop wakes this task."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        lags.append(loop.time() - due)


def _ours(callers: int) -> str:
    return f"{OURS}, {callers} caller{'s' * (callers > 1)}"


def enqueued(runner: asyncio.Runner, count: int, rounds: int) -> Table:
    """Compare how long it takes until a job is on disk.

    Args:
        count: how many jobs to keep; a multiple of `CALLERS`.
        rounds: how many samples of each variant.
    """
    enqueuing = Enqueuing(runner, count)
    variants: dict[str, Callable[[], float]] = {
        PLAIN: enqueuing.by_hand,
        HUEY: enqueuing.by_huey,
        _ours(1): lambda: enqueuing.by_us(1),
        _ours(CALLERS): lambda: enqueuing.by_us(CALLERS),
    }
    samples = take(variants, rounds)
    table = Table(
        "Keeping a durable job",
        f"{count:,} jobs, each on the disk before its call returns, in a new file. How "
        "fast depends on the disk, which here is shared; the ratios are of neighbours in "
        "time. Huey has its option `fsync`.",
        ("Variant", "Jobs a second", "of Huey's", "CPU each"),
    )
    for name in variants:
        speed = _speed(samples, name)
        cpu = Spread.of(enqueuing.cpu[name]).median
        table.add(
            name,
            f"{count / samples.median(name):,.0f}",
            spread(speed),
            f"{cpu * 1e6:.0f} µs",
        )
    table.target_at_least(
        f"Jobs that share one wait for the disk, {CALLERS} callers",
        50,
        Spread.of(enqueuing.rows_per_wait),
    )
    table.target_microseconds(
        f"CPU time to keep a job, {CALLERS} callers",
        30,
        Spread.of(enqueuing.cpu[_ours(CALLERS)]).median * 1e6,
    )
    if count / samples.median(HUEY) < SLOW:
        speed = _speed(samples, _ours(CALLERS))
        table.target_at_least(
            f"Jobs a second, {CALLERS} callers, of Huey's on a slow disk", 20, speed
        )
    table.target_at_least(
        "Jobs a second, 1 caller, of Huey's", 0.85, _speed(samples, _ours(1))
    )
    table.target_microseconds(
        "Lag of the event loop, 1 caller, 99 of 100 times, more than an idle one's",
        1_000,
        (_worst(enqueuing.lags) - _worst(enqueuing.idle_lags)) * 1e6,
    )
    return table


def _worst(lags: list[float]) -> float:
    """Return the lag that only one in a hundred exceeds."""
    return sorted(lags)[len(lags) * 99 // 100]


def _speed(samples: Samples, name: str) -> Spread:
    return samples.ratio(HUEY, name)  # inverted, as less time is more speed


def worked_off(runner: asyncio.Runner, count: int, rounds: int) -> Table:
    """Measure what it costs to claim, run and acknowledge jobs that do nothing."""
    waits: dict[str, int] = {}

    def sample(limit: int) -> float:
        took, waits[f"limit={limit}"] = runner.run(_work_off(count, limit))
        return took

    samples = take(
        {f"limit={limit}": partial(sample, limit) for limit in (10, 100)}, rounds
    )
    table = Table(
        "Running durable jobs",
        f"{count:,} jobs that wait in the file and do nothing, from the start of the "
        "application to the end of the last one: claimed, run, acknowledged.",
        ("Variant", "CPU each", "Waits for the disk"),
    )
    for name in samples.by_variant:
        cpu = samples.median(name) * 1e6
        table.add(name, f"{cpu:.0f} µs", f"{waits[name]}")
        table.target_microseconds(f"CPU time to run a durable job, {name}", 50, cpu)
    return table


async def _work_off(count: int, limit: int) -> tuple[float, int]:
    global _left, _all_ran
    with TemporaryDirectory() as folder:
        path = Path(folder, "jobs")
        async with application(SQLiteStore(path), worker=False) as app:
            await _fill(app, count)
        _left, _all_ran = count, asyncio.Event()
        gc.collect()
        store = SQLiteStore(path)
        start = time.process_time()
        async with application(store, limit=limit, worker=True):
            await _all_ran.wait()
            took = time.process_time() - start
            return took / count, store.counts.lasting


async def _fill(app: web.Application, count: int) -> None:
    for first in range(0, count, 1_000):
        await asyncio.gather(
            *(spawn_durable(app, work, number)
              for number in range(first, min(first + 1_000, count)))
        )  # fmt: skip


def many_kept(runner: asyncio.Runner, count: int) -> Table:
    """Run very many jobs through one file, a thousand at a time, to see if it grows."""
    table = Table(
        "Many durable jobs",
        f"{count:,} jobs through one file, a thousand at a time: what is left behind.",
        ("After", "File", "Log beside it", "Memory of the process"),
    )
    largest = runner.run(_let_through(table, count))
    table.target_bytes("File that many jobs have gone through", 20 * MEBIBYTE, largest)
    return table


async def _let_through(table: Table, count: int) -> int:
    global _left, _all_ran
    largest = 0
    with TemporaryDirectory() as folder:
        path = Path(folder, "jobs")
        log = path.with_name("jobs-wal")
        async with application(SQLiteStore(path), limit=100, worker=True) as app:
            for done in range(1_000, count + 1, 1_000):
                _left, _all_ran = 1_000, asyncio.Event()
                await _fill(app, 1_000)
                await _all_ran.wait()
                size, size_of_log = _size(path), _size(log)
                largest = max(largest, size)
                if done in (1_000, count // 2, count):
                    table.add(
                        f"{done:,} jobs",
                        f"{size / MEBIBYTE:.1f} MiB",
                        f"{size_of_log / MEBIBYTE:.1f} MiB",
                        _memory(),
                    )
    return largest


def _size(path: Path) -> int:
    return path.stat().st_size


def _memory() -> str:
    """Return the memory that the process uses now, where the system reports it."""
    if sys.platform != "linux":
        return "not told"
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * 4096 / MEBIBYTE:.0f} MiB"
