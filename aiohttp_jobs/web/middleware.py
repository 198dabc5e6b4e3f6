"""The middleware that setup() installs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from aiohttp_jobs.core.errors import (
    JobCancelled,
    SchedulerClosed,
    SchedulerFull,
    StoreUnavailable,
)
from aiohttp_jobs.core.scheduler import Scheduler

from .atomic import is_marked, run_atomic
from .attempt import Attempt, answering, is_atomic, is_being_cancelled
from .giveup import has_begun, leave
from .request import SCHEDULER

__all__ = ("make_middleware",)

# Seconds after which a refused client may try again.
RETRY_AFTER = 1

# The errors that become 503 if a handler lets them through.
_REFUSED: Final = (SchedulerFull, SchedulerClosed, StoreUnavailable, JobCancelled)


def make_middleware(scheduler: Scheduler, atomic_methods: Collection[str]) -> Middleware:
    """Make the middleware of an application.

    Args:
        scheduler: the application's own scheduler.
        atomic_methods: the HTTP methods, in upper case, whose handlers are all atomic.
    """

    @web.middleware
    async def aiohttp_jobs_middleware(
        request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        # Every request comes through here, so its cost matters.
        attempt = Attempt()
        if (parent := answering.get()) is not None:
            attempt.parent = parent
        token = answering.set(attempt)
        response: web.StreamResponse | None = None
        try:
            if (
                (atomic_methods and request.method in atomic_methods)
                or (is_marked(request, handler) and _nearest(request) is scheduler)
            ) and not is_atomic(request):
                response = await run_atomic(scheduler, request, handler, attempt)
            else:
                response = await handler(request)
        except _REFUSED as error:
            is_cancelled = isinstance(error, JobCancelled)
            if has_begun(request) or (is_cancelled and is_being_cancelled()):
                raise
            if isinstance(error, StoreUnavailable):
                reason = "jobs cannot be kept"
            else:
                reason = "a job was cancelled" if is_cancelled else "too many jobs"
            raise web.HTTPServiceUnavailable(
                headers={hdrs.RETRY_AFTER: str(RETRY_AFTER)},
                text=f"503: Service Unavailable, {reason}: try again later",
            ) from error
        finally:
            answering.reset(token)
            attempt.is_over = True
            if attempt.is_noted:
                await leave(attempt, request, response)
        return response  # pyright: ignore[reportReturnType]

    return aiohttp_jobs_middleware


def _nearest(request: web.Request) -> Scheduler | None:
    """Return the scheduler nearest to the handler, which may be further in than ours."""
    for app in reversed(request.match_info.apps):
        if (scheduler := app.get(SCHEDULER)) is not None:
            return scheduler
    return None
