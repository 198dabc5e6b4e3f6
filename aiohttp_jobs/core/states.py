"""The states of jobs and of schedulers, and which may follow which."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ("JobState", "SchedulerState")


class JobState(enum.IntEnum):
    """Where a job is in its life. From `SUCCEEDED` on it is closed."""

    PENDING = 0  #: accepted, waiting for a slot
    ACTIVE = 1  #: running
    STOPPING = 2  #: running, after its one cancellation
    SUCCEEDED = 3  #: it returned a result
    FAILED = 4  #: it raised an exception, or ran longer than its timeout
    CANCELLED = 5  #: it was cancelled, or never started
    LET_GO = 6  #: it did not end in time when cancelled; nobody waits for it any longer
    HUNG_UP = 7  #: the client that it worked for has gone; that is no failure


# Plain globals: looking a member up in its enumeration costs more than comparing it.
PENDING: Final = JobState.PENDING
ACTIVE: Final = JobState.ACTIVE
STOPPING: Final = JobState.STOPPING
SUCCEEDED: Final = JobState.SUCCEEDED
FAILED: Final = JobState.FAILED
CANCELLED: Final = JobState.CANCELLED
LET_GO: Final = JobState.LET_GO
HUNG_UP: Final = JobState.HUNG_UP

# The final states of jobs that have no result.
UNSUCCESSFUL: Final = (FAILED, CANCELLED, LET_GO, HUNG_UP)

# The legal moves, by the state that a job leaves: no way back, and none from the end.
NEXT: Final = (
    (ACTIVE, CANCELLED),
    (SUCCEEDED, FAILED, STOPPING, CANCELLED, HUNG_UP),
    (CANCELLED, SUCCEEDED, FAILED, LET_GO, HUNG_UP),
    (),
    (),
    (),
    (),
    (),
)


class SchedulerState(enum.IntEnum):
    """Where a scheduler is in its life."""

    OPEN = 0  #: it takes jobs and runs them
    DRAINING = 1  #: somebody waits until its jobs have ended by themselves; more may come
    CLOSING = 2  #: no more jobs; what was there has been or is being cancelled
    CLOSED = 3  #: nothing is left


OPEN: Final = SchedulerState.OPEN
DRAINING: Final = SchedulerState.DRAINING
CLOSING: Final = SchedulerState.CLOSING
CLOSED: Final = SchedulerState.CLOSED
