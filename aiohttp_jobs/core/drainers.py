"""Drainers: who waits for the end of all jobs, and may be one of them."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("Drainers",)


class Drainers:
    """Counts them: none is looked for when a job ends."""

    __slots__ = ("at_once", "count", "inside", "when_few")

    def __init__(self) -> None:
        # How many drain or close, from inside or outside; a close counts for ever.
        self.count = 0
        # Jobs and shielded awaitables whose own code does so, with how many times: in one
        # those that take no slot, in one the rest.
        self.inside: dict[object, int] = {}
        self.at_once: dict[object, int] = {}
        # Called when a job has ended and so few are left that this may have been the last
        # one for somebody who drains.
        self.when_few: Callable[[], object] = bool

    def ended(self, job: object, left: int) -> None:
        """Note the end of a job.

        Args:
            job: which.
            left: how many are active that take a slot. A drain from inside waits for none
                that drains too.
        """
        self.inside.pop(job, None)
        self.at_once.pop(job, None)
        if left <= len(self.inside):
            self.when_few()
