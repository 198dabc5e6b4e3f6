"""Schedules: their ticks, clocks that are put forward and back, and what is refused."""

from __future__ import annotations

import itertools
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiohttp_jobs import cron, every

MADRID = ZoneInfo("Europe/Madrid")
MOMENTS = st.floats(0, 4e9)


def at(text: str, fold: int = 0) -> float:
    """Return the moment at which a clock in Madrid shows this."""
    return datetime.fromisoformat(text).replace(tzinfo=MADRID, fold=fold).timestamp()


def shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, MADRID).isoformat(timespec="minutes")


# -- every ------------------------------------------------------------------------------


def test_ticks_of_every_are_whole_multiples_since_the_epoch() -> None:
    """They do not depend on when a process was started."""
    assert every(3600).next_after(7199.5) == 7200


def test_tick_is_not_its_own_next_one() -> None:
    """The next tick is later."""
    assert every(3600).next_after(7200) == 10800


@given(st.floats(1e-2, 1e7), MOMENTS)
def test_no_tick_of_every_is_lost_or_comes_twice(seconds: float, moment: float) -> None:
    """Despite rounding, each multiple is a tick once."""
    schedule = every(seconds)
    first = schedule.next_after(moment)
    assert first > moment
    count = round(first / seconds)
    assert first == count * seconds
    assert (count - 1) * seconds <= moment
    assert schedule.next_after(first) == (count + 1) * seconds


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_every_refuses_what_is_no_distance(seconds: float) -> None:
    """With a sentence that shows it."""
    with pytest.raises(ValueError, match=r"every\(\) takes more than 0 seconds"):
        every(seconds)


@pytest.mark.parametrize("seconds", ["60", True, None])
def test_every_refuses_what_is_no_number(seconds: object) -> None:
    """Even True, which Python takes for one."""
    with pytest.raises(TypeError, match=r"every\(\) takes a number of seconds"):
        every(seconds)  # type: ignore[arg-type]


# -- cron -------------------------------------------------------------------------------


def test_cron_follows_the_clock_of_its_time_zone() -> None:
    """Seven in the morning is at another UTC time in winter than in summer."""
    schedule = cron("0 7 * * 1-5", tz="Europe/Madrid")
    for day in ("2026-01-16", "2026-07-17"):  # Fridays
        friday = schedule.next_after(at(f"{day}T03:00"))
        monday = schedule.next_after(friday)
        assert shown(friday)[:16] == f"{day}T07:00"
        assert monday - friday == 3 * 86400


def test_cron_is_utc_unless_told() -> None:
    """The machine's own time zone plays no part."""
    assert cron("0 7 * * *").next_after(0) == 7 * 3600
    assert cron("0 7 * * *") == cron("0 7 * * *", tz="UTC")


def test_tick_in_the_hour_that_is_left_out_comes_after_it() -> None:
    """The clocks went from 02:00 to 03:00; the day has its tick all the same."""
    schedule = cron("30 2 * * *", tz="Europe/Madrid")
    tick = schedule.next_after(at("2026-03-29T00:00"))
    assert shown(tick) == "2026-03-29T03:00+02:00"
    assert shown(schedule.next_after(tick)) == "2026-03-30T02:30+02:00"


def test_tick_in_the_hour_that_comes_twice_comes_once() -> None:
    """The clocks went back from 03:00 to 02:00; asked in between, the schedule says the
    next day."""
    schedule = cron("30 2 * * *", tz="Europe/Madrid")
    tick = schedule.next_after(at("2026-10-25T00:00"))
    assert shown(tick) == "2026-10-25T02:30+02:00"
    for moment in (tick, at("2026-10-25T02:10", fold=1), at("2026-10-25T02:50", fold=1)):
        assert shown(schedule.next_after(moment)) == "2026-10-26T02:30+01:00"


def test_each_quarter_of_an_hour_that_comes_twice_has_its_tick() -> None:
    """A schedule by interval, and not by time of day, loses no tick."""
    schedule = cron("*/15 * * * *", tz="Europe/Madrid")
    tick = at("2026-10-25T01:50")
    for _ in range(12):
        tick, before = schedule.next_after(tick), tick
        assert tick - before in (900, 600)


@given(
    MOMENTS, st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 1 * 1", "5 * * * * *"])
)
def test_ticks_do_not_depend_on_who_asks(moment: float, expression: str) -> None:
    """At any moment between two ticks, the next tick is the same."""
    schedule = cron(expression, tz="Europe/Madrid")
    tick = schedule.next_after(moment)
    assert tick > moment
    between = (moment + tick) / 2
    assert between == tick or schedule.next_after(between) == tick


@pytest.mark.parametrize(
    "expression", ["", "* * *", "61 * * * *", "every day", "*  * * * x"]
)
def test_cron_refuses_what_it_cannot_read(expression: str) -> None:
    """At the call, with the expression in the sentence."""
    with pytest.raises(ValueError, match="takes five fields") as raised:
        cron(expression)
    assert repr(expression) in str(raised.value)


def test_cron_refuses_what_never_comes_true() -> None:
    """The wait for a 30th of February would never end."""
    with pytest.raises(ValueError, match="30 2"):
        cron("0 0 30 2 *")


@pytest.mark.parametrize("tz", ["Europe/Madird", "", "Europe", "../etc/passwd", "\0"])
def test_cron_refuses_a_time_zone_that_is_none(tz: str) -> None:
    """With a sentence that shows it."""
    with pytest.raises(ValueError, match="takes the name of a time zone"):
        cron("0 7 * * *", tz=tz)


@pytest.mark.parametrize("arguments", [{"expression": 7}, {"tz": MADRID}])
def test_cron_takes_strings(arguments: dict[str, object]) -> None:
    """A tzinfo could be neither shown nor compared."""
    given: dict[str, object] = {"expression": "0 7 * * *", **arguments}
    with pytest.raises(TypeError, match=f"takes a str as {next(iter(arguments))}"):
        cron(**given)  # type: ignore[arg-type]


def test_cron_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only cron() needs the package."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    assert every(60).next_after(0) == 60
    with pytest.raises(ModuleNotFoundError, match=r"install aiohttp-jobs\[cron\]"):
        cron("0 7 * * *")


# -- both -------------------------------------------------------------------------------


def test_schedules_are_equal_when_their_ticks_are() -> None:
    """They may be keys of a dict, and are immutable."""
    schedules = [every(60), every(61), cron("* * * * *"), cron("* * * * *", tz="CET")]
    for one, other in itertools.product(schedules, repeat=2):
        assert (one == other) is (one is other)
    assert every(60) == every(60.0)
    assert hash(every(60)) == hash(every(60.0))
    with pytest.raises(AttributeError):
        every(60).seconds = 61  # type: ignore[misc]


@pytest.mark.parametrize(
    "schedule", [every(3600), every(0.5), cron("0 7 * * 1-5", tz="Europe/Madrid")]
)
def test_schedule_shows_how_it_was_made(schedule: object) -> None:
    """Its repr evaluates to an equal schedule."""
    assert eval(repr(schedule)) == schedule
