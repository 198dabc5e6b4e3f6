"""One process tells another what has changed, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiohttp_jobs import Scheduler
from aiohttp_jobs.dashboard import pieces as module
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.dashboard.part import Look, Part, look, part
from aiohttp_jobs.dashboard.pieces import Heard, Teller
from aiohttp_jobs.dashboard.query import Query
from aiohttp_jobs.dashboard.rows import Clock, Rows
from tests.test_dashboard_data import observed
from tests.work import fail, nothing


class Owner:
    """A process, and the pieces that it sends."""

    def __init__(self) -> None:
        self.scheduler: Scheduler
        self.history: History
        self.scheduler, self.history = observed()
        self.teller = Teller()
        self.rows = Rows()

    def now(self, query: Query) -> tuple[Part, Look]:
        clock, scheduler, history = Clock(), self.scheduler, self.history
        self.rows.begin(1, clock)
        seen = look(scheduler, history, clock, query, False, self.rows)
        return part(scheduler, history, clock, False), seen

    def tell(self, heard: Heard, *queries: Query) -> Any:
        looks = {str(query): self.now(query)[1] for query in queries}
        told = self.teller.tell(self.now(Query())[0], looks, heard.known())
        return json.loads(json.dumps(told))

    async def run(self, coro: Any) -> None:
        await self.scheduler.spawn(coro)
        await self.scheduler.drain()


def names(told: Any) -> set[str]:
    return {name.split()[0] for name in told["pieces"]}


async def test_only_what_has_changed_is_told_again() -> None:
    """And each time the pieces together make up all of it."""
    owner, heard = Owner(), Heard()
    for coro in (nothing(), fail()):
        await owner.run(coro)
    told = owner.tell(heard, Query())
    whole = {"periods", "coroutines", "kinds", "active", "pending", "recent"}
    assert names(told) == whole
    first = heard.hear(told).about("?")
    told = owner.tell(heard, Query())
    assert names(told) == set()
    assert heard.hear(told).about("?")[1] == first[1]
    for coro, changed in (
        (nothing(), {"coroutines", "recent"}),
        (fail(), {"coroutines", "recent", "kinds"}),
    ):
        await owner.run(coro)
        told = owner.tell(heard, Query())
        assert names(told) == changed
        common, seen = heard.hear(told).about("?")
        assert seen == owner.now(Query())[1]
        assert common["coroutines"] == owner.now(Query())[0]["coroutines"]
    owner.history.measure(owner.scheduler.statistics())
    assert names(owner.tell(heard, Query())) == {"periods"}
    await owner.scheduler.close()


async def test_another_one_and_another_question_get_the_whole() -> None:
    """Each asker and each query has pieces of its own."""
    owner, here, there = Owner(), Heard(), Heard()
    await owner.run(fail())
    here.hear(owner.tell(here, Query()))
    assert len(names(owner.tell(there, Query()))) == 6
    other = Query(name="fail")
    told = owner.tell(here, Query(), other)
    assert {name.partition(" ")[2] for name in told["pieces"]} == {str(other)}
    said = here.hear(told)
    assert said.about(str(other))[1]["kinds"] == said.about("?")[1]["kinds"]
    with pytest.raises(LookupError):
        said.about("?name=other")
    # Pieces of a query that is no longer asked are forgotten.
    here.hear(owner.tell(here, other))
    assert not any(name.endswith(" ?") for name in here.known())
    await owner.scheduler.close()


async def test_answer_that_is_lost_is_made_up_for() -> None:
    """The next answer has what was in it."""
    owner, heard = Owner(), Heard()
    heard.hear(owner.tell(heard, Query()))
    await owner.run(fail())
    owner.tell(heard, Query())
    told = owner.tell(heard, Query())
    assert names(told) == {"coroutines", "kinds", "recent"}
    assert heard.hear(told).about("?")[1] == owner.now(Query())[1]
    await owner.scheduler.close()


async def test_remembered_pieces_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that was forgotten is sent again."""
    monkeypatch.setattr(module, "MOST_PIECES", 8)
    owner, heard = Owner(), Heard()
    queries = [Query(search=str(number)) for number in range(9)]
    heard.hear(owner.tell(heard, queries[0]))
    for query in queries[1:]:
        owner.tell(Heard(), query)
    assert len(owner.teller._last) == 8
    told = owner.tell(heard, queries[0])
    assert {"kinds", "active", "pending", "recent"} <= names(told)
    heard.hear(told)
    await owner.scheduler.close()


async def test_nonsense_is_no_answer() -> None:
    """Nor is an answer that builds on pieces never sent."""
    owner, heard = Owner(), Heard()
    good = owner.tell(heard, Query())
    nonsense: list[Any] = [None, [], {}]
    for wrong in (*nonsense, {**good, "pieces": {}}, {**good, "numbers": 3}):
        with pytest.raises((LookupError, TypeError, AttributeError)):
            heard.hear(wrong)
    assert heard.known() == {}
    heard.hear(good)
    await owner.scheduler.close()
