"""The metrics of durable jobs: the store's figures, and what this process has done."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from aiohttp_jobs import SCHEDULER, setup
from aiohttp_jobs.durable import (
    DURABLE,
    DurableStatistics,
    StoreUnavailable,
    durable,
    setup_durable,
    spawn_durable,
)
from aiohttp_jobs.prometheus import setup_metrics
from tests.apart import apart
from tests.envelopes import MemoryStore, opened
from tests.glass import Glass
from tests.processes import until
from tests.work import Reports

GAUGES = {
    *("aiohttp_jobs_durable_waiting", "aiohttp_jobs_durable_delayed"),
    *("aiohttp_jobs_durable_running", "aiohttp_jobs_durable_dead"),
    "aiohttp_jobs_durable_oldest_waiting_seconds",
}
UP = "aiohttp_jobs_durable_up"


@durable("mail", max_attempts=2, backoff=lambda attempt: 0)
async def mail(app: web.Application, fails: bool = False) -> None:
    if fails:
        raise ValueError("no")


@durable("report")
async def report(app: web.Application) -> None:
    raise NotImplementedError


def make(
    store: Any,
    share: str | None = None,
    registry: CollectorRegistry | None = None,
    **options: Any,
) -> web.Application:
    app = web.Application()
    setup(app, exception_handler=Reports())
    # The order of these calls does not matter.
    setup_metrics(app, registry=registry or CollectorRegistry(), share=share)
    setup_durable(app, store, tasks=[mail, report], **options)
    return app


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(app)) as client:
        yield client


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return samples of durable jobs, by metric and labels other than the scheduler."""
    return {
        (
            sample.name,
            *(v for k, v in sorted(sample.labels.items()) if k != "scheduler"),
        ): sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name.startswith("aiohttp_jobs_durable")
    }


async def scrape(client: TestClient[Any, Any]) -> dict[tuple[str, ...], float]:
    response = await client.get("/metrics")
    assert response.status == 200
    return samples(await response.text())


def gauges(found: dict[tuple[str, ...], float]) -> set[str]:
    return {name for name, *_ in found} & GAUGES


async def test_scrape_tells_how_many_jobs_are_where(tmp_path: Path) -> None:
    """Of the whole store, whichever process is scraped."""
    path = tmp_path / "jobs.sqlite"
    app = make(path, worker=False)
    async with serving(app) as client:
        await spawn_durable(app, mail)
        await spawn_durable(app, report)
        await spawn_durable(app, mail.options(delay=60))
        with opened(path) as connection:
            connection.execute("UPDATE aiohttp_jobs SET accepted_at = accepted_at - 100")
        found = await scrape(client)
    assert found["aiohttp_jobs_durable_waiting",] == 2
    assert found["aiohttp_jobs_durable_delayed",] == 1
    assert found["aiohttp_jobs_durable_running",] == 0
    assert found["aiohttp_jobs_durable_dead",] == 0
    assert 100 <= found["aiohttp_jobs_durable_oldest_waiting_seconds",] < 200
    assert found[UP,] == 1
    assert found["aiohttp_jobs_durable_enqueue_seconds_count",] == 3
    assert 0 < found["aiohttp_jobs_durable_enqueue_seconds_sum",] < 60


async def test_attempts_are_counted_by_task_and_outcome(tmp_path: Path) -> None:
    """All outcomes of listed tasks exist from the start, and no others."""
    app = make(tmp_path / "jobs.sqlite")
    name = "aiohttp_jobs_durable_attempts_total"
    async with serving(app) as client:
        found = await scrape(client)
        assert {each[1:] for each in found if each[0] == name} == {
            (task, outcome)
            for task in ("mail", "report")
            for outcome in ("succeeded", "retried", "buried", "given_back")
        }
        await spawn_durable(app, mail)
        await spawn_durable(app, mail, True)
        await until(lambda: app[DURABLE].attempts["buried"])
        app[DURABLE].inspection._answers.clear()
        found = await scrape(client)
    assert found[name, "mail", "succeeded"] == 1
    assert found[name, "mail", "retried"] == 1
    assert found[name, "mail", "buried"] == 1
    assert found[name, "report", "buried"] == 0
    assert found["aiohttp_jobs_durable_dead",] == 1


async def test_openmetrics_has_the_same(tmp_path: Path) -> None:
    """Its own parser accepts the stricter format."""
    async with serving(make(tmp_path / "jobs.sqlite")) as client:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        response = await client.get("/metrics", headers=accept)
        parsed: Any = parse_openmetrics(await response.text())  # type: ignore[no-untyped-call]
        names = {family.name for family in parsed}
    assert names >= {*GAUGES, UP, "aiohttp_jobs_durable_attempts"}


async def test_store_that_is_down_leaves_its_gauges_out() -> None:
    """The scrape succeeds, and says so; what the process has counted stays."""
    store = Glass()
    store.figures = DurableStatistics(1, 2, 3, 4, 5.0)
    app = make(store)
    async with serving(app) as client:
        found = await scrape(client)
        assert gauges(found) == GAUGES
        assert found["aiohttp_jobs_durable_running",] == 3
        store.fault = StoreUnavailable("gone")
        app[DURABLE].inspection._answers.clear()
        found = await scrape(client)
        assert gauges(found) == set()
        assert found[UP,] == 0
        assert found["aiohttp_jobs_durable_attempts_total", "mail", "buried"] == 0


async def test_store_that_hangs_holds_no_scrape_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first scrape waits for less than half a second; neither the loop nor the end of
    the application is held up."""
    store = Glass()
    async with serving(make(store)) as client:
        store.go.clear()
        async with asyncio.timeout(30):
            found = await scrape(client)
        assert gauges(found) == set()
        assert found[UP,] == 0
        assert store.asked == ["statistics"]


async def test_figures_that_are_old_are_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scrape in the event loop, by a handler of the user's own, gets the figures of the
    last time, if that was not long ago."""
    store = Glass()
    registry = CollectorRegistry()
    async with serving(make(store, registry=registry)) as client:
        await scrape(client)
        assert gauges(samples(generate_latest(registry).decode())) == GAUGES
        monkeypatch.setattr("aiohttp_jobs.prometheus_durable.MOST_AGE", -1.0)
        assert gauges(samples(generate_latest(registry).decode())) == set()


async def test_first_scrape_in_the_loop_is_answered_next_time() -> None:
    """A scrape cannot wait in the loop."""
    store = Glass()
    registry = CollectorRegistry()
    async with serving(make(store, registry=registry)):
        found = samples(generate_latest(registry).decode())
        assert gauges(found) == set()
        await until(lambda: store.asked)
        await until(lambda: gauges(samples(generate_latest(registry).decode())) == GAUGES)


async def test_scrape_in_a_thread_asks_the_store() -> None:
    """Such as prometheus_client's own server: the thread waits, and the loop does not."""
    store = Glass()
    registry = CollectorRegistry()
    async with serving(make(store, registry=registry)):
        text = await asyncio.to_thread(generate_latest, registry)
        assert gauges(samples(text.decode())) == GAUGES


def test_scrape_in_a_thread_after_the_loop_has_ended(tmp_path: Path) -> None:
    """Whatever the state of the loop, no scrape fails."""
    registry = CollectorRegistry()

    async def main() -> None:
        app = make(tmp_path / "jobs.sqlite", registry=registry)
        await web.AppRunner(app).setup()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    try:
        text = generate_latest(registry).decode()  # the loop is stopped
        assert gauges(samples(text)) == set()
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    # The store may have answered in the last turns, and answers stay fresh for a second.
    text = generate_latest(registry).decode()
    assert gauges(samples(text)) in (set(), GAUGES)


async def test_store_of_a_broker_has_no_gauges() -> None:
    """It has no figures; the counts of the process are there."""
    store = MemoryStore()
    app = make(store)
    async with serving(app) as client:
        await spawn_durable(app, mail)
        await until(lambda: app[DURABLE].attempts["succeeded"])
        found = await scrape(client)
        assert gauges(found) == set()
        assert found[UP,] == 1
        assert found["aiohttp_jobs_durable_attempts_total", "mail", "succeeded"] == 1


async def test_application_without_durable_jobs_has_no_such_metrics() -> None:
    """There is nothing to show."""
    app = web.Application()
    setup(app)
    setup_metrics(app, registry=CollectorRegistry())
    async with serving(app) as client:
        assert await scrape(client) == {}


def test_metrics_are_imported_without_durable_jobs() -> None:
    """Without durable jobs, SQLite is not needed."""
    code = """
import sys
import aiohttp_jobs.prometheus
assert not {"aiohttp_jobs.durable", "sqlite3"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_metrics_end_with_the_application(tmp_path: Path) -> None:
    """They are removed from the registry."""
    app = make(tmp_path / "jobs.sqlite")
    async with serving(app) as client:
        await scrape(client)
        assert len(app[DURABLE].when_kept) == 1
    assert app[DURABLE].when_kept == []
    assert app[SCHEDULER].closed


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
async def test_each_worker_shows_the_figures_of_the_store(tmp_path: Path) -> None:
    """So they must not be summed, as the docs say. Counts of attempts are per worker."""
    path, share = tmp_path / "jobs.sqlite", str(tmp_path / "share")
    apps = [make(path, share, worker=False) for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        clients: list[TestClient[Any, Any]] = []
        for app in apps:
            with apart():
                clients.append(await stack.enter_async_context(serving(app)))
        await spawn_durable(apps[0], mail)
        found = await scrape(clients[0])
    waiting, enqueued = (
        {worker: found[f"aiohttp_jobs_durable_{name}", worker] for worker in "01"}
        for name in ("waiting", "enqueue_seconds_count")
    )
    assert waiting == {"0": 1, "1": 1}
    assert enqueued == {"0": 1, "1": 0}
