"""@atomic: the handler runs to its end whatever happens to the client.

A mark on the handler tells the middleware, which then runs everything inside of it, other
middlewares included, as one job. Where there is no middleware the handler makes the job.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, cast, overload

from aiohttp import hdrs, web

from aiohttp_jobs.core.scheduler import Scheduler

from .request import get_scheduler, origin_of, remember_task

__all__ = ("atomic", "is_atomic", "is_marked", "run_atomic")

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound=web.View)

_Answer: TypeAlias = tuple[web.HTTPException | None, R | None]

_MARK: Final = "__aiohttp_jobs_atomic__"

# What the running code answers as part of an atomic job, by its routing: a request and
# its clones share that. Not a mark on the request, which a middleware may handle twice at
# the same time: once more after a timeout, say, while the first job goes on.
_answering: Final = contextvars.ContextVar[web.UrlMappingMatchInfo | None](
    "aiohttp_jobs.answering", default=None
)


@overload
def atomic(handler: type[V]) -> type[V]: ...
@overload
def atomic(handler: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]: ...
def atomic(handler: Any) -> Any:
    """Make a handler run to its end, whatever happens to the client or the server's task.

    It starts at once, outside of the scheduler's ``limit``, and is drained and closed
    with the other jobs. Its response, :exc:`~aiohttp.web.HTTPException` or other error
    comes out as without it; an error that nobody is left to receive goes to the
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
        if not issubclass(handler, web.View):
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
        call = functools.partial(function, *args, **kwargs)
        remember_task(request)
        return await run_atomic(get_scheduler(request), request, call)

    setattr(run, _MARK, True)
    return run


def is_atomic(request: web.Request) -> bool:
    """Is the running code part of a job that answers the request?"""
    return _answering.get() is request.match_info


def is_marked(request: web.Request) -> bool:
    """Is the handler that the request was routed to an atomic one?"""
    return hasattr(_handler_of(request), _MARK)


async def run_atomic(
    scheduler: Scheduler,
    request: web.Request,
    call: Callable[[], Awaitable[R]],
) -> R:
    """Run what answers the request as a job of its own, and wait for it.

    Cancellation:
        The job goes on.
    """
    is_awaited = False

    async def answer() -> _Answer[R]:
        if not is_awaited:
            # An eager task factory began with it: nobody is there yet to get an error.
            await asyncio.sleep(0)
        _answering.set(request.match_info)  # in the context of the job alone
        try:
            return None, await call()
        except web.HTTPException as error:
            # An answer like others, and no failure of the job if the client has gone.
            return error, None

    coro: Any = answer()
    # The job is called as the handler, also where its coroutine is shown.
    handler = _handler_of(request)
    coro.__qualname__ = getattr(handler, "__qualname__", coro.__qualname__)
    end = scheduler.spawn_at_once(coro, origin=origin_of(request)).wait()
    is_awaited = True
    error, response = await end
    try:
        if error is not None:
            raise error
        return cast(R, response)
    finally:
        del error  # its traceback shows this frame: break the cycle


def _handler_of(request: web.Request) -> object:
    """The function that the request was routed to."""
    handler: object = request.match_info.handler
    if isinstance(handler, type):
        return getattr(handler, request.method.lower(), None)  # a View
    while isinstance(handler, functools.partial):
        handler = cast("functools.partial[object]", handler).func
    return handler


def _http_methods(view: type[web.View]) -> list[str]:
    names = (method.lower() for method in hdrs.METH_ALL)
    return [name for name in names if callable(getattr(view, name, None))]


def _request_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> web.Request | None:
    for candidate in (*reversed(args), *kwargs.values()):
        if isinstance(candidate, web.Request):
            return candidate
        if isinstance(candidate, web.View):
            return candidate.request
    return None
