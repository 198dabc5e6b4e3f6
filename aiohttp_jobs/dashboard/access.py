"""Access: who may do what, and who that is."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiohttp_jobs.core.names import shown

from .sites import check_site

__all__ = (
    "VISITOR",
    "Access",
    "Authorize",
    "Visitor",
    "ask",
    "check_authorize",
    "make_guard",
    "require_manage",
)


class Access(enum.IntEnum):
    """What a request may do, as returned by `authorize`."""

    NONE = 0  #: nothing: it gets 403
    READ = 1  #: look at everything
    MANAGE = 2  #: cancel jobs and steer the queue, too


Authorize: TypeAlias = Callable[
    [web.Request], Awaitable[Access | tuple[Access, str | None]]
]


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes a request, and what they may do."""

    access: Access
    #: As `authorize` returned it, in one line of bounded length; None if it did not.
    name: str | None
    #: The address that the request came from.
    remote: str

    @property
    def party(self) -> str:
        """Whom the places of live pages are counted for."""
        return self.remote if self.name is None else f"@{self.name}"

    def __str__(self) -> str:
        return f"somebody at {self.remote}" if self.name is None else self.name


if TYPE_CHECKING or hasattr(web, "RequestKey"):
    VISITOR = web.RequestKey("aiohttp_jobs.dashboard.visitor", Visitor)
else:  # aiohttp before 3.14
    VISITOR = "aiohttp_jobs.dashboard.visitor"

_SAFE: Final = frozenset({"GET", "HEAD"})


def check_authorize(authorize: Any) -> None:
    """Refuse anything but a coroutine function: it would let in everybody, or nobody."""
    call = getattr(authorize, "__call__", None)  # noqa: B004 (an object may have one)
    if not (inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(call)):
        raise TypeError(
            "authorize takes a coroutine function of the request that returns an Access, "
            f"or an Access and the visitor's name, not {authorize!r}"
        )


async def ask(authorize: Authorize, request: web.Request) -> Visitor:
    """Ask who has made this request, and what they may do."""
    answer: Any = await authorize(request)
    access, name = answer if _is_pair(answer) else (answer, None)
    if not isinstance(access, Access) or not isinstance(name, str | None):
        raise TypeError(
            "authorize has to return an Access, or an Access and the visitor's name, and "
            f"returned {answer!r}"
        )
    name = shown(name) if name else None
    return Visitor(access, name, shown(request.remote or "an unknown address"))


def _is_pair(answer: Any) -> bool:
    return isinstance(answer, tuple) and len(cast(Any, answer)) == 2


def make_guard(authorize: Authorize) -> Middleware:
    """Make the middleware that every request to the dashboard has to pass."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_safe = request.method in _SAFE
        # First, so that nothing in the answer tells another site who is logged in.
        check_site(request, is_safe)
        visitor = await ask(authorize, request)
        if visitor.access is Access.NONE:
            raise web.HTTPForbidden(text="403: You may not see the jobs")
        request[VISITOR] = visitor
        if not is_safe:
            require_manage(request)
        return await handler(request)

    return guard


def require_manage(request: web.Request) -> None:
    """Refuse the request of a visitor who may only look."""
    if request[VISITOR].access is not Access.MANAGE:
        raise web.HTTPForbidden(text="403: You may see the jobs, not change them")
