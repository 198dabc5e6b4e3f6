"""Instructions per job and per request, counted by valgrind's callgrind.

Each figure is the difference between two runs that differ only in how many jobs or
requests they have, so it includes neither the start nor the end. Unlike times, the
figures are the same on a busy machine, and the same from run to run up to some tenths of
a percent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from .client import CONNECTIONS, connections, receive, send
from .counted import END, GO
from .jobs import LIMIT, NO_DRAIN, OURS, RAW, WORKS, name_of
from .measure import Spread
from .report import Table
from .server import NO_MIDDLEWARE, VARIANTS

__all__ = ("instructions",)

MISSING = "Nothing was counted: valgrind is missing (on Debian: apt install valgrind)."
TARGETS = {"uses neither": 1.02, "runs to its end": 1.05, "spawns": 1.05}


class Counter:
    """A context manager that runs the process whose instructions are counted."""

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory()
        self._process = subprocess.Popen(
            [
                "valgrind",
                "--tool=callgrind",
                "--quiet",
                f"--callgrind-out-file={self._folder.name}/%p",
                sys.executable,
                "-m",
                "benchmarks.counted",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self._process.terminate()
        self._process.communicate()
        self._folder.cleanup()

    def per_job(
        self, what: str, who: str, limit: int | None, few: int, many: int
    ) -> float:
        counts = []
        for number in (few, many):
            self._write(json.dumps(["job", what, who, limit, number]).encode() + b"\n")
            counts.append(self._count())
        return (counts[1] - counts[0]) / (many - few)

    def per_request(
        self, what: str, who: str, at_a_time: int, few: int, many: int
    ) -> float:
        counts = []
        for number in (few, many):
            self._write(json.dumps(["request", what, who]).encode() + b"\n")
            port = int(self._read())
            self._read()  # the process now waits for GO, here and below
            with connections(port, at_a_time) as opened:
                for _ in range(number // at_a_time):
                    send(opened)
                    self._write(GO)
                    receive(opened)
                    self._read()
            self._write(END)
            counts.append(self._count())
        return (counts[1] - counts[0]) / (many - few)

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            raise RuntimeError("The process that is counted has ended")
        return line.strip()

    def _count(self) -> int:
        """Return how many instructions the child took that is about to end."""
        counted = Path(self._folder.name, self._read()).read_text()
        total = re.search(r"^(?:summary|totals): (\d+)", counted, re.MULTILINE)
        assert total is not None
        return int(total[1])


def instructions(
    jobs: tuple[int, int] = (200, 1_200), requests: tuple[int, int] = (50, 350)
) -> Table:
    """Compare jobs with bare tasks and with aiojobs' jobs, and requests with bare ones.

    Args:
        jobs: how many jobs the two runs have, fewer first; both more than `LIMIT`.
        requests: the same for requests; both multiples of `CONNECTIONS`.
    """
    table = Table(
        "Instructions",
        f"What {jobs[1]:,} jobs take more than {jobs[0]:,}, and {requests[1]:,} requests "
        f"more than {requests[0]:,}, for each of them, as valgrind's callgrind counts "
        "them. The server finds one request at a time, as when it has little to do, or "
        f"{CONNECTIONS}. asyncio's handlers stand under an empty middleware, but for "
        "the first.",
        ("What", "Variant", "Instructions", "of asyncio", "of aiojobs, not drained"),
    )
    if shutil.which("valgrind") is None:
        table.add(MISSING, "", "", "", "")
        return table
    with Counter() as counter:
        for what in WORKS:
            _jobs(table, counter, what, jobs)
        for what in TARGETS:
            for at_a_time in (1, CONNECTIONS):
                _requests(table, counter, what, at_a_time, requests)
    return table


def _jobs(table: Table, counter: Counter, what: str, numbers: tuple[int, int]) -> None:
    counts = {
        (who, limit): counter.per_job(what, who, limit, *numbers)
        for who, limit in (
            (RAW, None),
            (OURS, None),
            (OURS, LIMIT),
            (NO_DRAIN, None),
            (NO_DRAIN, LIMIT),
        )
    }
    for (who, limit), count in counts.items():
        to_raw = count / counts[RAW, None]
        to_theirs = count / counts[NO_DRAIN, limit] if who == OURS else None
        table.add(
            f"job that {what}",
            name_of(who, limit),
            f"{count:,.0f}",
            f"{to_raw:.3f}",
            f"{to_theirs:.3f}" if to_theirs is not None else "",
        )
        if to_theirs is not None:
            job = f"Instructions per {name_of(f'job that {what}', limit)}, of "
            table.target(
                job + "asyncio's", 1.16 if limit is None else 1.2, Spread.of([to_raw])
            )
            if limit is None:
                table.target(job + "aiojobs', not drained", 0.85, Spread.of([to_theirs]))


def _requests(
    table: Table, counter: Counter, what: str, at_a_time: int, numbers: tuple[int, int]
) -> None:
    counts = {
        who: counter.per_request(what, who, at_a_time, *numbers)
        for who in (NO_MIDDLEWARE, RAW, OURS)
        if (what, who) in VARIANTS
    }
    request = f"request, handler that {what}"
    if at_a_time > 1:
        request += f", {at_a_time} at a time"
    for who, count in counts.items():
        ratio = count / counts[RAW]
        table.add(request, who, f"{count:,.0f}", f"{ratio:.3f}", "")
        if who == OURS:
            table.target(
                f"Instructions per {request}, of asyncio's",
                TARGETS[what],
                Spread.of([ratio]),
            )
