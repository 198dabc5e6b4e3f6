"""Durable data: all that the pages on durable jobs show, as plain values.

As in data.py: what JSON can hold, moments are seconds since 1970, durations are seconds.
None of it has a job's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypedDict
from urllib.parse import urlencode

__all__ = (
    "PLACES",
    "DeadJob",
    "DurableFigures",
    "DurableHere",
    "DurableJob",
    "DurableOverview",
    "DurableSummary",
    "DurableTable",
    "Turned",
)

#: The tables, in the order in which they are shown: those that need somebody come first.
PLACES: Final = ("dead", "running", "waiting", "delayed")


class DurableFigures(TypedDict):
    """How many durable jobs are in each place, in the whole store."""

    waiting: int
    delayed: int
    running: int
    dead: int
    #: How many seconds the first waiting job has been due.
    oldest_waiting: float


class DurableHere(TypedDict):
    """What the process that tells is doing and has done itself."""

    host: str
    pid: int
    running: int
    #: How its attempts have ended: succeeded, retried, buried, given_back.
    attempts: dict[str, int]


class DurableJob(TypedDict):
    """One durable job. What does not apply to its place is None, 0 or empty."""

    id: str
    task: str
    #: The number of the attempt that comes next, or runs; for a dead job, the last.
    attempt: int
    #: How many times it has run in a process that died.
    crashes: int
    priority: int
    key: str
    #: Where it came from.
    origin: str
    accepted: float
    due: float | None
    #: The process that runs it, "host:number"; empty if that process has died.
    process: str
    buried: float | None
    #: The last line of why it is dead.
    error: str


class DurableTable(TypedDict):
    """One page of the jobs of a place."""

    rows: list[DurableJob]
    page: int
    pages: int
    #: How many there are, and how many of them can be listed.
    total: int
    listed: int


class DurableSummary(TypedDict):
    """What the first page of the dashboard says about durable jobs."""

    #: None if the store does not tell.
    now: DurableFigures | None
    #: What is wrong, as sentences.
    faults: list[str]
    #: How many this process runs.
    running_here: int


class DurableOverview(TypedDict):
    """All that the page of durable jobs shows."""

    version: int
    at: float
    #: What kind of store it is.
    store: str
    now: DurableFigures | None
    faults: list[str]
    #: Why this kind of store never tells; empty if it does.
    silent: str
    here: DurableHere
    #: By place; empty if the store does not tell.
    tables: dict[str, DurableTable]


class DeadJob(TypedDict):
    """What the page of a dead job shows."""

    version: int
    at: float
    job: DurableJob
    #: Why it is dead: for example, a traceback.
    reason: str


@dataclass(frozen=True, slots=True)
class Turned:
    """Which page of each table is shown; the address says so."""

    dead: int = 1
    running: int = 1
    waiting: int = 1
    delayed: int = 1

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Turned:
        """Read it from an address, ignoring what makes no sense there."""
        return cls(**{place: _page(fields.get(place, "")) for place in PLACES})

    def page_of(self, place: str) -> int:
        """Return which page of this place is shown."""
        page: int = getattr(self, place)
        return page

    def with_page(self, place: str, page: int) -> str:
        """Write the address of another page of one table."""
        pages = {each: self.page_of(each) for each in PLACES} | {place: page}
        shown = {each: number for each, number in pages.items() if number > 1}
        return f"?{urlencode(shown)}" if shown else "?"

    def __str__(self) -> str:
        return self.with_page("dead", self.dead)


def _page(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 9 else 1
