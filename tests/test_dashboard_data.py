"""The data of the dashboard: as JSON, and by its filters."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from aiohttp_jobs import Scheduler
from aiohttp_jobs.dashboard import (
    data,
    details,
    history,
    kinds,
    overview,
    part,
    source,
    tallies,
)
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.dashboard.places import is_own, where
from aiohttp_jobs.dashboard.query import Query
from aiohttp_jobs.dashboard.source import NoSuchJob, ThisProcess
from tests.dashboards import (
    Client,
    Start,
    by_header,
    get,
    make_app,
    path_of,
    rows,
    scheduler_of,
    start,
    words_of,
)
from tests.loops import settle
from tests.work import Reports, fail, give, hang_up, nothing, stubborn, wait_for

__all__ = ("start",)  # a fixture


class Rare(Exception):
    pass


async def fail_rarely(which: int = 0) -> None:
    if which:
        raise Rare("the second place")
    raise Rare("the first place")


def observed(**options: Any) -> tuple[Scheduler, History]:
    scheduler = Scheduler(exception_handler=Reports(), **options)
    past = History(scheduler)
    scheduler.add_observer(past)
    return scheduler, past


async def ask(client: Client, path: str, status: int = 200, **headers: str) -> Any:
    async with client.get(f"/jobs/api/v1/{path}", headers=headers) as response:
        assert response.status == status, await response.text()
        assert response.content_type == "application/json"
        return await response.json()


# -- JSON --------------------------------------------------------------------------------


async def test_all_that_is_shown_is_there_as_json(start: Start) -> None:
    """With READ access, filtered like the page, with the version, and without values."""
    client = await start(make_app(by_header, limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    await scheduler.spawn(fail(), "order", origin="POST /orders")
    await settle()
    active = await scheduler.spawn(wait_for(go), "report")
    await settle()
    pending = await scheduler.spawn(nothing(), "mail")
    told = await ask(client, "overview", Access="READ")
    assert told["version"] == data.VERSION == 1
    assert set(told) == set(data.Overview.__annotations__)
    assert set(told["now"]) == set(data.Figures.__annotations__)
    assert set(told["process"]) == set(data.Process.__annotations__)
    (row,) = told["active"]["rows"]
    assert set(row) == set(data.Job.__annotations__)
    assert (row["id"], row["label"], row["state"]) == (active.id, "report", "active")
    assert row["where"].startswith("wait_for, work.py:")
    assert told["pending"]["rows"][0]["id"] == pending.id
    (kind,) = told["failures"]["kinds"]
    assert set(kind) == set(data.Kind.__annotations__)
    assert (kind["type"], kind["count"]) == ("tests.work.Boom", 1)
    assert kind["place"].startswith("fail, work.py:")
    assert abs(told["at"] - kind["last"]) < 60
    told = await ask(client, "overview?search=mail", Access="READ")
    assert (told["active"]["rows"], told["pending"]["count"]) == ([], 1)
    async with client.get("/jobs/api/v1/overview") as refused:
        assert refused.status == 403
    go.set()


async def test_job_is_there_as_json(start: Start) -> None:
    """An active one with its stack, a closed one with its exception, or a 404."""
    client = await start(make_app())
    scheduler, go = scheduler_of(client), asyncio.Event()
    active = await scheduler.spawn(wait_for(go), "report")
    failed = await scheduler.spawn(fail(), "order")
    await settle()
    told = await ask(client, path_of(active, "job/"))
    assert set(told) == set(data.JobDetails.__annotations__)
    assert told["can_be_cancelled"]
    first, *_, last = told["stack"]
    assert (first["function"], first["own"]) == ("wait_for", True)
    assert (last["function"], last["own"]) == ("wait", False)
    told = await ask(client, path_of(failed, "job/"))
    (raised,) = told["raised"]
    assert raised["message"] == "boom"
    assert raised["frames"][-1]["code"] == 'raise Boom("boom")'
    assert "no job 123456" in (await ask(client, path_of(123456, "job/"), 404))["error"]
    go.set()


async def test_page_is_rendered_from_what_json_holds(start: Start) -> None:
    """So the data of another process can be shown like one's own."""
    client = await start(make_app(limit=1))
    scheduler, go = scheduler_of(client), asyncio.Event()
    for coro in (fail(), hang_up(), nothing()):
        await scheduler.spawn(coro, origin="POST /orders")
    await settle()
    await scheduler.spawn(wait_for(go), "report")
    await scheduler.spawn(nothing())
    through_json: list[str] = []
    before = await get(client, "/jobs/")
    with pytest.MonkeyPatch.context() as patch:
        make = _through_json(overview.overview, through_json)
        patch.setattr(ThisProcess, "overview", make)
        after = await get(client, "/jobs/")
    assert through_json
    before, after = (re.sub(r"[\d.,]", "", words_of(page)) for page in (before, after))
    assert before == after
    go.set()


def _through_json(make: Any, seen: list[str]) -> Any:
    async def overview(self: Any, query: Query) -> Any:
        seen.append(json.dumps(make(self._scheduler, self._history, query)))
        return json.loads(seen[-1])

    return overview


# -- failures ----------------------------------------------------------------------------


async def test_crowd_of_equal_failures_pushes_out_no_rare_one(start: Start) -> None:
    """1,200 of one kind, three of another; each has its count and its latest failures."""
    client = await start(make_app())
    scheduler = scheduler_of(client)
    rare = [await scheduler.spawn(fail_rarely(), "rare") for _ in range(3)]
    for _ in range(1200):
        await scheduler.spawn(fail())
    await scheduler.drain()
    told = await ask(client, "overview")
    crowd, few = told["failures"]["kinds"]
    assert (crowd["count"], few["count"]) == (1200, 3)
    assert len(crowd["latest"]) == kinds.MOST_OF_KIND
    assert [row["id"] for row in few["latest"]] == [job.id for job in reversed(rare)]
    page = await get(client, path_of(rare[0]))
    assert "the first place" in page
    first, second = rows(await get(client, "/jobs/"), "failures")
    assert re.match(r"tests.work.Boom boom fail, work.py:\d+ 1,200 ", first)
    assert re.match(r".*Rare the first place fail_rarely, .*:\d+ 3 ", second)
    words = words_of(await get(client, "/jobs/"))
    assert "Failed 1,203 none let go" in words


async def test_kind_is_the_class_and_our_place() -> None:
    """Two places are two kinds; the library that raised is not the place; a group has the
    place of its first exception."""

    async def deep() -> None:
        json.loads("{")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    scheduler, past = observed()
    for coro in (fail_rarely(), fail_rarely(1), deep(), group(), hang_up()):
        await scheduler.spawn(coro)
    slow = await scheduler.spawn(wait_for(asyncio.Event()), timeout=0)
    await scheduler.drain()
    assert slow.closed
    found = {(kind.type_name, kind.place.partition(",")[0]) for kind in past.kinds}
    prefix = "tests.test_dashboard_data.Rare"
    test = "test_kind_is_the_class_and_our_place.<locals>"
    assert found == {
        (prefix, "fail_rarely"),
        ("json.decoder.JSONDecodeError", f"{test}.deep"),
        ("ExceptionGroup of tests.work.Boom", "fail"),
        ("TimeoutError", "wait_for"),
    }
    assert len(list(past.kinds)) == 5
    await scheduler.close()


async def test_kinds_are_bounded_and_the_oldest_is_forgotten() -> None:
    """L4: a program may make a class for each failure."""
    known = kinds.Kinds()
    for number in range(kinds.MOST_KINDS + 3):
        known.add(f"Error{number}", "place", float(number), (number,))
        known.add("Error0", "place", float(number), (number,))
    assert len(list(known)) == kinds.MOST_KINDS
    assert known.forgotten == 3
    assert next(iter(known)).type_name == "Error0"
    assert len(list(known.kept())) < kinds.MOST_KINDS + kinds.MOST_OF_KIND


async def test_job_that_was_let_go_is_a_kind_by_where_it_hangs() -> None:
    """It counts as failed, everywhere."""
    scheduler, past = observed(close_timeout=0)
    go = asyncio.Event()
    job = await scheduler.spawn(stubborn(go), "stubborn")
    await settle()
    with pytest.raises(TimeoutError):
        await job.close()
    told = overview.overview(scheduler, past, Query())
    (kind,) = told["failures"]["kinds"]
    assert (kind["type"], kind["place"].partition(",")[0]) == ("let go", "stubborn")
    assert (told["now"]["failed"], told["now"]["let_go"]) == (1, 1)
    (row,) = told["coroutines"]
    assert row["failed"] == 1
    go.set()
    await settle()
    await scheduler.close()


# -- coroutines --------------------------------------------------------------------------


async def test_numbers_that_are_the_same_thing_are_the_same_number() -> None:
    """On tiles, in charts, by coroutine and by kind; also for jobs from before."""
    scheduler = Scheduler(limit=2, exception_handler=Reports())
    go = asyncio.Event()
    await scheduler.spawn(nothing())
    await scheduler.drain()  # before anybody looks
    await scheduler.spawn(wait_for(go))
    past = History(scheduler)
    scheduler.add_observer(past)
    for number in range(600):
        await scheduler.spawn(nothing())
        if not number % 100:
            await scheduler.spawn(fail())
            await scheduler.spawn(hang_up())
    while scheduler.active_count > 1:
        await settle()
    await scheduler.spawn(wait_for(go))
    for _ in range(1500):
        await scheduler.spawn(nothing())
    past.measure(scheduler.statistics())
    told = overview.overview(scheduler, past, Query())
    now, by_coroutine = told["now"], told["coroutines"]
    assert (now["active"], now["pending"]) == (2, 1500)
    for field in ("active", "pending", "ended", "failed"):
        assert sum(row[field] for row in by_coroutine) == now[field], field
    assert sum(map(overview.ended_in, told["points"])) == now["ended"] == 612
    assert sum(kind["count"] for kind in told["failures"]["kinds"]) == now["failed"] == 6
    assert told["points"][-1]["pending"] == told["pending"]["total"] == 1500
    by_name = {row["coro"]: row for row in by_coroutine}
    assert by_name["fail"]["last_failure"] is not None
    assert by_name["nothing"]["p50"] is not None
    assert by_name["wait_for"]["p50"] is None
    go.set()
    await scheduler.wait_and_close()


def test_percentiles_are_of_the_last_runs() -> None:
    """p50 and p90; with no runs, None."""
    assert tallies.percentiles([]) == (None, None)
    assert tallies.percentiles(range(100)) == (50, 90)
    tally = tallies.Tally()
    for _ in range(tallies.MOST_TIMES):
        tally.add_ended([100.0])
    for _ in range(tallies.MOST_TIMES):
        tally.add_ended([1.0])
    assert tally.percentiles() == (1.0, 1.0)


def test_names_that_are_made_on_the_fly_are_counted_together() -> None:
    """L4: there may be any number."""
    known = tallies.Tallies()
    known.add_spawned(f"made_{number}" for number in range(tallies.MOST_NAMES + 9))
    counted = dict(known)
    assert len(counted) == tallies.MOST_NAMES + 1
    assert counted[tallies.OTHERS].spawned == 9


async def test_few_coroutines_are_shown_unless_all_are_wanted(start: Start) -> None:
    """Those with most to report, by name; a click on one filters."""
    client = await start(make_app())
    scheduler, coros = scheduler_of(client), []
    for number in range(overview.FEW + 3):

        async def job() -> None:
            pass

        job.__qualname__ = f"job_{number:02}"
        coros.append(job)
    for job in coros:
        await scheduler.spawn(job())
    await scheduler.spawn(fail())
    await scheduler.drain()
    shown = rows(await get(client, "/jobs/"), "coroutines")
    assert len(shown) == overview.FEW
    assert any(row.startswith("fail 0 0 1 1 ") for row in shown)
    shown = rows(await get(client, "/jobs/?coroutines=all"), "coroutines")
    assert [row.split()[0] for row in shown] == sorted(row.split()[0] for row in shown)
    assert len(shown) == overview.FEW + 4
    page = await get(client, "/jobs/?name=job_03")
    assert [row.split()[0] for row in rows(page, "recent")] == ["job_03"]


# -- filters -----------------------------------------------------------------------------


async def test_recent_jobs_are_sorted_and_filtered_by_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By run time and by waiting time, the longest first."""
    client = await start(make_app())
    scheduler = scheduler_of(client)
    for _ in range(3):
        await scheduler.spawn(nothing())
    await scheduler.drain()

    def times(told: Any, begin: str, end: str) -> list[float]:
        return [round(row[end] - row[begin], 3) for row in told["recent"]["rows"]]

    ran = times(await ask(client, "overview?sort=ran"), "started", "ended")
    assert ran == sorted(ran, reverse=True)
    waited = times(await ask(client, "overview?sort=waited"), "spawned", "started")
    assert waited == sorted(waited, reverse=True)
    assert (await ask(client, "overview?since=1"))["recent"]["count"] == 3
    monkeypatch.setattr(
        "aiohttp_jobs.dashboard.rows.time.monotonic",
        lambda monotonic=time.monotonic: monotonic() + 61,
    )
    assert (await ask(client, "overview?since=1"))["recent"]["count"] == 0
    assert (await ask(client, "overview?since=5"))["recent"]["count"] == 3


async def test_number_or_exact_name_is_looked_up_among_all_pending(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when the form is sent: the live page does not do it each second."""
    monkeypatch.setattr(part, "LOOKED_AT", 10)
    client = await start(make_app(limit=1))
    scheduler = scheduler_of(client)
    for _ in range(50):
        await scheduler.spawn(wait_for(asyncio.Event()))
    last = await scheduler.spawn(nothing(), "needle")
    for search in (str(last.id), "needle"):
        page = await get(client, f"/jobs/?search={search}")
        assert re.search(r"Found among all waiting jobs 1", words_of(page))
        assert f"50 needle {last.id} nothing" in words_of(page)
        assert "50 of 50 were looked at" in words_of(page)
        found = await ask(client, f"pending?search={search}")
        assert [(row["id"], row["place"]) for row in found["rows"]] == [(last.id, 50)]
    page = await get(client, "/jobs/?search=need")
    assert "Found among all waiting jobs 0" in words_of(page)
    assert "Found" not in await get(client, "/jobs/")
    await ask(client, "pending", 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThisProcess, "find_pending", None)
        async with (
            asyncio.timeout(20),
            client.get(f"/jobs/live?search={last.id}") as live,
        ):
            assert live.status == 200
            await live.content.readuntil(b"event: snapshot")


async def test_job_that_was_looked_for_is_not_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A live page asks each second, and finding a job takes a look at all of them."""
    scheduler, past = observed(limit=1)
    go = asyncio.Event()
    job = await scheduler.spawn(wait_for(go))
    here, looked = ThisProcess(scheduler, past), []
    find = details.find_job

    def find_job(*arguments: Any) -> Any:
        looked.append(1)
        return find(*arguments)

    monkeypatch.setattr(source, "find_job", find_job)
    address = path_of(job, "")
    for _ in range(3):
        assert (await here.job(address))["job"]["state"] == "active"
    go.set()
    await scheduler.drain()
    for _ in range(3):
        assert (await here.job(address))["job"]["state"] == "succeeded"
    monkeypatch.setattr(History, "find", lambda *arguments: None)
    for _ in range(3):
        with pytest.raises(NoSuchJob):
            await here.job(address)
    assert len(looked) == 1
    await scheduler.close()


# -- what it costs -----------------------------------------------------------------------


def work_of(call: Callable[[], object]) -> int:
    """Return how many calls of Python and C functions it takes."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


async def test_work_for_a_page_does_not_grow_with_what_waits_and_ends() -> None:
    """Counted with 2,000 pending jobs and with 20,000; after as many ended jobs as are
    remembered, and after many more."""
    scheduler, past = observed(limit=2, pending_limit=0)
    go = asyncio.Event()
    await scheduler.spawn(wait_for(go))
    for _ in range(history.MOST_ENDS):
        await scheduler.spawn(nothing())
    while scheduler.active_count > 1:
        await settle()

    def work() -> int:
        overview.overview(scheduler, past, Query())  # counts the new ones first
        return work_of(lambda: overview.overview(scheduler, past, Query()))

    await scheduler.spawn(wait_for(go))
    for _ in range(2_000):
        await scheduler.spawn(nothing())
    few = work()
    for _ in range(18_000):
        await scheduler.spawn(nothing())
    many = work()
    assert abs(many - few) <= few * 0.02
    for job in reversed(scheduler.pending_jobs()):
        await job.close()
    assert past.tallies.of("nothing").ended == history.MOST_ENDS + 20_000
    assert work() <= many
    go.set()
    await scheduler.close()


async def test_work_for_a_page_does_not_grow_with_kinds_and_coroutines() -> None:
    """Those that are not shown are only sorted."""
    scheduler, past = observed()
    for number in range(kinds.MOST_KINDS):

        async def job(number: int = number) -> None:
            raise type(f"Error{number}", (Exception,), {})

        job.__qualname__ = f"job_{number}"
        await scheduler.spawn(job())
    await scheduler.drain()
    told = overview.overview(scheduler, past, Query())
    assert len(told["failures"]["kinds"]) == part.FEW_KINDS
    assert told["failures"]["total"] == kinds.MOST_KINDS
    assert len(told["coroutines"]) == overview.FEW
    assert told["coroutines_total"] == kinds.MOST_KINDS
    await scheduler.close()


async def test_deep_stacks_cost_a_page_little() -> None:
    """Counted: jobs 300 awaits deep, compared with jobs 30 deep."""

    async def deep(depth: int) -> None:
        if depth:
            await deep(depth - 1)
        else:
            await asyncio.Event().wait()

    counts = []
    for depth in (30, 300):
        scheduler, past = observed()
        for _ in range(25):
            await scheduler.spawn(deep(depth))
        await settle()
        query = Query()
        counts.append(work_of(lambda: overview.overview(scheduler, past, query)))  # noqa: B023
        await scheduler.close()
    shallow, steep = counts
    # Each further await is looked at once, for what it awaits; its frame is not.
    assert steep - shallow < 25 * 300 * 2


# -- the words ---------------------------------------------------------------------------


async def test_traceback_is_there_as_plain_text(start: Start) -> None:
    """To copy it: as Python writes it, with what else is known of the job."""
    client = await start(make_app())
    scheduler, go = scheduler_of(client), asyncio.Event()
    failed = await scheduler.spawn(fail(), "order", origin="POST /orders")
    active = await scheduler.spawn(wait_for(go), "report")
    await settle()
    async with client.get(path_of(failed) + "/text") as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    assert text.startswith(f"Job {failed.id} (order): failed\n")
    assert "Origin: POST /orders\n" in text
    assert re.search(
        r'Traceback \(most recent call last\):\n  File ".*work.py", line \d+, in fail\n'
        r'    raise Boom\("boom"\)\ntests.work.Boom: boom\n$',
        text,
    )
    text = await get(client, path_of(active) + "/text")
    assert "Stack (innermost frame last):" in text
    await get(client, path_of(12345) + "/text", 404)
    page = await get(client, path_of(active))
    assert page.count('<li class="quiet">') == 1, "asyncio's"
    go.set()


def test_own_code_is_told_from_that_of_others() -> None:
    """The innermost frame of own code is the place; else that of a package, else any."""
    assert is_own(__file__)
    for other in (asyncio.__file__, pytest.__file__, history.__file__, "<frozen x>"):
        assert not is_own(other)
    own, package, library = (
        ("/srv/shop.py", 1, "pay"),
        ("/x/site-packages/bank.py", 2, "charge"),
        (asyncio.__file__, 3, "wait"),
    )
    assert where([own, package, library]) == "pay, shop.py:1"
    assert where([package, library]) == "charge, bank.py:2"
    assert where([library]) == "wait, __init__.py:3"
    assert where([]) == ""


async def test_title_and_way_home(start: Start) -> None:
    """To tell three tabs apart; the page also says since when it counts."""
    client = await start(make_app(title="Shop <1>", home="/admin?a=1&b=2"))
    scheduler = scheduler_of(client)
    page = await get(client, "/jobs/")
    assert re.search(r"<title>Shop &lt;1&gt; · [^<]+</title>", page)
    assert "<h1>Shop &lt;1&gt;</h1>" in page
    assert '<a class="home" href="/admin?a=1&amp;b=2">Home</a>' in page
    assert re.search(
        r"up for less than a minute ?, since \d{4}-\d\d-\d\d \d\d:\d\d UTC",
        words_of(page),
    )
    assert re.search(r"Totals since \d{4}-\d\d-\d\d \d\d:\d\d UTC", page)
    job = await scheduler.spawn(give(1), "mail")
    await scheduler.spawn(fail())
    await settle()
    assert "<title>(1 failed) Shop" in await get(client, "/jobs/")
    assert f"<title>mail · job {job.id} · Shop" in await get(client, path_of(job))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"title": ""}, ValueError),
        ({"title": 3}, TypeError),
        ({"home": 3}, TypeError),
        ({"home": "javascript:alert(1)"}, ValueError),
        ({"home": "//evil.example"}, ValueError),
        ({"home": "/\\evil.example"}, ValueError),
        ({"home": ""}, ValueError),
    ],
)
def test_bad_title_or_home_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """A7: by name, at the call."""
    with pytest.raises(error, match=r"(title|home) takes"):
        make_app(**options)
