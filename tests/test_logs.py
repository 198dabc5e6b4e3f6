"""Log records: all by one logger, with fields that a formatter can turn into JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiohttp_jobs import Job, JobLogger, Scheduler
from tests.loops import settle
from tests.work import Boom, Reports, fail, hang_up, nothing, stubborn, wait_for

REFERENCE = Path(__file__).parent.parent / "docs/reference.rst"

# The attributes that every record has.
PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the added fields, as a JSON formatter would."""
    assert record.name == "aiohttp_jobs"
    added = {key: value for key, value in vars(record).items() if key not in PLAIN}
    read: dict[str, Any] = json.loads(json.dumps(added))
    assert read == added
    documented = REFERENCE.read_text().partition(".. _log-records:")[2]
    assert set(added) <= set(re.findall(r"`(\w+)`", documented))
    return added


# -- the end of each job -----------------------------------------------------------------


async def ends(scheduler: Scheduler, job: Job[Any]) -> None:
    await scheduler.drain()


async def is_closed(scheduler: Scheduler, job: Job[Any]) -> None:
    await settle()
    await job.close()


@pytest.mark.parametrize(
    ("make", "end", "outcome", "error"),
    [
        (nothing, ends, "succeeded", None),
        (fail, ends, "failed", "tests.work.Boom: boom"),
        (lambda: wait_for(asyncio.Event()), is_closed, "cancelled", None),
        (hang_up, ends, "hung_up", None),
    ],
    ids=["succeeded", "failed", "cancelled", "hung up"],
)
async def test_end_of_a_job_is_logged_with_its_fields(
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], Any],
    end: Callable[..., Any],
    outcome: str,
    error: str | None,
) -> None:
    """Number, names, origin, outcome and times; the error in one line."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    async with Scheduler(
        observers=[JobLogger()], exception_handler=Reports(), close_timeout=1
    ) as scheduler:
        job = await scheduler.spawn(
            make(), "order 3", origin="POST /orders", key="order:3"
        )
        await end(scheduler, job)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    told = fields(record)
    assert told.pop("job_wait_seconds") >= 0
    assert told.pop("job_run_seconds") >= 0
    assert told == {
        "job_id": job.id,
        "job_name": "order 3",
        "job_coro": job.coro_name,
        "job_origin": "POST /orders",
        "job_key": "order:3",
        "job_outcome": outcome,
        "job_error": error,
    }
    pattern = rf"Job order 3: {outcome}, waited \d+\.\d{{3}} s, ran \d+\.\d{{3}} s"
    assert re.fullmatch(pattern + (f", {error}" if error else ""), record.getMessage())


async def test_job_that_never_started_did_not_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was pending until it was cancelled."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    go = asyncio.Event()
    async with Scheduler(limit=1, observers=[JobLogger()]) as scheduler:
        await scheduler.spawn(wait_for(go))
        await (await scheduler.spawn(nothing())).close()
        told = fields(caplog.records[0])
        assert told["job_outcome"] == "cancelled"
        assert told["job_run_seconds"] is None
        assert told["job_wait_seconds"] >= 0
        assert "ran" not in caplog.records[0].getMessage()
        go.set()


async def test_level_of_the_records_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """Records below the enabled level are not logged."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    observers = [JobLogger(logging.DEBUG), JobLogger(logging.WARNING)]
    async with Scheduler(observers=observers) as scheduler:
        await scheduler.spawn(nothing())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(TypeError, match="level takes a number"):
        JobLogger("INFO")  # type: ignore[arg-type]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Boom("no text")


SYNTAX_ERROR = SyntaxError("invalid syntax", ("s", 1, 3, "a b", 1, 4))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Unprintable(), "tests.test_logs.Unprintable: (its text cannot be shown)"),
        (SYNTAX_ERROR, "SyntaxError: invalid syntax (s, line 1)"),
        (Boom("boom\nand more"), "tests.work.Boom: boom"),
        (
            ExceptionGroup("some", [Boom("boom"), Boom()]),
            "ExceptionGroup: some (2 sub-exceptions), first: tests.work.Boom: boom",
        ),
    ],
    ids=["unprintable", "syntax error", "lines", "group"],
)
async def test_unusual_exception_is_logged_in_one_line(
    caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    """Without a message, with a source position, with many lines, or with inner
    exceptions: the logger is not dropped for it."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")

    async def raises() -> None:
        raise error

    async with Scheduler(
        observers=[JobLogger()], exception_handler=Reports()
    ) as scheduler:
        await scheduler.spawn(raises())
    (record,) = caplog.records
    assert fields(record)["job_error"] == line


class Empty(Exception):
    def __len__(self) -> int:
        return 0


async def test_exception_that_is_false_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By name, and not as an object that no formatter can turn into JSON."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")

    async def raises() -> None:
        raise Empty("empty")

    async with Scheduler(
        observers=[JobLogger()], exception_handler=Reports()
    ) as scheduler:
        await scheduler.spawn(raises())
    (record,) = caplog.records
    assert fields(record)["job_error"] == "tests.test_logs.Empty: empty"


# -- the records that are always there ---------------------------------------------------


async def test_record_of_a_close_has_fields(caplog: pytest.LogCaptureFixture) -> None:
    """E5: the name of every single job, in two lists."""
    go = asyncio.Event()
    scheduler = Scheduler(limit=1, close_timeout=0, exception_handler=Reports())
    await scheduler.spawn(stubborn(go), "a")
    await scheduler.spawn(nothing(), "b")
    await settle()
    await scheduler.close()
    (record,) = caplog.records
    assert fields(record) == {
        "jobs_cancelled": ["a"],
        "jobs_never_started": ["b"],
        "shields_cancelled": 0,
    }
    go.set()
    await settle()


async def test_record_of_a_drain_has_fields(caplog: pytest.LogCaptureFixture) -> None:
    """E5: how many jobs are left."""
    caplog.set_level(logging.INFO, "aiohttp_jobs")
    go = asyncio.Event()
    scheduler = Scheduler(limit=1, close_timeout=1)
    await scheduler.spawn(wait_for(go))
    await scheduler.spawn(nothing())
    await scheduler.drain(timeout=6)
    (record,) = caplog.records
    assert fields(record) == {
        "jobs_active": 1,
        "jobs_pending": 1,
        "shields_left": 0,
        "seconds_left": pytest.approx(1),
        "is_held": False,
    }
    go.set()
    await scheduler.wait_and_close()


async def test_record_of_a_broken_observer_has_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The method of the observer, and the job that it was told of."""

    class Broken:
        def job_started(self, job: Job[Any]) -> None:
            raise Boom

    async with Scheduler(observers=[Broken()]) as scheduler:
        job = await scheduler.spawn(nothing(), "a")
    (record,) = caplog.records
    told = fields(record)
    assert told["observer_method"] == "job_started"
    assert (told["job_id"], told["job_name"], told["job_outcome"]) == (job.id, "a", None)
    assert told["job_run_seconds"] is None
