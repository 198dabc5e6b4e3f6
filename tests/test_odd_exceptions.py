"""Odd exceptions on every path that an exception can take (rules R1, R2, R10).

Each test runs on one kind of loop, which changes from run to run.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from aiohttp_jobs import Job, JobLogger, JobState, Scheduler, SchedulerFull, setup
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.dashboard.process import process_name
from aiohttp_jobs.opentelemetry import JobTracer
from aiohttp_jobs.prometheus import jobs_collector
from tests.loops import later, settle
from tests.odd import ODD
from tests.work import Reports, give, wait_for

pytestmark = pytest.mark.one_loop
Make = Callable[[], BaseException]
KINDS = {type(make()) for make in ODD.values()}


def odd(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run a test with each odd exception; pytest could not report one that gets out."""

    @functools.wraps(test)
    async def contain(**arguments: Any) -> None:
        try:
            await test(**arguments)
        except BaseException as error:
            if type(error) not in KINDS:
                raise
        else:
            return
        raise AssertionError("the exception got out of the test")

    return pytest.mark.parametrize("make", ODD.values(), ids=ODD)(contain)


async def fail_with(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def fail_at_once_with(error: BaseException) -> None:
    raise error


async def fail_when_cancelled(error: BaseException) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise error from None


async def raised_by(awaitable: Awaitable[Any]) -> BaseException | None:
    """Return the exception raised. (pytest.raises() would look at it too closely.)"""
    try:
        async with asyncio.timeout(100):
            await awaitable
    except BaseException as error:
        return error
    return None


def told(reports: Reports) -> list[int]:
    """Return the ids of the reported exceptions, as they cannot be compared."""
    return [id(context["exception"]) for context in reports.contexts]


async def check_it_works(scheduler: Scheduler) -> None:
    """Check that the one slot is free, and that the scheduler closes."""
    async with asyncio.timeout(100):
        await scheduler.drain()
        assert scheduler.slots_taken == 0
        assert len(scheduler) == 0
        assert await (await scheduler.spawn(give(1))) == 1
        await scheduler.close()
    assert scheduler.state.name == "CLOSED"


# -- a job -------------------------------------------------------------------------------


@odd
@pytest.mark.parametrize("fail", [fail_with, fail_at_once_with])
async def test_job_fails_its_waiters_get_the_exception(make: Make, fail: Any) -> None:
    """R1: the very same one, before the end and after it; the next job starts."""
    error, reports = make(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail(error), "odd")
    after = await scheduler.spawn(give("after"))
    waiters = [asyncio.create_task(raised_by(job.wait())) for _ in range(2)]
    # Another job waits for it, too.
    waiting = await scheduler.spawn(raised_by(job))
    for waiter in waiters:
        assert await waiter is error
    assert await waiting is error
    assert await raised_by(job) is error
    assert await raised_by(job.wait(timeout=1)) is error
    assert job.state is JobState.FAILED
    assert job.exception() is error
    assert await after == "after"
    await settle()
    assert told(reports) == []
    await check_it_works(scheduler)


@odd
async def test_job_fails_that_nobody_waits_for_its_handler_is_told(make: Make) -> None:
    """R2: once, with the exception that the job raised."""
    error, reports = make(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail_with(error), "odd")
    await settle()
    assert told(reports) == [id(error)]
    assert reports.contexts[0]["job"] is job
    await check_it_works(scheduler)


@odd
async def test_job_fails_and_there_is_no_handler_the_loop_is_told(
    make: Make, loop_errors: list[dict[str, Any]]
) -> None:
    """R5: as usual in asyncio, once."""
    error = make()
    scheduler = Scheduler(limit=1)
    await scheduler.spawn(fail_with(error), "odd")
    await settle()
    assert [id(context["exception"]) for context in loop_errors] == [id(error)]
    await check_it_works(scheduler)


@odd
async def test_waiter_is_cancelled_as_the_job_fails(make: Make) -> None:
    """R2: then the exception handler gets the failure."""
    error, reports, go = make(), Reports(), asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise error

    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail(), "odd")
    waiter = asyncio.create_task(job.wait())
    await settle()
    waiter.cancel()
    go.set()
    await settle()
    assert waiter.cancelled()
    assert told(reports) == [id(error)]
    await check_it_works(scheduler)


@odd
async def test_traceback_is_what_it_was_at_the_failure(make: Make) -> None:
    """R1: each waiter gets it with the traceback of the job, and it does not grow."""
    error = make()
    get_traceback: Any = BaseException.__dict__["__traceback__"].__get__
    async with Scheduler(limit=1, exception_handler=Reports()) as scheduler:
        job = await scheduler.spawn(fail_with(error), "odd")
        lengths = list[int]()
        for _ in range(3):
            assert await raised_by(job) is error
            traceback, names = get_traceback(error), list[str]()
            while traceback is not None:
                names.append(traceback.tb_frame.f_code.co_name)
                traceback = traceback.tb_next
            assert names.count("fail_with") == 1
            lengths.append(len(names))
    assert len(set(lengths)) == 1


# -- an end that was asked for -----------------------------------------------------------


@odd
async def test_job_fails_while_it_is_closed(make: Make) -> None:
    """R2: the caller of job.close() gets the failure."""
    error, reports = make(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail_when_cancelled(error), "odd")
    await settle()
    assert await raised_by(job.close()) is error
    await settle()
    assert told(reports) == []
    await check_it_works(scheduler)


@odd
async def test_job_fails_while_its_scheduler_is_closed(make: Make) -> None:
    """E3, R2: the close ends, and the exception handler is told."""
    error, reports = make(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail_when_cancelled(error), "odd")
    await settle()
    async with asyncio.timeout(100):
        await scheduler.close()
    assert job.state is JobState.FAILED
    assert told(reports) == [id(error)]
    assert len(scheduler) == 0


@odd
async def test_job_runs_out_of_time_and_fails_its_failure_is_the_cause(
    make: Make,
) -> None:
    """R4: TimeoutError, caused by the exception of the cancelled job."""
    error, reports = make(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail_when_cancelled(error), "odd", timeout=1)
    timeout = await raised_by(job)
    assert type(timeout) is TimeoutError
    assert timeout.__cause__ is error
    await check_it_works(scheduler)


@odd
async def test_wait_runs_out_of_time_and_the_job_fails(make: Make) -> None:
    """R3: the same for the caller whose wait timed out."""
    error, reports = make(), Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail_when_cancelled(error), "odd")
    timeout = await raised_by(job.wait(timeout=1))
    assert type(timeout) is TimeoutError
    assert timeout.__cause__ is error
    assert told(reports) == []
    await check_it_works(scheduler)


@odd
async def test_job_that_was_let_go_fails_later(make: Make) -> None:
    """E0, R2: its failure is reported, once, when it comes."""
    error, reports, go = make(), Reports(), asyncio.Event()

    async def fail_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await go.wait()
            raise error

    scheduler = Scheduler(limit=1, exception_handler=reports, close_timeout=1)
    job = await scheduler.spawn(fail_late(), "odd")
    await settle()
    assert type(await raised_by(job.close())) is TimeoutError
    reports.contexts.clear()
    go.set()
    await settle()
    assert told(reports) == [id(error)]
    await check_it_works(scheduler)


# -- a shield ----------------------------------------------------------------------------


@odd
async def test_shielded_awaitable_fails_its_caller_gets_it(make: Make) -> None:
    """R2: and nobody else."""
    error, reports = make(), Reports()
    if type(error) is GeneratorExit:
        return  # throwing this into a coroutine closes it
    scheduler = Scheduler(limit=1, exception_handler=reports)
    assert await raised_by(scheduler.shield(fail_with(error))) is error
    await settle()
    assert told(reports) == []
    await check_it_works(scheduler)


@odd
async def test_shielded_awaitable_fails_after_its_caller_has_gone(make: Make) -> None:
    """R2: the exception handler is told, once."""
    error, reports, go = make(), Reports(), asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise error

    async def protect() -> None:
        await scheduler.shield(fail())

    scheduler = Scheduler(limit=1, exception_handler=reports)
    caller = asyncio.create_task(protect())
    await settle()
    caller.cancel()
    await settle()
    go.set()
    await settle()
    assert told(reports) == [id(error)]
    await check_it_works(scheduler)


# -- guests that raise it ----------------------------------------------------------------


@odd
@pytest.mark.parametrize(
    "event", ["job_spawned", "job_started", "job_running", "job_closed"]
)
async def test_observer_raises_it_no_job_is_harmed(make: Make, event: str) -> None:
    """R10: whatever it raises, it is called no more, and the jobs run."""
    calls = 0

    def sabotage(job: Job[Any]) -> None:
        nonlocal calls
        calls += 1
        raise make()

    observer = type("Observer", (), {event: staticmethod(sabotage)})()
    scheduler = Scheduler(limit=1, exception_handler=Reports(), observers=[observer])
    jobs = [await scheduler.spawn(give(n), "odd") for n in range(3)]
    async with asyncio.timeout(100):
        assert [await job for job in jobs] == [0, 1, 2]
    assert calls == 1
    await check_it_works(scheduler)


@odd
async def test_exception_handler_raises_it_both_are_told(
    make: Make, loop_errors: list[dict[str, Any]]
) -> None:
    """R5: the loop's handler is told of both exceptions, and no job is harmed."""
    handlers, failure = make(), make()

    def handle(scheduler: Scheduler, context: dict[str, Any]) -> None:
        raise handlers

    scheduler = Scheduler(limit=1, exception_handler=handle)
    await scheduler.spawn(fail_with(failure), "odd")
    await settle()
    (context,) = loop_errors
    assert context["exception"] is handlers
    assert context["context"]["exception"] is failure
    await check_it_works(scheduler)


class Coroutine3(Coroutine[Any, Any, int]):
    """A foreign coroutine, which cannot be closed."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Any:
        return self

    def send(self, value: Any) -> Any:
        raise StopIteration(3)

    def throw(self, *error: Any) -> Any:
        raise self._error

    def close(self) -> None:
        raise self._error


@odd
async def test_coroutine_raises_it_when_it_is_closed(
    make: Make, loop_errors: list[dict[str, Any]]
) -> None:
    """R10: a refused one, one that never starts, one that a close drops. The exception
    may be reported to the loop."""
    error, go = make(), asyncio.Event()
    scheduler = Scheduler(limit=1, pending_limit=1, exception_handler=Reports())
    first = await scheduler.spawn(wait_for(go))
    pending = await scheduler.spawn(Coroutine3(error))
    refused = await raised_by(refuse(scheduler, Coroutine3(error)))
    assert isinstance(refused, SchedulerFull) or refused is error
    waiter = asyncio.create_task(raised_by(pending.wait()))
    await settle()
    await raised_by(pending.close())
    await settle()
    assert waiter.done()
    assert pending.closed
    assert scheduler.pending_count == 0
    # Now a job that never starts because the scheduler closes.
    unstarted = await scheduler.spawn(Coroutine3(error))
    async with asyncio.timeout(100):
        await scheduler.close()
    assert unstarted.closed
    assert first.closed
    assert {id(context["exception"]) for context in loop_errors} <= {id(error)}
    assert len(scheduler) == 0
    assert scheduler.state.name == "CLOSED"


async def refuse(scheduler: Scheduler, coro: Coroutine[Any, Any, Any]) -> None:
    scheduler.spawn_nowait(coro)


# -- observers that report it ------------------------------------------------------------


@odd
async def test_log_of_jobs_tells_of_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: in one line, and it goes on logging."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    scheduler = Scheduler(limit=1, exception_handler=Reports(), observers=[JobLogger()])
    await scheduler.spawn(fail_with(make()), "odd")
    await settle()
    await check_it_works(scheduler)
    ends = [record for record in caplog.records if hasattr(record, "job_outcome")]
    assert [record.job_outcome for record in ends] == ["failed", "succeeded"]
    assert all("\n" not in record.getMessage() for record in ends)


@odd
async def test_metrics_count_it(make: Make) -> None:
    """R10: as a failure like any other."""
    registry = CollectorRegistry()
    scheduler = Scheduler(limit=1, exception_handler=Reports())
    jobs_collector(registry).add(scheduler)
    for _ in range(2):
        await scheduler.spawn(fail_with(make()), "odd")
    await settle()
    failed = 'aiohttp_jobs_jobs_total{job="fail_with",outcome="failed"'
    lines = generate_latest(registry).decode().splitlines()
    assert [line.rpartition(" ")[2] for line in lines if line.startswith(failed)] == [
        "2.0"
    ]
    await check_it_works(scheduler)


@odd
async def test_span_of_the_job_tells_of_it(make: Make) -> None:
    """R10: and the next job has its span."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = JobTracer(provider)
    scheduler = Scheduler(limit=1, exception_handler=Reports(), observers=[tracer])
    await scheduler.spawn(fail_with(make()), "odd")
    await settle()
    await check_it_works(scheduler)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["fail_with", "give"]
    assert not spans[0].status.is_ok
    assert [event.name for event in spans[0].events] == ["exception"]
    provider.shutdown()


@odd
async def test_history_of_the_dashboard_keeps_it(make: Make) -> None:
    """R10: bounded in size, with its causes, and it goes on keeping others."""
    scheduler = Scheduler(limit=1, exception_handler=Reports())
    history = History(scheduler)
    scheduler.add_observer(history)
    job = await scheduler.spawn(fail_with(make()), "odd")
    await settle()
    await check_it_works(scheduler)
    record = history.find(job.id)
    assert record is not None
    assert record.error
    assert 1 <= len(record.raised) <= 10
    assert len(list(history.records())) == 2


def test_dashboard_shows_all_of_them() -> None:
    """R10: on the overview, and each on its own page."""

    async def manage(request: web.Request) -> Access:
        return Access.MANAGE

    async def main() -> None:
        app = web.Application()
        scheduler = setup(app, exception_handler=Reports())
        setup_dashboard(app, authorize=manage)
        server = TestServer(app, host="127.0.0.1")
        async with TestClient(server, headers={"Host": "test"}) as client:
            jobs = [
                await scheduler.spawn(fail_with(make()), n) for n, make in ODD.items()
            ]
            await scheduler.drain()
            for path in (
                "/jobs/",
                *(f"/jobs/job/{process_name()}-{job.id}" for job in jobs),
            ):
                async with client.get(path) as response:
                    assert response.status == 200, path
                    assert "fail_with" in await response.text()

    asyncio.run(main())


# -- what a coroutine may not raise ------------------------------------------------------


async def test_job_raises_stop_iteration_it_has_failed() -> None:
    """R1: Python turns it into a RuntimeError."""
    reports = Reports()
    scheduler = Scheduler(limit=1, exception_handler=reports)
    job = await scheduler.spawn(fail_with(StopIteration(3)))
    error = await raised_by(job)
    assert type(error) is RuntimeError
    assert job.state is JobState.FAILED
    await scheduler.spawn(fail_with(StopIteration(3)))
    await settle()
    assert len(reports.contexts) == 1
    await check_it_works(scheduler)


class Stops(Coroutine3):
    """A foreign coroutine, which does raise StopIteration where it must not."""

    def throw(self, *error: Any) -> Any:
        raise StopIteration("closed")

    def close(self) -> None:
        raise StopIteration("closed")


async def test_coroutine_of_another_make_stops_when_it_is_cancelled(
    loop_errors: list[dict[str, Any]],
) -> None:
    """R10: the books are right."""
    scheduler = Scheduler(limit=1, exception_handler=Reports())
    job = await scheduler.spawn(Stops(ValueError()))
    await raised_by(job.close())
    assert job.closed
    await later(1)
    await check_it_works(scheduler)
