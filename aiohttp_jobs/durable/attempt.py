"""One attempt of a durable job: what the scheduler runs, and how it is settled."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from time import time
from typing import Any, Final

from aiohttp import web

from aiohttp_jobs.core.enqueued import CurrentDurable
from aiohttp_jobs.core.failures import line_of, traceback_of
from aiohttp_jobs.web.attempt import is_being_cancelled

from .envelope import Envelope
from .store import Delivery, Store
from .task import GiveUp, Task

__all__ = (
    "OUTCOMES",
    "Attempt",
    "CurrentDurable",
    "Outcome",
    "current",
    "current_durable",
)

# Characters to keep of a buried job's traceback: its end tells most.
MOST_OF_REASON: Final = 16_000

# How an attempt may end, as metrics name it.
Outcome = str
SUCCEEDED: Final = "succeeded"
RETRIED: Final = "retried"
BURIED: Final = "buried"
GIVEN_BACK: Final = "given_back"
OUTCOMES: Final = (SUCCEEDED, RETRIED, BURIED, GIVEN_BACK)


current: Final = ContextVar[CurrentDurable | None]("aiohttp_jobs.durable", default=None)


def current_durable() -> CurrentDurable | None:
    """Return the durable job that the running code is part of; None outside one.

    Tasks and jobs that a durable job starts are part of it, too.
    """
    return current.get()


class Attempt:
    """One attempt, from its fetch until it is settled, exactly once.

    Args:
        app: the application, which the task is given first.
        task, delivery: what to run.
        store: where it is settled.
        ended: called with the attempt, once, when it is over.
    """

    __slots__ = ("_app", "_ended", "_store", "delivery", "has_begun", "outcome", "task")

    def __init__(
        self,
        app: web.Application,
        task: Task[..., Any],
        delivery: Delivery,
        store: Store,
        ended: Callable[[Attempt], None],
    ) -> None:
        self._app = app
        self._store = store
        self._ended = ended
        self.task = task
        self.delivery = delivery
        self.has_begun = False
        self.outcome: Outcome | None = None

    @property
    def envelope(self) -> Envelope:
        """The job."""
        return self.delivery.envelope

    async def run(self) -> Any:
        """Run the task, settle the job by the outcome, and return or raise the same."""
        self.has_begun = True
        try:
            result = await self._call()
        except asyncio.CancelledError as error:
            # Its own, which is no failure, or that of something the task waited for.
            if is_being_cancelled():
                self.give_back()
            else:
                self._fail(error)
            raise
        except (KeyboardInterrupt, GeneratorExit):
            # The latter if the coroutine is closed, as when its loop is thrown away.
            self.give_back()
            raise
        except BaseException as error:
            # SystemExit too: if given back, it would end one process after another.
            self._fail(error)
            raise
        else:
            self._settle(SUCCEEDED, self._store.ack)
        finally:
            if self.outcome is None:
                self.give_back()  # a KeyboardInterrupt came before it was settled
        return result

    async def _call(self) -> Any:
        args, kwargs = self.envelope.unpack()
        timeout = self.task.timeout
        if timeout is None:
            return await self.task.function(self._app, *args, **kwargs)
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                return await self.task.function(self._app, *args, **kwargs)
        except TimeoutError as error:
            if not bound.expired():
                raise  # the task's own
            raise TimeoutError(
                f"Job {self.task.name} ran longer than {timeout} s"
            ) from error

    def _fail(self, error: BaseException) -> None:
        number, task = self.envelope.attempt, self.task
        if isinstance(error, GiveUp) or number >= task.max_attempts:
            reason = _reason(error)
            self._settle(BURIED, lambda delivery: self._store.bury(delivery, reason))
            return
        try:
            due = _due_after(task.backoff(number))
        except Exception as broken:
            reason = f"{_reason(error)}\nIts backoff({number}) failed: {line_of(broken)}"
            self._settle(BURIED, lambda delivery: self._store.bury(delivery, reason))
            return
        self._settle(RETRIED, lambda delivery: self._store.retry(delivery, due))

    def give_back(self) -> None:
        """Let it wait again, uncounted, unless it is settled."""
        self._settle(GIVEN_BACK, self._store.give_back)

    def _settle(self, outcome: Outcome, settle: Callable[[Delivery], None]) -> None:
        if self.outcome is None:
            self.outcome = outcome
            settle(self.delivery)
            self._ended(self)


def _due_after(pause: float) -> float:
    """Return the moment `pause` seconds from now; it is finite, so stores can sort it."""
    due = time() + pause
    if not math.isfinite(due):
        raise ValueError(f"it returned {pause!r}, which is no finite number of seconds")
    return due


def _reason(error: BaseException) -> str:
    """Return its traceback; formatting runs anybody's code, which may raise."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = "".join([*traceback.format_tb(traceback_of(error)), line_of(error)])
    if len(text) > MOST_OF_REASON:
        text = f"...\n{text[-MOST_OF_REASON:]}"
    return text.encode(errors="backslashreplace").decode()
