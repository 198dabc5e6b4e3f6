"""Sentry: a scope and a transaction for each job. Needs the extra ``sentry``.

The code that spawns a background job does not wait for it. So the job has a transaction
of its own, in the spawner's trace, and a scope that begins as the spawner's: with its
user and its tags as they were then. But a request waits for its atomic handler, which
works in the request's own scope and transaction.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .core.errors import missing_extra

try:
    import sentry_sdk
    from sentry_sdk.crons import capture_checkin
    from sentry_sdk.scope import (
        Scope,
        add_global_event_processor,
        use_isolation_scope,
        use_scope,
    )
    from sentry_sdk.utils import event_from_exception
except ModuleNotFoundError as error:
    raise missing_extra(error, "sentry") from error

from .core.enqueued import attempt_of
from .core.guests import LEAVES, call_guest
from .core.job import Job
from .core.states import CANCELLED, FAILED, HUNG_UP, LET_GO, SUCCEEDED, JobState
from .repeats import Repeat, repeat_of
from .schedule import Cron, Every

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

__all__ = ("JobSentry",)

OP: Final = "queue.task.aiohttp_jobs"
ORIGIN: Final = "auto.queue.aiohttp_jobs"

# Sentry's words for how a job has ended.
STATUS: Final[dict[JobState, str]] = {
    SUCCEEDED: "ok",
    FAILED: "internal_error",
    CANCELLED: "cancelled",
    HUNG_UP: "cancelled",
    LET_GO: "deadline_exceeded",
}
# How long a monitor's name may be, and the units of its schedule, in seconds.
MOST_LETTERS: Final = 50
UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60))


class JobSentry:
    """An observer that reports jobs to Sentry: ``setup(app, observers=[JobSentry()])``.

    Call ``sentry_sdk.init()`` as usual; until then it does nothing. One may observe any
    number of schedulers.

    A failure is captured once, when the exception handler is called with it. A failure
    that somebody received by waiting for the job is not captured here.

    Args:
        monitors: whether each :func:`~aiohttp_jobs.repeat` has a monitor in Sentry, which
            raises an alert when a job fails or does not start. The first job creates it.
    """

    def __init__(self, *, monitors: bool = True) -> None:
        self._monitors = monitors
        self._spawned: dict[Job[Any], _Origin] = {}
        self._running: dict[Job[Any], _Run] = {}

    def job_spawned(self, job: Job[Any]) -> None:
        """Remember the scope of the spawning code, which goes on and may change."""
        if sentry_sdk.is_initialized():
            self._spawned[job] = _Origin()

    def job_running(self, job: Job[Any]) -> None:
        """Begin its scope and its transaction, in its own task."""
        origin = self._spawned.pop(job, None)
        if not sentry_sdk.is_initialized():
            return
        run = self._running[job] = _Run()
        # In its first step no job waits: a job without a slot is an atomic handler or a
        # durable job.
        if not job.takes_slot and attempt_of(job.coro) is None:
            return
        repeated = repeat_of(job)
        run.begin(job, _Origin() if origin is None else origin, repeated)
        if repeated is not None and self._monitors:
            run.check_in(repeated)

    def job_closed(self, job: Job[Any]) -> None:
        """End its transaction and its scope, and see to a failure."""
        self._spawned.pop(job, None)
        run = self._running.pop(job, None)
        if run is None:
            if not sentry_sdk.is_initialized():
                return
            run = _Run()  # it timed out before its first step
        failure = job.failure
        if (
            failure is not None
            and job.state is not HUNG_UP
            and not issubclass(type(failure.error), LEAVES)
        ):
            # In the turn in which the exception handler is told, and just before it.
            soon: Any = asyncio.get_running_loop().call_soon
            soon(soon, call_guest, run.capture, job)
        run.end(job)


@dataclass(slots=True)
class _Origin:
    """The scope and the trace of the code that spawns a job."""

    scope: Scope = field(default_factory=lambda: sentry_sdk.get_isolation_scope().fork())
    trace: str | None = field(default_factory=sentry_sdk.get_traceparent)
    baggage: str | None = field(default_factory=sentry_sdk.get_baggage)

    def headers(self) -> dict[str, str]:
        """Return the headers that continue the trace elsewhere."""
        found = {"sentry-trace": self.trace, "baggage": self.baggage}
        return {name: value for name, value in found.items() if value is not None}


class _Run:
    """What Sentry has of one running job."""

    __slots__ = ("_current", "_isolation", "_monitor", "_stack", "_transaction")

    def __init__(self) -> None:
        # At first, the scopes of whoever runs it.
        self._isolation = sentry_sdk.get_isolation_scope()
        self._current = sentry_sdk.get_current_scope()
        self._transaction: Any = None
        # The name of its monitor, and the id of this check-in.
        self._monitor: tuple[str, str | None] | None = None
        self._stack = ExitStack()

    def begin(self, job: Job[Any], origin: _Origin, repeated: Repeat | None) -> None:
        """Give the job a scope and a transaction of its own, from now on."""
        self._isolation = self._stack.enter_context(use_isolation_scope(origin.scope))
        self._current = sentry_sdk.get_current_scope()
        self._isolation.set_context("aiohttp_jobs", _facts(job))
        # Without a new trace, all repeated jobs would be in the same one forever.
        headers = origin.headers() if repeated is None else {}
        transaction = self._isolation.continue_trace(
            headers, op=OP, name=job.coro_name, source="task", origin=ORIGIN
        )
        options = sentry_sdk.get_client().options
        if options.get("trace_lifecycle") != "stream":  # which knows no transactions
            self._transaction = self._current.start_transaction(
                transaction, custom_sampling_context={"aiohttp_job": job}
            )
            self._current.span = self._transaction

    def check_in(self, repeated: Repeat) -> None:
        """Tell the monitor that it has begun, if Sentry supports the schedule."""
        config = _config_of(repeated)
        if config is not None:
            name = _slug(repeated.label)
            number = capture_checkin(name, status="in_progress", monitor_config=config)
            self._monitor = name, number

    def capture(self, job: Job[Any]) -> None:
        """Capture its failure, unless somebody has received it."""
        failure = job.failure
        if failure is None or failure.is_received:
            return
        error = failure.exception()
        event, hint = event_from_exception(
            error,
            client_options=sentry_sdk.get_client().options,
            mechanism={"type": "aiohttp_jobs", "handled": False},
        )
        with self._scopes():
            sentry_sdk.capture_event(event, hint=hint)
        _captured[id(error)] = error
        asyncio.get_running_loop().call_soon(_captured.pop, id(error), None)

    def end(self, job: Job[Any]) -> None:
        """End its transaction, and leave its scope."""
        with self._scopes():
            if self._transaction is not None:
                self._transaction.set_status(STATUS[job.state])
                self._transaction.finish()
            if self._monitor is not None:
                name, number = self._monitor
                seconds = (job.closed_at or 0) - (job.started_at or 0)
                capture_checkin(
                    name,
                    number,
                    status="ok" if job.state is SUCCEEDED else "error",
                    duration=seconds,
                )
        if job.state is not LET_GO:
            self._stack.close()  # the context may have been given to other jobs, too

    @contextmanager
    def _scopes(self) -> Generator[None]:
        """Enter its scopes, also from outside its context."""
        with use_isolation_scope(self._isolation), use_scope(self._current):
            yield


# Exceptions that were captured and are being told to the exception handler, which most
# often logs them: Sentry would make an event of the log record, too.
_captured: Final[dict[int, BaseException]] = {}


@add_global_event_processor
def _drop_what_was_captured(event: Event, hint: Hint) -> Event | None:
    exc_info: Any = hint.get("exc_info") or (None, None, None)
    return None if id(exc_info[1]) in _captured else event


def _facts(job: Job[Any]) -> dict[str, Any]:
    """Return what Sentry shows of the job next to its failure or transaction."""
    assert job.spawned_at is not None
    assert job.started_at is not None
    facts: dict[str, Any] = {
        "job_id": job.id,
        "job_name": job.label,
        "origin": job.origin,
        "key": job.key,
        "wait_seconds": job.started_at - job.spawned_at,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _slug(label: str) -> str:
    """Return a name that Sentry accepts for a monitor."""
    return re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-")[:MOST_LETTERS]


def _config_of(repeated: Repeat) -> Any:
    """Return the settings of its monitor; None if Sentry has no such schedule."""
    config: dict[str, Any] = {}
    schedule = repeated.schedule
    if isinstance(schedule, Every):
        for unit, seconds in UNITS:
            if schedule.seconds % seconds == 0:
                number = int(schedule.seconds // seconds)
                config["schedule"] = {"type": "interval", "value": number, "unit": unit}
                break
        else:
            return None  # Sentry has no intervals of seconds
    elif isinstance(schedule, Cron) and len(schedule.expression.split()) == 5:
        config["schedule"] = {"type": "crontab", "value": schedule.expression}
        config["timezone"] = schedule.tz
    else:
        return None
    if repeated.jitter:
        config["checkin_margin"] = 1 + math.ceil(repeated.jitter / 60)
    if repeated.timeout is not None:
        config["max_runtime"] = max(1, math.ceil(repeated.timeout / 60))
    return config
