"""Keys: at most one job with a given key at a time.

A job has its key from the moment it is accepted until it ends. The jobs of callers that
wait for room do not have theirs yet: the first one to get in takes it, and the other
callers are given that job. So nobody is given a job whose own caller may still give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from .binding import Binding
from .checks import check_name
from .gate import Gate
from .intake import Intake
from .job import Job, give_key

__all__ = ("Keys",)


class Keys:
    """Lets jobs with a key in, or returns the job that already has the key.

    Args:
        binding: the event loop.
        gate, intake: how jobs get in.
    """

    __slots__ = ("_binding", "_gate", "_intake", "_jobs", "_waiting", "joined")

    def __init__(self, binding: Binding, gate: Gate, intake: Intake) -> None:
        self._binding = binding
        self._gate = gate
        self._intake = intake
        # The accepted job of each key. One that has ended stays for one turn at most.
        self._jobs: dict[str, Job[Any]] = {}
        # By key, the jobs of callers that wait for room; each with the job to return
        # instead, once another caller has got in.
        self._waiting: dict[str, dict[Job[Any], Job[Any] | None]] = {}
        # How many callers were given a job that was already there.
        self.joined = 0

    async def spawn(self, job: Job[Any], key: str) -> Job[Any]:
        """Let the job in when there is room, or return the one that has the key by then.

        Raises:
            SchedulerClosed, RuntimeError, TypeError: as for a job without a key.
        """
        if (there := self._find(job, key)) is not None:
            return there
        self._enter(job, key, self._intake.accept)
        if job.spawned_at is not None:
            return job
        waiting = self._waiting.setdefault(key, {})
        waiting[job] = None
        try:
            await self._intake.wait_for_room(job, partial(self._let_in, key))
            there = waiting[job]
        finally:
            del waiting[job]
            if not waiting:
                del self._waiting[key]
        return job if there is None else there

    def enter(
        self, job: Job[Any], key: str, how: Callable[[Job[Any]], object]
    ) -> Job[Any]:
        """Let the job in without waiting, or return the one that has the key.

        Args:
            job, key: the job, and its key.
            how: lets the job in, or refuses it and raises.
        """
        if (there := self._find(job, key)) is None:
            self._enter(job, key, how)
            return job
        return there

    def _find(self, job: Job[Any], key: str) -> Job[Any] | None:
        """Return the job that has the key, if any, and refuse the new one then.

        Raises:
            SchedulerClosed, RuntimeError, TypeError: the new one is refused in any case.
        """
        try:
            check_name("key", key)
        except TypeError:
            self._gate.refuse(job)
            raise
        self._intake.check_open_for(job)
        there = self._jobs.get(key)
        # One that was never accepted may be there if a KeyboardInterrupt came in between.
        if there is None or there.closed or there.spawned_at is None:
            return None
        self.joined += 1
        if job.coro is not there.coro:
            self._gate.refuse(job)
        return there

    def _enter(self, job: Job[Any], key: str, how: Callable[[Job[Any]], object]) -> None:
        """Give the job the key, and try to let it in.

        In this order: a task factory or an observer may run code in the middle of this
        that spawns another job with the key.
        """
        try:
            self._jobs[key] = job
            give_key(job, key)
            how(job)
        finally:
            if job.spawned_at is None or job.closed:
                self._take(key, job)
            else:
                self._watch(key, job)

    def _let_in(self, key: str, job: Job[Any]) -> bool:
        """Give the key, if it is free, to a job whose caller has waited for room.

        Return whether the job got it.
        """
        if job.closed or self._waiting[key][job] is not None:
            return False
        self._jobs[key] = job
        give_key(job, key)
        self._watch(key, job)
        others = [other for other in self._waiting[key] if other is not job]
        try:
            for other in others:
                self._give_instead(key, other, job)
        except BaseException:
            for other in others:
                self._give_instead(key, other, job)
            raise
        return True

    def _give_instead(self, key: str, other: Job[Any], job: Job[Any]) -> None:
        """Give the job to a caller that waits for room for another job with its key."""
        waiting, pending = self._waiting[key], self._gate.pending
        if waiting[other] is None:
            waiting[other] = job
            self.joined += 1
        woken = pending.callers.get(other)
        if woken is None:
            if other.pending:  # it has a place, and its caller is about to be told
                self._gate.drop(other)
            return
        if other.coro is not job.coro:
            self._gate.refuse(other)
        if not woken.done():
            woken.set_result(None)
        del pending.callers[other]

    def _watch(self, key: str, job: Job[Any]) -> None:
        """Take the key from the job when it ends, whatever ends it.

        It does so as one more waiter, so that jobs without a key pay nothing for this.
        """
        end = self._binding.in_use().create_future()
        end.add_done_callback(partial(self._end, key, job))
        if job.waiters is None:
            job.waiters = set()
        job.waiters.add(end)

    def _end(self, key: str, job: Job[Any], future: asyncio.Future[None]) -> None:
        self._take(key, job)

    def _take(self, key: str, job: Job[Any]) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]
