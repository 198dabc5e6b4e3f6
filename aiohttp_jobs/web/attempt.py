"""An attempt to answer a request: which code belongs to it, and what it leaves behind.

An attempt begins when the middleware of :func:`setup` is entered, or an atomic handler
that no middleware has made a job of, and is over when that is left. A request may have
several: nested ones where applications are nested, and one after the other where a
middleware outside tries again.
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

    The attributes have their first values in the class: nearly all of them keep these,
    and every request makes an attempt.
    """

    #: The attempt that this one is a part of.
    parent: Attempt | None = None
    #: Whether what makes the answer has been left.
    is_over = False
    #: Whether it has done anything that has to be dealt with when it is left.
    is_noted = False
    #: The request, while a job answers it.
    request: web.Request | None = None
    #: The connection, once there was something that may be given up: the server forgets
    #: the connection when it closes it.
    transport: asyncio.Transport | None = None
    #: Whether the coroutine of that job runs, or will.
    runs = False
    #: The cancellation of something that the job waited for, if that has ended the job.
    cancelled: asyncio.CancelledError | None = None
    #: The shielded awaitables that are not done; None if nothing was shielded.
    shields: set[asyncio.Future[Any]] | None = None
    #: Done when the response has been sent in full: the task that aiohttp made for the
    #: request, if that is known. None until the attempt is left.
    sent: asyncio.Future[Any] | None = None
    #: Done when `sent` is; made only if somebody asked before there was a `sent`.
    end: asyncio.Future[None] | None = None
    #: The writer of the request when it was given up.
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
        """Note what answers the request; return whether anything of this goes on."""
        self.sent = _answer_to(request)
        if self.end is not None:
            self.sent.add_done_callback(self._is_sent)
        shields, self.shields = self.shields, None
        for inner in shields or ():
            # The future may be shared by many requests, and outlive them by far.
            inner.remove_done_callback(self._shield_is_done)
        return self.runs or any(not inner.done() for inner in shields or ())

    def _is_sent(self, sent: asyncio.Future[Any]) -> None:
        if self.end is not None:
            _set(self.end)

    def when_over(self) -> asyncio.Future[Any]:
        """Return a future that is done once the response is sent or the request ended."""
        loop = asyncio.get_running_loop()
        if not self.is_over:
            self.is_noted = True
            if self.end is None:
                self.end = loop.create_future()
            return self.end
        if self.sent is not None:
            return self.sent
        # The code that asks was not started by us, and asks late.
        over = loop.create_future()
        over.set_result(None)
        return over


# The attempt that the running code is part of. Tasks and jobs inherit it with their
# context. It is not a mark on the request, which a middleware outside may handle twice at
# the same time: again after a timeout, say, while the first attempt goes on.
answering: Final = contextvars.ContextVar[Attempt | None](
    "aiohttp_jobs.answering", default=None
)


def within() -> Iterator[Attempt]:
    """Yield the attempts that the running code is part of, the innermost first."""
    attempt = answering.get()
    while attempt is not None:
        yield attempt
        attempt = attempt.parent


def is_atomic(request: web.Request) -> bool:
    """Return whether the running code is part of a job that answers the request."""
    # Not written with within(): each atomic request asks twice.
    attempt = answering.get()
    while attempt is not None:
        # A request and its clones share their routing.
        answered = attempt.request
        if answered is not None and answered.match_info is request.match_info:
            return True
        attempt = attempt.parent
    return False


def is_served(request: web.Request) -> bool:
    """Return whether the request comes from a server, which will send a response.

    It does not where a handler is called with a mocked one, as in a test: the running
    task may then go on for long, or wait for what waits for its end.
    """
    task: Any = request.task
    return asyncio.isfuture(task)


def _answer_to(request: web.Request) -> asyncio.Future[Any]:
    """Return a future that is done when the running code's request is fully answered.

    This is a task that the server makes, usually the running one. But a middleware
    outside may have made others, as asyncio.wait_for() does on Python 3.11. Then the
    connection's task waits for the right one, and only that task knows what it waits for.
    If tasks start eagerly it does not wait yet: all of this happens in one of its steps.
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

    asyncio's tasks have no other way to tell.

    Args:
        unknown: what to return for another kind of task, which does not tell.
    """
    found: asyncio.Future[Any] | None = getattr(connection, "_fut_waiter", unknown)
    return found


def _is_of_server(task: asyncio.Task[Any]) -> bool:
    """Return whether this is the task that aiohttp makes for a request."""
    name: str = getattr(task.get_coro(), "__qualname__", "")
    return name == "RequestHandler._handle_request"


def _follow(connection: object, end: asyncio.Future[None]) -> None:
    """Set `end` when the task that the connection waits for by now has ended."""
    waits_for = _waited_for(connection)
    if isinstance(waits_for, asyncio.Task):
        waits_for.add_done_callback(lambda task: _set(end))
    else:
        _set(end)


def _set(end: asyncio.Future[None]) -> None:
    if not end.done():
        end.set_result(None)


def end_of_request(request: web.Request) -> asyncio.Future[Any]:
    """Return a future that is done when the request has ended.

    Args:
        request: the one that the running code answers.
    """
    outermost: Attempt | None = None
    for attempt in within():
        if outermost is None or not attempt.is_over:
            outermost = attempt
    if outermost is not None:
        return outermost.when_over()
    return _answer_to(request)  # for code outside the middleware


def is_being_cancelled() -> bool:
    """Return whether the running task itself was cancelled, not what it waits for."""
    cancelling: Any = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is not None and cancelling() > 0
