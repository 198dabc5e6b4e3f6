"""The background jobs of the storm's server."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Iterator
from typing import Final

from aiohttp_jobs import JobsError, Scheduler

from .ledger import Event, Ledger
from .plan import JobKind, Plan

__all__ = (
    "CURRENT",
    "STUBBORN_FOR",
    "Abort",
    "Planned",
    "accepting",
    "background",
    "forever",
    "work",
)

# The number of the request that the code runs for.
CURRENT: Final = contextvars.ContextVar[int]("CURRENT")
# How many seconds a stubborn job swallows cancellations for, at most.
STUBBORN_FOR: Final = 0.8


class Planned(Exception):
    """The exception that a plan says to raise."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject} was planned to fail")
        self.subject = subject


class Abort(BaseException):
    """The same, but not an Exception."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject} was planned to abort")
        self.subject = subject


async def work(seconds: float) -> None:
    """Wait for something else, in several steps."""
    for _ in range(3):
        await asyncio.sleep(seconds / 3)


@contextlib.contextmanager
def accepting(ledger: Ledger, name: str) -> Iterator[None]:
    """Record whether the spawn in the block was accepted."""
    try:
        yield
    except JobsError as error:
        ledger.note(name, Event.REFUSED, type(error).__name__)
        raise
    except asyncio.CancelledError:
        ledger.note(name, Event.WITHDRAWN)
        raise
    ledger.note(name, Event.ACCEPTED)


async def background(ledger: Ledger, scheduler: Scheduler, plan: Plan) -> str:
    """Do what the plan says for the request's job."""
    name = plan.job_name
    with ledger.span(name, plan.job):
        current = CURRENT.get()
        assert current == plan.number, f"{name} runs in the context of {current}"
        match plan.job:
            case JobKind.HANGS:
                await asyncio.Event().wait()
            case JobKind.STUBBORN:
                await _be_stubborn(ledger, plan)
            case JobKind.MOTHER:
                await _wait_for_children(ledger, scheduler, plan)
            case _:
                await work(plan.job_seconds)
        if plan.job is JobKind.FAILS:
            raise Planned(name)
        if plan.job is JobKind.ABORTS:
            raise Abort(name)
    return name


async def forever(ledger: Ledger, name: str) -> None:
    """Keep a slot until the shutdown."""
    with ledger.span(name, "forever"):
        await asyncio.Event().wait()


async def _be_stubborn(ledger: Ledger, plan: Plan) -> None:
    """Work on through every cancellation."""
    loop = asyncio.get_running_loop()
    end = loop.time() + random.Random(plan.moment).uniform(0.1, STUBBORN_FOR)
    while (left := end - loop.time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            left = end - loop.time()
            ledger.note(plan.job_name, Event.SWALLOWED, f"{left:.3f}")


async def _wait_for_children(ledger: Ledger, scheduler: Scheduler, plan: Plan) -> None:
    for child in range(2):
        name = f"{plan.job_name}, child {child}"
        try:
            with accepting(ledger, name):
                job = await scheduler.spawn(_child(ledger, plan, name, child), name)
        except JobsError:
            return  # the scheduler was just closed: this job is about to be cancelled
        try:
            await job
        except Planned:
            ledger.note(name, Event.RECEIVED)


async def _child(ledger: Ledger, plan: Plan, name: str, child: int) -> None:
    with ledger.span(name, "child"):
        await work(plan.job_seconds / 2)
        if plan.number % 2 == child:
            raise Planned(name)
