"""Drainers: those who wait for the end of all jobs, and may be jobs themselves."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("Drainers",)


class Drainers:
    """Counts them, so that no search is needed when a job ends."""

    __slots__ = ("at_once", "count", "inside", "when_few")

    def __init__(self) -> None:
        # How many drain or close, from inside or outside; a close counts for good.
        self.count = 0
        # Jobs and shielded awaitables whose own code does so, and how many times: those
        # that take no slot in `at_once`, the rest in `inside`.
        self.inside: dict[object, int] = {}
        self.at_once: dict[object, int] = {}
        # Called when a job has ended and so few are left that it may have been the last
        # one that a drain waits for.
        self.when_few: Callable[[], object] = bool

    def ended(self, job: object, left: int) -> None:
        """Note the end of a job.

        Args:
            job: the job that has ended.
            left: how many of those that take a slot are active. A drain from inside does
                not wait for jobs that drain too.
        """
        self.inside.pop(job, None)
        self.at_once.pop(job, None)
        if left <= len(self.inside):
            self.when_few()
