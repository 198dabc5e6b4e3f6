"""Store: what keeps durable jobs, and what one has to promise.

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

A job is never in less than one of these places: whatever moves it writes where it goes to
before, or together with, taking it from where it was. So it is run at least once, and
more than once only if a process dies, or the store is lost, between the end of an attempt
and its ``ack``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .envelope import Envelope

__all__ = ("OPTIONS", "Delivery", "Store")

# What may be asked for at one call of spawn_durable(), see Task.options().
OPTIONS: Final = ("delay", "at", "priority", "key", "connection")


@dataclass(slots=True, eq=False)
class Delivery:
    """A job that was fetched, until it is settled: by one of the store's four methods."""

    #: The job.
    envelope: Envelope
    #: How the store knows it again; nobody else looks into it.
    receipt: Any


class Store(Protocol):
    """What keeps durable jobs.

    One belongs to one application and one event loop, all methods are called in that
    loop, and this is the order of the calls::

        start   (put | put_tick | last_tick | fetch | settling a delivery)*   stop

    `start` may raise and is called again then, until it succeeds or `stop` is called;
    between them nothing else is called. Everything that cannot be done just now, and may
    be later, raises :exc:`~aiohttp_jobs.StoreUnavailable` with a sentence that says why.
    """

    #: The options of a call that it can keep. A call with another one is refused, with a
    #: sentence that names both, before `put`.
    supports: Collection[str]

    #: Does it remember which ticks of periodic jobs were put? Then every process may put
    #: them, and each is kept once. Otherwise one process has to be chosen to.
    remembers_ticks: bool

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        """Open it, and return when jobs can be put.

        Whoever calls it logs what it raises, and tries again after a pause. What a start
        that failed has opened, it has closed again.

        Args:
            tasks: the names of the tasks that the application has. Only jobs of these
                are fetched; others wait for a process that has them.
            worker: whether anything will be fetched.

        Raises:
            StoreUnavailable: it cannot be reached or used.

        Cancellation:
            As when it has failed.
        """
        ...

    async def stop(self) -> None:
        """Finish what was handed over, and close it. Stopping twice is stopping once.

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
                in whose transaction the job is kept. None without it.

        Returns:
            The id of the envelope; or, if it has a `key` and a job of the same task and
            key waits already, the id of that one, and the envelope is dropped.

        Raises:
            StoreUnavailable: it is not kept. (Where nobody can tell, after a connection
                was lost in the middle, it is raised, too: the job may run then.)
            TypeError, ValueError: this job cannot be kept, and others can.

        Cancellation:
            The job may have been kept.
        """
        ...

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        """Keep a periodic job, unless another process has done so for this tick.

        Args:
            envelope: the job. A store that cannot tell whether the tick was seen has its
                id to go by, which is the same in every process.
            tick: its moment. It is kept only if all ticks that were seen of this task
                are earlier; in one step with
            seen: noting that all ticks of the task up to this moment are seen.

        Returns:
            Whether it was kept.

        Raises, Cancellation: as for `put`.
        """
        ...

    async def last_tick(self, task: str, now: float) -> float | None:
        """Return until when the ticks of a task are seen; if never, note that as `now`.

        None for a store that does not remember.

        Raises:
            StoreUnavailable: it cannot tell just now.
        """
        ...

    async def fetch(self, count: int) -> Sequence[Delivery]:
        """Wait until jobs are due; return at least one and at most `count` of them.

        They are this process's until they are settled or it dies: no other one gets them.
        Of jobs that are due, those with a higher priority come first, and then those that
        were put first, as far as the store can tell. Called by one caller at a time.

        Raises:
            StoreUnavailable: the store is lost. It is called again after a pause, and
                serves as before when the store is back; the pauses are the caller's.

        Cancellation:
            Nothing is lost: what was fetched already is given back at once.
        """
        ...

    # The following settle a delivery; each is settled once. They are plain functions that
    # hand the work over, return at once, and raise nothing: they are called when a job
    # ends, also in the middle of its cancellation. What fails is logged by the store, and
    # the job comes back as if the process had died. `stop` finishes what was handed over.

    def ack(self, delivery: Delivery) -> None:
        """It is done: forget it."""
        ...

    def retry(self, delivery: Delivery, due: float) -> None:
        """It has failed: let the next attempt, ``envelope.again(due)``, wait until then.

        A store that needs two steps puts first, and acknowledges then. One that has a
        job waiting with the same key lets this one wait without its key.
        """
        ...

    def bury(self, delivery: Delivery, reason: str) -> None:
        """It has failed for good: put it aside, with the reason, a traceback for example.

        A store without a place for the dead logs it.
        """
        ...

    def give_back(self, delivery: Delivery) -> None:
        """It was not begun, or cancelled: the same attempt waits again, due at once."""
        ...
