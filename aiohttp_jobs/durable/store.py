"""Store: what keeps durable jobs, and what every store has to promise.

The life of a job, whichever store it is in::

                         put
                          │
                          ▼            fetch
        ┌──────────▶   waiting  ─────────────────────▶  fetched, for one process
        │                 ▲                                │
        │                 ├──── give_back: uncounted ──────┤
        │                 ├──── the process has died ──────┤
        │                 └──── retry: attempt + 1 ────────┤
        │                                                  │
      by hand                      dead  ◀─────── bury ────┤
        └────────────────────────── │                      │
                                                           └── ack ──▶ gone

A job is always in at least one of these places: whatever moves it writes it to the new
place before, or together with, taking it from the old one. So it is run at least once,
and more than once only if a process dies, or the store is lost, between the end of an
attempt and its ``ack``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .envelope import Envelope

__all__ = ("OPTIONS", "Delivery", "Store")

# The options of one call of spawn_durable(), see Task.options().
OPTIONS: Final = ("delay", "at", "priority", "key", "connection")


@dataclass(slots=True, eq=False)
class Delivery:
    """A job that was fetched, until one of the store's four methods settles it."""

    #: The job.
    envelope: Envelope
    #: What the store recognizes it by; nobody else looks into it.
    receipt: Any


class Store(Protocol):
    """What keeps durable jobs.

    Each belongs to one application and one event loop. All methods are called in that
    loop, in this order::

        start   (put | put_tick | last_tick | fetch | settling a delivery)*   stop

    If `start` raises, it is called again, until it succeeds or `stop` is called; nothing
    else is called in between. Whatever cannot be done just now, but may be later, raises
    :exc:`~aiohttp_jobs.StoreUnavailable` with a sentence that says why.
    """

    #: The options of a call that it supports. A call with another option is refused
    #: before `put`, with a sentence that names both.
    supports: Collection[str]

    #: Whether it remembers which ticks of periodic jobs were put. If so, every process
    #: may put them, and each is kept once. Otherwise one process has to be chosen to.
    remembers_ticks: bool

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        """Open it, and return when jobs can be put.

        The caller logs what it raises, and tries again after a pause. A start that fails
        closes what it has opened.

        Args:
            tasks: the names of the tasks that the application has. Only jobs of these
                are fetched; others wait for a process that has them.
            worker: whether anything will be fetched.

        Raises:
            StoreUnavailable: it cannot be reached or used.

        Cancellation:
            As after a failure.
        """
        ...

    async def stop(self) -> None:
        """Finish what was handed over, and close it. Stopping again does nothing.

        It is not called if no `start` has succeeded.

        What was fetched and is not settled is given back. Puts that are under way are
        kept or refused. Nothing is raised: what fails is logged.
        """
        ...

    async def put(self, envelope: Envelope, *, connection: object = None) -> str:
        """Keep a job, and return its id when it would survive the end of the process.

        Args:
            envelope: the job.
            connection: the option of this name: a connection of the application's own,
                in whose transaction the job is kept. None if not given.

        Returns:
            The id of the envelope; or, if it has a `key` and a job with the same task and
            key waits already, the id of that job, and the envelope is dropped.

        Raises:
            StoreUnavailable: it is not kept. (Also raised if nobody can tell, because a
                connection was lost in the middle: then the job may run.)
            TypeError, ValueError: this job cannot be kept, though others can.

        Cancellation:
            The job may have been kept.
        """
        ...

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        """Keep a periodic job, unless another process has done so for this tick.

        Args:
            envelope: the job. A store that cannot tell whether the tick was seen can go
                by its id, which is the same in every process.
            tick: its moment. The job is kept only if all ticks of this task that were
                seen are earlier.
            seen: the moment up to which all ticks of the task are noted as seen, in the
                same step.

        Returns:
            Whether it was kept.

        Raises, Cancellation: as for `put`.
        """
        ...

    async def last_tick(self, task: str, now: float) -> float | None:
        """Return up to when a task's ticks have been seen; if never, note `now` as that.

        None for a store that does not remember.

        Raises:
            StoreUnavailable: it cannot tell just now.
        """
        ...

    async def fetch(self, count: int) -> Sequence[Delivery]:
        """Wait until jobs are due; return at least one and at most `count` of them.

        They belong to this process until they are settled or it dies: no other gets them.
        Of jobs that are due, those with a higher priority come first, and then those that
        were put first, as far as the store can tell. Called by one caller at a time.

        Raises:
            StoreUnavailable: the store is lost. The caller pauses and calls again; once
                the store is back, it works as before.

        Cancellation:
            Nothing is lost: what was fetched already is given back at once.
        """
        ...

    # The following settle a delivery; each is settled once. They are plain functions that
    # hand the work over, return at once, and raise nothing: they are called when a job
    # ends, even in the middle of its cancellation. The store logs what fails, and the job
    # comes back as if the process had died. `stop` finishes what was handed over.

    def ack(self, delivery: Delivery) -> None:
        """Forget the job: it is done."""
        ...

    def retry(self, delivery: Delivery, due: float) -> None:
        """Let the next attempt, ``envelope.again(due)``, wait until it is due.

        This one has failed. A store that needs two steps puts first, and then
        acknowledges. If a job with the same key already waits, this one waits without
        its key.
        """
        ...

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Put the job aside, with the reason (say, a traceback): it has failed for good.

        A store without a place for the dead logs it.
        """
        ...

    def give_back(self, delivery: Delivery) -> None:
        """Let the same attempt wait again, due at once: it was cancelled or not begun."""
        ...
