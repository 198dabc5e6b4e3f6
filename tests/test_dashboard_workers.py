"""Every worker's dashboard shows all workers: real processes that stop, end and die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientSession, web

from aiohttp_jobs import setup
from aiohttp_jobs.dashboard import setup_dashboard
from aiohttp_jobs.share.names import VERSION
from tests.dashboards import HERE, Events, manage, rows, words_of
from tests.processes import PATIENCE, Command, running
from tests.test_dashboard_browser import knows_ports

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(
        not knows_ports(),
        reason="this aiohttp and this yarl cannot serve sub-applications",
    ),
]


class Shop:
    """A worker in a process of its own."""

    def __init__(self, command: Command, session: ClientSession) -> None:
        self.command = command
        line = command.read_until(lambda line: line.startswith("ready: "))
        told = json.loads(line.removeprefix("ready: "))
        self.process: int = told["process"]
        self.url = f"http://127.0.0.1:{told['port']}"
        self.session = session

    async def get(self, path: str, status: int = 200, **headers: str) -> str:
        async with self.session.get(self.url + path, headers=headers) as response:
            text = await response.text()
            assert response.status == status, text
            return text.replace("<wbr>", "")

    async def json(self, path: str, status: int = 200) -> Any:
        return json.loads(await self.get(path, status))

    async def overview(self, query: str = "", path: str = "jobs") -> Any:
        return await self.json(f"/{path}/api/v1/overview{query}")

    async def until(self, found: Any, path: str = "jobs") -> Any:
        """Poll the overview until it is as expected."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            told = await self.overview(path=path)
            if found(told):
                return told
        raise AssertionError(f"it stays at {told}")

    async def spawn(self, **query: str) -> list[str]:
        async with self.session.get(f"{self.url}/spawn", params=query) as response:
            addresses: list[str] = await response.json()
            return addresses

    async def states(self) -> Any:
        return await self.json("/states")

    async def tell(
        self, path: str, status: int = 200, fields: Any = None, **headers: str
    ) -> Any:
        """Send a form as the page's script does; return the answer."""
        headers = {**HERE, "Accept": "application/json", **headers}
        data = [] if fields is None else fields
        async with self.session.post(
            f"{self.url}/jobs/{path}", data=data, headers=headers
        ) as response:
            assert response.status == status, await response.text()
            return await response.json()

    def stop(self) -> None:
        self.command.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self.command.send(signal.SIGCONT)

    def log(self, text: str) -> str:
        return self.command.read_until(
            lambda line: line.startswith("log: ") and text in line
        )


class Street:
    """All workers of one directory."""

    def __init__(self, share: str, session: ClientSession) -> None:
        self.share = share
        self._session = session
        self._stack = contextlib.ExitStack()

    def open(self, **environment: str) -> Shop:
        environment = {"AIOHTTP_JOBS_SHARE": self.share, **environment}
        with mock.patch.dict(os.environ, environment):
            command = self._stack.enter_context(running("tests.shared_shop"))
        return Shop(command, self._session)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    async with ClientSession() as session:
        street = Street(str(tmp_path / "share"), session)
        yield street
        street.close()


@pytest.fixture
async def shops(street: Street) -> list[Shop]:
    """Two workers, number 0 and 1, that know of each other."""
    shops = [street.open(), street.open()]
    await shops[0].until(lambda told: len(told["workers"]) == 2)
    return shops


def numbers(told: Any) -> dict[int, str]:
    return {worker["number"]: worker["trouble"] for worker in told["workers"]}


# -- to look -----------------------------------------------------------------------------


async def test_each_worker_shows_the_jobs_of_all(shops: list[Shop]) -> None:
    """With sums, and each row with the number of its worker."""
    first = await shops[0].spawn(name="a", count="2")
    second = await shops[1].spawn(name="b")
    await shops[1].spawn(kind="fail", count="3")
    await shops[0].spawn(kind="fail")
    for shop in shops:
        told = await shop.until(lambda told: told["now"]["failed"] == 4)
        assert numbers(told) == {0: "", 1: ""}
        assert told["now"]["active"] == 3
        found = {row["address"]: row["worker"] for row in told["active"]["rows"]}
        assert found == {first[0]: 0, first[1]: 0, second[0]: 1}
        (kind,) = told["failures"]["kinds"]
        assert kind["count"] == 4
        assert told["now"]["limit"] == 20
        page = await shop.get("/jobs/")
        assert "2 workers on" in words_of(page)
        assert [row.split()[0] for row in rows(page, "workers")] == ["0", "1"]
        assert "worker 1" in " ".join(rows(page, "active"))
        assert "4 failed" in page
        told = await shop.overview("?search=b")
        assert [row["address"] for row in told["active"]["rows"]] == second
        assert "These are the jobs of one process" not in page


async def test_job_of_another_worker_has_its_page_its_text_and_its_stream(
    shops: list[Shop],
) -> None:
    """Whichever worker is asked."""
    (failed,) = await shops[1].spawn(kind="fail", name="broken")
    (active,) = await shops[1].spawn(name="report")
    here, there = shops
    page = words_of(await here.get(f"/jobs/job/{active}"))
    assert "Worker 1" in page
    assert str(there.process) in page
    assert "make_report" in page
    assert "Boom" in await here.get(f"/jobs/job/{failed}/text")
    told = await here.json(f"/jobs/api/v1/job/{failed}")
    assert told["raised"][0]["message"] == "boom"
    assert (told["job"]["worker"], told["silence"]) == (1, "")
    async with here.session.get(f"{here.url}/jobs/job/{active}/live") as stream:
        events = Events(stream)
        await events.until("report")
        outcome = await there.tell(f"job/{active}/cancel")
        assert outcome["done"]
        await events.until("cancelled")
    for path in ("", "/text", "/live"):
        text = await here.get(f"/jobs/job/{active.partition('-')[0]}-99999{path}", 404)
        assert "There is no job 99999" in text
        text = await here.get(f"/jobs/job/0123abcd-5{path}", 404)
        assert "of a worker that has ended" in text


async def test_waiting_jobs_are_found_in_all(shops: list[Shop]) -> None:
    """By an exact name, when the form is sent."""
    for shop in shops:
        await shop.spawn(count="10")
        await shop.spawn(name="needle", count="2")
    found = await shops[0].json("/jobs/api/v1/pending?search=needle")
    assert sorted(row["worker"] for row in found["rows"]) == [0, 0, 1, 1]
    assert (found["looked_at"], found["silent"]) == (4, [])


# -- to do -------------------------------------------------------------------------------


async def test_cancel_goes_to_the_worker_that_has_the_job(shops: list[Shop]) -> None:
    """That worker logs who has asked for it; visitors who may only look cannot."""
    (job, other) = await shops[1].spawn(name="report", count="2")
    here, there = shops
    await here.get(f"/jobs/job/{job}/cancel", 403, Visitor="bob")
    page = await here.get(f"/jobs/job/{job}/cancel")
    assert "Cancel job" in page
    number = job.partition("-")[2]
    outcome = await here.tell(f"job/{job}/cancel", Visitor="eve")
    says = f"Worker 1: Job {number} (report) is being cancelled"
    assert outcome == {"done": True, "says": says}
    assert "asked for on the dashboard by eve" in there.log(f"Job {number} (report)")
    assert list((await there.states())["jobs"]) == [other]
    outcome = await here.tell(f"job/{job}/cancel")
    assert not outcome["done"]
    assert "had ended before" in outcome["says"]


async def test_all_that_match_are_cancelled_where_they_are(shops: list[Shop]) -> None:
    """The page says how many are in which worker, and what was done in each."""
    for shop in shops:
        await shop.spawn(name="monthly", count="2")
        await shop.spawn(name="mail")
    page = await shops[0].get("/jobs/cancel?search=monthly")
    words = words_of(page)
    assert "Cancel 4 jobs?" in words
    assert f"worker 1 (process {shops[1].process}): 2 running, 0 waiting" in words
    fields = fields_of_all(page)
    outcome = await shops[0].tell("cancel", fields=fields)
    assert outcome["says"] == (
        "Worker 0: 2 jobs cancelled: monthly x2. Worker 1: 2 jobs cancelled: monthly x2"
    )
    assert "by ann" in shops[1].log("2 jobs cancelled")
    for shop in shops:
        assert len((await shop.states())["jobs"]) == 1


def fields_of_all(page: str, form: int = -1) -> list[tuple[str, str]]:
    """Return the fields of one of the page's forms, repeated names included."""
    found = re.findall(r"<form.*?</form>", page, re.S)[form]
    return re.findall(r'name="([^"]+)" value="([^"]*)"', found)


async def test_queues_are_held_and_limits_changed_where_it_was_chosen(
    shops: list[Shop],
) -> None:
    """Of all workers, or of one; a limit that changed meanwhile is left alone."""
    here, there = shops
    page = await here.get("/jobs/queue")
    assert "Queues of 2 workers" in words_of(page)
    fields = fields_of_all(page, 0)
    assert [name for name, _ in fields] == ["action", "process", "process"]
    outcome = await here.tell("queue", fields=fields)
    assert outcome["says"].startswith("Worker 0: The queue is held")
    assert "Worker 1: The queue is held" in outcome["says"]
    assert [(await shop.states())["held"] for shop in shops] == [True, True]
    assert "by ann" in there.log("The queue is held")
    await here.until(lambda told: all(w["process"]["held"] for w in told["workers"]))
    page = await here.get("/jobs/")
    assert "Waiting jobs are held in worker 0, 1" in words_of(page)
    # Released in one of them.
    (process,) = [
        worker["process"]["name"]
        for worker in (await here.overview())["workers"]
        if worker["number"] == 1
    ]
    outcome = await here.tell("queue", fields={"action": "release", "process": process})
    assert outcome == {"done": True, "says": "Worker 1: The queue is released"}
    assert [(await shop.states())["held"] for shop in shops] == [True, False]
    # The limit of this one.
    page = await here.get(f"/jobs/queue?limit=3&process={process}")
    assert "worker 1: from 10" in words_of(page)
    fields = fields_of_all(page)
    outcome = await here.tell("queue", fields=fields)
    assert outcome["says"] == "Worker 1: The limit was changed from 10 to 3"
    outcome = await here.tell("queue", fields=[*fields[:-1], ("limit", "5")])
    assert "somebody has changed it from 10 to 3 meanwhile" in outcome["says"]
    assert [(await shop.states())["limit"] for shop in shops] == [10, 3]
    lost = {"action": "hold", "process": "0123abcd"}
    outcome = await here.tell("queue", 409, fields=lost)
    assert "that worker has ended" in outcome["says"]
    async with here.session.post(
        f"{here.url}/jobs/queue", data={"action": "hold"}, headers=HERE
    ) as response:
        assert response.status == 400


# -- silence -----------------------------------------------------------------------------


async def test_stopped_worker_costs_a_line_and_does_nothing_later(
    shops: list[Shop],
) -> None:
    """It costs half a second once; a cancel, a hold and a limit for it are reported as
    not done, and are not done when it goes on."""
    here, there = shops
    (job,) = await there.spawn(name="report")
    (unseen,) = await there.spawn(name="unseen")
    await here.get(f"/jobs/job/{job}")
    async with here.session.get(f"{here.url}/jobs/job/{job}/live") as stream:
        events = Events(stream)
        await events.until("report")
        there.stop()
        await events.until("Worker 1 does not answer: this is what it said")
    told = await here.until(lambda told: numbers(told) == {0: "", 1: "does not answer"})
    assert told["now"]["active"] == 0
    start = time.monotonic()
    for _ in range(50):  # half a second each would be 25
        page = await here.get("/jobs/")
    assert time.monotonic() - start < 20
    assert "Worker 1 does not answer : what it has is not here" in words_of(page)
    for path in (f"/jobs/job/{job}", f"/jobs/job/{job}/text"):
        page = words_of(await here.get(path))
        assert "Worker 1 does not answer: this is what it said" in page
    page = words_of(await here.get(f"/jobs/job/{unseen}", 503))
    assert "is of worker 1, which does not answer" in page
    process = job.partition("-")[0]
    limit = [("action", "limit"), ("process", process), ("before", "10"), ("limit", "2")]
    outcomes = await asyncio.gather(
        here.tell(f"job/{job}/cancel"),
        here.tell("queue", fields={"action": "hold", "process": process}),
        here.tell("queue", fields=limit),
    )
    for outcome in outcomes:
        assert not outcome["done"]
        assert "if it has not begun by now, nothing will be done" in outcome["says"]
    page = words_of(await here.get("/jobs/cancel?search=report"))
    assert "Worker 1 does not answer: its jobs are left alone" in page
    there.go_on()
    await here.until(lambda told: numbers(told) == {0: "", 1: ""})
    states = await there.states()
    assert states["jobs"] == {job: "active", unseen: "active"}
    assert (states["held"], states["limit"]) == (False, 10)
    assert (await here.tell(f"job/{job}/cancel"))["done"]


async def test_killed_worker_is_gone_after_a_line(shops: list[Shop]) -> None:
    """Its jobs are reported as lost, and another worker may get its number."""
    here, there = shops
    (job,) = await there.spawn(name="report")
    async with here.session.get(f"{here.url}/jobs/job/{job}/live") as stream:
        events = Events(stream)
        await events.until("report")
        there.command.send(signal.SIGKILL)
        event = await events.until(f"Job {job.partition('-')[2]} is of")
        assert "has ended" in event["data"]
    await here.until(lambda told: numbers(told) == {0: ""})
    text = await here.get(f"/jobs/job/{job}", 404)
    assert "is of a worker that has ended, or was restarted" in text
    outcome = await here.tell(f"job/{job}/cancel", 404)
    assert not outcome["done"]


async def test_draining_worker_is_shown_and_its_job_can_be_cancelled(
    street: Street,
) -> None:
    """It leaves after the drain; its streams end first, even those of others' jobs."""
    here, there = street.open(), street.open(SHOP_WAIT="60")
    (job,) = await there.spawn(name="report")
    (other,) = await here.spawn(name="other")
    async with there.session.get(f"{there.url}/jobs/job/{other}/live") as stream:
        await Events(stream).until("other")
        start = time.monotonic()
        there.command.send(signal.SIGTERM)
        while await stream.content.readline():
            pass
        assert time.monotonic() - start < 30

    def is_draining(told: Any) -> bool:
        return any(
            worker["process"] and worker["process"]["scheduler"] == "draining"
            for worker in told["workers"]
        )

    await here.until(is_draining)
    page = words_of(await here.get("/jobs/"))
    assert "Worker 1 is draining" in page
    assert "report" in words_of(await here.get(f"/jobs/job/{job}"))
    assert (await here.tell(f"job/{job}/cancel"))["done"]
    assert there.command.end()[0] == 0
    await here.until(lambda told: numbers(told) == {0: ""})


async def test_relay_of_a_stopped_worker_ends_at_once(shops: list[Shop]) -> None:
    """A worker that relays a silent one's stream shuts down without waiting for it."""
    here, there = shops
    (job,) = await there.spawn(name="report")
    async with here.session.get(f"{here.url}/jobs/job/{job}/live") as stream:
        await Events(stream).until("report")
        there.stop()
        start = time.monotonic()
        here.command.send(signal.SIGTERM)
        assert here.command.end()[0] == 0
        assert time.monotonic() - start < 9  # aiohttp would give it ten seconds
    there.go_on()


# -- strangers ---------------------------------------------------------------------------


async def test_other_versions_and_applications_are_told(
    street: Street, shops: list[Shop]
) -> None:
    """Their jobs are not mixed in."""
    own = [name for name in os.listdir(street.share) if name.endswith("-0.lock")]
    application = own[0].partition("-")[0]
    for name in (f"v9.0.1-{application}-7-1-0.sock", f"v{VERSION}-{'0' * 12}-3-1-0.sock"):
        Path(street.share, name).touch()
    told = await shops[0].until(lambda told: 7 in numbers(told))
    assert numbers(told) == {0: "", 1: "", 7: "speaks another version"}
    (stranger,) = told["strangers"]
    assert stranger.startswith("Workers of another application are in the same")
    page = words_of(await shops[0].get("/jobs/"))
    assert "Worker 7 speaks another version" in page
    assert stranger in page


async def test_directory_that_is_removed_is_told_and_mended(
    street: Street, shops: list[Shop]
) -> None:
    """Meanwhile only this worker is shown."""
    for name in os.listdir(street.share):
        Path(street.share, name).unlink()
    Path(street.share).rmdir()
    await shops[0].until(lambda told: sorted(numbers(told)) == [0, 1])
    await shops[1].until(lambda told: sorted(numbers(told)) == [0, 1])


async def test_dashboards_and_metrics_of_a_process_share_one_socket(
    street: Street, shops: list[Shop]
) -> None:
    """Requests are told apart by kind; the worker has the same number everywhere."""
    sockets = [name for name in os.listdir(street.share) if name.endswith(".sock")]
    assert len(sockets) == 2
    await shops[1].spawn()
    for path in ("jobs", "again"):
        told = await shops[0].until(lambda told: told["now"]["active"] == 1, path=path)
        assert numbers(told) == {0: "", 1: ""}
    metrics = await shops[0].get("/metrics")
    assert 'aiohttp_jobs_worker_up{worker="0"} 1.0' in metrics
    assert 'aiohttp_jobs_worker_up{worker="1"} 1.0' in metrics


# -- without the directory ---------------------------------------------------------------


def test_share_is_refused_where_there_is_nothing_to_share_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a sentence, at the call."""
    app = web.Application()
    setup(app)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        with pytest.raises(RuntimeError, match="Linux only, leave share out"):
            setup_dashboard(app, authorize=manage, share="/run/shop")
    with pytest.raises(ValueError, match="share takes the path"):
        setup_dashboard(app, authorize=manage, share="")
    with pytest.raises(TypeError, match="share takes the path"):
        setup_dashboard(app, authorize=manage, share=5)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests' own environment out of this process."""
    monkeypatch.delenv("AIOHTTP_JOBS_SHARE", raising=False)
