"""Ending: draining and closing a scheduler, and the record that it leaves in the log."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

from .binding import Binding
from .gate import Gate
from .guests import has_begun
from .job import Job, stop
from .logs import say
from .names import listed, shown
from .reports import Reports
from .shield import Shields
from .states import ACTIVE, CLOSED, CLOSING, OPEN, PENDING

__all__ = ("BATCH", "Ending")

# How many jobs one turn of the loop cancels before others get their turn.
BATCH: Final = 500
# Seconds between two log records about a drain that takes long.
REPORT_EVERY: Final = 5.0
# Turns in which what was started may still take its first step before it is cancelled.
MOST_TURNS: Final = 3
# How many names a log record carries in its fields.
MOST_NAMES: Final = 1000

Victim = Job[Any] | asyncio.Future[Any]


class Ending:
    """Waits until nothing is left, and cancels what is.

    Args:
        binding: the event loop.
        gate, shields, reports: what has to end.
        close_timeout: seconds that a cancelled job has to end; None for no limit.
    """

    def __init__(
        self,
        binding: Binding,
        gate: Gate,
        shields: Shields,
        reports: Reports,
        close_timeout: float | None,
    ) -> None:
        self._binding = binding
        self._gate = gate
        self._shields = shields
        self._reports = reports
        self._close_timeout = close_timeout
        # The futures of those who wait until nothing is left, by whether they are part of
        # a job or shielded awaitable, and whether they wait for background jobs only.
        self._waiting: dict[tuple[bool, bool], set[asyncio.Future[bool]]] = {}
        # What does the cancelling, from a close until all have been cancelled.
        self._closing: _Closing | None = None
        # How many callers of close() are waiting just now.
        self._closes = 0
        # What a close leaves alone, because close() was called from inside it.
        self._spared: set[Victim] = set()
        # When the close that is under way has to return.
        self._close_by = -math.inf
        gate.drainers.when_few = reports.when_told = self.check
        shields.when_over = self._shield_is_over

    @property
    def is_draining(self) -> bool:
        """Whether somebody waits for the jobs to end by themselves."""
        return self._gate.drainers.count > 0

    def _callers(self) -> list[Victim]:
        """Return the job and the shielded task that the running code is part of, if any.

        It is part of both if a job shields what drains or closes: neither ends before it.
        """
        task, job = asyncio.current_task(), self._gate.current_job()
        callers: list[Victim] = [] if job is None else [job]
        if task is not None and task in self._shields:
            callers.append(task)
        return callers

    def is_done(self, is_inside: bool = False, background: bool = False) -> bool:
        """Return whether nothing is left to wait for.

        Args:
            is_inside: whether the waiter is part of a job or shielded awaitable. Such
                waiters do not wait for each other, and count as left only for those that
                wait from outside.
            background: leave out what ends with something else.
        """
        gate = self._gate
        left = (
            len(gate.active)
            + len(gate.pending)
            + len(self._shields)
            + len(self._reports.untold)
            + (self._closing is not None)
        )
        if background:
            left -= len(gate.slots.at_once) + len(gate.pending.held)
        if is_inside:
            left -= len(gate.drainers.inside)
            if not background:
                left -= len(gate.drainers.at_once)
        return left <= 0

    def check(self) -> None:
        """Wake those who have nothing left to wait for. Called when something ended."""
        if self._gate.state is CLOSING and self.is_done():
            self._gate.state = CLOSED
            self._spared.clear()
        for (is_inside, background), waiting in self._waiting.items():
            if waiting and self.is_done(is_inside, background):
                # Two turns later: whoever else was told of the last end comes first, and
                # may spawn a job.
                # Twice, in case a KeyboardInterrupt interrupts the first.
                soon: Any = self._binding.in_use().call_soon
                soon(soon, self._tell)
                soon(soon, soon, self._tell)
                return

    def _shield_is_over(self, inner: asyncio.Future[Any]) -> None:
        self._gate.drainers.inside.pop(inner, None)
        self.check()

    def _tell(self) -> None:
        for kind, waiting in self._waiting.items():
            if waiting and self.is_done(*kind):
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_result(True)
                waiting.clear()

    async def drain(self, timeout: float | None, *, background: bool) -> bool:
        """Let everything end by itself; return whether nothing is left.

        Args:
            timeout: seconds to wait; None for no limit.
            background: leave out what ends with something else.
        """
        loop = self._binding.check()
        deadline = math.inf if timeout is None else loop.time() + timeout
        report_at = loop.time() + REPORT_EVERY
        told = False
        is_done = False
        callers = self._callers()
        is_inside = bool(callers)
        self._sweep()
        with _Drain(self._gate, callers):
            # In a loop: for the log, and because another job may have come meanwhile.
            while not self.is_done(is_inside, background):
                now = loop.time()
                if now >= deadline:
                    return False
                if now >= report_at:
                    report_at = now + REPORT_EVERY
                    self._report(deadline - now, is_first=not told)
                    told = True
                is_done = await self._wait(
                    is_inside, background, min(report_at, deadline) - now
                )
                if is_done and is_inside:
                    break  # others woken with this one go on, and count as left again
        return True

    def _sweep(self) -> None:
        # Only for the first waiter, so that many cost no more than one.
        if not self._waiting_count():
            self._gate.sweep()
            self._shields.sweep()

    def _waiting_count(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def _wait(
        self, is_inside: bool, background: bool, timeout: float = math.inf
    ) -> bool:
        """Wait until nothing is left, up to `timeout` seconds; False if something is."""
        loop = self._binding.in_use()
        waiter: asyncio.Future[bool] = loop.create_future()
        waiting = self._waiting.setdefault((is_inside, background), set())
        waiting.add(waiter)
        timer = None
        if timeout < math.inf:
            timer = loop.call_later(timeout, _give_up, waiter)
        try:
            self.check()
            return await waiter
        finally:
            waiting.discard(waiter)
            if timer is not None:
                timer.cancel()

    def _report(self, left: float, *, is_first: bool) -> None:
        """Log that a drain takes long, so that this is known if the process is killed."""
        gate, pending = self._gate, self._gate.pending
        jobs = [*islice(gate.active.values(), MOST_NAMES)]
        jobs += islice(pending, MOST_NAMES - len(jobs))
        names = [job.label for job in jobs]
        say(
            logging.WARNING if is_first else logging.INFO,
            "The scheduler is draining: %d active, %d pending, %d shielded left%s%s (%s)",
            len(gate.active),
            len(pending),
            len(self._shields),
            "" if left == math.inf else f", {left:.0f} s to go",
            ", but the pending ones are held: call release() to let them start"
            if gate.is_held
            else "",
            listed(names),
            jobs_active=len(gate.active),
            jobs_pending=len(pending),
            shields_left=len(self._shields),
            seconds_left=None if left == math.inf else left,
            is_held=gate.is_held,
        )

    async def close(self) -> None:
        """Cancel everything that is left, and wait until it has ended."""
        gate = self._gate
        if gate.state is CLOSED:
            return  # in any loop: closing again does nothing
        loop = self._binding.check()
        callers = self._callers()
        is_inside = bool(callers)
        try:
            if gate.state is OPEN:
                gate.state = CLOSING
                gate.drainers.count += 1  # for good: every end is looked at
            if self._close_timeout is not None and self._close_by <= loop.time():
                self._close_by = loop.time() + self._close_timeout
            gate.refuse_callers()
        except BaseException:
            gate.mend()  # which refuses them too
            raise
        victims = self._find_victims(callers)
        if victims:
            closing = self._closing
            if closing is None:
                closing = _Closing(
                    self._binding,
                    gate,
                    self._shields,
                    self._close_timeout,
                    self._closing_is_done,
                )
                closing.add(victims)
                closing.go_on()
                self._closing = closing
            else:
                closing.add(victims)
        self.check()
        self._closes += 1
        try:
            with _Drain(gate, callers):
                while not self.is_done(is_inside):
                    if await self._wait(is_inside, False) and is_inside:
                        break
        finally:
            self._closes -= 1

    def _find_victims(self, callers: list[Victim]) -> list[Victim]:
        """Return what is to be cancelled, except the caller's own job and task."""
        gate, victims = self._gate, list[Victim]()
        if self._closing is not None or self._closes:
            # Another close takes care of everything except what it spares.
            victims += [spared for spared in self._spared if spared not in callers]
            self._spared.difference_update(victims)
            return victims
        gate.pending.mend()
        self._sweep()
        # Including those already cancelled: they may have been given more time.
        everything: list[Victim] = [*gate.active.values(), *gate.pending, *self._shields]
        victims += [each for each in everything if each not in callers]
        self._spared.update(each for each in everything if each in callers)
        return victims

    def _closing_is_done(self) -> None:
        self._closing = None
        self.check()

    def bound(self, inner: asyncio.Future[Any]) -> None:
        """Bound what is shielded during a close: it has to end with the close."""
        if self._gate.state is CLOSING and self._close_timeout is not None:
            left = self._close_by - self._binding.in_use().time()
            # Below 0, only a job that was spared by its own close keeps it closing.
            self._shields.bound(inner, self._close_timeout if left < 0 else left)


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class _Drain:
    """Inside `with`, counts a caller among those who wait for the end of all others.

    Args:
        gate: where the caller is counted.
        callers: the job and the shielded task that the caller is part of.
    """

    def __init__(self, gate: Gate, callers: list[Victim]) -> None:
        self._gate = gate
        self._waiter: Job[Any] | None = None
        at_once: set[Any] = gate.slots.at_once
        self._counted = [
            (each, gate.drainers.at_once if each in at_once else gate.drainers.inside)
            for each in callers
        ]

    def __enter__(self) -> None:
        gate = self._gate
        gate.drainers.count += 1
        gate.pump_soon(again=True)
        for caller, table in self._counted:
            table[caller] = table.get(caller, 0) + 1
        self._waiter = gate.begin_wait_for_queue()

    def __exit__(self, *error: object) -> None:
        gate = self._gate
        gate.drainers.count -= 1
        gate.end_wait(self._waiter, None)
        for caller, table in self._counted:
            if caller in table:  # else it has already ended
                table[caller] -= 1
                if not table[caller]:
                    del table[caller]


class _Closing:
    """Cancels everything in a scheduler that takes no more jobs: once, in batches.

    It does so on its own: cancelling a caller of close() does not stop it half-way.

    Args:
        binding: the event loop.
        gate, shields: where the victims are kept.
        grace: seconds that each has to end; None for no limit.
        when_done: called when all have been cancelled.
    """

    def __init__(
        self,
        binding: Binding,
        gate: Gate,
        shields: Shields,
        grace: float | None,
        when_done: Callable[[], object],
    ) -> None:
        self._binding = binding
        self._gate = gate
        self._shields = shields
        self._grace = grace
        self._when_done = when_done
        self._victims: deque[Victim] = deque()
        # How many batches there have been, and in how many something was put off.
        self._batches = 0
        self._turns = 0
        self._cancelled: list[str] = []
        self._never_started: list[str] = []
        self._shields_cancelled = 0

    def add(self, victims: Sequence[Victim]) -> None:
        """Add these to what is still to be cancelled."""
        self._victims.extend(victims)

    def go_on(self) -> None:
        """Cancel the next batch in the next turn."""
        # Twice, in case a KeyboardInterrupt interrupts the first.
        loop, batch = self._binding.in_use(), self._batches + 1
        loop.call_soon(self._run, batch)
        loop.call_soon(self._run, batch)

    def _run(self, batch: int) -> None:
        """Cancel one batch; then come back in the next turn, or write the record."""
        if batch != self._batches + 1:
            return
        put_off: list[Victim] = []
        for _ in range(min(BATCH, len(self._victims))):
            victim = self._victims[0]
            if self._turns < MOST_TURNS and not _has_begun(victim):
                put_off.append(victim)
            else:
                self._cancel(victim)
            self._victims.popleft()
        self._victims.extend(put_off)
        self._turns += bool(put_off)
        if not self._victims:
            self._when_done()
            self._record()
            self._batches = batch
            return
        self._batches = batch
        try:
            self.go_on()
        except BaseException:
            self._batches -= 1  # the second call of this batch is still to come
            raise

    def _cancel(self, victim: Victim) -> None:
        if not isinstance(victim, Job):
            self._shields_cancelled += self._shields.stop(victim, self._grace)
            return
        if victim.state is PENDING:
            # If its spawn() has not returned, it is refused, and spawn() says so.
            if victim not in self._gate.pending.unconfirmed:
                self._never_started.append(shown(victim.label))
        elif victim.state is ACTIVE:
            self._cancelled.append(shown(victim.label))
        stop(victim, self._grace)

    def _record(self) -> None:
        cancelled, never_started = self._cancelled, self._never_started
        told = [
            f"{len(names)} {what} ({listed(names)})"
            for names, what in (
                (cancelled, "cancelled"),
                (never_started, "never started"),
            )
            if names
        ]
        if self._shields_cancelled:
            told.append(f"{self._shields_cancelled} shielded cancelled")
        if told:
            say(
                logging.WARNING,
                "The scheduler was closed before its jobs had ended: %s",
                "; ".join(told),
                jobs_cancelled=cancelled[:MOST_NAMES],
                jobs_never_started=never_started[:MOST_NAMES],
                shields_cancelled=self._shields_cancelled,
            )


def _has_begun(victim: Victim) -> bool:
    """Return whether it has taken its first step, or will not take one."""
    if isinstance(victim, Job):
        return victim.state is not ACTIVE or has_begun(victim.coro)
    get_coro: Any = getattr(victim, "get_coro", None)
    return get_coro is None or has_begun(get_coro())
