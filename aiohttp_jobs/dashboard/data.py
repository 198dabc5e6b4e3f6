"""Data: all that the pages show, as plain values.

Dictionaries of what JSON can hold, so that they may come from this process or from
another one. Whatever is made from them (pages, live updates, the JSON interface) needs
nothing else.
Moments are seconds since 1970, like those of :func:`time.time`; durations are seconds.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, TypedDict

__all__ = (
    "VERSION",
    "Coroutine",
    "Failures",
    "Figures",
    "Found",
    "Frame",
    "Job",
    "JobDetails",
    "Kind",
    "Matches",
    "Matching",
    "Outcome",
    "Overview",
    "Point",
    "Process",
    "Raised",
    "State",
    "Table",
    "Worker",
)

# Raised when a field is taken away or means something else; a new field changes nothing.
VERSION: Final = 1

State: TypeAlias = Literal[
    "pending",
    "active",
    "stopping",
    "succeeded",
    "failed",
    "cancelled",
    "let_go",
    "hung_up",
]


class Process(TypedDict):
    """The process that tells, and its scheduler."""

    #: A name that no other process has, nor this one after a restart.
    name: str
    host: str
    pid: int
    #: Since when the application runs, and since when its totals count.
    up_since: float
    counted_since: float
    #: "open", "draining", "closing" or "closed".
    scheduler: str
    #: Whether pending jobs wait until they are released.
    held: bool


class Figures(TypedDict):
    """The figures of the moment, and the totals since `counted_since`."""

    active: int
    #: How many slots are taken by active jobs, and of how many; None for no limit.
    slots_taken: int
    limit: int | None
    #: Since when the oldest active job runs; None if there is none. And for how long.
    running_since: float | None
    longest_running: float
    pending: int
    #: None for no limit.
    pending_limit: int | None
    #: Since when the first pending job waits; None if there is none. And for how long.
    waiting_since: float | None
    longest_waiting: float
    #: Callers of spawn() that wait for room among the pending jobs.
    callers_waiting: int
    succeeded: int
    #: Jobs that raised, and jobs that were let go.
    failed: int
    #: How many of the failed ones were let go.
    let_go: int
    cancelled: int
    hung_up: int
    #: All jobs that have ended, whatever their outcome.
    ended: int
    #: Ends per second in the last minute.
    rate: float


class Point(TypedDict):
    """What happened in one period of the charts."""

    succeeded: int
    failed: int  # including those that were let go
    cancelled: int
    hung_up: int
    #: How many seconds the jobs ran that ended in it; None if none did.
    p50: float | None
    p90: float | None
    #: At its end: how many jobs were pending, and for how long the first one had been.
    pending: int
    waited: float


class Job(TypedDict):
    """One job, in a row of a table. What does not apply to its state is None or empty."""

    id: int
    #: An address that no other job has, in any process.
    address: str
    label: str
    coro: str
    #: Where it came from; may be empty.
    origin: str
    state: State
    spawned: float | None
    started: float | None
    ended: float | None
    #: Its place among the pending jobs, from 1.
    place: int | None
    #: Where it is suspended, in a few words.
    where: str
    #: What it failed with, in one line; or where it was when it was let go.
    error: str
    #: The number of the worker that has it; None if only one process is shown.
    worker: int | None


class Table(TypedDict):
    """One page of a table."""

    rows: list[Job]
    page: int
    pages: int
    #: How many of those that were looked at fit the filter.
    count: int
    #: How many there are in all, and how many of them were not looked at.
    total: int
    beyond: int


class Kind(TypedDict):
    """Failures of one kind: of one class, raised at one place in the application."""

    #: An id that no other kind has; the same in all processes.
    id: str
    type: str
    place: str
    count: int
    first: float
    last: float
    #: The last few, the latest first.
    latest: list[Job]


class Failures(TypedDict):
    """The kinds that fit the filter, all or the last to occur; the newest first."""

    kinds: list[Kind]
    #: How many kinds fit the filter.
    total: int
    #: How many kinds were forgotten, as there were too many.
    forgotten: int


class Coroutine(TypedDict):
    """The jobs of one coroutine function."""

    coro: str
    active: int
    pending: int
    ended: int
    failed: int
    #: How many seconds the last runs took; None if none has ended.
    p50: float | None
    p90: float | None
    #: When the last one failed, and its address; None if none has.
    last_failure: float | None
    last_failed: str | None


class Worker(TypedDict):
    """One of the processes of the application, by its number among them."""

    number: int
    #: Why it has not answered, as in "does not answer"; empty if it has.
    trouble: str
    #: None if it has not answered.
    process: Process | None
    now: Figures | None


class Overview(TypedDict):
    """All that the first page shows."""

    version: int
    #: The moment that all of this is about.
    at: float
    #: The process that was asked.
    process: Process
    #: All processes of the application, by number; empty if only one is shown. All that
    #: follows is about those that answer, summed up or side by side.
    workers: list[Worker]
    #: What else is in the directory that they share, as sentences.
    strangers: list[str]
    now: Figures
    #: How many seconds each point stands for; the latest point is the last.
    period: int
    points: list[Point]
    failures: Failures
    #: By name; a few, or all.
    coroutines: list[Coroutine]
    coroutines_total: int
    active: Table
    pending: Table
    recent: Table


class Frame(TypedDict):
    """A line of code where a job is suspended, or where something was raised."""

    file: str
    line: int
    function: str
    code: str
    #: Whether it is the application's own, not the standard library's or a package's.
    own: bool


class Raised(TypedDict):
    """An exception. If there are several, `link` says how it came from the one before."""

    link: str
    type: str
    #: With its notes.
    message: str
    frames: list[Frame]


class JobDetails(TypedDict):
    """All that a job's own page shows."""

    version: int
    at: float
    process: Process
    job: Job
    can_be_cancelled: bool
    #: Where it is suspended, or was when it was let go; the innermost frame last.
    stack: list[Frame]
    #: What it failed with, last, and before it what that came from.
    raised: list[Raised]
    #: Why all this is old, in a sentence: its worker has not answered since. Empty if it
    #: is not.
    silence: str


class Found(TypedDict):
    """What was found among all pending jobs by number or exact name."""

    at: float
    rows: list[Job]
    #: How many were looked at, and how many there are.
    looked_at: int
    total: int
    #: Which workers have not looked, as sentences.
    silent: list[str]


class Matching(TypedDict):
    """The active and pending jobs of a process that fit a filter."""

    process: Process
    #: As in :class:`Job`.
    worker: int | None
    active: int
    pending: int
    #: A moment by the process's own clock: jobs accepted later are not meant.
    until: float
    #: Names with how many jobs have them, the most frequent first.
    names: str
    #: How many jobs were not looked at, as there were too many.
    beyond: int


class Matches(TypedDict):
    """The jobs that fit a filter, before they are cancelled."""

    processes: list[Matching]
    #: Which workers have not looked, as sentences: nothing will be done there.
    silent: list[str]


class Outcome(TypedDict):
    """The outcome of an action, in a sentence for the visitor who asked for it."""

    done: bool
    says: str
