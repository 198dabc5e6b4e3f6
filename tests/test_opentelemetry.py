"""Spans for OpenTelemetry: one for each job, current in it, linked to its spawner's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from aiohttp_jobs import SCHEDULER, Scheduler, atomic, setup, spawn
from aiohttp_jobs.core.enqueued import tell_spans_by
from aiohttp_jobs.durable import (
    DURABLE,
    current_durable,
    durable,
    setup_durable,
    spawn_durable,
)
from aiohttp_jobs.opentelemetry import JobTracer
from tests.envelopes import look, opened
from tests.loops import settle
from tests.processes import until
from tests.work import Boom, Reports, fail, hang_up, nothing, stubborn, wait_for

Start = Callable[..., Awaitable[Any]]


class Traces:
    """The recorded spans, by name."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def tracer(self) -> Tracer:
        return self.provider.get_tracer("tests")

    def all(self) -> list[ReadableSpan]:
        return [*self._exporter.get_finished_spans()]

    def spans(self) -> dict[str, ReadableSpan]:
        finished = self.all()
        spans = {span.name: span for span in finished}
        assert len(spans) == len(finished)
        return spans


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    yield traces
    traces.provider.shutdown()
    tell_spans_by(None)


@pytest.fixture
def job_tracer(traces: Traces) -> JobTracer:
    return JobTracer(traces.provider)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def linked_spans(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def span_id(span: ReadableSpan) -> int:
    number: int = span.context.span_id
    return number


def trace_id(span: ReadableSpan) -> int:
    number: int = span.context.trace_id
    return number


# -- where a span belongs ----------------------------------------------------------------


async def test_job_begins_a_trace_linked_to_its_spawner(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """It may outlive its spawner, which does not wait; the same for pending jobs."""
    go = asyncio.Event()
    async with Scheduler(limit=1, observers=[job_tracer]) as scheduler:
        with traces.tracer().start_as_current_span("request"):
            await scheduler.spawn(wait_for(go))
            await scheduler.spawn(nothing())
        with traces.tracer().start_as_current_span("other"):
            go.set()
            await scheduler.drain()
    spans = traces.spans()
    request = spans["request"]
    for name in ("wait_for", "nothing"):
        assert spans[name].parent is None
        assert spans[name].kind is SpanKind.CONSUMER
        assert linked_spans(spans[name]) == [span_id(request)]
    assert len({trace_id(span) for span in spans.values()}) == 4


async def test_spans_made_in_a_job_are_its_children(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """Even those of its child tasks; and a job that it spawns is linked to it."""

    async def query() -> None:
        with traces.tracer().start_as_current_span("query"):
            await asyncio.sleep(0)

    async def parent() -> None:
        await asyncio.gather(query(), scheduler.spawn(nothing()))
        assert baggage.get_baggage("user") == "ann"

    async with Scheduler(observers=[job_tracer]) as scheduler:
        token = context.attach(baggage.set_baggage("user", "ann"))
        await (await scheduler.spawn(parent()))
        context.detach(token)
        assert not trace.get_current_span().get_span_context().is_valid
    spans = traces.spans()
    job = spans[parent.__qualname__]
    assert job.links == ()
    child = spans["query"].parent
    assert child is not None
    assert child.span_id == span_id(job)
    assert linked_spans(spans["nothing"]) == [span_id(job)]


async def test_context_that_jobs_share_is_left_as_it_was(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """A job is not linked to one that ran in its context before."""
    shared = contextvars.Context()
    with traces.tracer().start_as_current_span("request") as request:
        shared.run(context.attach, trace.set_span_in_context(request))
    async with Scheduler(observers=[job_tracer]) as scheduler:
        for coro in (nothing(), wait_for(asyncio.Event())):
            job = await scheduler.spawn(coro, context=shared)
            await settle()
            await job.close()
    spans = traces.spans()
    for name in ("nothing", "wait_for"):
        assert linked_spans(spans[name]) == [span_id(spans["request"])]


async def test_request_is_linked_and_atomic_handler_is_its_child(
    traces: Traces, job_tracer: JobTracer, aiohttp_client: Start
) -> None:
    """W4: a request waits for its atomic handler, and for nothing that it spawns."""
    instrumentor = AioHttpServerInstrumentor()
    with warnings.catch_warnings():
        # aiohttp warns of the subclass that is made here.
        warnings.simplefilter("ignore", DeprecationWarning)
        instrumentor.instrument(tracer_provider=traces.provider)
    try:
        app = web.Application()
    finally:
        instrumentor.uninstrument()
    setup(app, observers=[job_tracer])

    @atomic
    async def pay(request: web.Request) -> web.Response:
        with traces.tracer().start_as_current_span("charge"):
            await spawn(request, nothing(), "receipt")
        return web.Response()

    async def refuse(request: web.Request) -> web.Response:
        raise web.HTTPConflict

    app.router.add_post("/pay/{order}", pay)
    app.router.add_post("/refuse", atomic(refuse))
    client = await aiohttp_client(app)
    # A recent yarl does not let aiohttp 3.9 tell the URL of a Host with a port.
    host = {"Host": "test"}
    assert (await client.post("/pay/3", headers=host)).status == 200
    assert (await client.post("/refuse", headers=host)).status == 409
    await client.close()
    spans = traces.spans()
    request, handler = spans["POST /pay/{order}"], spans[pay.__qualname__]
    assert request.kind is SpanKind.SERVER
    assert handler.kind is SpanKind.INTERNAL
    assert handler.parent is not None
    assert handler.parent.span_id == span_id(request)
    charge, receipt = spans["charge"], spans["nothing"]
    assert charge.parent is not None
    assert charge.parent.span_id == span_id(handler)
    assert linked_spans(receipt) == [span_id(charge)]
    assert attributes(receipt)["aiohttp_jobs.origin"] == "POST /pay/{order}"
    # This is an answer like any other.
    assert spans[refuse.__qualname__].status.status_code is StatusCode.UNSET


# -- what a span tells -------------------------------------------------------------------


async def test_span_tells_of_its_job(
    traces: Traces, job_tracer: JobTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By OpenTelemetry's conventions where they exist; and how long it was pending."""
    clock, go = [10.0], asyncio.Event()
    monkeypatch.setattr("aiohttp_jobs.core.job.monotonic", lambda: clock[0])
    async with Scheduler(limit=1, observers=[job_tracer]) as scheduler:
        await scheduler.spawn(wait_for(go))
        job = await scheduler.spawn(
            nothing(), "order 3", origin="POST /orders", key="order:3"
        )
        clock[0] = 12.5
        go.set()
    span = traces.spans()["nothing"]
    assert attributes(span) == {
        "code.function.name": "tests.work.nothing",
        "aiohttp_jobs.job_id": job.id,
        "aiohttp_jobs.job_name": "order 3",
        "aiohttp_jobs.wait_seconds": 2.5,
        "aiohttp_jobs.key": "order:3",
        "aiohttp_jobs.origin": "POST /orders",
        "aiohttp_jobs.outcome": "succeeded",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time


async def test_renamed_coroutine_is_called_by_its_new_name_alone(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """The module that it knows is the one that renamed it."""
    coro: Any = nothing()
    coro.__qualname__ = "Handler.post"
    async with Scheduler(observers=[job_tracer]) as scheduler:
        await scheduler.spawn(coro)
    span = traces.spans()["Handler.post"]
    assert attributes(span)["code.function.name"] == "Handler.post"


async def test_failure_is_recorded(traces: Traces, job_tracer: JobTracer) -> None:
    """With the exception's class, message and traceback; a job's TimeoutError, too."""
    async with Scheduler(
        observers=[job_tracer], exception_handler=Reports(), close_timeout=1
    ) as scheduler:
        await scheduler.spawn(fail())
        await scheduler.spawn(wait_for(asyncio.Event()), timeout=0)
    spans = traces.spans()
    failed, late = spans["fail"], spans["wait_for"]
    assert attributes(failed)["aiohttp_jobs.outcome"] == "failed"
    assert attributes(failed)["error.type"] == "tests.work.Boom"
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "tests.work.Boom: boom"
    (event,) = failed.events
    assert event.name == "exception"
    recorded = dict(event.attributes or {})
    assert recorded["exception.message"] == "boom"
    assert "in fail" in str(recorded["exception.stacktrace"])
    assert attributes(late)["error.type"] == "TimeoutError"
    assert late.status.status_code is StatusCode.ERROR


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Boom("no text")


async def raise_unprintable() -> None:
    raise Unprintable


async def test_failure_without_a_text_is_recorded(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """Its span ends like others, and the tracer goes on."""
    async with Scheduler(
        observers=[job_tracer], exception_handler=Reports()
    ) as scheduler:
        await scheduler.spawn(raise_unprintable())
        await scheduler.drain()
        await scheduler.spawn(nothing())
    spans = traces.spans()
    failed = spans["raise_unprintable"]
    name = "tests.test_opentelemetry.Unprintable"
    assert attributes(failed)["error.type"] == name
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == f"{name}: (its text cannot be shown)"
    (event,) = failed.events
    assert event.name == "exception"
    recorded = dict(event.attributes or {})
    assert recorded["exception.type"] == name
    assert recorded["exception.message"] == "(its text cannot be shown)"
    assert "in raise_unprintable" in str(recorded["exception.stacktrace"])
    assert spans["nothing"].status.status_code is StatusCode.UNSET


async def test_span_of_a_group_tells_what_is_inside(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """In its status; the event has the tracebacks of all exceptions."""

    async def raises() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async with Scheduler(
        observers=[job_tracer], exception_handler=Reports()
    ) as scheduler:
        await scheduler.spawn(raises())
    span = traces.spans()[raises.__qualname__]
    assert attributes(span)["error.type"] == "ExceptionGroup"
    assert str(span.status.description).endswith("first: tests.work.Boom: boom")
    (event,) = span.events
    assert "in fail" in str((event.attributes or {})["exception.stacktrace"])


async def test_span_ends_whatever_the_sdk_does(
    traces: Traces, job_tracer: JobTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is not current after the job."""

    def refuse(*arguments: Any) -> None:
        raise Boom

    shared = contextvars.Context()
    async with Scheduler(observers=[job_tracer]) as scheduler:
        monkeypatch.setattr("opentelemetry.sdk.trace.Span.set_attribute", refuse)
        await scheduler.spawn(nothing(), context=shared)
    assert set(traces.spans()) == {"nothing"}
    assert not shared.run(trace.get_current_span).get_span_context().is_valid


async def test_function_that_does_not_know_its_module_is_named_all_the_same(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """A function made by exec(); and a coroutine that no longer has a frame."""
    made: dict[str, Any] = {}
    exec("async def bare(): pass", made)
    used_up = nothing()
    with pytest.raises(StopIteration):
        used_up.send(None)
    async with Scheduler(
        observers=[job_tracer], exception_handler=Reports()
    ) as scheduler:
        await scheduler.spawn(made["bare"]())
        await scheduler.spawn(used_up)
    spans = traces.spans()
    for name in ("bare", "nothing"):
        assert attributes(spans[name])["code.function.name"] == name


async def test_cancelled_job_is_no_error_but_one_that_is_let_go_is(
    traces: Traces, job_tracer: JobTracer, caplog: pytest.LogCaptureFixture
) -> None:
    """The span of the latter ends when it is let go; one that never ran has none."""
    go = asyncio.Event()
    scheduler = Scheduler(
        limit=2, close_timeout=0, observers=[job_tracer], exception_handler=Reports()
    )
    await scheduler.spawn(wait_for(go))
    await scheduler.spawn(stubborn(go))
    await scheduler.spawn(nothing())
    await settle()
    with traces.tracer().start_as_current_span("closes"):
        await scheduler.close()
    spans = traces.spans()
    assert set(spans) == {"wait_for", "stubborn", "closes"}
    cancelled, let_go = spans["wait_for"], spans["stubborn"]
    outcomes = [attributes(span)["aiohttp_jobs.outcome"] for span in (cancelled, let_go)]
    assert outcomes == ["cancelled", "let_go"]
    assert cancelled.status.status_code is StatusCode.UNSET
    assert let_go.status.status_code is StatusCode.ERROR
    go.set()
    await settle()
    assert len(traces.spans()) == 3
    # OpenTelemetry would log here if a context is not left where it was entered.
    assert [r for r in caplog.records if r.name.startswith("opentelemetry")] == []


async def test_client_that_has_hung_up_is_no_error(
    traces: Traces, job_tracer: JobTracer
) -> None:
    """W4: the outcome says so, and nothing raises an alarm."""
    reports = Reports()
    async with Scheduler(observers=[job_tracer], exception_handler=reports) as scheduler:
        await scheduler.spawn(hang_up())
    span = traces.spans()["hang_up"]
    assert attributes(span)["aiohttp_jobs.outcome"] == "hung_up"
    assert "error.type" not in attributes(span)
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()
    assert reports.contexts == []


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the provider that the page of the docs may have set, in other tests."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", None)


@pytest.mark.usefixtures("no_provider")
async def test_without_a_tracer_provider_nothing_is_traced() -> None:
    """The API is enough: an application need not have the SDK."""
    async with Scheduler(observers=[JobTracer()]) as scheduler:
        job = await scheduler.spawn(nothing())
        await job


@pytest.mark.usefixtures("no_provider")
async def test_without_a_tracer_provider_the_context_is_passed_on() -> None:
    """Calls of a job belong to the trace of its request, as without the tracer."""

    async def current() -> int:
        number: int = trace.get_current_span().get_span_context().span_id
        return number

    remote = trace.SpanContext(trace_id=1, span_id=2, is_remote=True)
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
    async with Scheduler(observers=[JobTracer()]) as scheduler:
        assert await (await scheduler.spawn(current())) == 2
    context.detach(token)


async def test_closed_job_is_not_kept(job_tracer: JobTracer) -> None:
    """L4: nothing grows in a tracer that runs for a year."""

    async def raises() -> None:
        raise Boom

    async with Scheduler(observers=[job_tracer]) as scheduler:
        job = await scheduler.spawn(raises())
        with pytest.raises(Boom):
            await job
        kept = weakref.ref(job)
        del job
        await settle()
    gc.collect()
    assert kept() is None


# -- durable jobs ------------------------------------------------------------------------


@durable("mail", max_attempts=2, backoff=lambda attempt: 0)
async def send(app: web.Application, fails: bool = False) -> None:
    current = current_durable()
    assert current is not None
    await app[SCHEDULER].spawn(nothing())
    if current.attempt == 1 and fails:
        raise Boom("boom")


def make_durable(path: Path, job_tracer: JobTracer, worker: bool) -> web.Application:
    app = web.Application()
    setup(app, observers=[job_tracer], exception_handler=Reports())
    setup_durable(app, path, tasks=[send], worker=worker)
    return app


@contextlib.asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[None]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_attempts_are_linked_to_the_span_that_enqueued_the_job(
    traces: Traces, job_tracer: JobTracer, tmp_path: Path
) -> None:
    """Later, in another application: each in a trace of its own, with its number; jobs
    that an attempt spawns are linked to it."""
    path = tmp_path / "jobs.sqlite"
    app = make_durable(path, job_tracer, worker=False)
    async with running(app):
        with traces.tracer().start_as_current_span("sign up"):
            number = await spawn_durable(app, send, True)
        lonely = await spawn_durable(app, send)
    app = make_durable(path, job_tracer, worker=True)
    async with running(app):
        await until(lambda: app[DURABLE].attempts["succeeded"] == 2)
        await app[SCHEDULER].drain()
    spans = traces.all()
    [sign_up] = [span for span in spans if span.name == "sign up"]
    attempts = {
        (
            attributes(span)["aiohttp_jobs.durable_id"],
            attributes(span)["aiohttp_jobs.durable_attempt"],
        ): span
        for span in spans
        if span.name == "mail"
    }
    assert set(attempts) == {(number, 1), (number, 2), (lonely, 1)}
    for (each, _), span in attempts.items():
        assert span.parent is None
        assert span.kind is SpanKind.CONSUMER
        assert attributes(span)["aiohttp_jobs.durable_task"] == "mail"
        assert linked_spans(span) == ([span_id(sign_up)] if each == number else [])
        assert all(link.context.is_remote for link in span.links)
    assert {trace_id(span) for span in attempts.values()}.isdisjoint({trace_id(sign_up)})
    spawned = [span for span in spans if span.name == "nothing"]
    assert {linked for span in spawned for linked in linked_spans(span)} == {
        span_id(span) for span in attempts.values()
    }
    assert not any("aiohttp_jobs.durable_id" in attributes(span) for span in spawned)


async def test_traceparent_that_is_none_is_ignored(
    traces: Traces, job_tracer: JobTracer, tmp_path: Path
) -> None:
    """Any program may have written it."""
    path = tmp_path / "jobs.sqlite"
    app = make_durable(path, job_tracer, worker=False)
    async with running(app):
        await spawn_durable(app, send)
    with opened(path) as connection:
        connection.execute("UPDATE aiohttp_jobs SET traceparent = '00-zz-1'")
    app = make_durable(path, job_tracer, worker=True)
    async with running(app):
        await until(lambda: app[DURABLE].attempts["succeeded"])
    assert linked_spans(traces.spans()["mail"]) == []


async def test_durable_jobs_keep_no_span_without_a_tracer(tmp_path: Path) -> None:
    """There is none if nothing traces."""
    tell_spans_by(None)
    app = web.Application()
    setup(app)
    setup_durable(app, tmp_path / "jobs.sqlite", tasks=[send], worker=False)
    async with running(app):
        await spawn_durable(app, send)
    [(kept,)] = look(tmp_path / "jobs.sqlite", "SELECT traceparent FROM aiohttp_jobs")
    assert kept is None


def test_tracer_is_imported_without_durable_jobs() -> None:
    """Tracing does not need SQLite, nor do durable jobs need a tracer."""
    code = """
import sys
import aiohttp_jobs.opentelemetry
assert not {"aiohttp_jobs.durable", "sqlite3"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
