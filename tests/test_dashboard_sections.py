"""A live page is sent in sections: each when, and only when, it shows something else."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import setup
from aiohttp_jobs.dashboard import Access, setup_dashboard, stream
from aiohttp_jobs.dashboard.access import Visitor
from aiohttp_jobs.dashboard.overview import put_together
from aiohttp_jobs.dashboard.pages import Pages
from aiohttp_jobs.dashboard.query import Query
from aiohttp_jobs.dashboard.sections import Kept, in_sections
from tests.dashboards import (
    Events,
    Start,
    get,
    make_app,
    manage,
    rows,
    scheduler_of,
    start,
)
from tests.test_dashboard_data import observed
from tests.test_dashboard_merged import close, voice
from tests.work import fail, nothing, wait_for

__all__ = ("start",)  # a fixture

NAMES = {
    *("process", "figures", "durable", "failures", "throughput", "run_times"),
    *("backlog", "coroutines", "workers", "active", "pending", "recent"),
}
STATES = {"active": "stopping", "succeeded": "cancelled"}

# -- what a stream sends ----------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let streams send as often as there is something new."""
    monkeypatch.setattr(stream, "PERIOD", 0.001)


def sections_of(event: dict[str, str]) -> set[str]:
    """Return the names of the sections in a snapshot."""
    ids = re.findall(r'id="(\w+)"', event["data"])
    names = {name for name in ids if name in NAMES}
    assert len([name for name in ids if name in NAMES]) == len(names)
    return names


def moment_of(event: dict[str, str]) -> float:
    (moment,) = re.findall(r'^<div data-at="([0-9.]+)">', event["data"])
    return float(moment)


@pytest.mark.usefixtures("quick")
async def test_stream_sends_what_has_changed(start: Start) -> None:
    """All sections at first. If nothing has changed, just the time: ages are counted from
    that, and proxies see a sign of life."""
    client = await start(make_app())
    await (await scheduler_of(client).spawn(nothing(), "before")).wait()
    # How long it has run is different at each look, and is not sent again for that.
    await scheduler_of(client).spawn(wait_for(asyncio.Event()), "runs")
    page = await get(client, "/jobs/")
    assert all(page.count(f'id="{name}"') == 1 for name in NAMES)
    async with asyncio.timeout(20), client.get("/jobs/live") as response:
        events = Events(response)
        await events.next()
        first = await events.next()
        assert sections_of(first) == NAMES
        second = await events.next()
        assert sections_of(second) == set()
        assert moment_of(second) > moment_of(first)
        job = await scheduler_of(client).spawn(wait_for(asyncio.Event()))
        third = await events.until("wait_for")
        assert {"active", "coroutines", "figures"} <= sections_of(third)
        assert "recent" not in sections_of(third)
        await job.close()
        fourth = await events.until("cancelled</span>")
        assert len(rows(fourth["data"], "recent")) == 2


def test_each_stream_gets_what_has_changed_since_its_last_snapshot() -> None:
    """Whenever the stream began, and however many snapshots it has missed."""
    shown = stream._Shown()
    for number, changed in ((1, ""), (4, "b"), (5, "c"), (7, "")):
        html = {name: name.upper() if name in changed else name for name in "abc"}
        shown.take(stream.Live(float(number), html), number, 0.0)
        expected = {0: html["a"] + html["b"] + html["c"], number: ""}
        for sent, seen in expected.items():
            event = f'id: {number}\ndata: <div data-at="{number}.0">{seen}</div>\n'
            assert event in shown.since(sent).decode(), (number, sent)
    assert b">bc</div>" in shown.since(4)  # b is as it was before 4, and c before 5
    assert b">c</div>" in shown.since(5)


# -- what is rendered -------------------------------------------------------------------


class NoCells(Kept):
    """Does not cache cells, which are otherwise kept as long as a job is the same."""

    def cell(self, macro: Any, key: Hashable, *arguments: Any) -> Any:
        return macro(*arguments)


async def overview_of(several: bool, in_trouble: bool) -> Any:
    """Return an overview with something everywhere, or one where nothing has happened."""
    processes = [observed(limit=1, pending_limit=0) for _ in range(2 if several else 1)]
    for scheduler, history in processes if in_trouble else ():
        await (await scheduler.spawn(nothing(), "done")).wait()
        with pytest.raises(Exception, match="boom"):
            await (await scheduler.spawn(fail())).wait()
        history.measure(scheduler.statistics())
        for name in ("runs", "waits"):
            await scheduler.spawn(wait_for(asyncio.Event()), name)
    voices = [voice(number, *each, Query()) for number, each in enumerate(processes)]
    if not several:
        voices = [voices[0]._replace(number=None)]
    dead: Any = {"number": 7, "trouble": "does not answer", "process": None, "now": None}
    told = put_together(voices, Query(), [dead] if several else [], ["A stranger"])
    await close(*processes)
    for table in ("active", "pending", "recent"):
        told[table]["beyond"] = 1
    # A copy without shared objects, so that a change affects one table only.
    return json.loads(json.dumps(told))


def changed(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield each inner value with a changed one in its place."""
    if isinstance(value, dict | list):
        if value and isinstance(value, list) and path[-1] != "latest":  # it never is
            yield path, []
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inside in pairs:
            for where, other in changed(inside, (*path, key)):
                copied = copy.copy(value)
                copied[key] = other
                yield where, copied
    elif path[-1] == "state":
        yield path, STATES.get(value, "failed")
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, int | float):
        yield path, value + 3600
    elif isinstance(value, str):
        yield path, value + "x"
    else:
        yield path, None


def without_times(html: str) -> str:
    """Return the page without times, which its script fills in itself."""
    return re.sub(r"(<span data-since=[^>]*>)[^<]*", r"\1", html)


@pytest.mark.parametrize("in_trouble", [False, True])
@pytest.mark.parametrize("several", [False, True])
async def test_whatever_is_shown_has_its_section_rendered_again(
    several: bool, in_trouble: bool
) -> None:
    """Each value of an overview changes in turn: rendering only changed sections gives
    the same as rendering everything."""
    app = web.Application()
    setup(app)
    pages = Pages(setup_dashboard(app, authorize=manage), "Jobs", None)
    told = await overview_of(several, in_trouble)

    def render(told: Any, kept: Kept) -> dict[str, str]:
        context = {**told, "query": Query(), "durable": None}
        visitor, links = Visitor(Access.MANAGE, None, ""), pages.links("overview")
        shown = in_sections(told, None)
        html = pages.sections("overview_live.html", visitor, links, context, kept, shown)
        assert html.keys() == NAMES
        return {name: without_times(text) for name, text in html.items()}

    before = render(told, NoCells())
    seen = set[str]()
    for where, other in changed(told):
        kept = NoCells()
        render(told, kept)
        after = render(other, kept)
        assert after == render(other, NoCells()), where
        seen |= {name for name in NAMES if after[name] != before[name]}
    if in_trouble:
        assert seen == NAMES - {"durable"} - (set() if several else {"workers"})


async def test_last_jobs_of_a_kind_are_those_of_the_workers_that_answer() -> None:
    """Though another one answers now that has as many, and the last one is the same."""
    app = web.Application()
    setup(app)
    pages = Pages(setup_dashboard(app, authorize=manage), "Jobs", None)
    processes = [observed() for _ in range(3)]
    for scheduler, _ in reversed(processes):
        await scheduler.spawn(fail())
        await scheduler.drain()
    one, other, third = (
        voice(number, *each, Query()) for number, each in enumerate(processes)
    )
    visitor, links = Visitor(Access.READ, None, ""), pages.links("overview")
    kept = Kept()
    for voices in ([one, other], [one, third]):
        told = put_together(voices, Query())
        html = pages.sections(
            "overview_live.html",
            visitor,
            links,
            {**told, "query": Query(), "durable": None},
            kept,
            in_sections(told, None),
        )
        (kind,) = told["failures"]["kinds"]
        linked = re.findall(r'href="job/(\S+)" aria-label="Job', html["failures"])
        assert linked == [row["address"] for row in kind["latest"]]
    await close(*processes)


def test_durable_jobs_have_a_section_of_their_own() -> None:
    """And no other section shows them."""
    told: Any = {"workers": [], "now": {"hung_up": 0, "pending": 0}}
    fields = ("process", "points", "strangers", "failures", "coroutines", "active")
    told |= dict.fromkeys((*fields, "coroutines_total", "pending", "recent"))
    durable: Any = {"faults": ["The disk is full"]}
    before, after = in_sections(told, None), in_sections(told, durable)
    assert [name for name in NAMES if before[name] != after[name]] == ["durable"]


# -- what is kept -----------------------------------------------------------------------


class Macro:
    """Counts its calls."""

    name = "cell"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str = "") -> str:
        self.calls += 1
        return f"<{text}>"


def test_section_is_rendered_once_for_all_that_it_shows() -> None:
    """And again once it shows something else."""
    kept, macro = Kept(), Macro()
    for what, calls in (([1], 1), ([1], 1), ([2], 2), ([1], 3)):
        assert kept.section("a", what, macro) == "<>"
        assert macro.calls == calls
    kept.section("b", [1], macro)
    assert macro.calls == 4


def test_cell_is_made_once_for_each_key() -> None:
    """Even if its section was missing for a while; again if the cell was missing."""
    kept, macro = Kept(), Macro()

    def cells(*keys: str) -> str:
        return "".join(kept.cell(macro, key, key) for key in keys)

    for what, keys, calls in ((1, "ab", 2), (2, "ab", 2), (3, "a", 2), (4, "abc", 4)):
        kept.section("other", what, lambda keys=keys: cells(keys[0] * 2))  # type: ignore[misc]
        html = kept.section("table", what, lambda keys=keys: cells(*keys))  # type: ignore[misc]
        assert html == "".join(f"<{key}>" for key in keys)
        assert macro.calls == calls + 1


def test_what_is_another_is_made_anew() -> None:
    """Even if it has the same name."""
    kept, macro = Kept(), Macro()
    for what, calls in (([1], 1), ([1], 1), ([2], 2)):
        kept.same("chart", what, macro, "x")
        kept.same("chart", what, macro, "x")
        assert macro.calls == calls
