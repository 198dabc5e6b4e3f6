"""The evidence: what ledger, log and clients say about a storm."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from .crowd import Outcome
from .ledger import Entry, Event
from .plan import JobKind, Plan

__all__ = ("Evidence",)

# Messages that the exception handler is called with.
FAILED: Final = ("Job processing failed", "Shielded awaitable failed")
LET_GO: Final = "Job closing timed out"
AT_THE_END: Final = "At the end: "


@dataclass
class Evidence:
    """What one storm has left behind.

    Args:
        ledger: the entries of handlers and jobs.
        stderr: the server's stderr.
        outcomes: what the clients saw.
        status: the exit status of the server.
        took: seconds from SIGTERM to the server's end.
        deadline: seconds that this may take.
        leaves_tasks: whether the server closes its loop after the clean-up regardless of
            the tasks that are left: aiohttp's own, and those of jobs that were let go.
    """

    ledger: Sequence[Entry]
    stderr: str
    outcomes: Sequence[Outcome]
    status: int | None
    took: float
    deadline: float
    leaves_tasks: bool

    @cached_property
    def events(self) -> Mapping[str, list[Entry]]:
        """What happened to each request and each job, in order."""
        events = defaultdict(list)
        for entry in self.ledger:
            events[entry.subject].append(entry)
        return events

    @cached_property
    def plans(self) -> Mapping[str, Plan]:
        """The plans of the requests, and of their jobs, by their names."""
        plans = [outcome.plan for outcome in self.outcomes]
        return {
            **{plan.request_name: plan for plan in plans},
            **{plan.job_name: plan for plan in plans},
        }

    @cached_property
    def answered(self) -> Collection[str]:
        """The requests whose clients were answered."""
        return {o.plan.request_name for o in self.outcomes if o.status}

    def has_timeout(self, name: str) -> bool:
        """Whether this is the name of a job with a timeout."""
        plan = self.plans.get(name)
        if plan is None or name != plan.job_name:
            return False
        return plan.job in (JobKind.HANGS, JobKind.STUBBORN)

    def happened(self, subject: str, *what: Event) -> list[Entry]:
        """Return these events of a request or job."""
        return [entry for entry in self.events[subject] if entry.event in what]

    def entries(self, event: Event, *details: str) -> Iterator[Entry]:
        """Yield the entries of this kind with one of these details, or with any."""
        for entry in self.ledger:
            if entry.event is event and (not details or entry.detail in details):
                yield entry

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The records that were logged."""
        return [json.loads(line) for line in self.stderr.splitlines() if _is_record(line)]

    @cached_property
    def not_logged(self) -> list[str]:
        """The other lines on stderr."""
        return [line for line in self.stderr.splitlines() if not _is_record(line)]

    def logged(self, logger: str, *messages: str) -> list[dict[str, Any]]:
        """Return the records of this logger whose message begins with one of these."""
        return [
            record
            for record in self.log
            if record["logger"] == logger and record["message"].startswith(messages)
        ]

    @cached_property
    def failures(self) -> Counter[str | None]:
        """How often the failures of jobs and handlers were reported or received."""
        told = self.logged("storm.server", *FAILED)
        # A job that swallows the cancellation by its timeout fails when it is let go.
        told += [
            record
            for record in self.logged("storm.server", LET_GO)
            if self.has_timeout(record["subject"]) and not self.stopped(record["subject"])
        ]
        for record in self.logged("aiohttp.server", ""):
            if not _concerns_no_handler(record):
                told.append(record)
        received = (entry.subject for entry in self.entries(Event.RECEIVED))
        return Counter([*(record["subject"] for record in told), *received])

    @cached_property
    def let_go(self) -> Counter[str]:
        """How often the jobs were reported as let go."""
        return Counter(r["subject"] for r in self.logged("storm.server", LET_GO))

    @cached_property
    def cancelled(self) -> Counter[str]:
        """How often the shutdown's record names the jobs as cancelled."""
        return self._named("jobs_cancelled")

    @cached_property
    def never_started(self) -> Counter[str]:
        """How often the shutdown's record names the jobs as never started."""
        return self._named("jobs_never_started")

    def stopped(self, name: str) -> bool:
        """Whether the shutdown cancelled the job or never started it."""
        return bool(self.cancelled[name] or self.never_started[name])

    @cached_property
    def at_the_end(self) -> list[str]:
        """What the server said about its counts."""
        return [r["message"] for r in self.logged("storm.server", AT_THE_END)]

    @cached_property
    def not_expected(self) -> list[dict[str, Any]]:
        """The records that a storm does not explain."""
        return [record for record in self.log if not self._is_expected(record)]

    def _is_expected(self, record: Mapping[str, Any]) -> bool:
        match record["logger"]:
            case "aiohttp_jobs":
                return True
            case "storm.server":
                told: str = record["message"]
                return told.startswith((*FAILED, LET_GO, AT_THE_END))
            case "storm.ledger":
                return self._may_be_late(record["subject"], record["event"])
            case "aiohttp.server":
                return bool(record["subject"]) or _concerns_no_handler(record)
            case "asyncio":
                return self.leaves_tasks and self._is_left(record)
        return False

    def _is_left(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is about a lost connection, or a job that was let go."""
        left = re.match(
            r"Task was destroyed but it is pending!\n"
            r"task: <Task pending name='(?P<name>[^']*)' coro=<(?P<coro>[\w.]+)\(\)",
            record["message"],
        )
        return left is not None and (
            left["coro"].startswith("RequestHandler.") or bool(self.let_go[left["name"]])
        )

    def _may_be_late(self, subject: str, event: str) -> bool:
        """Whether this is a job that was let go, or a plain handler without a client."""
        if event in (Event.REFUSED, Event.WITHDRAWN):
            subject = subject.replace("job", "request")  # which tried to spawn the job
        plan = self.plans.get(subject)
        if plan is not None and subject == plan.request_name:
            return not plan.route.atomic
        return bool(self.let_go[subject])

    def _named(self, key: str) -> Counter[str]:
        records = self.logged("aiohttp_jobs", "")
        return Counter(name for record in records for name in record.get(key, ()))


def _is_record(line: str) -> bool:
    return line.startswith('{"logger": ')


def _concerns_no_handler(record: Mapping[str, Any]) -> bool:
    """Whether aiohttp's server logged this about a malformed request, or about itself.

    With 3.9, that a client had gone before its handler was called; with other releases,
    that a handler ended just when the server lost patience with it.
    """
    return (
        ": 400, message=" in record["error"]
        or "assert self._request_handler is not None" in record["traceback"]
        or "self._handler_waiter.set_result(None)" in record["traceback"]
    )
