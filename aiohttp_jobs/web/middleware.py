"""The middleware that setup() installs."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from aiohttp_jobs.core.errors import SchedulerClosed, SchedulerFull
from aiohttp_jobs.core.scheduler import Scheduler

from .atomic import is_atomic, is_marked, run_atomic
from .request import SCHEDULER, remember_task

__all__ = ("make_middleware",)

# Seconds after which a client that was refused may try again.
RETRY_AFTER = 1


def make_middleware(scheduler: Scheduler, atomic_methods: Collection[str]) -> Middleware:
    """Make the middleware of the application whose scheduler this is.

    Args:
        scheduler: the application's own scheduler.
        atomic_methods: the HTTP methods, in upper case, whose handlers are all atomic.
    """

    @web.middleware
    async def aiohttp_jobs_middleware(
        request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        remember_task(request)
        # With an older aiohttp not 0 after "100 Continue".
        sent = request.writer.output_size
        try:
            if (
                request.method in atomic_methods
                or (is_marked(request) and _nearest(request) is scheduler)
            ) and not is_atomic(request):
                return await run_atomic(scheduler, request, partial(handler, request))
            return await handler(request)
        except (SchedulerFull, SchedulerClosed) as error:
            if request.writer.output_size > sent:
                raise  # the response has begun: too late for another one
            raise web.HTTPServiceUnavailable(
                headers={hdrs.RETRY_AFTER: str(RETRY_AFTER)},
                text="503: Service Unavailable, too many jobs: try again later",
            ) from error

    return aiohttp_jobs_middleware


def _nearest(request: web.Request) -> Scheduler | None:
    """The scheduler nearest to the handler: here the middleware's own is not yet it."""
    for app in reversed(request.match_info.apps):
        if SCHEDULER in app:
            return app[SCHEDULER]
    return None
