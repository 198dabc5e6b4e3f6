"""Scenarios with one death: at a point, in a system call, or after too short a drain."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.crash.kills import PATIENCE, Crowd
from tests.crash.ledger import Verdict
from tests.envelopes import look
from tests.processes import ROOT

__all__ = ("SYSCALLS", "can_trace", "die_in_syscalls", "die_once", "stop_too_soon")

# The system calls that write to the file, its log and the log's index, or sync them.
SYSCALLS = ("pwrite64", "fdatasync", "ftruncate", "unlink")

# How many jobs each scenario has: enough for every task to have its turn.
JOBS = "120"


def die_once(folder: Path, point: str) -> Verdict:
    """Let a process die at a point, and another one do the rest."""
    crowd = Crowd(folder)
    if point.startswith("take-over"):
        # There has to be a process whose jobs are taken over.
        first = crowd.start("--put", JOBS, "--seconds", "60")
        while not look(crowd.file, "SELECT 1 FROM aiohttp_jobs WHERE state = 2"):
            pass
        crowd.kill(first)
    crowd.note_killed(crowd.start("--put", JOBS, "--until-empty", "--die-at", point))
    return crowd.finish("--put", JOBS)


def stop_too_soon(folder: Path, processes: int) -> Verdict:
    """Send SIGTERM, with a drain too short for the jobs: given back, uncounted."""
    crowd = Crowd(folder)
    options = ("--put", JOBS, "--seconds", "30", "--wait-timeout", "0.05")
    running = [crowd.start(*options) for _ in range(processes)]
    while len(look(crowd.file, "SELECT 1 FROM aiohttp_jobs WHERE state = 2")) < 10:
        pass
    for process in running:
        crowd.stopped.add(process.pid)
        crowd.end(process)
    left = look(
        crowd.file,
        "SELECT 1 FROM aiohttp_jobs WHERE state != 1 OR crashes OR attempt > 1",
    )
    assert left == [], "what runs at the end of a drain is given back, uncounted"
    return crowd.finish()


def can_trace() -> bool:
    """Whether there is a tool here that kills a process at its n-th system call."""
    strace = shutil.which("strace")
    if strace is None:
        return False
    command = [strace, "-f", "-o", "/dev/null", "-e", "trace=none", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def die_in_syscalls(folder: Path, name: str, step: int = 1) -> tuple[int, list[str]]:
    """Kill a process at its first, second, ... call of this kind, until it makes no more.

    So it dies in the middle of every transaction, of the creation of the file, of a
    checkpoint, and of the shutdown.

    Returns:
        How often it was killed, and what was lost or wrong.
    """
    number, faults, is_killed = 1, list[str](), True
    while is_killed:
        place = folder / str(number)
        place.mkdir()
        crowd = Crowd(place)
        process = subprocess.Popen(
            [
                *("strace", "-f", "-o", "/dev/null", "-e", f"trace={name}"),
                *("-e", f"inject={name}:signal=KILL:when={number}"),
                *(sys.executable, "-m", "tests.crash.process"),
                *(str(crowd.file), str(crowd.ledger), "--put", "20", "--until-empty"),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        is_killed = process.wait(PATIENCE) != 0
        # Its process id is known from the ledger, which has no other one so far.
        lines = crowd.ledger.read_text().splitlines() if crowd.ledger.exists() else []
        crowd.stopped.update(int(line.split()[2]) for line in lines)
        faults += crowd.finish("--put", "1").faults
        shutil.rmtree(place)
        number += step
    return number // step - 1, faults
