"""Durable jobs under kill -9, at random moments and at each single place.

This is a small part of ``python -m tests.crash``, which tries everything.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.kills import kill_at_random
from tests.crash.points import POINTS
from tests.crash.power import cut_power
from tests.crash.scenarios import can_trace, die_in_syscalls, die_once, stop_too_soon
from tests.processes import needs_signals

pytestmark = [needs_signals, pytest.mark.heavy]


@pytest.mark.parametrize("point", POINTS)
def test_death_at_each_place_loses_nothing(tmp_path: Path, point: str) -> None:
    """Accepted jobs end; and only jobs that ran in the dead process are run again."""
    verdict = die_once(tmp_path, point)
    assert verdict.accepted >= 120
    assert verdict.faults == []
    assert verdict.left == 0


@pytest.mark.parametrize("processes", [1, 3])
def test_kills_at_random_moments_lose_nothing(tmp_path: Path, processes: int) -> None:
    """One process is killed, or several on one file."""
    verdict = kill_at_random(tmp_path, processes=processes, kills=6, jobs=600, seed=7)
    assert verdict.accepted >= 600
    assert verdict.faults == []
    assert verdict.left == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_drain_that_is_too_short_loses_nothing(tmp_path: Path, processes: int) -> None:
    """The process gets SIGTERM, as in a deployment."""
    verdict = stop_too_soon(tmp_path, processes)
    assert verdict.accepted > 0
    assert verdict.faults == []
    assert verdict.left == 0


async def test_power_cut_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    """Jobs that have ended may run again, which at-least-once allows."""
    accepted, lost = await cut_power(tmp_path, 60, 7)
    assert accepted > 60
    assert lost == []


@pytest.mark.skipif(not can_trace(), reason="strace is not here, or may not trace")
@pytest.mark.parametrize("name", ["pwrite64", "fdatasync"])
def test_death_in_the_middle_of_a_transaction_loses_nothing(
    tmp_path: Path, name: str
) -> None:
    """At some of the system calls that write; `make crash` tries each of them."""
    count, faults = die_in_syscalls(tmp_path, name, step=29 if name == "pwrite64" else 5)
    assert count > 0
    assert faults == []
