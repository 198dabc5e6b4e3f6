"""Processes that are started, killed at some moment, and started again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.ledger import Verdict, read
from tests.processes import ROOT

__all__ = ("Crowd", "kill_at_random")

# Seconds after which a process that has not ended is a failure.
PATIENCE = 300.0


class Crowd:
    """The processes on one file, and the ledger that they share.

    Args:
        folder: where the file and the ledger are.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "jobs.sqlite"
        self.ledger = folder / "ledger"
        self.stopped = set[int]()

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a process, and return when it is ready or has ended."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.crash.process"),
                *(str(self.file), str(self.ledger), *options),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        self.note_killed(process)

    def note_killed(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process that is killed with kill -9, by whomever."""
        assert process.stdout is not None
        with process.stdout:
            status = process.wait(PATIENCE)
        assert status == -signal.SIGKILL, f"it has ended by itself, with {status}"
        self.stopped.add(process.pid)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Let a process end cleanly."""
        process.terminate()
        self.wait(process)

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            status = process.wait(PATIENCE)
        assert status == 0, f"it has ended with {status}"

    def finish(self, *options: str) -> Verdict:
        """Let one process run all jobs that are left; return the verdict."""
        self.wait(self.start("--until-empty", *options))
        return self.verdict()

    def verdict(self) -> Verdict:
        return read(self.file, self.ledger, self.stopped)


def kill_at_random(
    folder: Path,
    *,
    processes: int,
    kills: int,
    jobs: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Kill one process after the other, each at a random moment after it is ready."""
    chance, crowd = random.Random(seed), Crowd(folder)
    share = str(max(1, jobs // kills))
    running = [crowd.start("--put", share) for _ in range(processes)]
    for number in range(kills):
        time.sleep(chance.uniform(0, 0.4))
        place = chance.randrange(processes)
        crowd.kill(running[place])
        running[place] = crowd.start("--put", share)
        if number % 10 == 9:
            say(f"{number + 1} kills: {crowd.verdict()}")
    for process in running:
        crowd.end(process)
    missing = max(0, jobs - crowd.verdict().accepted)
    return crowd.finish("--put", str(missing))
