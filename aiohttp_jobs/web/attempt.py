"""An attempt to answer a request: which code belongs to it, and what it leaves behind.

One begins whenever the middleware of :func:`setup` is entered, or an atomic handler that
no middleware has made a job of, and it is over when that is left. A request may have
several: inside of each other where applications are nested, and one after the other where
a middleware outside tries again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

__all__ = (
    "Attempt",
    "answering",
    "end_of_request",
    "is_atomic",
    "is_being_cancelled",
    "is_served",
    "within",
)


class Attempt:
    """One attempt to answer a request.

    What the attributes are at first stands in the class: nearly all stay so, and every
    request makes one of these.
    """

    #: The attempt that this one is a part of.
    parent: Attempt | None = None
    #: Has what makes the answer been left?
    is_over = False
    #: Has it done anything that is to be seen to when it is left?
    is_noted = False
    #: The request, while a job answers it.
    request: web.Request | None = None
    #: The connection, from when there was something that may be given up: the server
    #: forgets it when it closes it.
    transport: asyncio.Transport | None = None
    #: Does the coroutine of that job run, or will it?
    runs = False
    #: The cancellation, of something that it had waited for, which has ended that job.
    cancelled: asyncio.CancelledError | None = None
    #: The shielded awaitables that are not done. None: nothing was shielded.
    shields: set[asyncio.Future[Any]] | None = None
    #: Done when the response has been sent in full: the task that aiohttp made for the
    #: request, where that is known. None until the attempt is left.
    sent: asyncio.Future[Any] | None = None
    #: Done with that; only if it was asked for before.
    end: asyncio.Future[None] | None = None
    #: What it was writing to when it was given up.
    given_up: AbstractStreamWriter | None = None

    def add_shield(self, request: web.Request, inner: asyncio.Future[Any]) -> None:
        """Note an awaitable that is shielded for the request."""
        self.is_noted = True
        self.transport = request.transport or self.transport
        if self.shields is None:
            self.shields = set()
        if inner not in self.shields:
            self.shields.add(inner)
            inner.add_done_callback(self._shield_is_done)

    def _shield_is_done(self, inner: asyncio.Future[Any]) -> None:
        if self.shields is not None:
            self.shields.discard(inner)

    def leave(self, request: web.Request) -> bool:
        """Note what answers the request; does anything go on?"""
        self.sent = _answer_to(request)
        if self.end is not None:
            self.sent.add_done_callback(self._is_sent)
        shields, self.shields = self.shields, None
        for inner in shields or ():
            # It may be shared by many requests, and outlive them by far.
            inner.remove_done_callback(self._shield_is_done)
        return self.runs or any(not inner.done() for inner in shields or ())

    def _is_sent(self, sent: asyncio.Future[Any]) -> None:
        if self.end is not None:
            _set(self.end)

    def when_over(self) -> asyncio.Future[Any]:
        """Return what is done when the response was sent, or the request has ended."""
        loop = asyncio.get_running_loop()
        if not self.is_over:
            self.is_noted = True
            if self.end is None:
                self.end = loop.create_future()
            return self.end
        if self.sent is not None:
            return self.sent
        # Whoever asks was not started by us, and asks late.
        over = loop.create_future()
        over.set_result(None)
        return over


# The attempt that the running code is part of. Tasks and jobs inherit it with their
# context. Not a mark on the request, which a middleware outside may handle twice at the
# same time: once more after a timeout, say, while the first attempt goes on.
answering: Final = contextvars.ContextVar[Attempt | None](
    "aiohttp_jobs.answering", default=None
)


def within() -> Iterator[Attempt]:
    """Go over the attempts that the running code is part of, the innermost first."""
    attempt = answering.get()
    while attempt is not None:
        yield attempt
        attempt = attempt.parent


def is_atomic(request: web.Request) -> bool:
    """Is the running code part of a job that answers the request?"""
    # Each atomic request asks twice, so this is no generator.
    attempt = answering.get()
    while attempt is not None:
        # A request and its clones share their routing.
        answered = attempt.request
        if answered is not None and answered.match_info is request.match_info:
            return True
        attempt = attempt.parent
    return False


def is_served(request: web.Request) -> bool:
    """Has a server made the request, which will send a response?

    Not where a handler is called with a mocked one, as in a test: the running task may go
    on for long then, or wait for what waits for its end.
    """
    task: Any = request.task
    return asyncio.isfuture(task)


def _answer_to(request: web.Request) -> asyncio.Future[Any]:
    """Return what is done when the running code's request has been answered in full.

    That is a task which the server makes, mostly the running one. But a middleware
    outside may have made others, as asyncio.wait_for() does on Python 3.11. Then the task
    of the connection waits for the right one, and nobody but it knows for what it waits.
    Where tasks start eagerly it does not wait yet: all of this is in a step of its own.
    """
    task = asyncio.current_task()
    assert task is not None
    waits_for = _waited_for(request.task, task)
    if isinstance(waits_for, asyncio.Task):
        return waits_for
    if waits_for is not None or _is_of_server(task):
        return task
    loop = asyncio.get_running_loop()
    end = loop.create_future()
    loop.call_soon(_follow, request.task, end)
    return end


def _waited_for(
    connection: object, unknown: asyncio.Future[Any] | None = None
) -> asyncio.Future[Any] | None:
    """Return what this task waits for; None while it takes a step.

    asyncio's tasks tell that in no other way.

    Args:
        unknown: returned for somebody else's kind of task, which tells nothing.
    """
    found: asyncio.Future[Any] | None = getattr(connection, "_fut_waiter", unknown)
    return found


def _is_of_server(task: asyncio.Task[Any]) -> bool:
    """Is it the one that aiohttp makes for a request?"""
    name: str = getattr(task.get_coro(), "__qualname__", "")
    return name == "RequestHandler._handle_request"


def _follow(connection: object, end: asyncio.Future[None]) -> None:
    """Set the end when the task ends for which the connection waits after its step."""
    waits_for = _waited_for(connection)
    if isinstance(waits_for, asyncio.Task):
        waits_for.add_done_callback(lambda task: _set(end))
    else:
        _set(end)


def _set(end: asyncio.Future[None]) -> None:
    if not end.done():
        end.set_result(None)


def end_of_request(request: web.Request) -> asyncio.Future[Any]:
    """Return what is done when the request has ended that the running code answers.

    Args:
        request: that request.
    """
    outermost: Attempt | None = None
    for attempt in within():
        if outermost is None or not attempt.is_over:
            outermost = attempt
    if outermost is not None:
        return outermost.when_over()
    return _answer_to(request)  # for code outside of the middleware


def is_being_cancelled() -> bool:
    """Has somebody cancelled the running task, and not what it waits for?"""
    cancelling: Any = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is not None and cancelling() > 0
