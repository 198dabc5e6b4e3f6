"""The verdict: the faults that the evidence shows, and the figures.

Each check yields faults: sentences about what must not happen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .crowd import Fate
from .evidence import Evidence
from .ledger import ENDS, Entry, Event
from .plan import Failure, JobKind, Manner, Plan, Route
from .server import CLOSE_TIMEOUT

__all__ = ("Verdict", "expected_statuses", "judge")

ATOMIC: Final = tuple(route for route in Route if route.atomic)
PLAIN: Final = tuple(route for route in Route if not route.atomic)
# The name, in the shutdown's record, of atomic handlers that wait for a job: that of
# their function.
WAITING_HANDLER: Final = "handle_wait"
# More entries than one turn of the loop writes. Within a turn the ledger does not have
# the queue's order: a caller that is woken for its place writes later than one that just
# arrives.
ONE_TURN: Final = 2000


@dataclass
class Verdict:
    """The faults, and the figures."""

    faults: list[str]
    figures: dict[str, int | float]


def judge(evidence: Evidence) -> Verdict:
    """Run all checks, and count the rest."""
    checks = (
        everything_happens_once,
        every_atomic_handler_ends,
        every_accepted_job_ends_or_is_named,
        every_stubborn_job_is_let_go,
        jobs_begin_in_their_order,
        jobs_wait_for_their_response,
        every_failure_is_told_once,
        no_answer_is_a_surprise,
        server_ends_in_time,
        nothing_else_is_told,
    )
    faults = [fault for check in checks for fault in check(evidence)]
    return Verdict(faults, count(evidence))


# -- the checks -------------------------------------------------------------------------


def everything_happens_once(evidence: Evidence) -> Iterator[str]:
    """Handlers and jobs begin once and end once; a job only if it was accepted."""
    for subject, events in evidence.events.items():
        times = Counter(entry.event for entry in events)
        if times[Event.BEGAN] > 1:
            yield f"{subject} began {times[Event.BEGAN]} times"
        if sum(times[end] for end in ENDS) > times[Event.BEGAN]:
            yield f"{subject} ended more often than it began: {events}"
        if times[Event.ACCEPTED] + times[Event.REFUSED] + times[Event.WITHDRAWN] > 1:
            yield f"{subject} was accepted and refused: {events}"
        if times[Event.BEGAN] and (times[Event.REFUSED] or times[Event.WITHDRAWN]):
            yield f"{subject} ran, but its spawn() had failed"
    for entry in evidence.entries(Event.BROKE):
        yield f"{entry.subject} broke: {entry.detail}"


def every_atomic_handler_ends(evidence: Evidence) -> Iterator[str]:
    """An atomic handler that began has ended by itself, as has each shielded awaitable.

    The exception is a handler that waits for a job that the shutdown cancels or never
    starts, or for room for one: it is cancelled in its turn, and named too.
    """
    in_vain = 0
    for entry in evidence.entries(Event.BEGAN, *ATOMIC, "shielded"):
        if evidence.happened(entry.subject, *(ENDS - {Event.CANCELLED})):
            continue
        if _waits_in_vain(evidence, entry):
            in_vain += 1
        else:
            yield f"{entry.subject} ({entry.detail}) began and never came to its end"
    named = evidence.cancelled[WAITING_HANDLER]
    if named != in_vain:
        yield f"{in_vain} atomic handlers waited in vain, the record names {named}"


def _waits_in_vain(evidence: Evidence, handler: Entry) -> bool:
    job = handler.subject.replace("request", "job")
    children = [f"{job}, child {number}" for number in range(2)]
    return handler.detail == Route.ATOMIC_WAIT and bool(
        evidence.stopped(job)
        or evidence.happened(job, Event.WITHDRAWN)
        # A mother that can no longer spawn may end in the very turn of the close.
        or any(evidence.happened(child, Event.REFUSED) for child in children)
    )


def every_accepted_job_ends_or_is_named(evidence: Evidence) -> Iterator[str]:
    """Each accepted job has one end, which is recorded or logged."""
    accepted = {entry.subject for entry in evidence.entries(Event.ACCEPTED)}
    named = evidence.cancelled + evidence.never_started
    for name in accepted:
        began = evidence.happened(name, Event.BEGAN)
        ended = evidence.happened(name, *ENDS)
        if not (began or evidence.stopped(name) or _ran_out(evidence, name)):
            yield f"{name} was accepted and lost: it never began, and nobody said so"
        if began and evidence.never_started[name]:
            yield f"{name} was said never to have started, and it had"
        if began and not ended and not evidence.let_go[name]:
            yield f"{name} began and was lost: it did not end, and nobody said so"
        if named[name] > 1:
            yield f"{name} is named {named[name]} times in the shutdown's record"
        if (
            evidence.happened(name, Event.CANCELLED)
            and not evidence.stopped(name)
            and not evidence.has_timeout(name)
        ):
            yield f"{name} was cancelled, and nobody said so"
    for name in named.keys() - accepted - {WAITING_HANDLER}:
        yield f"{name} is named in the shutdown's record, but was never accepted"


def _ran_out(evidence: Evidence, name: str) -> bool:
    """Whether its timeout was over before its first step, as on a busy machine."""
    return (
        not evidence.happened(name, Event.BEGAN)
        and evidence.has_timeout(name)
        and not evidence.stopped(name)
        and evidence.failures[name] == 1
    )


def every_stubborn_job_is_let_go(evidence: Evidence) -> Iterator[str]:
    """A job is cancelled once; it is let go if it has not ended after its grace."""
    stubborn = {entry.subject for entry in evidence.entries(Event.SWALLOWED)}
    for name in stubborn | evidence.let_go.keys():
        cancelled = evidence.happened(name, Event.SWALLOWED)
        if len(cancelled) != 1:
            yield f"{name} was cancelled {len(cancelled)} times"
            continue
        left = float(cancelled[0].detail)
        # However late they are, the loop's timers fire in order: the end of the grace
        # comes before the job's own timer. If somebody waits for the job, they are told
        # instead of the exception handler.
        told = evidence.let_go[name] or len(evidence.happened(name, Event.RECEIVED))
        if left > CLOSE_TIMEOUT + 0.01 and told != 1:
            yield f"{name} swallowed it {left} s before its end, and was not let go once"


def jobs_begin_in_their_order(evidence: Evidence) -> Iterator[str]:
    """First in, first out: no job is overtaken by one that was ready turns later."""
    # When each job was ready to begin and when it did, by the numbers of the entries.
    jobs: list[tuple[int, float, str]] = []
    for entry in evidence.entries(Event.ACCEPTED):
        name, ready = entry.subject, entry.id
        request = name.replace("job", "request")
        routes = {e.detail for e in evidence.happened(request, Event.BEGAN)}
        if Route.AFTER_RESPONSE in routes and (ends := evidence.happened(request, *ENDS)):
            ready = ends[0].id
        began = evidence.happened(name, Event.BEGAN)
        if _ran_out(evidence, name):
            continue
        jobs.append((ready, began[0].id if began else math.inf, name))
    jobs.sort()
    first = math.inf  # when the first of the jobs that were ready turns later began
    later = len(jobs)
    for ready, when, name in reversed(jobs):
        while later and jobs[later - 1][0] > ready + ONE_TURN:
            later -= 1
            first = min(first, jobs[later][1])
        if first < when:
            yield f"{name}, ready at entry {ready}, was overtaken at entry {first}"


def jobs_wait_for_their_response(evidence: Evidence) -> Iterator[str]:
    """A job held back until the response begins after its handler has ended."""
    for entry in evidence.entries(Event.BEGAN, Route.AFTER_RESPONSE):
        job = evidence.happened(entry.subject.replace("request", "job"), Event.BEGAN)
        ended = evidence.happened(entry.subject, *ENDS)
        if job and (not ended or job[0].id < ended[0].id):
            yield f"{job[0].subject} did not wait for the end of {entry.subject}"


def every_failure_is_told_once(evidence: Evidence) -> Iterator[str]:
    """Each failure is reported exactly once, and nothing else is reported as one."""
    for name in evidence.events.keys() | evidence.failures.keys():
        expected = int(
            name is not None and (_has_failed(evidence, name) or _ran_out(evidence, name))
        )
        told = evidence.failures[name]
        if told != expected and not (told == 1 and _is_overload(evidence, name)):
            yield f"{name} failed {expected} times, and that was told {told} times"


def _is_overload(evidence: Evidence, name: str | None) -> bool:
    """Whether it could not spawn: a failure if no client is there for its 503."""
    if name is None:
        return False
    plan = evidence.plans.get(name)
    errors = ("SchedulerFull", "SchedulerClosed")
    return (
        plan is not None
        and plan.route.atomic
        and any(e.detail in errors for e in evidence.happened(name, Event.ANSWERED))
        and name not in evidence.answered
    )


def _has_failed(evidence: Evidence, name: str) -> bool:
    """Whether it raised, or was cancelled by its own timeout."""
    if evidence.happened(name, Event.RAISED, Event.BROKE):
        return True
    stopped = evidence.happened(name, Event.CANCELLED, Event.SWALLOWED)
    return bool(stopped) and evidence.has_timeout(name) and not evidence.stopped(name)


def no_answer_is_a_surprise(evidence: Evidence) -> Iterator[str]:
    """Clients get the answers that handlers mean to send, while the server runs."""
    for outcome in evidence.outcomes:
        plan, status = outcome.plan, outcome.status
        what = f"{plan.request_name} ({plan.route}, {plan.manner})"
        raised = evidence.happened(plan.request_name, Event.RAISED)
        if status >= 500 and status != 503 and not raised:
            yield f"{what} was answered {status}, but its handler did not raise"
        if outcome.stopping:
            continue
        if outcome.fate in (Fate.BROKEN_OFF, Fate.REFUSED, Fate.UNANSWERED):
            yield f"{what}: {outcome.fate}"
        elif status and status not in expected_statuses(plan):
            yield f"{what} was answered {status}, not {expected_statuses(plan)}"


def expected_statuses(plan: Plan) -> set[int]:
    """Return the statuses that the client may get while the server runs."""
    if plan.manner is Manner.BREAKS:
        return {400, 408}
    match plan.route:
        case Route.ATOMIC_STREAM:
            return {200}
        case Route.SHIELD:
            return {409 if plan.failure is Failure.ERROR else 200}
        case Route.WAIT | Route.ATOMIC_WAIT:
            if plan.job is JobKind.STUBBORN:  # it times out, or ends
                return {200, 409}
            fails = plan.job in (JobKind.FAILS, JobKind.ABORTS, JobKind.HANGS)
            return {409 if fails else 200}
    status = {Failure.NONE: 200, Failure.ERROR: 500, Failure.HTTP: 409}[plan.failure]
    if plan.route in (Route.SPAWN_NOWAIT, Route.AFTER_RESPONSE):
        return {status, 503}  # whether there is room depends on all other requests
    if plan.route.reads_body:
        return {status, 408}  # any body may be late on a busy machine
    return {status}


def server_ends_in_time(evidence: Evidence) -> Iterator[str]:
    """The process ends within its deadline, by itself, with nothing left."""
    if evidence.status != 0:
        yield f"The server's exit status is {evidence.status}"
    if evidence.took > evidence.deadline:
        yield f"The server took {evidence.took:.1f} s to end, not {evidence.deadline:.1f}"
    if evidence.at_the_end != ["At the end: 0 active, 0 pending, closed"]:
        yield f"The server said of its end: {evidence.at_the_end}"


def nothing_else_is_told(evidence: Evidence) -> Iterator[str]:
    """The log has no coroutine never awaited, no late entry of the ledger, …"""
    for line in evidence.not_logged:
        yield f"On stderr: {line}"
    for record in evidence.not_expected:
        yield f"In the log: {record}"


# -- the figures ------------------------------------------------------------------------


def count(evidence: Evidence) -> dict[str, int | float]:
    """Count what happened."""
    outcomes = evidence.outcomes
    fates = Counter(outcome.fate for outcome in outcomes)
    manners = Counter(outcome.plan.manner for outcome in outcomes)
    statuses = Counter(o.status for o in outcomes if o.fate is Fate.ANSWERED)
    events = Counter(entry.event for entry in evidence.ledger)
    plain = list(evidence.entries(Event.BEGAN, *PLAIN))
    atomic = list(evidence.entries(Event.BEGAN, *ATOMIC))
    shielded = list(evidence.entries(Event.BEGAN, "shielded"))
    in_vain = [e for e in _cancelled(evidence, atomic) if _waits_in_vain(evidence, e)]
    accepted = [entry.subject for entry in evidence.entries(Event.ACCEPTED)]
    ends = Counter(
        entry.event
        for name in accepted
        if not evidence.stopped(name)
        for entry in evidence.happened(name, *ENDS)
    )
    return {
        "requests": len(outcomes) - fates[Fate.REFUSED],
        "clients that hung up": fates[Fate.HUNG_UP],
        "slow clients": manners[Manner.SLOW],
        "broken bodies": manners[Manner.BREAKS],
        "requests broken off by the shutdown": fates[Fate.BROKEN_OFF],
        **{f"answers {status}": statuses[status] for status in sorted(statuses)},
        "plain handlers": len(plain),
        "plain handlers stopped half-way": len(_cancelled(evidence, plain)),
        "atomic handlers": len(atomic),
        "atomic handlers that waited for jobs until the close": len(in_vain),
        "atomic handlers otherwise stopped half-way": len(_cancelled(evidence, atomic))
        - len(in_vain),
        "shielded awaitables": len(shielded),
        "shielded awaitables stopped half-way": len(_cancelled(evidence, shielded)),
        "jobs accepted": len(accepted),
        "jobs refused": events[Event.REFUSED],
        "jobs whose spawn() was cancelled": events[Event.WITHDRAWN],
        "jobs that returned": ends[Event.RETURNED],
        "jobs that raised": ends[Event.RAISED],
        "jobs that were cancelled by their timeout": ends[Event.CANCELLED],
        "jobs that swallowed their cancellation": events[Event.SWALLOWED],
        "jobs let go": len(evidence.let_go),
        "jobs cancelled by the close": sum(evidence.cancelled[n] for n in accepted),
        "jobs never started": evidence.never_started.total(),
        "failures told": evidence.failures.total(),
        "seconds to the end": round(evidence.took, 2),
        "seconds allowed": round(evidence.deadline, 2),
    }


def _cancelled(evidence: Evidence, began: Sequence[Entry]) -> list[Entry]:
    return [e for e in began if evidence.happened(e.subject, Event.CANCELLED)]
