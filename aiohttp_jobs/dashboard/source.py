"""Source: where the pages get their data from, and what they ask for.

The pages know only this interface, and what they get is plain data: it may come from this
process, as below, or from all processes of the application, see ``workers``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.names import listed
from aiohttp_jobs.core.scheduler import Scheduler

from . import data, steering
from .access import Visitor
from .details import details, find_job
from .history import History
from .overview import overview
from .part import Look, Part, look, part
from .process import process_name
from .query import Query
from .record import Record
from .rows import Clock, Rows, job_row, process

__all__ = ("MOST_FOUND", "NoAnswer", "NoSuchJob", "Source", "ThisProcess")

# How many of the jobs that were found to show; and how many jobs to remember as over.
MOST_FOUND: Final = 50
MOST_OVER: Final = 1000


class NoSuchJob(LookupError):
    """There is no such job; the text is a sentence for the visitor."""

    status = 404


class NoAnswer(NoSuchJob):
    """There may be such a job, but its process does not answer."""

    status = 503


class Source(Protocol):
    """Tells about jobs and acts on them, here or elsewhere.

    A job is named by its address, see :class:`data.Job`. Everything that is asked about a
    job or a process that is not known raises :exc:`NoSuchJob`.
    """

    @property
    def is_alone(self) -> bool:
        """Whether only one process is shown, however many there are."""
        ...

    async def overview(self, query: Query) -> data.Overview:
        """Return what the first page shows just now."""
        ...

    async def job(self, address: str) -> data.JobDetails:
        """Return what a job's own page shows just now."""
        ...

    async def find_pending(self, query: Query) -> data.Found:
        """Look for a number or an exact name among all pending jobs."""
        ...

    async def matching(self, query: Query) -> data.Matches:
        """Count the jobs that :meth:`cancel_matching` would cancel, by process."""
        ...

    async def cancel(self, address: str, visitor: Visitor) -> data.Outcome:
        """Cancel a job."""
        ...

    async def cancel_matching(
        self, query: Query, process_name: str, until: float, visitor: Visitor
    ) -> data.Outcome:
        """Cancel the active and pending jobs of a process that fit the filter.

        Args:
            until: leave out jobs that were accepted later, see :class:`data.Matching`.
        """
        ...

    async def hold(self, process_name: str, visitor: Visitor) -> data.Outcome:
        """Let no pending job of a process start."""
        ...

    async def release(self, process_name: str, visitor: Visitor) -> data.Outcome:
        """Let pending jobs of a process start again."""
        ...

    async def change_limit(
        self,
        process_name: str,
        before: int | None,
        limit: int | None,
        visitor: Visitor,
    ) -> data.Outcome:
        """Change how many jobs of a process run at once, unless somebody else has."""
        ...


class ThisProcess:
    """The source of what this process knows."""

    is_alone = True

    def __init__(self, scheduler: Scheduler, history: History) -> None:
        self._scheduler = scheduler
        self._history = history
        # The rows that are told each second, next to those of other processes.
        self._rows = Rows()
        # Live pages ask for the same jobs once a second, and to find one means looking at
        # all. And the numbers of jobs that are over, which need not be looked for again.
        self._found = WeakValueDictionary[int, Job[Any]]()
        self._over = OrderedDict[int, None]()

    async def overview(self, query: Query) -> data.Overview:
        return overview(self._scheduler, self._history, query)

    def voice(self, number: int, queries: Iterable[Query]) -> tuple[Part, list[Look]]:
        """Return what the first page shows of this process next to others.

        Args:
            number: its number among them.
            queries: what visitors want to see; for each, one :class:`Look` is returned.
        """
        clock = Clock()
        told = part(self._scheduler, self._history, clock, False)
        self._rows.begin(number, clock)
        looks = [
            look(self._scheduler, self._history, clock, query, False, self._rows)
            for query in queries
        ]
        return told, looks

    async def job(self, address: str) -> data.JobDetails:
        return details(self._scheduler, self._history, self._find(address))

    async def find_pending(self, query: Query) -> data.Found:
        clock = Clock()
        jobs = self._scheduler.pending_jobs(steering.MOST)
        found: list[tuple[int, Job[Any]]] = []
        place, is_meant = 0, query.exactly()

        def look(job: Job[Any]) -> None:
            nonlocal place
            place += 1
            if len(found) < MOST_FOUND and is_meant(job):
                found.append((place, job))

        await steering.in_turns(jobs, look)
        return {
            "at": clock.at,
            "rows": [job_row(job, clock, place) for place, job in found],
            "looked_at": len(jobs),
            "total": max(len(jobs), self._scheduler.pending_count),
            "silent": [],
        }

    async def matching(self, query: Query) -> data.Matches:
        return {"processes": [await self.matching_here(query)], "silent": []}

    async def matching_here(self, query: Query) -> data.Matching:
        """Count the matching jobs of this process."""
        clock = Clock()
        jobs = await self._matching(query, clock.now)
        active = sum(not job.pending for job in jobs)
        return {
            "process": process(self._scheduler, self._history, clock),
            "worker": None,
            "active": active,
            "pending": len(jobs) - active,
            "until": clock.now,
            "names": listed(job.label for job in jobs),
            "beyond": max(0, len(self._scheduler) - steering.MOST),
        }

    async def cancel(self, address: str, visitor: Visitor) -> data.Outcome:
        return steering.cancel(self._find(address), self._scheduler, visitor)

    async def cancel_matching(
        self, query: Query, process_name: str, until: float, visitor: Visitor
    ) -> data.Outcome:
        self._check_process(process_name)
        jobs = await self._matching(query, until)
        what = f"search {query.search!r}, name {query.name!r}"
        return await steering.cancel_all(jobs, self._scheduler, visitor, what)

    async def hold(self, process_name: str, visitor: Visitor) -> data.Outcome:
        self._check_process(process_name)
        return steering.hold(self._scheduler, visitor)

    async def release(self, process_name: str, visitor: Visitor) -> data.Outcome:
        self._check_process(process_name)
        return steering.release(self._scheduler, visitor)

    async def change_limit(
        self,
        process_name: str,
        before: int | None,
        limit: int | None,
        visitor: Visitor,
    ) -> data.Outcome:
        self._check_process(process_name)
        return steering.change_limit(self._scheduler, visitor, before, limit)

    async def _matching(self, query: Query, until: float) -> list[Job[Any]]:
        """Return the jobs that fit, were there at this time, and can be cancelled."""
        found: list[Job[Any]] = []

        def look(job: Job[Any]) -> None:
            if job.state.name not in ("PENDING", "ACTIVE"):
                return
            if (
                job.spawned_at is not None
                and job.spawned_at <= until
                and query.takes(job)
            ):
                found.append(job)

        if query.filters_jobs:
            await steering.in_turns(steering.every_job(self._scheduler), look)
        return found

    def _check_process(self, name: str) -> None:
        if name != process_name():
            raise NoSuchJob(
                "Nothing was done: another process has answered than the one that you "
                "saw, or it was restarted. Go back and look again"
            )

    def _find(self, address: str) -> Job[Any] | Record:
        name, _, digits = address.partition("-")
        job_id = int(digits)
        if name != process_name():
            raise NoSuchJob(
                f"Job {job_id} is of another process than the one that has answered, or "
                "was lost in a restart"
            )
        job = self._found.get(job_id)
        if job is None and job_id not in self._over:
            job = find_job(self._scheduler, job_id)
            if job is not None:
                self._found[job_id] = job
        if job is not None and not job.closed:
            return job
        # The record tells more than the job, which can be forgotten.
        record = self._history.find(job_id)
        if job is not None or record is not None:
            self._over[job_id] = None
            if len(self._over) > MOST_OVER:
                self._over.popitem(last=False)
        if record is None:
            raise NoSuchJob(f"There is no job {job_id} in this process, or no longer")
        return record
