"""Dead: retries or drops jobs that have failed for good, a part at a time.

Each part is a transaction of its own, followed by a pause as long as it took: anyone who
puts jobs meanwhile, in this process or another, waits for one part, however many are
dead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from .rows import KEY_UNLESS_TAKEN
from .schema import DEAD, READY

__all__ = ("DROP", "RETRY", "Change", "Part", "pause_after")

# What is done: the jobs wait again as new, except for their ids; or they are forgotten.
RETRY: Final = (
    f"UPDATE aiohttp_jobs SET state = {READY}, due = NULL, attempt = 1, crashes = 0, "
    f"buried_at = NULL, reason = NULL, {KEY_UNLESS_TAKEN}"
)
DROP: Final = "DELETE FROM aiohttp_jobs"

# The most jobs in a part, which then takes some ten or twenty milliseconds.
MOST: Final = 500
# The longest pause, in seconds.
LONGEST_PAUSE: Final = 0.1


def pause_after(took: float) -> float:
    """Return the seconds to pause after a part that took `took` seconds.

    SQLite serves those who wait for it in no particular order: without a pause, another
    process could wait until all parts are done.
    """
    return min(took, LONGEST_PAUSE)


class Part(NamedTuple):
    """What one part has done."""

    changed: int
    #: How many are left to do, at most.
    left: int


class Change:
    """A change to some dead jobs, or to all that are there when it begins.

    Args:
        change: `RETRY` or `DROP`.
        ids: which jobs; None for all.
        until: leave out jobs that were buried later than this; None for no limit.
    """

    def __init__(
        self, change: str, ids: Collection[str] | None, until: float | None
    ) -> None:
        self._change = f"{change} WHERE state = {DEAD}"
        self._ids = None if ids is None else list(ids)
        self._until = until
        self._left: int | None = None
        #: How many jobs it has been done to.
        self.done = 0

    @property
    def is_over(self) -> bool:
        """Whether it has been done to all."""
        return self._left == 0

    def do_part(self, connection: sqlite3.Connection) -> Part:
        """Do the next part, in a transaction that the caller has begun.

        It may be rolled back and done again; only what is committed is noted.
        """
        if self._ids is None:
            return self._do_oldest(connection)
        left = len(self._ids) if self._left is None else self._left
        start = len(self._ids) - left
        ids = self._ids[start : start + MOST]
        bound, given = self._bound()
        count = connection.executemany(
            f"{self._change} {bound} AND id = ?", [(*given, id) for id in ids]
        ).rowcount
        return Part(count, left - len(ids))

    def _do_oldest(self, connection: sqlite3.Connection) -> Part:
        # Jobs that die meanwhile are buried later, so it is these that are left over.
        left = self._left
        if left is None:
            (left,) = connection.execute(
                "SELECT dead FROM aiohttp_jobs_counts"
            ).fetchone()
        bound, given = self._bound()
        most = min(left, MOST)
        count = connection.execute(
            f"{self._change} AND number IN (SELECT number FROM aiohttp_jobs "
            f"INDEXED BY aiohttp_jobs_dead WHERE state = {DEAD} {bound} "
            "ORDER BY buried_at, number LIMIT ?)",
            (*given, most),
        ).rowcount
        return Part(count, left - count if count == most else 0)

    def _bound(self) -> tuple[str, tuple[Any, ...]]:
        return ("", ()) if self._until is None else ("AND buried_at <= ?", (self._until,))

    def note(self, part: Part) -> None:
        """Note what a part has done, once it is committed."""
        self.done += part.changed
        self._left = part.left
