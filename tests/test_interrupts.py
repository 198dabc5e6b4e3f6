"""KeyboardInterrupt at each line of the core (rules R6, R10); tests/ctrl_c raises it.

This is a sample; ``make interrupts`` tries every line, also at later times that it runs,
on every kind of loop. Some lines are left out: see `Place.is_out_of_reach`.
"""

from __future__ import annotations

import random
import sys

import pytest

from tests.ctrl_c.press import ON, Scenario, places_of, press
from tests.ctrl_c.scenarios import SCENARIOS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a timer's signal")

# How many places to try of each scenario, on plain asyncio and on another kind of loop.
SAMPLE, ELSEWHERE = 40, 20


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_interrupt_at_any_line_the_books_are_closed(
    scenario: Scenario,
) -> None:
    """R10, R6: the slots are free, waiters are told, and every later call ends."""
    chance = random.Random(scenario.__name__)
    for kind, most in (("asyncio", SAMPLE), (chance.choice(ON), ELSEWHERE)):
        places = places_of(scenario, kind, times=2)
        places = [place for place in places if not place.is_out_of_reach]
        sample = chance.sample(places, min(most, len(places)))
        wrong = [finding for place in sample if (finding := press(scenario, kind, place))]
        if wrong:
            count = f"on {kind} {len(wrong)} of {len(sample)} places leave wrong books:"
            whole = f"python -m tests.ctrl_c --loop '{kind}' {scenario.__name__}"
            lines = (count, *map(str, wrong), f"for all of them: {whole}")
            pytest.fail("\n".join(lines), pytrace=False)
