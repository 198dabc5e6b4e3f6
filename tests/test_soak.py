"""A short soak; ``make soak`` runs a long one."""

from __future__ import annotations

import asyncio

import pytest

from tests.soak import Soak
from tests.storm.ledger import Event

pytestmark = pytest.mark.heavy

SECONDS, IN_ROUND = 5, 100


def test_mixed_load_goes_on_nothing_grows(request: pytest.FixtureRequest) -> None:
    """L4: after each round of load the counts are zero and no job is kept; in the end
    memory is as before, and a handler without jobs is as quick as before."""
    soak = Soak(request.config.getoption("seed"), SECONDS, IN_ROUND)
    asyncio.run(soak.run())
    assert not soak.faults, "\n".join((soak.command, *soak.faults))
    # The load was a real one.
    assert soak.hung_up
    for event in (Event.ACCEPTED, Event.RAISED, Event.CANCELLED, Event.SWALLOWED):
        assert soak.events[event], f"{soak.command}\nnothing was {event}"
