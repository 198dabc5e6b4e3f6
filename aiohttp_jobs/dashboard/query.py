"""Query: what a visitor wants to see, all of which is in the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp_jobs.core.job import Job

from .record import Record, cut
from .words import OUTCOMES

__all__ = ("SINCE", "SORTS", "Query")

# Time filters, in minutes, with their words; and orders of the recent jobs.
SINCE: Final = {
    "1": "last minute",
    "5": "last 5 minutes",
    "15": "last 15 minutes",
    "60": "last hour",
    "720": "last 12 hours",
}
SORTS: Final = ("ran", "waited")

_FIRST_PAGES: Final = {"active": 1, "pending": 1, "recent": 1}


@dataclass(frozen=True, slots=True)
class Query:
    """What the visitor wants to see."""

    search: str = ""
    name: str = ""
    outcome: str = ""
    #: How many minutes ago a job may have ended, as written in the address.
    since: str = ""
    #: How the recent jobs are sorted; empty for by their end.
    sort: str = ""
    #: "all" for every coroutine, and for every kind of failure.
    coroutines: str = ""
    failures: str = ""
    active: int = 1
    pending: int = 1
    recent: int = 1

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Query:
        """Read it from an address, ignoring what makes no sense there."""
        outcome, since, sort = (fields.get(f, "") for f in ("outcome", "since", "sort"))
        all_of = {f: "all" for f in ("coroutines", "failures") if fields.get(f) == "all"}
        pages = {f: _page(fields.get(f, "")) for f in _FIRST_PAGES}
        return cls(
            cut(fields.get("search", "").strip()),
            cut(fields.get("name", "")),
            outcome if outcome in OUTCOMES else "",
            since if since in SINCE else "",
            sort if sort in SORTS else "",
            all_of.get("coroutines", ""),
            all_of.get("failures", ""),
            **pages,
        )

    def with_page(self, table: str, page: int) -> str:
        """Write the address of another page of one table."""
        return self._write({table: page})

    def with_name(self, name: str) -> str:
        """Write the address that shows only the jobs of this name."""
        return self._write({"name": name, **_FIRST_PAGES})

    def sorted_by(self, sort: str) -> str:
        """Write the address that sorts the recent jobs in this order."""
        return self._write({"sort": sort, "recent": 1})

    def with_all(self, table: str) -> str:
        """Write the address that shows every coroutine, or kind of failure."""
        return self._write({table: "all"})

    def only_filters(self) -> str:
        """Write only what filters active and pending jobs, for what is done to them."""
        return "?" + urlencode({k: v for k, v in self.filter_fields().items() if v})

    def filter_fields(self) -> dict[str, str]:
        """Return the fields that filter active and pending jobs."""
        return {"search": self.search, "name": self.name}

    def __str__(self) -> str:
        return self._write({})

    def _write(self, changes: Mapping[str, str | int]) -> str:
        other: Any = replace(self, **changes)  # type: ignore[arg-type]
        fields = {field: getattr(other, field) for field in self.__slots__}
        return "?" + urlencode({k: v for k, v in fields.items() if v not in ("", 1)})

    @property
    def filters(self) -> bool:
        """Whether it filters any jobs."""
        return bool(self.search or self.name or self.outcome or self.since)

    @property
    def filters_jobs(self) -> bool:
        """Whether it filters active and pending jobs."""
        return bool(self.search or self.name)

    def takes(self, job: Job[Any] | Record) -> bool:
        """Return whether a job has the name, and fits the search."""
        if self.name and self.name not in (cut(job.coro_name), cut(job.label)):
            return False
        if not self.search or self.search == str(job.id):
            return True
        words = [job.label, job.coro_name, job.origin or ""]
        if isinstance(job, Record):
            words.append(job.error)
        return self.search.casefold() in "\n".join(map(cut, words)).casefold()

    def takes_end(self, record: Record, now: float) -> bool:
        """Return whether a job that is over has the outcome, ended in time, and fits
        :meth:`takes`."""
        if self.outcome and record.state.name.lower() != self.outcome:
            return False
        if self.since and now - record.closed_at > int(self.since) * 60:
            return False
        return self.takes(record)

    def exactly(self) -> Callable[[Job[Any]], bool]:
        """Return a check whether a job's number, or its whole name, is searched for.

        It is quick, as it is called for all pending jobs.
        """
        search = self.search
        number = int(search) if search.isascii() and search.isdigit() else -1
        return lambda job: job.id == number or search in (job.name, job.coro_name)


def _page(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 9 else 1
