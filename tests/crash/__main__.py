"""``python -m tests.crash``: all scenarios, which take some minutes."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.kills import kill_at_random
from tests.crash.points import POINTS
from tests.crash.power import cut_power
from tests.crash.scenarios import (
    SYSCALLS,
    can_trace,
    die_in_syscalls,
    die_once,
    stop_too_soon,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=100, help="at random, each time")
    parser.add_argument("--jobs", type=int, default=50_000, help="accepted, each time")
    parser.add_argument("--cuts", type=int, default=200, help="of the power")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"--seed {options.seed}")
    faults = 0

    def tell(what: str, verdict: object, found: list[str], start: float) -> None:
        nonlocal faults
        faults += len(found)
        print(f"{what}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)

    for point in POINTS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            verdict = die_once(Path(folder), point)
        tell(point, verdict, verdict.faults, start)
    start = time.monotonic()
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            verdict = stop_too_soon(Path(folder), processes)
        tell(f"SIGTERM, {processes} processes", verdict, verdict.faults, start)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        accepted, lost = asyncio.run(cut_power(Path(folder), options.cuts, options.seed))
    tell(
        f"{options.cuts} power cuts",
        f"accepted {accepted}, lost {len(lost)}",
        lost,
        start,
    )
    start = time.monotonic()
    for name in SYSCALLS if can_trace() else ():
        with tempfile.TemporaryDirectory() as folder:
            count, found = die_in_syscalls(Path(folder), name)
        tell(f"kill at each {name}", f"{count} kills, {len(found)} faults", found, start)
    for processes in (1, 3):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            verdict = kill_at_random(
                Path(folder),
                processes=processes,
                kills=options.kills,
                jobs=options.jobs,
                seed=options.seed,
            )
        what = f"{options.kills} kills of {processes} processes"
        tell(what, verdict, verdict.faults, start)
    print("lost or wrong:", faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
