"""Overview: what the first page shows, put together from the parts of the processes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from aiohttp_jobs.core.scheduler import Scheduler

from . import data
from .history import PERIOD, POINTS, History, Period, read_periods, times_in
from .kinds import MOST_OF_KIND
from .part import (
    FEW_KINDS,
    LOOKED_AT,
    ORDERS,
    PAGE,
    Coroutine,
    KindPart,
    Look,
    Part,
    Table,
    ended_in,
    look,
    part,
)
from .query import Query
from .rows import Clock, job_row, process, record_row
from .tallies import percentiles, percentiles_of

__all__ = (
    "LOOKED_AT",
    "Clock",
    "Voice",
    "ended_in",
    "job_row",
    "overview",
    "process",
    "put_together",
    "record_row",
    "side_by_side",
)

# How many coroutines to show unless all are wanted.
FEW: Final = 8


class Voice(NamedTuple):
    """One process: its number if there may be several, and what it says."""

    number: int | None
    part: Part
    look: Look


def overview(scheduler: Scheduler, history: History, query: Query) -> data.Overview:
    """Return what the first page of one process shows just now."""
    clock = Clock()
    alone = Voice(
        None,
        part(scheduler, history, clock, True),
        look(scheduler, history, clock, query, True),
    )
    return put_together([alone], query)


def put_together(
    voices: Sequence[Voice],
    query: Query,
    silent: Iterable[data.Worker] = (),
    strangers: Sequence[str] = (),
) -> data.Overview:
    """Return what the first page shows of several processes.

    Args:
        voices: the processes that have answered, this one first.
        silent: those that have not.
        strangers: sentences on what else is in the directory.
    """
    parts = [voice.part for voice in voices]
    looks = [voice.look for voice in voices]
    coroutines = _coroutines(parts)
    workers: list[data.Worker] = [
        {
            "number": voice.number,
            "trouble": "",
            "process": voice.part["process"],
            "now": voice.part["now"],
        }
        for voice in voices
        if voice.number is not None
    ]
    return {
        "version": data.VERSION,
        "at": parts[0]["at"],
        "process": parts[0]["process"],
        "workers": sorted([*workers, *silent], key=lambda worker: worker["number"]),
        "strangers": [*strangers],
        "now": _sum([each["now"] for each in parts], parts[0]["at"]),
        "period": PERIOD,
        "points": _points(parts),
        "failures": _failures(looks, query),
        "coroutines": _shown(coroutines, parts, query),
        "coroutines_total": len(coroutines),
        "active": _table([each["active"] for each in looks], query.active, "active"),
        "pending": _table([each["pending"] for each in looks], query.pending, "pending"),
        "recent": _table([each["recent"] for each in looks], query.recent, query.sort),
    }


# -- figures ----------------------------------------------------------------------------

# There is no limit if one process has none; of waiting and running times the longest
# counts.
_LIMITS: Final = ("limit", "pending_limit")
_SINCE: Final = ("running_since", "waiting_since")
_LONGEST: Final = {f"longest_{since.removesuffix('_since')}": since for since in _SINCE}


def _sum(figures: Sequence[data.Figures], at: float) -> data.Figures:
    if len(figures) == 1:
        return figures[0]
    told: Any = {}
    for field in figures[0]:
        values: list[Any] = [each[field] for each in figures]  # type: ignore[literal-required]
        if field in _SINCE:
            told[field] = min((v for v in values if v is not None), default=None)
        elif field in _LONGEST:
            # As of now: what the others said is up to a second old. Their clocks may be
            # some milliseconds ahead.
            since = told[_LONGEST[field]]
            told[field] = 0.0 if since is None else max(0.0, at - since)
        elif field in _LIMITS and None in values:
            told[field] = None
        else:
            told[field] = sum(values)
    summed: data.Figures = told
    return summed


def _points(parts: Sequence[Part]) -> list[data.Point]:
    if not parts[0]["periods"]:
        return parts[0]["points"]
    return [*_put_together(tuple(each["periods"] for each in parts))]


@functools.lru_cache(maxsize=8)  # the texts stay the same for some seconds
def _put_together(texts: tuple[str, ...]) -> list[data.Point]:
    return side_by_side([read_periods(text) for text in texts])


def side_by_side(parts: Sequence[Sequence[Period]]) -> list[data.Point]:
    """Put the periods of several processes together, by their time."""
    parts = [periods for periods in parts if periods]
    if not parts:
        return []
    by_number: dict[int, list[Period]] = {}
    for periods in parts:
        for period in periods:
            by_number.setdefault(period.number, []).append(period)
    # A period that some have not told yet is shown when all have.
    last = max(by_number)
    if any(periods[-1].number == last - 1 for periods in parts):
        del by_number[last]
    return [_point(tuple(by_number[each])) for each in sorted(by_number)[-POINTS:]]


@functools.lru_cache(maxsize=500)  # all but one are the same for minutes
def _point(periods: tuple[Period, ...]) -> data.Point:
    if len(periods) == 1:
        return periods[0].point
    points = [period.point for period in periods]
    ran = [period for period in periods if period.times]
    p50, p90 = (
        (ran[0].point["p50"], ran[0].point["p90"])
        if len(ran) == 1
        else percentiles(times_in(period.times for period in ran))
    )
    return {
        "succeeded": sum(point["succeeded"] for point in points),
        "failed": sum(point["failed"] for point in points),
        "cancelled": sum(point["cancelled"] for point in points),
        "hung_up": sum(point["hung_up"] for point in points),
        "p50": p50,
        "p90": p90,
        "pending": sum(point["pending"] for point in points),
        "waited": max(point["waited"] for point in points),
    }


# -- failures ---------------------------------------------------------------------------


def _failures(looks: Sequence[Look], query: Query) -> data.Failures:
    kinds: dict[tuple[str, str], list[KindPart]] = {}
    for each in looks:
        for kind in each["kinds"]:
            kinds.setdefault((kind["type"], kind["place"]), []).append(kind)
    told = sorted(kinds.values(), key=_last, reverse=True)
    few = told if query.failures == "all" else told[:FEW_KINDS]
    # In an order that stays the same while they occur.
    few.sort(key=_first, reverse=True)
    return {
        "kinds": [_kind(same) for same in few],
        "total": len(told),
        "forgotten": sum(each["forgotten"] for each in looks),
    }


def _first(same: Sequence[KindPart]) -> float:
    return min(kind["first"] for kind in same)


def _last(same: Sequence[KindPart]) -> float:
    return max(kind["last"] for kind in same)


def _kind(same: Sequence[KindPart]) -> data.Kind:
    latest = [row for kind in same for row in kind["latest"]]
    if len(same) > 1:
        latest.sort(key=ORDERS[""])
    name = f"{same[0]['type']}\n{same[0]['place']}".encode(errors="surrogatepass")
    return {
        "id": hashlib.blake2b(name, digest_size=6).hexdigest(),
        "type": same[0]["type"],
        "place": same[0]["place"],
        "count": sum(kind["count"] for kind in same),
        "first": _first(same),
        "last": _last(same),
        "latest": latest[:MOST_OF_KIND],
    }


# -- coroutines -------------------------------------------------------------------------


def _coroutines(parts: Sequence[Part]) -> list[list[Coroutine]]:
    """Return rows of the same coroutine together, by name."""
    same: dict[str, list[Coroutine]] = {}
    for each in parts:
        for row in each["coroutines"]:
            same.setdefault(row["coro"], []).append(row)
    return [same[name] for name in sorted(same)]


def _shown(
    coroutines: list[list[Coroutine]], parts: Sequence[Part], query: Query
) -> list[data.Coroutine]:
    """Return all, or those that matter most; by name."""
    if query.coroutines != "all" and len(coroutines) > FEW:

        def count(same: Iterable[Any], *fields: str) -> int:
            return sum(row[field] for row in same for field in fields)

        coroutines = sorted(
            coroutines,
            key=lambda same: (
                same[0]["coro"] == query.name,
                count(same, "failed") > 0,
                count(same, "active", "pending"),
                count(same, "ended"),
            ),
        )[-FEW:]
        coroutines.sort(key=lambda same: same[0]["coro"])
    return [_coroutine(same) for same in coroutines]


def _coroutine(same: Sequence[Coroutine]) -> data.Coroutine:
    ran = [row for row in same if row["p50"] is not None]
    p50, p90 = (
        (ran[0]["p50"], ran[0]["p90"])
        if len(ran) == 1
        else percentiles_of(tuple(row["times"] for row in ran))
    )
    failed = max(same, key=lambda row: row["last_failure"] or 0.0)
    return {
        "coro": same[0]["coro"],
        "active": sum(row["active"] for row in same),
        "pending": sum(row["pending"] for row in same),
        "ended": sum(row["ended"] for row in same),
        "failed": sum(row["failed"] for row in same),
        "p50": p50,
        "p90": p90,
        "last_failure": failed["last_failure"],
        "last_failed": failed["last_failed"],
    }


# -- tables -----------------------------------------------------------------------------


def _table(tables: Sequence[Table], page: int, order: str) -> data.Table:
    rows, first = tables[0]["rows"], tables[0]["first"]
    if len(tables) > 1:
        rows = sorted((row for each in tables for row in each["rows"]), key=ORDERS[order])
    count = sum(each["count"] for each in tables)
    pages = max(1, -(-count // PAGE))
    page = min(page, pages)
    start = (page - 1) * PAGE - first
    return {
        "rows": rows[start : start + PAGE],
        "page": page,
        "pages": pages,
        "count": count,
        "total": sum(each["total"] for each in tables),
        "beyond": sum(each["beyond"] for each in tables),
    }
