"""Durable source: asks the store of durable jobs, and retries or drops dead ones.

All processes that use a store see the same in it, so any of them may answer. If the store
is down, or slow, the answer is a sentence.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from aiohttp_jobs._durable_of import durable_of
from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.scheduler import Scheduler

from . import data
from .access import Visitor
from .durable_data import (
    PLACES,
    DeadJob,
    DurableFigures,
    DurableJob,
    DurableOverview,
    DurableSummary,
    DurableTable,
    Turned,
)
from .record import cut
from .steering import log
from .words import count_of

if TYPE_CHECKING:
    from aiohttp_jobs.durable import Durable, KeptJob

__all__ = ("DurableSource", "NoDurableJobs", "NoSuchDead", "find_durable", "summary")

# How many rows a page has, and how many jobs of a place can be listed.
ROWS: Final = 25
LISTED: Final = 1000
# How many characters to show of a line of a traceback.
_MOST_OF_LINE: Final = 2000
_OUTCOMES: Final = ("succeeded", "retried", "buried", "given_back")


class NoDurableJobs(LookupError):
    """The application has none; the text is a sentence for the visitor."""


class NoSuchDead(LookupError):
    """There is no such dead job; the text is a sentence for the visitor."""


def find_durable(request: web.Request, scheduler: Scheduler) -> DurableSource | None:
    """Return the durable jobs that this dashboard's scheduler runs, if there are any."""
    durable = durable_of(request.config_dict)
    if durable is None or durable.scheduler is not scheduler:
        return None
    return DurableSource(durable)


async def summary(request: web.Request, scheduler: Scheduler) -> DurableSummary | None:
    """Return what the first page says about durable jobs; None if there are none."""
    source = find_durable(request, scheduler)
    return None if source is None else await source.summary()


class DurableSource:
    """The durable jobs of one application.

    It keeps nothing: recent answers are remembered next to the store.
    """

    def __init__(self, durable: Durable) -> None:
        self._durable = durable
        self._inspection = durable.inspection

    async def summary(self) -> DurableSummary:
        """Return how many are in each place, or why nobody knows."""
        now, faults = await self._figures()
        running = self._durable.running_count
        return {"now": now, "faults": faults, "running_here": running}

    async def overview(self, turned: Turned) -> DurableOverview:
        """Return what the page shows just now."""
        now, faults = await self._figures()
        tables = dict[str, DurableTable]()
        if now is not None:
            try:
                for place in PLACES:
                    tables[place] = await self._table(place, now[place], turned)
            except StoreUnavailable as error:
                tables.clear()
                now, faults = None, [_in_vain(error)]
        return {
            "version": data.VERSION,
            "at": time.time(),
            "store": type(self._durable.store).__name__,
            "now": now,
            "faults": faults,
            "silent": "" if self._inspection.is_possible else self._silent(),
            "here": {
                "host": cut(socket.gethostname()),
                "pid": os.getpid(),
                "running": self._durable.running_count,
                "attempts": {
                    outcome: self._durable.attempts[outcome] for outcome in _OUTCOMES
                },
            },
            "tables": tables,
        }

    async def dead(self, id: str) -> DeadJob:
        """Return what the page of a dead job shows.

        Raises:
            NoSuchDead: there is none with this id.
            StoreUnavailable: the store cannot tell.
        """
        job = await self._inspection.find_dead(id)
        if job is None:
            raise NoSuchDead(
                f"No durable job {cut(id)} is dead: somebody has let it run again or "
                "dropped it, or it never was there"
            )
        lines = (job.reason or "").rstrip().splitlines()
        return {
            "version": data.VERSION,
            "at": time.time(),
            "job": _row(job),
            "reason": "\n".join(cut(line, _MOST_OF_LINE) for line in lines),
        }

    async def retry(self, id: str, visitor: Visitor) -> data.Outcome:
        """Let a dead job run again. It raises as :meth:`dead` does."""
        job = (await self.dead(id))["job"]
        count = await self._inspection.retry_dead([id])
        done = f"Durable job {job['id']} ({job['task']}) waits to run again"
        return _one("retry_durable", job, count, done, visitor)

    async def drop(self, id: str, visitor: Visitor) -> data.Outcome:
        """Forget a dead job. It raises as :meth:`dead` does."""
        job = (await self.dead(id))["job"]
        count = await self._inspection.drop_dead([id])
        done = f"Durable job {job['id']} ({job['task']}) was dropped"
        return _one("drop_durable", job, count, done, visitor)

    async def retry_all(self, until: float, visitor: Visitor) -> data.Outcome:
        """Let all jobs run again that were dead at this moment.

        Raises:
            StoreUnavailable: the store cannot do it.
        """
        count = await self._inspection.retry_dead(until=until)
        done = f"{count_of(count, 'dead job waits', 'dead jobs wait')} to run again"
        done += await self._what_is_left()
        return _all("retry_all_durable", count, done, visitor)

    async def drop_all(self, until: float, visitor: Visitor) -> data.Outcome:
        """Forget all jobs that were dead at this moment. Raises as :meth:`retry_all`."""
        count = await self._inspection.drop_dead(until=until)
        done = f"{count_of(count, 'dead job was', 'dead jobs were')} dropped"
        done += await self._what_is_left()
        return _all("drop_all_durable", count, done, visitor)

    async def _what_is_left(self) -> str:
        """Say how many are dead all the same: they died since, or the time was up."""
        now, _ = await self._figures()
        left = 0 if now is None else now["dead"]
        return f"; {count_of(left, 'is', 'are')} dead now" if left else ""

    async def _figures(self) -> tuple[DurableFigures | None, list[str]]:
        """Return how many are in each place, None if nobody knows; and what is wrong."""
        faults, fault = list[str](), self._durable.fault
        if fault is not None:
            faults.append(f"Durable jobs cannot be kept just now: {_reason(fault)}.")
        if not self._inspection.is_possible:
            return None, faults
        try:
            found = await self._inspection.statistics()
        except StoreUnavailable as error:
            return None, [_in_vain(error)]
        return {
            "waiting": found.waiting,
            "delayed": found.delayed,
            "running": found.running,
            "dead": found.dead,
            "oldest_waiting": found.oldest_waiting,
        }, faults

    def _silent(self) -> str:
        kind = type(self._durable.store).__name__
        return (
            f"{kind} does not tell what it keeps, so what waits and what is dead is not "
            "shown: look at the broker with its own tools."
        )

    async def _table(self, place: str, total: int, turned: Turned) -> DurableTable:
        from aiohttp_jobs.durable import Place  # importable, as there are durable jobs

        listed = min(total, LISTED)
        pages = max(1, -(-listed // ROWS))
        page = min(turned.page_of(place), pages)
        rows = list[DurableJob]()
        if total:
            skip = (page - 1) * ROWS
            found = await self._inspection.jobs(Place(place), ROWS, skip)
            rows = [_row(job) for job in found]
        return {
            "rows": rows,
            "page": page,
            "pages": pages,
            "total": total,
            "listed": listed,
        }


def _row(job: KeptJob) -> DurableJob:
    lines = (job.reason or "").strip().splitlines()
    return {
        "id": cut(job.id),
        "task": cut(job.task),
        "attempt": job.attempt,
        "crashes": job.crashes,
        "priority": job.priority,
        "key": cut(job.key or ""),
        "origin": cut(job.origin or ""),
        "accepted": job.accepted_at,
        "due": job.due,
        "process": cut(job.process or ""),
        "buried": job.buried_at,
        "error": cut(lines[-1]) if lines else "",
    }


def _reason(error: StoreUnavailable) -> str:
    return cut(str(error.args[0]), _MOST_OF_LINE)


def _in_vain(error: StoreUnavailable) -> str:
    return f"The store cannot be looked into just now: {_reason(error)}."


def _one(
    action: str, job: DurableJob, count: int, done: str, visitor: Visitor
) -> data.Outcome:
    says = done
    if not count:
        says = f"Durable job {job['id']} ({job['task']}) was not dead any more"
    fields: dict[str, Any] = {"durable_id": job["id"], "durable_task": job["task"]}
    log(action, visitor, says, bool(count), **fields)
    return {"done": bool(count), "says": says}


def _all(action: str, count: int, done: str, visitor: Visitor) -> data.Outcome:
    says = done if count else "No dead job was there any more"
    log(action, visitor, says, bool(count), dashboard_jobs=count)
    return {"done": bool(count), "says": says}
