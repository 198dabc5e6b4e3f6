"""@atomic: the handler runs to its end whatever happens to the client.

A mark on the handler tells the middleware to run everything inside it, other middlewares
included, as one job. Where there is no middleware, the handler makes the job.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from types import FunctionType
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, cast, overload

from aiohttp import hdrs, web

# Bound now: tools that instrument applications put subclasses under such names, and
# objects that were made before are not instances of those.
from aiohttp.web import HTTPException, Request, View

from aiohttp_jobs.core.errors import HungUp, JobCancelled
from aiohttp_jobs.core.scheduler import Scheduler

from .attempt import Attempt, answering, is_atomic, is_being_cancelled
from .giveup import leave
from .hangup import SIGNS, is_hang_up
from .request import get_scheduler, origin_of

__all__ = ("atomic", "is_marked", "run_atomic")

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound=View)

_Answer: TypeAlias = tuple[HTTPException | None, R | None]

_MARK: Final = "__aiohttp_jobs_atomic__"


@overload
def atomic(handler: type[V]) -> type[V]: ...
@overload
def atomic(handler: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]: ...
def atomic(handler: Any) -> Any:
    """Make a handler run to completion, whatever happens to the client or the task.

    It starts at once, outside the scheduler's ``limit``, and is drained and closed
    with the other jobs. Its response, :exc:`~aiohttp.web.HTTPException` or other error
    is the same as without it; an error that nobody is left to receive goes to the
    scheduler's exception handler. The middlewares between :func:`setup`'s and the
    handler are part of the job.

    Args:
        handler: a coroutine function that takes the request as its last positional
            argument (a function, a method, a method of a :class:`~aiohttp.web.View`), or
            a View class, which makes all its HTTP methods atomic.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(handler, type):
        if not issubclass(handler, View):
            raise TypeError(f"atomic() takes a handler or a View class, not {handler!r}")
        for name in _http_methods(handler):
            setattr(handler, name, atomic(getattr(handler, name)))
        return handler
    method: Any = handler
    if isinstance(handler, staticmethod | classmethod):
        return type(method)(atomic(method.__func__))
    if not callable(handler):
        raise TypeError(f"atomic() takes a handler or a View class, not {handler!r}")
    function = cast("Callable[..., Awaitable[Any]]", handler)

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        request = _request_in(args, kwargs)
        if request is None:
            raise TypeError(
                f"The atomic handler {function!r} was called without a request: pass it "
                "as the last positional argument"
            )
        if is_atomic(request):
            return await function(*args, **kwargs)
        return await _answer(request, lambda _: function(*args, **kwargs))

    # Whatever wraps this in turn gets the same mark, by functools.wraps.
    setattr(run, _MARK, (run, function))
    return run


def is_marked(request: web.Request, handler: object) -> bool:
    """Return whether the handler that the request was routed to is atomic.

    Args:
        handler: what the middleware calls: that handler, or the middlewares around it, to
            which aiohttp gives the attributes of a function, but not those of a View.
    """
    if hasattr(handler, _MARK):
        return True
    return type(handler) is not FunctionType and hasattr(_handler_of(request), _MARK)


async def _answer(
    request: web.Request, handler: Callable[[web.Request], Awaitable[R]]
) -> R:
    """Make a job of a handler that no middleware has made a job of."""
    attempt = Attempt()
    attempt.parent = answering.get()
    token = answering.set(attempt)
    response: Any = None
    try:
        response = await run_atomic(get_scheduler(request), request, handler, attempt)
    finally:
        answering.reset(token)
        attempt.is_over = True
        if attempt.is_noted:
            await leave(attempt, request, response)
    return response  # type: ignore[no-any-return]


async def run_atomic(
    scheduler: Scheduler,
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[R]],
    attempt: Attempt,
) -> R:
    """Run what answers the request as a job of its own, and wait for it.

    Args:
        scheduler: the job's scheduler.
        request: the request to answer.
        handler: what answers it.
        attempt: the attempt that the running code, and the job too, is part of.

    Cancellation:
        The job goes on.
    """
    shown: Any = handler
    if type(handler) is not FunctionType:  # a View, or there are middlewares below
        shown = _handler_of(request)
    else:
        run, function = getattr(handler, _MARK, (None, handler))
        if run is handler:
            handler = function  # what `run` would call, after asking if it is in a job
    coro: Any = _respond(request, handler, attempt)
    # The job has the handler's name, also where its coroutine is shown.
    coro.__qualname__ = getattr(shown, "__qualname__", run_atomic.__qualname__)
    attempt.request, attempt.transport = request, request.transport
    job = scheduler.spawn_at_once(coro, origin=origin_of(request))
    error = None
    try:
        error, response = await job.wait()
        if error is not None:
            raise error
        return cast(R, response)
    except BaseException as raised:
        # A job closed before it began never runs. One that was let go still does.
        if attempt.runs or not job.closed:
            attempt.runs = attempt.is_noted = True
        if isinstance(raised, JobCancelled) and attempt.cancelled is not None:
            raise attempt.cancelled from None
        raise
    finally:
        if not attempt.runs:
            attempt.request = None
            if not attempt.is_noted:
                attempt.transport = None
        # The exceptions' tracebacks show this frame: break the cycles.
        del error, job
        attempt.cancelled = None


async def _respond(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[R]],
    attempt: Attempt,
) -> _Answer[R]:
    """Answer the request, inside the job; an HTTPException is returned, as no failure."""
    attempt.runs = True
    try:
        return None, await handler(request)
    except HTTPException as error:
        # An answer like any other, and no failure of the job if the client has gone.
        return error, None
    except SIGNS as error:
        if is_hang_up(request, error):
            raise HungUp(error) from None
        raise
    except asyncio.CancelledError as error:
        if not is_being_cancelled():
            attempt.cancelled = error  # of something that the handler has waited for
        raise
    finally:
        attempt.runs = False


def _handler_of(request: web.Request) -> object:
    """Return the function that the request was routed to."""
    handler: object = request.match_info.handler
    if type(handler) is FunctionType:
        return handler  # as nearly all of them are
    if isinstance(handler, type):
        return getattr(handler, request.method.lower(), None)  # a View
    while isinstance(handler, functools.partial):
        handler = cast("functools.partial[object]", handler).func
    return handler


def _http_methods(view: type[web.View]) -> list[str]:
    names = (method.lower() for method in hdrs.METH_ALL)
    return [name for name in names if callable(getattr(view, name, None))]


def _request_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> web.Request | None:
    if args and isinstance(args[-1], Request):
        return args[-1]  # as nearly always
    for candidate in (*reversed(args), *kwargs.values()):
        if isinstance(candidate, Request):
            return candidate
        if isinstance(candidate, View):
            return candidate.request
    return None
