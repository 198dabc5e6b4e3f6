"""The benchmarks run, and say so where they cannot: their figures are for people."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.instructions import MISSING, instructions
from benchmarks.report import as_rst

ROOT = Path(__file__).parent.parent


@pytest.mark.heavy
def test_instructions_are_counted_for_jobs_and_requests() -> None:
    """Each row has a count; a bare task and an empty middleware are the baseline."""
    if shutil.which("valgrind") is None:
        why = "needs valgrind, from Debian's package of that name"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "instructions"]
    ran = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=600, check=True
    )
    rows = [
        line.replace(",", "").split()
        for line in ran.stdout.splitlines()
        if line.startswith(("job that", "request, handler that"))
    ]
    assert len(rows) == 24
    # The count is the first cell of a row that is a number of more than two digits.
    counts = [next(int(cell) for cell in row if len(cell) > 4 and cell.isdigit())
              for row in rows]  # fmt: skip
    assert all(10_000 < count < 10_000_000 for count in counts)
    assert sum(row[-1] == "1.000" for row in rows) == 2 + 6


@pytest.mark.heavy
def test_what_durable_jobs_cost_is_measured() -> None:
    """Compared with Huey's and a plain loop; 100 callers share waits for the disk."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--only"]
    ran = subprocess.run(
        [*command, "enqueued", "worked off"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    for row in ("Huey's SqliteHuey", "aiohttp_jobs, 100 callers", "limit=10 "):
        assert f"\n{row}" in ran.stdout
    shared = "Jobs that share one wait for the disk, 100 callers"
    assert re.search(rf"{shared} .* met\n", ran.stdout)


def test_valgrind_is_missing_the_table_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other benchmarks and the documentation do not need valgrind."""
    monkeypatch.setenv("PATH", "")
    assert MISSING in as_rst([instructions()], "command: environment")
