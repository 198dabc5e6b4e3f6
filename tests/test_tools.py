"""Real tools that people run beside an application (rule A9).

They replace the loop's task factory, patch classes and hang on to tasks. The applications
that run beside each of them are in tests/tools.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiohttp_jobs import atomic, get_scheduler_from_app, setup, spawn
from tests.processes import ROOT
from tests.work import nothing

# Seconds after which a process is killed; a passing test never waits this long.
PATIENCE = 30


def run(tool: str) -> dict[str, Any]:
    """Run the application beside this tool; return its results."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.tools.{tool}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- Sentry ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentry() -> dict[str, Any]:
    return run("sentry")


def test_sentry_jobs_run_and_keep_their_names(sentry: dict[str, Any]) -> None:
    """A9: at once and from the queue, each in a coroutine of Sentry's."""
    found = sentry["jobs_that_succeed"]
    assert found["results"] == ["done", 0, 1, 2]
    assert found["succeeded"] == 4
    assert found["name"] == "invoice 7"
    assert any(name == "invoice 7" or "wait_for" in name for name in found["tasks"])


def test_sentry_failure_is_captured_once_with_the_scope_of_its_spawner(
    sentry: dict[str, Any],
) -> None:
    """A9, A6, R2: even that of a job started by another one's end."""
    failures = [failure[:2] for failure in sentry["jobs_that_fail"]]
    assert failures == [["Boom", "alice"], ["Boom", "bob"]]


def test_sentry_failure_that_is_received_is_captured_once_at_the_most(
    sentry: dict[str, Any],
) -> None:
    """R2: its waiter has it; Sentry may see it pass."""
    assert len(sentry["job_that_is_waited_for"]) <= 1


def test_sentry_cancelled_jobs_are_no_failures(sentry: dict[str, Any]) -> None:
    """A9, E1: whether cancelled by job.close() or by the scheduler's close()."""
    assert sentry["job_that_is_cancelled"] == [["CANCELLED"] * 2, []]


def test_sentry_requests_are_answered_and_their_failures_captured_once(
    sentry: dict[str, Any],
) -> None:
    """A9, W4: failures of an atomic handler and of a request's job, each with the scope
    of its request."""
    found = sentry["requests"]
    assert found["/work"] == [200]
    for path, status in (("/atomic", 500), ("/spawn", 200)):
        answered, *failures = found[path]
        assert answered == status
        assert [failure[:2] for failure in failures] == [["Boom", f"user of {path}"]]


# -- aiomonitor --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitor() -> dict[str, Any]:
    return run("monitor")


def test_aiomonitor_jobs_run_and_are_listed_by_their_functions(
    monitor: dict[str, Any],
) -> None:
    """A9: tasks show the user's coroutine by name."""
    assert monitor["listed"] == [["invoice 7", "wait_for()"]]
    assert monitor["results"] == ["done", 0, 1, 2]
    assert monitor["left"] == []


def test_aiomonitor_cancels_a_job_it_is_over(monitor: dict[str, Any]) -> None:
    """A9: a job cancelled at its console is cancelled, and the next one starts."""
    assert monitor["cancelled by hand"] == "wait_for()"
    assert monitor["then"] == ["CANCELLED", "after"]


# -- AWS X-Ray ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xray() -> dict[str, Any]:
    return run("xray")


def test_xray_jobs_run_in_the_context_of_their_spawners(xray: dict[str, Any]) -> None:
    """A9, A6: even for queued jobs, though its task factory takes no context."""
    for way in ("at once", "queued"):
        assert [who for who, _ in xray[way]] == ["alice", "bob"]


def test_xray_job_that_starts_at_once_is_in_the_segment_of_its_spawner(
    xray: dict[str, Any],
) -> None:
    """A9: its factory looks at the task that makes the new one."""
    assert [segment for _, segment in xray["at once"]] == [
        "segment of alice",
        "segment of bob",
    ]


def test_xray_atomic_handlers_run_and_spawn(xray: dict[str, Any]) -> None:
    """A9, W4: in the context of the request."""
    assert xray["requests"] == [
        ["atomic handler", "carol"],
        ["spawned by an atomic handler", "carol"],
    ]


# -- OpenTelemetry's instrumentation of aiohttp ------------------------------------------


@pytest.fixture
def before() -> web.Application:
    """An application that was made before the instrumentation."""
    return web.Application()


@pytest.fixture
def spans(before: web.Application) -> Iterator[InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = AioHttpServerInstrumentor()
    original = web.Application
    with warnings.catch_warnings():
        # aiohttp discourages subclassing its application.
        warnings.simplefilter("ignore", DeprecationWarning)
        instrumentor.instrument(tracer_provider=provider)
    try:
        assert web.Application is not original
        yield exporter
    finally:
        instrumentor.uninstrument()
        web.Application = original  # type: ignore[misc]
        provider.shutdown()


@atomic
async def work(request: web.Request) -> web.Response:
    job = await spawn(request, nothing())
    await job
    return web.Response(text="worked")


async def check(app: web.Application) -> None:
    async with TestClient(TestServer(app)) as client, client.get("/") as response:
        assert response.status == 200
        assert await response.text() == "worked"


async def test_instrumented_setup_takes_applications_made_before(
    before: web.Application, spans: InMemorySpanExporter
) -> None:
    """A9, W1: they are not instances of the new `web.Application`."""
    scheduler = setup(before)
    before.router.add_get("/", work)
    assert get_scheduler_from_app(before) is scheduler
    await check(before)
    assert scheduler.state.name == "CLOSED"


async def test_instrumented_setup_takes_applications_made_after(
    spans: InMemorySpanExporter,
) -> None:
    """A9, W1: and their requests are traced."""
    app = web.Application()
    setup(app)
    app.router.add_get("/", work)
    await check(app)
    assert len(spans.get_finished_spans()) == 1


async def test_instrumented_applications_are_nested_in_either_way(
    before: web.Application, spans: InMemorySpanExporter
) -> None:
    """A9, W3: a parent of one kind with a sub-application of the other."""
    parent, below = web.Application(), web.Application()
    setup(parent)
    setup(below)
    for app in (before, below):
        app.router.add_get("/work", work)
    before.add_subapp("/below", below)
    parent.add_subapp("/before", before)
    async with TestClient(TestServer(parent)) as client:
        for path in ("/before/work", "/before/below/work"):
            async with client.get(path) as response:
                assert response.status == 200


async def test_instrumented_and_no_application_is_refused(
    spans: InMemorySpanExporter,
) -> None:
    """W1: with a sentence, not an AttributeError."""
    with pytest.raises(TypeError, match="Application"):
        setup(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("tool", ["sentry_sdk", "aiomonitor", "aws_xray_sdk"])
def test_tools_are_installed(tool: str) -> None:
    """A missing tool fails this test, and is no reason to skip the others."""
    assert importlib.util.find_spec(tool) is not None
