"""The plan for each request of a storm, determined by the seed and its number."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = ("Failure", "JobKind", "Manner", "Plan", "Route")


class Route(enum.StrEnum):
    """The kind of handler."""

    PLAIN = "plain"
    PLAIN_BODY = "plain-body"
    ATOMIC = "atomic"
    ATOMIC_BODY = "atomic-body"
    ATOMIC_METHOD = "atomic-method"
    ATOMIC_VIEW = "atomic-view"
    ATOMIC_STREAM = "atomic-stream"
    ATOMIC_WAIT = "atomic-wait"
    SHIELD = "shield"
    SPAWN = "spawn"
    SPAWN_NOWAIT = "spawn-nowait"
    AFTER_RESPONSE = "after-response"
    WAIT = "wait"

    @property
    def atomic(self) -> bool:
        """Whether the handler runs to its end whatever happens."""
        return self.startswith("atomic")

    @property
    def reads_body(self) -> bool:
        """Whether the handler reads a body."""
        return self.endswith("-body")

    @property
    def method(self) -> str:
        """The HTTP method; an option of setup() makes that of `ATOMIC_METHOD` atomic."""
        if self is Route.ATOMIC_METHOD:
            return "PUT"
        return "POST" if self.reads_body else "GET"


class Manner(enum.StrEnum):
    """How the client behaves."""

    PATIENT = "patient"
    SLOW = "slow"  # sends and reads in pieces
    HANGS_UP = "hangs up"
    BREAKS = "breaks its body"


class Failure(enum.StrEnum):
    """How the handler is to fail."""

    NONE = "none"
    ERROR = "error"
    HTTP = "http"


class JobKind(enum.StrEnum):
    """What the background job of the request does."""

    QUICK = "quick"
    FAILS = "fails"
    ABORTS = "aborts"  # with a BaseException
    HANGS = "hangs"  # until its timeout
    STUBBORN = "stubborn"  # swallows the cancellation by its timeout
    MOTHER = "mother"  # waits for jobs that it spawns


T = TypeVar("T")

ROUTES: Final = tuple(Route)
MANNERS: Final = {
    Manner.PATIENT: 52,
    Manner.SLOW: 6,
    Manner.HANGS_UP: 35,
    Manner.BREAKS: 7,
}
FAILURES: Final = {Failure.NONE: 90, Failure.ERROR: 5, Failure.HTTP: 5}
JOB_KINDS: Final = {
    JobKind.QUICK: 60,
    JobKind.FAILS: 15,
    JobKind.ABORTS: 5,
    JobKind.HANGS: 8,
    JobKind.STUBBORN: 4,
    JobKind.MOTHER: 8,
}
# One handler in this many never ends by itself.
FOREVER_EVERY: Final = 1500
FOREVER: Final = 3600.0
# The mean of a handler's time, the longest, in seconds; and the share of slow handlers.
QUICK, SLOWEST, SLOW_SHARE = 0.03, 0.6, 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """One request, and what its handler and client are to do.

    `seconds` is how long the handler works, `job_seconds` how long its job does;
    `moment`, from 0 to 1, decides when and how a client hangs up.
    """

    number: int
    route: Route
    manner: Manner
    moment: float
    seconds: float
    failure: Failure
    job: JobKind
    job_seconds: float

    @classmethod
    def of(cls, seed: int, number: int) -> Plan:
        """Make the plan for this request; the same arguments make the same plan."""
        chance = random.Random(f"{seed}/{number}")
        manner = _one_of(chance, MANNERS)
        route = chance.choice(ROUTES)
        if manner is Manner.BREAKS:
            route = chance.choice((Route.PLAIN_BODY, Route.ATOMIC_BODY))
        job = _one_of(chance, JOB_KINDS)
        seconds = min(chance.expovariate(1 / QUICK), SLOWEST)
        if chance.random() < SLOW_SHARE:
            seconds = chance.uniform(SLOWEST / 2, SLOWEST)
        if number % FOREVER_EVERY == FOREVER_EVERY // 2:
            route, manner, seconds = Route.PLAIN, Manner.PATIENT, FOREVER
        return cls(
            number=number,
            route=route,
            manner=manner,
            moment=chance.random(),
            seconds=seconds,
            failure=_one_of(chance, FAILURES),
            job=job,
            job_seconds=min(chance.expovariate(1 / QUICK), SLOWEST),
        )

    @property
    def ends(self) -> bool:
        """Whether the handler ends before the server stops."""
        return self.seconds < FOREVER

    @property
    def request_name(self) -> str:
        """The name of the request in the ledger and the log."""
        return f"request {self.number}"

    @property
    def job_name(self) -> str:
        """The name of its job there."""
        return f"job {self.number}"


def _one_of(chance: random.Random, weights: Mapping[T, int]) -> T:
    (chosen,) = chance.choices(tuple(weights), tuple(weights.values()))
    return chosen
