"""The scheduler of an application or request: find it, then call the core."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from aiohttp import web
from aiohttp.web import Request  # bound now, before a tool puts another class there

from aiohttp_jobs.core.job import Job
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.core.states import SchedulerState

from .attempt import answering, end_of_request, is_served
from .hangup import is_hang_up

__all__ = (
    "SCHEDULER",
    "get_scheduler",
    "get_scheduler_from_app",
    "get_scheduler_from_request",
    "origin_of",
    "shield",
    "spawn",
    "spawn_nowait",
)

# How many letters of an HTTP method to keep: the longest registered one has 17.
MOST_OF_METHOD: Final = 20

T = TypeVar("T")

#: Where :func:`setup` puts the scheduler: ``app[SCHEDULER]``.
SCHEDULER: Final = web.AppKey("SCHEDULER", Scheduler)


def get_scheduler(request: web.Request) -> Scheduler:
    """Return the scheduler of the request's application or of its nearest parent.

    Raises:
        RuntimeError: none of them was set up.
    """
    scheduler = get_scheduler_from_request(request)
    if scheduler is None:
        raise RuntimeError(
            "The request's application has no scheduler: call aiohttp_jobs.setup(app) "
            "where the application is made"
        )
    return scheduler


def get_scheduler_from_app(app: web.Application) -> Scheduler | None:
    """Return the scheduler that :func:`setup` gave this very application, or None."""
    return app.get(SCHEDULER)


def get_scheduler_from_request(request: web.Request) -> Scheduler | None:
    """Return the scheduler of the request's application or nearest parent, or None."""
    # Most often it is the application's own, and config_dict is slow to build.
    scheduler = request.app.get(SCHEDULER)
    return request.config_dict.get(SCHEDULER) if scheduler is None else scheduler


def origin_of(request: web.Request) -> str:
    """Return the HTTP method and the route of the request; nothing else that was sent.

    The method is cut: it may be any word, and is kept with the job.
    """
    resource = request.match_info.route.resource
    path = "(no route)" if resource is None else resource.canonical
    return f"{request.method[:MOST_OF_METHOD]} {path}"


async def spawn(
    request: web.Request,
    coro: Coroutine[Any, Any, T],
    name: str | None = None,
    *,
    timeout: float | None = None,
    context: contextvars.Context | None = None,
    after_response: bool = False,
    key: str | None = None,
) -> Job[T]:
    """Start a background job that goes on when the request is over.

    Args:
        request: the request at hand; in a :class:`~aiohttp.web.View`, ``self.request``.
        coro: the coroutine to run. It is closed if the job is not accepted.
        name: the name of the job and its task.
        timeout: seconds that the job may run, from its start. Then it is cancelled and
            fails with :exc:`TimeoutError`.
        context: the context to run in, instead of a copy of the caller's, taken now.
        after_response: hold the job back until the response has been sent in full, or
            the request has ended in another way. Such a job never waits for room.
            (Ignored if the request does not come from a server, for example when a test
            calls the handler with a mocked one.)
        key: what the job is for, such as ``"report:42"``. At most one job with this key
            is pending or active in the scheduler at a time: if there is one, it is
            returned, the coroutine is closed, and the other arguments are ignored.

    Returns:
        The job, active or pending; or the one that already has the key. There is no need
        to wait for it.

    Raises:
        SchedulerClosed: the scheduler is closing or closed. A handler may let it
            through: the client gets 503.
        SchedulerFull: with `after_response`, `pending_limit` is reached. It also becomes
            503.
        RuntimeError: the application was not set up.
        TypeError, ValueError: an argument is invalid; the message names it.

    Cancellation:
        If the handler is cancelled while it waits for room, the coroutine is closed
        without having run.
    """
    scheduler = _scheduler_for(request, coro)
    origin = origin_of(request)
    if after_response and is_served(request):
        return scheduler.spawn_after(
            end_of_request(request),
            coro,
            name,
            timeout=timeout,
            context=context,
            origin=origin,
            key=key,
        )
    return await scheduler.spawn(
        coro, name, timeout=timeout, context=context, origin=origin, key=key
    )


def spawn_nowait(
    request: web.Request,
    coro: Coroutine[Any, Any, T],
    name: str | None = None,
    *,
    timeout: float | None = None,
    context: contextvars.Context | None = None,
    after_response: bool = False,
    key: str | None = None,
) -> Job[T]:
    """Start a background job, or refuse it without waiting: :func:`spawn` as a function.

    It takes the same arguments, and returns and raises the same. In addition:

    Raises:
        SchedulerFull: `pending_limit` is reached. A handler may let it through: the
            client gets 503.
    """
    scheduler = _scheduler_for(request, coro)
    origin = origin_of(request)
    if after_response and is_served(request):
        return scheduler.spawn_after(
            end_of_request(request),
            coro,
            name,
            timeout=timeout,
            context=context,
            origin=origin,
            key=key,
        )
    return scheduler.spawn_nowait(
        coro, name, timeout=timeout, context=context, origin=origin, key=key
    )


def shield(request: web.Request, arg: Awaitable[T]) -> asyncio.Future[T]:
    """Protect an awaitable from the handler's cancellation; shutdown waits for it.

    See :meth:`Scheduler.shield`, which this calls.

    Args:
        request: the request at hand.
        arg: a coroutine, task, future or other awaitable.

    Returns:
        A future with its outcome, to be awaited at once.
    """
    scheduler = _scheduler_for(request, arg)
    if asyncio.isfuture(arg):
        inner = arg
    elif scheduler.state is SchedulerState.CLOSED:
        return scheduler.shield(arg)  # which refuses it
    else:
        inner = asyncio.ensure_future(arg)
    try:
        outer = scheduler.shield(inner)
    except BaseException:
        if inner is not arg:
            inner.cancel()
        raise
    if not inner.done():
        attempt = answering.get()
        if attempt is not None and not attempt.is_over:
            attempt.add_shield(request, inner)
        requests = _shielded_for.get(inner)
        if requests is None:
            requests = _shielded_for[inner] = WeakValueDictionary()
            inner.add_done_callback(partial(_excuse, scheduler))
        requests[id(request)] = request
    return outer


# The requests that each future is shielded for: many may share it, and it may outlive
# them.
_shielded_for: Final = WeakKeyDictionary[
    asyncio.Future[Any], WeakValueDictionary[int, web.Request]
]()


def _excuse(scheduler: Scheduler, inner: asyncio.Future[Any]) -> None:
    """Let nothing be reported if a client has hung up on what was shielded for it."""
    requests = _shielded_for.pop(inner)
    if inner.cancelled() or scheduler.state is SchedulerState.CLOSED:
        return
    error = inner.exception()
    if error is not None and any(is_hang_up(each, error) for each in requests.values()):
        scheduler.shield(inner)  # to ask for it counts as receiving its failure


def _scheduler_for(request: web.Request, arg: object) -> Scheduler:
    try:
        if not isinstance(request, Request):
            raise TypeError(
                f"The first argument takes the request, not {request!r}: in a View that "
                "is self.request, and without a request use the scheduler's own methods"
            )
        scheduler = request.app.get(SCHEDULER)  # most often the application's own
        return get_scheduler(request) if scheduler is None else scheduler
    except BaseException:
        if isinstance(arg, Coroutine):
            arg.close()
        raise
