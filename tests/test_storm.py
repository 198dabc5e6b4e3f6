"""Small storms, over aiohttp's own server and another one that changes from run to run;
``make storm`` runs large ones over all of them."""

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

REQUESTS, CONNECTIONS = 1_000, 200


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chance = random.Random(metafunc.config.getoption("seed"))
    missing = {Server.UVLOOP} if is_missing("uvloop") else set()
    others = [kind for kind in Server if kind not in {Server.AIOHTTP, *missing}]
    metafunc.parametrize("server", [Server.AIOHTTP, chance.choice(others)])


def test_clients_hang_up_and_server_is_stopped_nothing_is_lost(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """W4, R2, E0: atomic handlers and accepted jobs end or are named, failures are
    reported once, and the process ends in time."""
    storm = Storm(server, request.config.getoption("seed"), REQUESTS, CONNECTIONS)
    verdict = asyncio.run(storm.run(tmp_path))
    assert not verdict.faults, "\n".join((storm.command, *verdict.faults))
    # The storm was a real one.
    figures = verdict.figures
    assert figures["clients that hung up"] > REQUESTS / 4, storm.command
    for name in (
        "broken bodies",
        "slow clients",
        "plain handlers stopped half-way",
        "jobs cancelled by the close",
        "jobs never started",
        "failures told",
    ):
        assert figures[name], f"{storm.command}\nno {name}"
