"""Upkeep: opens the store of an application, and says once when it is down or back."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection

from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.failures import line_of
from aiohttp_jobs.core.guests import call_guest
from aiohttp_jobs.core.logs import logger, say

from .store import Store

__all__ = ("Upkeep", "pause_after")

# Seconds between two tries: at first, and at most.
SHORTEST, LONGEST = 0.5, 30.0
# Seconds that the start of the application waits for the first try.
LONGEST_START = 5.0


def pause_after(tries: int) -> float:
    """Return the seconds until the next try, after this many have failed."""
    pause = min(SHORTEST * 2.0 ** min(tries - 1, 16), LONGEST)
    return pause * random.uniform(0.75, 1)


class Upkeep:
    """Opens a store, and knows whether it can be used.

    Args:
        store: the store.
        tasks, worker: what its `start` takes.
    """

    def __init__(self, store: Store, tasks: Collection[str], worker: bool) -> None:
        self._store = store
        self._tasks = tasks
        self._worker = worker
        #: Whether it is open. Until then nothing may be asked of it.
        self.is_open = False
        #: Why it cannot be used; None if it can, as far as anybody knows.
        self.fault: StoreUnavailable | None = StoreUnavailable(
            "their store is not open yet, try again when the application has started"
        )
        self._opened = asyncio.Event()
        self._is_down = False

    async def open_in_time(self) -> asyncio.Task[None]:
        """Try to open it once; go on in the returned task, which may already be done."""
        first_try = asyncio.Event()
        task = asyncio.create_task(self._open(first_try), name="durable jobs: open")
        try:
            async with asyncio.timeout(LONGEST_START):
                await first_try.wait()
        except TimeoutError:
            pass  # a disk that hangs must not keep the application from its start
        except BaseException:
            task.cancel()
            raise
        return task

    async def _open(self, first_try: asyncio.Event) -> None:
        tries = 0
        while not self.is_open:
            try:
                await self._store.start(self._tasks, worker=self._worker)
            except Exception as error:
                tries += 1
                self.lost(error)
                first_try.set()
                await asyncio.sleep(pause_after(tries))
            else:
                self.is_open = True
                self.found()
                self._opened.set()
            finally:
                first_try.set()

    async def wait(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()

    def check(self) -> None:
        """Refuse to go on as long as it is not open.

        Raises:
            StoreUnavailable: why it is not.
        """
        if not self.is_open and self.fault is not None:
            raise StoreUnavailable(*self.fault.args)

    def lost(self, error: Exception) -> None:
        """Note that it cannot be used, whoever found out."""
        if is_expected := isinstance(error, StoreUnavailable):
            self.fault = error
        else:  # a fault of the store's own
            self.fault = StoreUnavailable(line_of(error))
        if self._is_down:
            return
        self._is_down = True
        call_guest(
            lambda: logger.error(
                "%s. It will be tried again",
                self.fault,
                exc_info=None if is_expected else error,
            )
        )

    def found(self) -> None:
        """Note that it can be used."""
        self.fault = None
        if self._is_down:
            self._is_down = False
            say(logging.WARNING, "Durable jobs can be kept again")
