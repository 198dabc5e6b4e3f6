"""Metrics for Prometheus: counted by observers, shown by one collector to a registry."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from aiohttp_jobs import SCHEDULER, JobState, Scheduler, atomic, setup, spawn
from aiohttp_jobs.prometheus import BUCKETS, jobs_collector, setup_metrics
from tests.loops import settle
from tests.work import Reports, fail, hang_up, nothing, stubborn, wait_for

Start = Callable[..., Awaitable[Any]]
Samples = dict[tuple[str, ...], float]

# All metrics, with their Prometheus types.
TYPES = {
    "aiohttp_jobs_active": "gauge",
    "aiohttp_jobs_pending": "gauge",
    "aiohttp_jobs_slots_taken": "gauge",
    "aiohttp_jobs_callers_waiting": "gauge",
    "aiohttp_jobs_limit": "gauge",
    "aiohttp_jobs_held": "gauge",
    "aiohttp_jobs_joined": "counter",
    "aiohttp_jobs_jobs": "counter",
    "aiohttp_jobs_wait_seconds": "histogram",
    "aiohttp_jobs_run_seconds": "histogram",
}


def samples(text: str) -> Samples:
    """Return the samples of this package, by metric and label values."""
    found = [
        sample
        for family in parse(text)
        if family.name.startswith("aiohttp_jobs")
        for sample in family.samples
    ]
    read = {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for s in found}
    assert len(read) == len(found)
    return read


def read(registry: CollectorRegistry) -> Samples:
    return samples(generate_latest(registry).decode())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def global_registry() -> Iterator[CollectorRegistry]:
    """The global registry, which the test has to leave without samples of its own."""
    yield REGISTRY
    assert read(REGISTRY) == {}


# -- what is counted ---------------------------------------------------------------------


async def test_each_job_is_counted_once_by_coroutine_and_outcome(
    registry: CollectorRegistry,
) -> None:
    """All outcomes of a coroutine exist from its first job on."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=3, close_timeout=0, exception_handler=Reports())
    jobs_collector(registry).add(scheduler)
    await scheduler.spawn(nothing())
    await scheduler.spawn(nothing())
    await scheduler.spawn(fail())
    await settle()
    for _ in range(4):
        await scheduler.spawn(wait_for(go))
    now = read(registry)
    assert now["aiohttp_jobs_active", "default"] == 3
    assert now["aiohttp_jobs_slots_taken", "default"] == 3
    assert now["aiohttp_jobs_pending", "default"] == 1
    assert now["aiohttp_jobs_callers_waiting", "default"] == 0
    assert now["aiohttp_jobs_limit", "default"] == 3
    assert now["aiohttp_jobs_jobs_total", "nothing", "succeeded", "default"] == 2
    assert now["aiohttp_jobs_jobs_total", "nothing", "failed", "default"] == 0
    assert now["aiohttp_jobs_jobs_total", "fail", "failed", "default"] == 1
    assert now["aiohttp_jobs_jobs_total", "wait_for", "succeeded", "default"] == 0
    await scheduler.close()
    end = read(registry)
    assert end["aiohttp_jobs_active", "default"] == 0
    assert end["aiohttp_jobs_pending", "default"] == 0
    assert end["aiohttp_jobs_jobs_total", "wait_for", "cancelled", "default"] == 4
    assert end["aiohttp_jobs_wait_seconds_count", "wait_for", "default"] == 3
    assert end["aiohttp_jobs_run_seconds_count", "wait_for", "default"] == 3


def outcomes(registry: CollectorRegistry) -> dict[str, float]:
    """Return how many jobs, of one coroutine, have ended with each outcome."""
    return {
        labels[1]: value
        for (metric, *labels), value in read(registry).items()
        if metric == "aiohttp_jobs_jobs_total"
    }


async def test_every_outcome_is_there_from_the_first_job_on(
    registry: CollectorRegistry,
) -> None:
    """rate() misses the start of a series. A new state must not be forgotten."""
    async with Scheduler() as scheduler:
        jobs_collector(registry).add(scheduler)
        await scheduler.spawn(nothing())
    closed = {state.name.lower() for state in JobState if state >= JobState.SUCCEEDED}
    assert outcomes(registry) == {**dict.fromkeys(closed, 0), "succeeded": 1}


async def test_job_that_was_hung_up_on_has_an_outcome_of_its_own(
    registry: CollectorRegistry,
) -> None:
    """W4: it is no failure, and no reason to wake anybody at night."""
    async with Scheduler(exception_handler=Reports()) as scheduler:
        jobs_collector(registry).add(scheduler)
        await scheduler.spawn(hang_up())
    assert {name for name, count in outcomes(registry).items() if count} == {"hung_up"}
    assert read(registry)["aiohttp_jobs_run_seconds_count", "hang_up", "default"] == 1


async def test_job_that_is_let_go_has_an_outcome_of_its_own(
    registry: CollectorRegistry,
) -> None:
    """When it does end, it is not counted again."""
    go = asyncio.Event()
    scheduler = Scheduler(close_timeout=0, exception_handler=Reports())
    jobs_collector(registry).add(scheduler)
    await scheduler.spawn(stubborn(go))
    await settle()
    await scheduler.close()
    go.set()
    await settle()
    assert {name for name, count in outcomes(registry).items() if count} == {"let_go"}


async def test_times_fall_into_their_buckets(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound belongs to its bucket; buckets are cumulative, and the sum is exact."""
    clock = [0.0]
    monkeypatch.setattr("aiohttp_jobs.core.job.monotonic", lambda: clock[0])
    scheduler = Scheduler(limit=1)
    jobs_collector(registry).add(scheduler)
    for seconds in (0.0, 0.005, 0.0051, 60.0, 4000.0):
        go = asyncio.Event()
        clock[0] = 0.0
        job = await scheduler.spawn(wait_for(go))
        clock[0] = seconds
        go.set()
        await job
    found = read(registry)
    buckets = {
        float(labels[1]): value
        for (metric, *labels), value in found.items()
        if metric == "aiohttp_jobs_run_seconds_bucket"
    }
    assert list(buckets) == [*BUCKETS, float("inf")]
    counts = [buckets[le] for le in (0.005, 0.01, 30.0, 60.0, 1800.0, float("inf"))]
    assert counts == [2, 3, 3, 4, 4, 5]
    total = found["aiohttp_jobs_run_seconds_sum", "wait_for", "default"]
    assert total == pytest.approx(4060.0101)
    assert found["aiohttp_jobs_wait_seconds_sum", "wait_for", "default"] == 0


async def test_names_given_by_users_make_no_series(registry: CollectorRegistry) -> None:
    """The label is the qualified name of the coroutine: a bounded number of series."""
    async with Scheduler() as scheduler:
        jobs_collector(registry).add(scheduler)
        await scheduler.spawn(nothing())
        await settle()
        size = len(read(registry))
        for number in range(100):
            await scheduler.spawn(nothing(), f"order {number}")
    assert len(read(registry)) == size


async def test_hold_shows_until_the_release(registry: CollectorRegistry) -> None:
    """It shows why no job starts."""
    async with Scheduler() as scheduler:
        jobs_collector(registry).add(scheduler)
        scheduler.hold()
        await scheduler.spawn(nothing())
        now = read(registry)
        assert now["aiohttp_jobs_held", "default"] == 1
        assert now["aiohttp_jobs_pending", "default"] == 1
        scheduler.release()
        assert read(registry)["aiohttp_jobs_held", "default"] == 0


async def test_spawning_what_is_already_there_is_counted(
    registry: CollectorRegistry,
) -> None:
    """By its key, as saved work."""
    go = asyncio.Event()
    async with Scheduler() as scheduler:
        jobs_collector(registry).add(scheduler)
        assert read(registry)["aiohttp_jobs_joined_total", "default"] == 0
        job = await scheduler.spawn(wait_for(go), key="report:42")
        assert await scheduler.spawn(wait_for(go), key="report:42") is job
        assert read(registry)["aiohttp_jobs_joined_total", "default"] == 1
        go.set()


async def test_limit_that_was_changed_is_shown(registry: CollectorRegistry) -> None:
    """More slots may be taken than there are, until the excess jobs have ended."""
    go = asyncio.Event()
    async with Scheduler(limit=2) as scheduler:
        jobs_collector(registry).add(scheduler)
        await scheduler.spawn(wait_for(go))
        await scheduler.spawn(wait_for(go))
        scheduler.limit = 1
        now = read(registry)
        assert now["aiohttp_jobs_limit", "default"] == 1
        assert now["aiohttp_jobs_slots_taken", "default"] == 2
        go.set()


async def test_no_limit_is_infinite(registry: CollectorRegistry) -> None:
    """So that active / limit stays a number."""
    async with Scheduler(limit=None) as scheduler:
        jobs_collector(registry).add(scheduler)
        assert read(registry)["aiohttp_jobs_limit", "default"] == float("inf")


# -- the registry ------------------------------------------------------------------------


async def test_schedulers_share_a_registry_by_their_names(
    registry: CollectorRegistry,
) -> None:
    """One collector per registry, one label value per scheduler."""
    collector = jobs_collector(registry)
    assert jobs_collector(registry) is collector
    async with Scheduler(limit=1) as first, Scheduler(limit=2) as second:
        collector.add(first, "first")
        collector.add(second, "second")
        now = read(registry)
        assert now["aiohttp_jobs_limit", "first"] == 1
        assert now["aiohttp_jobs_limit", "second"] == 2
        collector.remove(first)
        collector.remove(first)
        assert ("aiohttp_jobs_limit", "first") not in read(registry)
        await first.spawn(nothing())
        await second.spawn(nothing())
        await settle()
        collector.add(first, "first")
        end = read(registry)
        assert end["aiohttp_jobs_limit", "first"] == 1
        assert ("aiohttp_jobs_jobs_total", "nothing", "succeeded", "first") not in end
        assert end["aiohttp_jobs_jobs_total", "nothing", "succeeded", "second"] == 1


async def test_collector_that_was_taken_out_is_put_back(
    registry: CollectorRegistry,
) -> None:
    """Some tests empty the global registry: the next call registers it again."""
    registry.unregister(jobs_collector(registry))
    async with Scheduler(limit=1) as scheduler:
        jobs_collector(registry).add(scheduler)
        assert read(registry)["aiohttp_jobs_limit", "default"] == 1
    registry.unregister(jobs_collector(registry))
    Gauge("aiohttp_jobs_limit", "of somebody else", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        jobs_collector(registry)


async def test_name_or_scheduler_twice_in_a_registry_is_refused(
    registry: CollectorRegistry,
) -> None:
    """The error says what to do, and nothing is changed."""
    collector = jobs_collector(registry)
    async with Scheduler() as first, Scheduler() as second:
        collector.add(first)
        with pytest.raises(ValueError, match="already has a scheduler named 'default'"):
            collector.add(second)
        with pytest.raises(ValueError, match="as 'default': add it once"):
            collector.add(first, "again")
        await second.spawn(nothing())
        jobs_collector(CollectorRegistry()).add(second)
    with pytest.raises(TypeError, match="name takes a str"):
        collector.add(second, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="registry takes"):
        jobs_collector("global")  # type: ignore[arg-type]


async def test_removed_scheduler_is_not_kept(registry: CollectorRegistry) -> None:
    """Nor is a registry that nothing else refers to."""
    scheduler = Scheduler()
    jobs_collector(registry).add(scheduler)
    jobs_collector(registry).remove(scheduler)
    other = CollectorRegistry()
    jobs_collector(other)
    scheduler_kept, other_kept = weakref.ref(scheduler), weakref.ref(other)
    del scheduler, other
    gc.collect()
    assert scheduler_kept() is None
    assert other_kept() is None


def test_registry_without_schedulers_shows_nothing(registry: CollectorRegistry) -> None:
    """Not even the headers of metrics."""
    jobs_collector(registry)
    assert generate_latest(registry) == b""


# -- in an application -------------------------------------------------------------------


async def serve_metrics(
    start: Start, registry: CollectorRegistry | None, **options: Any
) -> Any:
    app = web.Application()
    setup(app, limit=7)
    setup_metrics(app, registry=registry, **options)

    async def order(request: web.Request) -> web.Response:
        await spawn(request, nothing(), "order 1")
        return web.Response()

    @atomic
    async def pay(request: web.Request) -> web.Response:
        return web.Response()

    app.router.add_post("/order", order)
    app.router.add_post("/pay", pay)
    return await start(app)


async def test_application_serves_its_metrics(
    aiohttp_client: Start, registry: CollectorRegistry
) -> None:
    """Jobs of handlers and atomic handlers, each by its function's name."""
    client = await serve_metrics(aiohttp_client, registry)
    await client.post("/order")
    await client.post("/pay")
    response = await client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(await response.text())
    assert found["aiohttp_jobs_limit", "default"] == 7
    assert found["aiohttp_jobs_jobs_total", "nothing", "succeeded", "default"] == 1
    pay = "serve_metrics.<locals>.pay"
    assert found["aiohttp_jobs_jobs_total", pay, "succeeded", "default"] == 1


async def test_openmetrics_is_served_to_who_asks_for_it(
    aiohttp_client: Start, registry: CollectorRegistry
) -> None:
    """The stricter format, checked by its own parser; compressed if the client can."""
    client = await serve_metrics(aiohttp_client, registry)
    await client.post("/order")
    response = await client.get(
        "/metrics",
        headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"},
    )
    assert response.content_type == "application/openmetrics-text"
    assert response.headers["Content-Encoding"] in {"gzip", "deflate"}
    text = await response.text()
    families = {f.name: f for f in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert {name: family.type for name, family in families.items()} == TYPES


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text;version=1.0.0;escaping",
        ';;;==,"',
        "é",
        "," * 5000,
    ],
)
async def test_accept_that_makes_no_sense_gets_plain_text(
    aiohttp_client: Start, registry: CollectorRegistry, accept: str
) -> None:
    """Any client may send it, which is no reason for a 500."""
    client = await serve_metrics(aiohttp_client, registry)
    async with client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
        assert "aiohttp_jobs_limit" in await response.text()


async def test_global_registry_is_left_at_clean_up(
    aiohttp_client: Start, global_registry: CollectorRegistry
) -> None:
    """Applications can follow each other; one that never runs does not block others."""
    for _ in range(2):
        never_runs = web.Application()
        setup(never_runs)
        setup_metrics(never_runs)
        client = await serve_metrics(aiohttp_client, None)
        text = await (await client.get("/metrics")).text()
        assert samples(text)["aiohttp_jobs_limit", "default"] == 7
        assert "python_info" in text
        await client.close()


async def test_jobs_before_the_start_are_counted(
    aiohttp_client: Start, registry: CollectorRegistry
) -> None:
    """W2: start-up handlers can spawn, in whatever order they were added."""
    app = web.Application()

    async def warm_up(app: web.Application) -> None:
        await app[SCHEDULER].spawn(nothing())

    app.on_startup.insert(0, warm_up)
    setup(app)
    setup_metrics(app, registry=registry)
    client = await aiohttp_client(app)
    found = samples(await (await client.get("/metrics")).text())
    assert found["aiohttp_jobs_jobs_total", "nothing", "succeeded", "default"] == 1


async def test_sub_application_is_shown_under_its_name(
    aiohttp_client: Start, registry: CollectorRegistry
) -> None:
    """It need not serve metrics itself."""
    app, admin = web.Application(), web.Application()
    setup(app, limit=1)
    setup_metrics(app, registry=registry)
    setup(admin, limit=2)
    setup_metrics(admin, None, registry=registry, name="admin")
    app.add_subapp("/admin", admin)
    client = await aiohttp_client(app)
    found = samples(await (await client.get("/metrics")).text())
    assert found["aiohttp_jobs_limit", "default"] == 1
    assert found["aiohttp_jobs_limit", "admin"] == 2
    # aiohttp 3.9 with a recent yarl does not route a Host with a port to
    # sub-applications.
    response = await client.get("/admin/metrics", headers={"Host": "test"})
    assert response.status == 404
    await client.close()
    assert read(registry) == {}


async def test_second_application_of_one_name_does_not_start(
    aiohttp_client: Start, registry: CollectorRegistry
) -> None:
    """The first one's metrics are left as they are."""
    client = await serve_metrics(aiohttp_client, registry)
    second = web.Application()
    setup(second)
    setup_metrics(second, registry=registry)
    runner = web.AppRunner(second)
    with pytest.raises(ValueError, match="already has a scheduler named 'default'"):
        await runner.setup()
    await runner.cleanup()
    found = samples(await (await client.get("/metrics")).text())
    assert found["aiohttp_jobs_limit", "default"] == 7
    other = await serve_metrics(aiohttp_client, registry, name="other")
    found = samples(await (await other.get("/metrics")).text())
    assert found["aiohttp_jobs_limit", "other"] == 7


@pytest.mark.parametrize(("path", "error"), [(5, TypeError), ("metrics", ValueError)])
def test_bad_path_is_refused(path: Any, error: type[Exception]) -> None:
    """A7: by name, at the call."""
    app = web.Application()
    setup(app)
    with pytest.raises(error, match="path takes"):
        setup_metrics(app, path)


async def test_bad_setup_is_refused(registry: CollectorRegistry) -> None:
    """W1: no scheduler, twice, too late: each with its own sentence."""
    app = web.Application()
    with pytest.raises(RuntimeError, match=r"call aiohttp_jobs.setup\(app\) first"):
        setup_metrics(app, registry=registry)
    setup(app)
    setup_metrics(app, registry=registry)
    with pytest.raises(RuntimeError, match="already been called for this application"):
        setup_metrics(app, "/other", registry=registry)
    late = web.Application()
    setup(late)
    runner = web.AppRunner(late)
    await runner.setup()
    with pytest.raises(RuntimeError, match="is running"):
        setup_metrics(late, registry=registry)
    await runner.cleanup()
