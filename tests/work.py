"""Coroutines for the jobs of the tests, and an exception handler for their failures."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp_jobs import Scheduler
from aiohttp_jobs.core.errors import HungUp

__all__ = (
    "Boom",
    "Reports",
    "fail",
    "give",
    "hang_up",
    "nothing",
    "stubborn",
    "wait_for",
)


class Boom(Exception):
    pass


async def nothing() -> None:
    pass


async def give(value: Any) -> Any:
    return value


async def wait_for(
    event: asyncio.Event, log: list[Any] | None = None, mark: Any = "done"
) -> Any:
    """Write `mark` into the log, and return it when the event is set."""
    if log is not None:
        log.append(mark)
    await event.wait()
    return mark


async def fail(event: asyncio.Event | None = None) -> None:
    if event is not None:
        await event.wait()
    raise Boom("boom")


async def hang_up() -> None:
    """Find that the client has gone, as an atomic handler does."""
    raise HungUp(ConnectionResetError("the client has gone"))


async def stubborn(go: asyncio.Event, cancelled: list[float] | None = None) -> str:
    """Swallow every cancellation until `go` is set; note when each came."""
    while not go.is_set():
        try:
            await go.wait()
        except asyncio.CancelledError:
            if cancelled is not None:
                cancelled.append(asyncio.get_running_loop().time())
    return "late"


class Reports:
    """An exception handler that keeps the contexts it is called with."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []

    def __call__(self, scheduler: Scheduler, context: dict[str, Any]) -> None:
        self.contexts.append(context)

    @property
    def messages(self) -> list[str]:
        return [context["message"] for context in self.contexts]
