"""The data of several processes, merged: sums, times and rows are right."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from aiohttp_jobs import Scheduler
from aiohttp_jobs.dashboard import data, history, overview, part
from aiohttp_jobs.dashboard.history import History, Period
from aiohttp_jobs.dashboard.overview import Voice, put_together
from aiohttp_jobs.dashboard.query import Query
from aiohttp_jobs.dashboard.rows import Clock
from aiohttp_jobs.dashboard.tallies import percentiles
from tests.test_dashboard_data import observed
from tests.work import fail, hang_up, nothing, wait_for


def voice(number: int, scheduler: Scheduler, past: History, query: Query) -> Voice:
    """Return the data of a process, as another one receives it."""
    clock = Clock()
    common = part.part(scheduler, past, clock, False)
    seen = part.look(scheduler, past, clock, query, False)
    common, seen = json.loads(json.dumps([common, seen]))
    return Voice(number, common, seen)


def together(
    *processes: tuple[Scheduler, History], query: Query | None = None
) -> data.Overview:
    query = query or Query()
    voices = [voice(number, *each, query) for number, each in enumerate(processes)]
    return put_together(voices, query)


async def close(*processes: tuple[Scheduler, History]) -> None:
    for scheduler, _ in processes:
        await scheduler.close()


async def test_figures_are_sums_or_the_longest() -> None:
    """And the limit is None if any of them is."""
    processes = [observed(limit=limit) for limit in (1, 2, None)]
    go = asyncio.Event()
    for count, (scheduler, _) in enumerate(processes):
        for _ in range(count + 2):
            await scheduler.spawn(wait_for(go))
        await scheduler.spawn(fail())
    two, three = together(*processes[:2]), together(*processes)
    assert (two["now"]["limit"], three["now"]["limit"]) == (3, None)
    for told in (two, three):
        number = len(told["workers"])
        parts = [together(each) for each in processes[:number]]
        for field in ("active", "pending", "ended", "failed", "slots_taken"):
            values: list[Any] = [each["now"][field] for each in parts]
            assert told["now"][field] == sum(values)
            if field in ("active", "pending", "ended", "failed"):
                rows: Any = told["coroutines"]
                assert sum(row[field] for row in rows) == sum(values)
        for table in ("active", "pending", "recent"):
            totals: list[Any] = [each[table] for each in parts]
            whole: Any = told[table]
            assert whole["total"] == sum(each["total"] for each in totals)
        for since, longest in (
            ("waiting_since", "longest_waiting"),
            ("running_since", "longest_running"),
        ):
            figures: list[Any] = [each["now"] for each in parts]
            all_since, now = [each[since] for each in figures], cast("Any", told["now"])
            assert now[since] == min(moment for moment in all_since if moment)
            assert now[longest] == pytest.approx(told["at"] - now[since], abs=0.002)
    go.set()
    await close(*processes)


async def test_nothing_waits_or_runs_for_less_than_no_time() -> None:
    """Though another worker's clock is some milliseconds ahead."""
    processes = [observed(limit=1) for _ in range(2)]
    one, other = (voice(number, *each, Query()) for number, each in enumerate(processes))
    ahead = one.part["at"] + 0.009
    other.part["now"].update({"running_since": ahead, "waiting_since": ahead})
    now = put_together([one, other], Query())["now"]
    assert (now["running_since"], now["longest_running"]) == (ahead, 0.0)
    assert (now["waiting_since"], now["longest_waiting"]) == (ahead, 0.0)
    await close(*processes)


async def test_percentiles_are_those_of_all_runs() -> None:
    """Not the mean of medians: with a thousand quick runs here and a slow one there, the
    slow one is less than one in ten."""
    processes = [observed(), observed(), observed()]
    times = [[0.1] * 180, [0.5, 0.6, 7.25], []]
    for (_, past), ran in zip(processes, times, strict=True):
        tally = past.tallies.of("report")
        for time in ran:
            tally.add_ended([time])
    (row,) = together(*processes)["coroutines"]
    assert (row["p50"], row["p90"]) == percentiles(times[0] + times[1]) == (0.1, 0.1)
    (row,) = together(*processes[1:])["coroutines"]
    assert (row["p50"], row["p90"]) == (0.6, 7.25)
    (row,) = together(*processes[2:])["coroutines"]
    assert (row["p50"], row["p90"]) == (None, None)


def period(number: int, *times: float, **fields: Any) -> Period:
    p50, p90 = percentiles(times)
    empty: Any = dict.fromkeys(data.Point.__annotations__, 0)
    point = {**empty, "succeeded": len(times), "p50": p50, "p90": p90, **fields}
    return Period(number, point, history._counted(times))  # type: ignore[arg-type]


def test_points_are_put_together_by_their_time() -> None:
    """One process missed a period, another began late; run times are those of all."""
    first = [period(1, 1.0), period(2, *[0.1] * 9), period(4, pending=3, waited=2.0)]
    second = [period(2, 5.0), period(3, 2.0), period(4, pending=4, waited=9.0)]
    points = overview.side_by_side([first, second])
    assert [point["succeeded"] for point in points] == [1, 10, 1, 0]
    one, merged, _, last = points
    assert (one["p50"], one["p90"]) == (1.0, 1.0)
    assert merged["p50"] == pytest.approx(0.1, rel=0.025)
    assert merged["p90"] == pytest.approx(5.0, rel=0.025)
    assert (last["pending"], last["waited"]) == (7, 9.0)
    # A point that only one process has sent so far waits for the other one.
    assert len(overview.side_by_side([[*first, period(5)], second])) == 4
    assert len(overview.side_by_side([[*first, period(5)], [*second, period(5)]])) == 5
    # But for no longer than that.
    assert len(overview.side_by_side([[*first, period(5), period(6)], second])) == 6
    assert overview.side_by_side([[], second]) == [each.point for each in second]


async def test_failures_of_one_kind_are_grouped() -> None:
    """Their counts are added; the latest ones are those of all processes, in order."""
    processes = [observed(), observed()]
    for _ in range(4):
        for scheduler, _ in processes:
            await scheduler.spawn(fail())
            await scheduler.drain()
    await processes[1][0].spawn(hang_up())
    (kind,) = together(*processes)["failures"]["kinds"]
    assert (kind["count"], len(kind["latest"])) == (8, 5)
    ended = [row["ended"] or 0 for row in kind["latest"]]
    assert ended == sorted(ended, reverse=True)
    assert {kind["first"], kind["last"]} >= {max(ended)}
    (alone,) = together(processes[0])["failures"]["kinds"]
    assert alone["id"] == kind["id"]
    (row,) = together(*processes)["coroutines"][:1]
    assert row["last_failed"] == kind["latest"][0]["address"]
    await close(*processes)


async def test_pages_go_over_the_rows_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest first; no row comes twice and none is missing, whichever process has it."""
    monkeypatch.setattr(part, "PAGE", 4)
    monkeypatch.setattr(overview, "PAGE", 4)
    processes = [observed(), observed(), observed()]
    go = asyncio.Event()
    jobs = [
        await processes[number][0].spawn(wait_for(go))
        for number in (0, 0, 0, 0, 0, 1, 0, 2, 1, 1)
    ]
    seen: list[int] = []
    for page in (1, 2, 3):
        table = together(*processes, query=Query(active=page))["active"]
        assert (table["page"], table["pages"], table["count"]) == (page, 3, 10)
        seen += [row["id"] for row in table["rows"]]
    # Rows of the same millisecond may be in any order, but in the same on each page.
    assert sorted(seen) == [job.id for job in jobs]
    beyond = together(*processes, query=Query(active=9))["active"]
    assert (beyond["page"], [row["id"] for row in beyond["rows"]]) == (3, seen[8:])
    go.set()
    await close(*processes)


async def test_recent_ones_are_sorted_over_all() -> None:
    """By end, by run time or by waiting time."""
    processes = [observed(limit=1), observed(limit=1)]
    for _ in range(6):
        for scheduler, _ in processes:
            await scheduler.spawn(nothing())
    for scheduler, _ in processes:
        await scheduler.drain()
    for sort, key in part.ORDERS.items():
        if sort in ("active", "pending"):
            continue
        rows = together(*processes, query=Query(sort=sort))["recent"]["rows"]
        assert len(rows) == 12
        assert rows == sorted(rows, key=key)
    await close(*processes)
