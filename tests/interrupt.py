"""Cancels a task at its 1st, 2nd, … nth suspension in turn, until it ends uncancelled.

A scenario is a coroutine function that starts one task by :meth:`Interrupt.start` and
checks what has become of it. It is run over and over, each time with a cancellation at
another place: at each suspension of the task, and some turns of the loop later, so that
it also falls into the turn in which the task's wait ends, both before and after that;
then at each pair of places.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from tests.loops import settle

__all__ = ("Interrupt", "Outcome", "interrupted")

T = TypeVar("T")

# Turns of the loop between a suspension and its cancellation.
DELAYS = range(5)
# The same for the second of two cancellations.
SECOND_DELAYS = range(2)


@dataclass(frozen=True)
class Strike:
    """A cancellation: at which suspension, counted from the last strike, and how late."""

    suspension: int
    delay: int


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How the task ended."""

    cancelled: bool
    error: BaseException | None = None
    result: T | None = None


class Interrupt:
    """Carries out the cancellations of one run of a scenario."""

    def __init__(self, strikes: list[Strike]) -> None:
        self._strikes = strikes
        self._suspensions = 0
        self._task: asyncio.Task[Any] | None = None
        # How many strikes were reached, and how many of them cancelled the task.
        self.reached = 0
        self.struck = 0

    def start(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the task to interrupt."""
        assert self._task is None, "a scenario starts one task"
        self._task = asyncio.create_task(self._run(coro))
        return self._task

    async def end(self, task: asyncio.Task[T]) -> Outcome[T]:
        """Wait for the end of the task, and return how it ended."""
        await asyncio.wait([task])
        if task.cancelled():
            return Outcome(cancelled=True)
        if (error := task.exception()) is not None:
            return Outcome(cancelled=False, error=error)
        return Outcome(cancelled=False, result=task.result())

    async def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        return await _Watched(coro, self._suspended)

    def _suspended(self) -> None:
        if self.reached == len(self._strikes):
            return
        self._suspensions += 1
        strike = self._strikes[self.reached]
        if self._suspensions == strike.suspension:
            self.reached += 1
            self._suspensions = 0
            asyncio.get_running_loop().call_soon(self._strike, strike.delay)

    def _strike(self, delay: int) -> None:
        if delay:
            asyncio.get_running_loop().call_soon(self._strike, delay - 1)
            return
        assert self._task is not None
        self.struck += self._task.cancel()


class _Watched(Awaitable[T]):
    """Calls a function whenever the coroutine is about to be suspended."""

    def __init__(self, coro: Coroutine[Any, Any, T], told: Callable[[], None]) -> None:
        self._coro = coro
        self._told = told

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[..., Any] = self._coro.send
        argument: Any = None
        try:
            while True:
                try:
                    waits_for = step(argument)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                self._told()
                try:
                    argument = yield waits_for
                    step = self._coro.send
                except BaseException as error:
                    step, argument = self._coro.throw, error
        finally:
            self._coro.close()


Scenario: TypeAlias = Callable[[Interrupt], Coroutine[Any, Any, None]]


async def interrupted(scenario: Scenario) -> None:
    """Run the scenario with a cancellation at every place, then at every pair of places.

    After each run no task may be left, nor anything that warns when it is collected.
    """
    struck = 0
    for delay in DELAYS:
        first = 1
        while (run := await _run(scenario, [Strike(first, delay)])).reached:
            struck += run.struck
            second = 1
            for second_delay in SECOND_DELAYS:
                second = 1
                while True:
                    strikes = [Strike(first, delay), Strike(second, second_delay)]
                    if (await _run(scenario, strikes)).reached < 2:
                        break
                    second += 1
            first += 1
    assert struck, "the task was never cancelled: the scenario tests nothing"


async def _run(scenario: Scenario, strikes: list[Strike]) -> Interrupt:
    before = asyncio.all_tasks()
    run = Interrupt(strikes)
    try:
        async with asyncio.timeout(1000):
            await scenario(run)
        await settle()
        left = asyncio.all_tasks() - before
        assert not left, f"left running: {left}"
    except BaseException as error:
        error.add_note(f"interrupted by {strikes}, {run.struck} of them struck")
        raise
    gc.collect(0)
    return run
