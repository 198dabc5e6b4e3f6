"""CPU time of workers that share a directory: for an open page, and for a scrape.

It is the sum over all workers: the one that answers, and those that it asks. What they
use while nobody looks is subtracted.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import statistics
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from .dashboard import page
from .report import Table
from .server import HOST

__all__ = ("shared",)

# The headers that Prometheus sends.
ACCEPT = {
    "Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "Accept-Encoding": "gzip",
}


# Seconds between two scrapes; the workers' answers are reused for one second.
BETWEEN = 1.05

IDLE, PAGE, SCRAPE = "nobody looks", "an open page, each second", "a scrape"


class Workers:
    """The workers, each in a process of its own."""

    def __init__(self, share: str, count: int, rate: float) -> None:
        command = [sys.executable, "-m", "benchmarks.sharing", share, str(rate)]
        self._processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(count)
        ]
        self.ports = [int(self._read(process)) for process in self._processes]

    def used(self) -> list[float]:
        """Return the CPU seconds that each worker has used so far."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return [float(self._read(process)) for process in self._processes]

    def _read(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait()


def _scrape(port: int) -> None:
    connection = http.client.HTTPConnection(HOST, port)
    connection.request("GET", "/metrics", headers=ACCEPT)
    text = gzip.decompress(connection.getresponse().read())
    connection.close()
    if text.count(b"aiohttp_jobs_worker_up{") < 2:
        raise RuntimeError("The workers have not found each other")


def _used(workers: Workers, what: str, seconds: float) -> tuple[float, float]:
    """Return milliseconds of CPU per second or scrape: of all, and of the one asked."""
    port = workers.ports[0]
    with page(port) if what == PAGE else contextlib.nullcontext():
        if what == PAGE:
            time.sleep(1.5)  # skip the first snapshot, which is rendered from scratch
        before, begin, times = workers.used(), time.monotonic(), 0
        while (now := time.monotonic()) < begin + seconds:
            if what == SCRAPE:
                _scrape(port)
                times += 1
            time.sleep(BETWEEN if what == SCRAPE else begin + seconds - now)
        used = [b - a for a, b in zip(before, workers.used(), strict=True)]
        per = (time.monotonic() - begin) if what != SCRAPE else times
    return sum(used) / per * 1e3, used[0] / per * 1e3


def shared(count: int, seconds: float, rounds: int, rate: float = 0.0) -> Table:
    """Measure workers that share a directory while they are looked at.

    Args:
        count: how many workers.
        seconds: how long each sample takes.
        rate: how many jobs end per second in each worker.
    """
    table = Table(
        "CPU time of workers that are looked at together",
        f"{count} workers, each with 1,200 jobs that have ended, 30 that run and 100 "
        f"that wait, of 8 coroutine functions, and 40 failures; {seconds} s for each "
        "sample. What they use while nobody looks is in the first row, and not in the "
        f"others. The least of {rounds} rounds, as what disturbs adds to it; in brackets "
        "the median.",
        ("What", "ms of all", "ms of the one that shows"),
    )
    samples: dict[str, list[tuple[float, float]]] = {IDLE: [], PAGE: [], SCRAPE: []}
    with (
        TemporaryDirectory() as share,
        contextlib.closing(Workers(f"{share}/share", count, rate)) as workers,
    ):
        for what in samples:
            _used(workers, what, 1.0)
        for _ in range(rounds):
            for what, taken in samples.items():
                taken.append(_used(workers, what, seconds))
    idle = [min(each) for each in zip(*samples[IDLE], strict=True)]
    for what, taken in samples.items():
        off = (0.0, 0.0) if what == IDLE else idle
        per = BETWEEN if what == SCRAPE else 1.0
        cells: list[str] = []
        for values, less in zip(zip(*taken, strict=True), off, strict=True):
            least, middle = min(values) - less * per, statistics.median(values)
            cells.append(f"{least:.1f} ({middle - less * per:.1f})")
            if what != IDLE and len(cells) == 1:
                most = {PAGE: 15_000, SCRAPE: 20_000}[what]
                table.target_microseconds(f"{count} workers, {what}", most, least * 1e3)
        table.add(what, *cells)
    return table
