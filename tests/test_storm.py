"""Storms over every server, small ones; ``make storm`` runs large ones."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from tests.loops import is_missing
from tests.storm.run import Server, Storm

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        sys.platform == "win32",
        reason="the server inherits its socket, and is sent SIGTERM",
    ),
]

REQUESTS, CONNECTIONS = 2_000, 200


@pytest.mark.parametrize("server", list(Server))
def test_clients_hang_up_and_server_is_stopped_nothing_is_lost(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """W4, R2, E0: atomic handlers and accepted jobs end or are named, failures are told
    once, and the process ends in time."""
    if server is Server.UVLOOP and (why := is_missing("uvloop")):
        pytest.skip(why)
    seed = request.config.getoption("seed")
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    storm = Storm(server, seed, REQUESTS, CONNECTIONS)
    verdict = asyncio.run(storm.run(tmp_path))
    assert not verdict.faults, "\n".join((storm.command, *verdict.faults))
    # It was a storm.
    figures = verdict.figures
    assert figures["clients that hung up"] > REQUESTS / 4, storm.command
    for name in (
        "broken bodies",
        "slow clients",
        "plain handlers stopped half-way",
        "jobs let go",
        "jobs cancelled by the close",
        "jobs never started",
        "failures told",
    ):
        assert figures[name], f"{storm.command}\nno {name}"
