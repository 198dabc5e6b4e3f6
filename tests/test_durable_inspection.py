"""Questions of people and metrics to a store: seldom, one at a time, with short waits."""

from __future__ import annotations

import asyncio

import pytest

from aiohttp_jobs.durable import (
    Inspectable,
    Place,
    StoreUnavailable,
)
from aiohttp_jobs.durable import inspection as inspection_module
from aiohttp_jobs.durable.inspection import Inspection
from tests.envelopes import MemoryStore
from tests.glass import NOTHING, VARIABLE, Glass
from tests.loops import later


@pytest.fixture
def store() -> Glass:
    return Glass()


@pytest.fixture
def inspection(store: Glass) -> Inspection:
    assert isinstance(store, Inspectable)
    return Inspection(store, lambda: None)


async def test_question_is_put_once_a_second(
    store: Glass, inspection: Inspection
) -> None:
    """Callers that ask meanwhile get the same answer."""
    VARIABLE.set("somebody's")
    for _ in range(3):
        answers = await asyncio.gather(*(inspection.statistics() for _ in range(20)))
        assert set(answers) == {NOTHING}
    assert store.asked == ["statistics"]
    await later(inspection_module.PERIOD)
    await inspection.statistics()
    assert store.asked == ["statistics"] * 2
    assert store.seen == {"nobody's"}


@pytest.mark.parametrize(("takes", "rests"), [(0.01, 1), (0.3, 6), (0.9, 10)])
async def test_store_that_takes_long_is_asked_less_often(
    store: Glass, inspection: Inspection, takes: float, rests: float
) -> None:
    """So it is idle most of the time; but figures are never minutes old."""
    store.go.clear()
    asking = asyncio.ensure_future(inspection.statistics())
    await later(takes)
    store.go.set()
    await asking
    await later(rests - 0.1)
    await inspection.statistics()
    assert len(store.asked) == 1
    await later(0.2)
    await inspection.statistics()
    assert len(store.asked) == 2


async def test_one_question_is_put_at_a_time(
    store: Glass, inspection: Inspection
) -> None:
    """So a store that hangs occupies only one thread."""
    await asyncio.gather(
        inspection.statistics(),
        *(inspection.jobs(place, 25, 50) for place in Place),
        inspection.find_dead("7f"),
    )
    assert sorted(store.asked) == sorted(
        [
            *("statistics", "waiting 25 50", "delayed 25 50", "running 25 50"),
            *("dead 25 50", "7f"),
        ]
    )
    assert store.most_at_once == 1


async def test_store_that_hangs_is_not_waited_for(
    store: Glass, inspection: Inspection
) -> None:
    """The first caller waits a second; others do not wait until it has answered."""
    loop, begin = asyncio.get_running_loop(), 0.0
    store.go.clear()
    for waits in (inspection_module.PATIENCE, 0, 0):
        begin = loop.time()
        with pytest.raises(StoreUnavailable, match="not answered within 1 s"):
            await inspection.statistics()
        assert loop.time() - begin == pytest.approx(waits, abs=0.01)
        await later(10)
    assert store.asked == ["statistics"]
    store.go.set()
    await later(1)
    assert await inspection.statistics() == NOTHING


async def test_store_that_hangs_gives_no_old_answer(
    store: Glass, inspection: Inspection
) -> None:
    """The old answer may be wrong by now."""
    assert await inspection.statistics() == NOTHING
    store.go.clear()
    await later(5)
    with pytest.raises(StoreUnavailable, match="not answered"):
        await inspection.statistics()
    await inspection.stop()
    assert store.at_once == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (StoreUnavailable("the file x is full"), "the file x is full"),
        (ZeroDivisionError("no"), "ZeroDivisionError: no"),
    ],
)
async def test_whatever_the_store_raises_it_is_unavailable(
    store: Glass, inspection: Inspection, fault: Exception, says: str
) -> None:
    """It is asked again after a second."""
    store.fault = fault
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await inspection.statistics()
        assert caught.value.args == (says,)
    assert store.asked == ["statistics"]
    with pytest.raises(StoreUnavailable):
        await inspection.drop_dead()
    store.fault = None
    await later(1)
    assert await inspection.statistics() == NOTHING


async def test_store_that_is_not_open_is_not_asked(store: Glass) -> None:
    """The question is refused, and never reaches the store."""

    def check() -> None:
        raise StoreUnavailable("not yet")

    inspection = Inspection(store, check)
    with pytest.raises(StoreUnavailable, match="not yet"):
        await inspection.statistics()
    with pytest.raises(StoreUnavailable, match="not yet"):
        await inspection.retry_dead()
    assert store.asked == []


async def test_store_that_cannot_be_looked_into_says_so() -> None:
    """For example the store of a broker."""
    inspection = Inspection(MemoryStore(), lambda: None)
    assert not inspection.is_possible
    with pytest.raises(StoreUnavailable, match="MemoryStore does not tell"):
        await inspection.statistics()


async def test_change_is_seen_at_once(store: Glass, inspection: Inspection) -> None:
    """Visitors do not see a job that they have just dropped."""
    await inspection.statistics()
    assert await inspection.retry_dead(["7f"]) == 2
    assert await inspection.drop_dead(until=5.0) == 3
    await inspection.statistics()
    assert store.asked == [
        *("statistics", "retry ['7f'] None", "drop None 5.0", "statistics"),
    ]


async def test_change_that_hangs_is_said_to(store: Glass, inspection: Inspection) -> None:
    """The change may or may not happen."""
    store.go.clear()
    with pytest.raises(StoreUnavailable, match="10 s: check later how much"):
        await inspection.drop_dead()


async def test_answers_do_not_pile_up(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages are visited."""
    for number in range(200):
        await inspection.find_dead(str(number))
    assert len(inspection._answers) == inspection_module.MOST
    assert inspection._asked == {}
