"""Sentry: the real SDK, with a transport that keeps the events (A6, A9, R2).

The application is in tests/tools/job_sentry.py, and runs once, in a process of its own,
as Sentry patches other libraries.
"""

from __future__ import annotations

from typing import Any

import pytest

from aiohttp_jobs import Scheduler, cron, every, repeat
from aiohttp_jobs.repeats import Repeat
from aiohttp_jobs.sentry import JobSentry, _config_of, _slug
from tests.test_tools import run
from tests.work import nothing

Sent = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run("job_sentry")


def brief(sent: Sent, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(each[name] for name in names) for each in sent]


def only(sent: Sent, kind: str) -> Sent:
    return [each for each in sent if each["type"] == kind]


# -- failures ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["logged", "handled"])
def test_failure_is_captured_once_with_the_user_of_its_spawner(
    found: dict[str, Any], how: str
) -> None:
    """R2, A6: even if Sentry captures the log record of the event loop's own handler."""
    failures = only(found["failures"][how], "failure")
    assert brief(failures, "error", "user", "name", "mechanism") == [
        (["Boom"], "ann", "fail", "aiohttp_jobs"),
        (["Boom"], "bob", "fail", "aiohttp_jobs"),
    ]
    assert len(found["failures"][how]) == 4  # with their transactions


def test_scope_of_a_job_begins_as_that_of_its_spawner_was(found: dict[str, Any]) -> None:
    """A6: as it was when the job was spawned; afterwards neither changes the other."""
    *jobs, message = found["one_scope"]
    assert brief(only(jobs, "failure"), "user", "tags") == [
        (f"user {number}", {f"of_job_{number}": "yes"}) for number in range(3)
    ]
    assert (message["type"], message["user"], message["tags"]) == ("event", "user 2", {})


def test_failure_that_is_received_is_not_captured(found: dict[str, Any]) -> None:
    """R2: it is up to the waiter."""
    assert brief(found["received"], "type", "status") == [
        ("transaction", "internal_error")
    ]


def test_context_that_is_given_is_left_as_it_was(found: dict[str, Any]) -> None:
    """A6: the scope ends with the job."""
    job, after = found["one_context"]
    assert (job["user"], job["name"]) == ("ann", "give")
    assert (after["user"], after["name"], after["job"]) == ("ann", None, None)


# -- transactions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status", "errors"),
    [
        ("succeeded", "ok", []),
        ("cancelled", "cancelled", []),
        ("hung_up", "cancelled", []),
        ("let_go", "deadline_exceeded", [["TimeoutError"]]),
        ("timed_out", "internal_error", [["TimeoutError"]]),
    ],
)
def test_transaction_tells_the_outcome(
    found: dict[str, Any], outcome: str, status: str, errors: list[Any]
) -> None:
    """E0, R4: one for each job, named by its coroutine."""
    sent = found["outcomes"][outcome]
    [transaction] = only(sent, "transaction")
    assert transaction["status"] == status
    assert transaction["op"] == "queue.task.aiohttp_jobs"
    assert [each["error"] for each in only(sent, "failure")] == errors
    if outcome == "succeeded":
        assert transaction["name"] == "give"
        assert transaction["job"]["job_name"] == "give it"


def test_what_a_job_does_is_in_its_transaction(found: dict[str, Any]) -> None:
    """And that is in the spawner's trace."""
    spawner, job = found["spans"]
    assert (spawner["spans"], job["spans"]) == ([], ["send"])
    assert spawner["trace"] == job["trace"]


# -- requests ----------------------------------------------------------------------------


def test_atomic_handler_is_a_part_of_its_request(found: dict[str, Any]) -> None:
    """W4: it has no transaction of its own, and its failure is the request's."""
    sent = found["requests"]["/atomic"]
    assert brief(sent, "type", "op", "user", "mechanism") == [
        ("failure", "http.server", "user of /atomic", "aiohttp"),
        ("transaction", "http.server", "user of /atomic", None),
    ]


def test_job_of_a_request_has_its_user_and_its_trace(found: dict[str, Any]) -> None:
    """W3: and a transaction of its own, with the data of the job."""
    request, job, failure = found["requests"]["/spawn"]
    assert request["op"] == "http.server"
    assert request["name"].endswith("spawning_handler")
    assert job["trace"] == request["trace"] == failure["trace"]
    assert failure["user"] == "user of /spawn"
    assert job["job"].items() >= {"origin": "GET /spawn", "key": "report"}.items()
    assert failure["job"] == job["job"]


def test_failure_that_a_handler_lets_through_is_captured_once(
    found: dict[str, Any],
) -> None:
    """R2: by Sentry's own integration, as the request's failure, whose name stays."""
    sent = found["requests"]["/wait"]
    [failure] = only(sent, "failure")
    assert (failure["mechanism"], failure["user"]) == ("aiohttp", "user of /wait")
    names = [each["name"].rpartition(".")[2] for each in only(sent, "transaction")]
    assert names == ["fail", "waiting_handler"]


def test_attempt_of_a_durable_job_has_a_scope_and_a_transaction(
    found: dict[str, Any],
) -> None:
    """It takes no slot, but unlike an atomic handler it is not part of a request."""
    failures = only(found["durable_jobs"], "failure")
    assert brief(failures, "error", "name", "tags") == [
        (["Boom"], "mail.welcome", {f"of_job_{number}": "yes"}) for number in range(2)
    ]
    transactions = only(found["durable_jobs"], "transaction")
    assert [each["name"] for each in transactions] == ["mail.welcome"] * 2


# -- monitors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "status"), [("nothing", "ok"), ("fail", "error")])
def test_repeat_has_a_monitor(found: dict[str, Any], function: str, status: str) -> None:
    """Two check-ins for each job, the first one with the schedule."""
    sent = found["monitors"][function]
    first, second, third, fourth = (each["check_in"] for each in only(sent, "check_in"))
    for begin, end in ((first, second), (third, fourth)):
        assert begin["monitor_slug"] == end["monitor_slug"] == "clean-up"
        assert begin["check_in_id"] == end["check_in_id"]
        assert (begin["status"], end["status"]) == ("in_progress", status)
        assert begin["monitor_config"] == {
            "schedule": {"type": "interval", "value": 2, "unit": "hour"},
            "checkin_margin": 2,
            "max_runtime": 2,
        }
        assert 0 <= end["duration"] < 60
    assert first["check_in_id"] != third["check_in_id"]


def test_repeated_jobs_are_each_in_a_trace_of_its_own(found: dict[str, Any]) -> None:
    """They have no spawner with a trace."""
    traces = [each["trace"] for each in only(found["monitors"]["fail"], "transaction")]
    assert len(set(traces)) == len(traces) == 2


def test_monitors_can_be_left_out(found: dict[str, Any]) -> None:
    """Each of them costs money."""
    assert [each["type"] for each in found["monitors"]["none"]] == ["transaction"]


def _repeat(schedule: Any) -> Repeat:
    return Repeat(Scheduler(), schedule, nothing, (), None, None, 0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (every(60), {"type": "interval", "value": 1, "unit": "minute"}),
        (every(90), None),
        (every(0.5), None),
        (every(172_800), {"type": "interval", "value": 2, "unit": "day"}),
        (cron("0 7 * * 1-5", tz="Europe/Madrid"), "0 7 * * 1-5"),
        (cron("0 0 7 * * 1-5"), None),
        (object(), None),
    ],
    ids=repr,
)
def test_monitor_has_the_schedule_if_sentry_knows_such(
    schedule: Any, expected: Any
) -> None:
    """Sentry does not know schedules with seconds."""
    config = _config_of(_repeat(schedule))
    if expected is None:
        assert config is None
    elif isinstance(expected, str):
        assert config == {
            "schedule": {"type": "crontab", "value": expected},
            "timezone": "Europe/Madrid",
        }
    else:
        assert config == {"schedule": expected}


def test_name_of_a_monitor_is_what_sentry_takes() -> None:
    """Lower-case letters, digits, _ and -, and not too many."""
    assert _slug("Reports.<locals>.clean_UP") == "reports-locals-clean_up"
    assert len(_slug("x" * 99)) == 50


# -- without Sentry ----------------------------------------------------------------------


async def test_nothing_happens_before_sentry_is_initialized(
    found: dict[str, Any],
) -> None:
    """Neither in that process nor in this one, where it never is; and nothing is kept."""
    assert found["before"] == []
    observer = JobSentry()
    async with Scheduler(observers=[observer]) as scheduler:
        await scheduler.spawn(nothing())
        again = repeat(scheduler, every(60), nothing, at_once=True)
        await scheduler.drain()
        again.cancel()
    assert (observer._spawned, observer._running) == ({}, {})
