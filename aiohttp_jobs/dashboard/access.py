"""Access: who may do what, and that other sites may do nothing."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

__all__ = ("ACCESS", "Access", "Authorize", "check_authorize", "make_guard")


class Access(enum.IntEnum):
    """What a request may do, as `authorize` answers it."""

    NONE = 0  #: nothing: it gets 403
    READ = 1  #: look at everything
    MANAGE = 2  #: cancel jobs, too


Authorize: TypeAlias = Callable[[web.Request], Awaitable[Access]]

if TYPE_CHECKING or hasattr(web, "RequestKey"):
    ACCESS = web.RequestKey("aiohttp_jobs.dashboard.access", Access)
else:  # aiohttp before 3.14
    ACCESS = "aiohttp_jobs.dashboard.access"

_SAFE: Final = frozenset({"GET", "HEAD"})


def check_authorize(authorize: Any) -> None:
    """Refuse what is no coroutine function: it would let everybody in, or nobody."""
    call = getattr(authorize, "__call__", None)  # noqa: B004 (an object may have one)
    if not (inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(call)):
        raise TypeError(
            "authorize takes a coroutine function of the request that returns an Access, "
            f"not {authorize!r}"
        )


def make_guard(authorize: Authorize) -> Middleware:
    """Make the middleware that every request to the dashboard has to pass."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        access = await authorize(request)
        if not isinstance(access, Access):
            raise TypeError(f"authorize has to return an Access, and returned {access!r}")
        if access is Access.NONE:
            raise web.HTTPForbidden(text="403: You may not see the jobs")
        if request.method not in _SAFE:
            if access is not Access.MANAGE:
                raise web.HTTPForbidden(text="403: You may see the jobs, not change them")
            if not _is_from_here(request):
                raise web.HTTPForbidden(text="403: The request comes from another site")
        request[ACCESS] = access
        return await handler(request)

    return guard


def _is_from_here(request: web.Request) -> bool:
    """Was the request made by a page of this very origin?

    Browsers say so, and no page can make them say otherwise. `Sec-Fetch-Site` is not sent
    over plain HTTP; then the page's origin has to have the host that was asked. A proxy
    may speak another scheme with the browser, which is why that is not compared.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin", "")
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower() != ""
    except ValueError:
        return False
