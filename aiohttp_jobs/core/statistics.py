"""Statistics: a scheduler's figures at one moment."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Statistics",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What :meth:`Scheduler.statistics` returns: a snapshot."""

    #: How many jobs run.
    active: int
    #: How many are accepted but not yet started.
    pending: int
    #: How many slots are taken, see :attr:`Scheduler.slots_taken`.
    slots_taken: int
    #: How many callers of :meth:`Scheduler.spawn` wait for room among the pending jobs.
    callers_waiting: int
    #: How many awaitables are shielded.
    shielded: int
    #: How many jobs may run at once; None for no limit.
    limit: int | None
    #: How many may be pending; 0 or None for no limit.
    pending_limit: int | None
    #: How many have ended with a result, since the scheduler was made.
    succeeded: int
    #: How many have ended with an exception.
    failed: int
    #: How many were cancelled or never started.
    cancelled: int
    #: How many did not end in time after they were cancelled, and were let go.
    let_go: int
    #: How many have ended because the client that they worked for had gone.
    hung_up: int
    #: How many times spawning returned a job that was already there, because of its key.
    joined: int
    #: Whether the pending jobs are held, see :meth:`Scheduler.hold`.
    held: bool
    #: When the oldest pending job was spawned, and when the oldest active one began, by
    #: :func:`time.monotonic`; None if there is none.
    waiting_since: float | None
    running_since: float | None
    #: For how many seconds the first pending job has waited; 0.0 if none is pending.
    longest_waiting: float
    #: For how many seconds the oldest active job has run; 0.0 if none is active.
    longest_running: float

    @property
    def closed(self) -> int:
        """How many jobs are over, whatever their outcome."""
        return self.succeeded + self.failed + self.cancelled + self.let_go + self.hung_up
