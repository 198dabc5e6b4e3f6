"""Actions on dead jobs: the page asks first, says what it did, and logs for whom."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs.dashboard import Access
from aiohttp_jobs.durable import (
    DURABLE,
    DurableStatistics,
    KeptJob,
    Place,
    SQLiteStore,
    StoreUnavailable,
    durable,
    setup_durable,
    spawn_durable,
)
from tests.dashboards import HERE, Client, Start, get, make_app, post, start, words_of
from tests.envelopes import MemoryStore, look, opened
from tests.glass import Glass
from tests.processes import until

__all__ = ("start",)  # a fixture

JSON = {"Accept": "application/json"}
SECRET = "hunter2"


@durable("mail", max_attempts=1)
async def mail(app: web.Application, address: str) -> None:
    raise ValueError("no")


async def ann(request: web.Request) -> tuple[Access, str]:
    return Access[request.headers.get("Access", "MANAGE")], "ann\nforged"


def make(store: Any) -> web.Application:
    app = make_app(ann)
    setup_durable(app, store, tasks=[mail])
    return app


async def bury(client: Client, count: int) -> list[str]:
    """Make this many dead jobs; return their ids."""
    app = client.app
    assert app is not None
    store = app[DURABLE].store
    assert isinstance(store, SQLiteStore)
    path = Path(store.path)
    ids = [await spawn_durable(app, mail, SECRET) for _ in range(count)]
    await until(lambda: set(ids) <= set(dead_in(path)))
    app[DURABLE].inspection._answers.clear()
    return ids


async def tell(
    client: Client, path: str, status: int = 200, /, **fields: str
) -> dict[str, Any]:
    """Post a form, and return the answer as a script gets it."""
    async with client.post(path, data=fields or None, headers=HERE | JSON) as response:
        assert response.status == status, await response.text()
        outcome: dict[str, Any] = await response.json()
        return outcome


def dead_in(path: Path) -> list[str]:
    return [row[0] for row in look(path, "SELECT id FROM aiohttp_jobs WHERE state = 3")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


async def test_dead_job_is_asked_about_and_dropped(start: Start, path: Path) -> None:
    """The page that asks changes nothing; the answer leads back to the durable jobs."""
    client = await start(make(path))
    first, second = await bury(client, 2)
    where = f"/jobs/durable/dead/{first}/drop"
    page = await get(client, where)
    assert "Drop the dead job mail ?" in words_of(page)
    assert f"{first} : ValueError: no" in words_of(page)
    assert SECRET not in page
    assert len(dead_in(path)) == 2
    [action] = re.findall(r'<form method="post" action="([^"]*)">', page)
    assert action == f"../../../durable/dead/{first}/drop"
    async with client.post(where, headers=HERE) as response:
        page = await response.text()
    assert f"Durable job {first} (mail) was dropped." in words_of(page)
    assert '<a href="../../../durable">Go back to the durable jobs</a>' in page
    assert dead_in(path) == [second]


async def test_dead_job_runs_again(start: Start, path: Path) -> None:
    """With all its attempts; here it dies again."""
    client = await start(make(path))
    [dead] = await bury(client, 1)
    page = await get(client, f"/jobs/durable/dead/{dead}/retry")
    assert "It has been tried 1 time, and may have done a part of its work." in page
    assert client.app is not None
    attempts = client.app[DURABLE].attempts_of["mail"]
    assert await tell(client, f"/jobs/durable/dead/{dead}/retry") == {
        "done": True,
        "says": f"Durable job {dead} (mail) waits to run again",
    }
    await until(lambda: attempts["buried"] == 2)


async def test_all_dead_jobs_are_dropped_but_for_later_ones(
    start: Start, path: Path
) -> None:
    """A visitor who was asked about two drops two."""
    client = await start(make(path))
    await bury(client, 2)
    with opened(path) as connection:
        connection.execute("UPDATE aiohttp_jobs SET buried_at = buried_at - 1")
    page = await get(client, "/jobs/durable/drop")
    assert "Drop 2 dead jobs?" in words_of(page)
    [until_then] = re.findall(r'name="until" value="([^"]*)"', page)
    assert float(until_then) == pytest.approx(time(), abs=60)
    [later] = await bury(client, 1)
    with opened(path) as connection:
        connection.execute(
            "UPDATE aiohttp_jobs SET buried_at = ? WHERE id = ?", (time() + 5, later)
        )
    outcome = await tell(client, "/jobs/durable/drop", until=until_then)
    says = "2 dead jobs were dropped; 1 is dead now"
    assert outcome == {"done": True, "says": says}
    assert dead_in(path) == [later]
    outcome = await tell(client, "/jobs/durable/drop", until=until_then)
    assert outcome == {"done": False, "says": "No dead job was there any more"}


async def test_all_dead_jobs_run_again(start: Start, path: Path) -> None:
    """However many there are."""
    client = await start(make(path))
    await bury(client, 2)
    assert "Retry 2 dead jobs?" in words_of(await get(client, "/jobs/durable/retry"))
    async with client.post(
        "/jobs/durable/retry", data={"until": str(time() + 60)}, headers=HERE
    ) as response:
        assert "2 dead jobs wait to run again" in await response.text()
    app = client.app
    assert app is not None
    await until(lambda: app[DURABLE].attempts["buried"] == 4)


async def test_page_says_that_nothing_is_dead(start: Start, path: Path) -> None:
    """There is no button then."""
    client = await start(make(path))
    page = await get(client, "/jobs/durable/drop")
    assert "Nothing is dead" in page
    assert "<button" not in page
    assert "Retry all" not in await get(client, "/jobs/durable")


async def test_job_that_is_not_dead_any_more_is_left_alone(
    start: Start, path: Path
) -> None:
    """Two visitors may act on the same page."""
    client = await start(make(path))
    [dead] = await bury(client, 1)
    where = f"/jobs/durable/dead/{dead}/drop"
    await tell(client, where)
    says = f"No durable job {dead} is dead: somebody has let it run again or dropped it"
    assert says in (await tell(client, where, 404))["says"]
    assert says in await get(client, where, 404)


async def test_job_that_is_gone_between_look_and_act_is_told(start: Start) -> None:
    """That is no failure either."""
    store = Glass()
    job = KeptJob(
        *("7f", "mail", Place.DEAD, 1, 0, 5.0, None, 0, None, None, None, 6.0, None)
    )

    async def find_dead(id: str) -> KeptJob:
        return job

    async def retry_dead(*args: Any, **options: Any) -> int:
        return 0

    store.find_dead = find_dead  # type: ignore[method-assign]
    store.retry_dead = retry_dead  # type: ignore[method-assign]
    client = await start(make(store))
    assert await tell(client, "/jobs/durable/dead/7f/retry") == {
        "done": False,
        "says": "Durable job 7f (mail) was not dead any more",
    }


async def test_it_is_logged_who_has_done_what(
    start: Start, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At WARNING, in one line, with fields; the visitor's name cannot forge a line."""
    client = await start(make(path))
    first, second, _ = await bury(client, 3)
    with caplog.at_level(logging.WARNING, "aiohttp_jobs"):
        await tell(client, f"/jobs/durable/dead/{first}/drop")
        await tell(client, f"/jobs/durable/dead/{second}/retry")
        await tell(client, "/jobs/durable/retry", until="0")
        await tell(client, "/jobs/durable/drop", until=str(time() + 60))
    records: Sequence[Any] = [
        record for record in caplog.records if hasattr(record, "dashboard_action")
    ]
    assert [record.dashboard_action for record in records] == [
        *("drop_durable", "retry_durable", "retry_all_durable", "drop_all_durable"),
    ]
    assert {record.levelno for record in records} == {logging.WARNING}
    assert records[0].getMessage() == (
        f"Durable job {first} (mail) was dropped (asked for on the dashboard by "
        r"ann\nforged)"
    )
    assert records[0].durable_id == first
    assert records[0].durable_task == "mail"
    assert [record.dashboard_done for record in records] == [True, True, False, True]
    assert [getattr(record, "dashboard_jobs", None) for record in records[:3]] == [
        *(None, None, 0),
    ]
    assert records[3].dashboard_jobs >= 1
    assert {record.dashboard_remote for record in records} == {"127.0.0.1"}


@pytest.mark.parametrize("action", ["retry", "drop"])
async def test_who_may_only_look_changes_nothing(
    start: Start, path: Path, action: str
) -> None:
    """And gets no confirmation page."""
    client = await start(make(path))
    [dead] = await bury(client, 1)
    for where in (f"/jobs/durable/dead/{dead}/{action}", f"/jobs/durable/{action}"):
        for access in ("READ", "NONE"):
            await get(client, where, 403, Access=access)
            response = await post(client, where, **HERE, Access=access)
            assert response.status == 403
    assert dead_in(path) == [dead]


@pytest.mark.parametrize("action", ["retry", "drop"])
async def test_other_sites_change_nothing(start: Start, path: Path, action: str) -> None:
    """As with every action; nor does a form that does not say where it comes from."""
    client = await start(make(path))
    [dead] = await bury(client, 1)
    for where in (f"/jobs/durable/dead/{dead}/{action}", f"/jobs/durable/{action}"):
        for headers in ({"Sec_Fetch_Site": "cross-site"}, {}):
            response = await post(client, where, **headers)
            assert response.status == 403
    assert dead_in(path) == [dead]


@pytest.mark.parametrize("until_then", ["", "x", "nan", "inf"])
async def test_form_that_makes_no_sense_changes_nothing(
    start: Start, path: Path, until_then: str
) -> None:
    """Nothing is dropped by mistake."""
    client = await start(make(path))
    [dead] = await bury(client, 1)
    async with client.post(
        "/jobs/durable/drop", data={"until": until_then}, headers=HERE
    ) as response:
        assert response.status == 400
    async with client.post(
        "/jobs/durable/drop", json={"until": 9e9}, headers=HERE
    ) as response:
        assert response.status == 415
    await get(client, f"/jobs/durable/dead/{dead}/forget", 404)
    assert dead_in(path) == [dead]


async def test_store_that_is_down_changes_nothing(start: Start) -> None:
    """Both the confirmation page and the action say so; nothing is logged as done."""
    store = Glass()
    client = await start(make(store))
    store.fault = StoreUnavailable("the disk is full")
    says = "It cannot be done just now: the disk is full"
    for where in ("/jobs/durable/dead/7f/retry", "/jobs/durable/dead/7f/drop"):
        assert says in await get(client, where, 503)
        assert await tell(client, where, 503) == {"done": False, "says": says}
    for where in ("/jobs/durable/retry", "/jobs/durable/drop"):
        assert "just now: the disk is full" in await get(client, where, 503)
        assert await tell(client, where, 503, until="5") == {"done": False, "says": says}
    assert store.figures == DurableStatistics(0, 0, 0, 0, 0.0)


async def test_store_of_a_broker_cannot_be_changed(start: Start) -> None:
    """The page says so."""
    client = await start(make(MemoryStore()))
    assert "MemoryStore does not tell what it keeps" in await get(
        client, "/jobs/durable/retry", 503
    )
    outcome = await tell(client, "/jobs/durable/drop", 503, until="5")
    assert "MemoryStore does not tell" in outcome["says"]


async def test_application_without_durable_jobs_has_none_to_change(start: Start) -> None:
    """404, for each action."""
    client = await start(make_app(ann))
    for where in ("retry", "drop", "dead/7f/retry", "dead/7f/drop"):
        await get(client, f"/jobs/durable/{where}", 404)
        async with client.post(
            f"/jobs/durable/{where}", data={"until": "5"}, headers=HERE
        ) as response:
            assert response.status == 404
