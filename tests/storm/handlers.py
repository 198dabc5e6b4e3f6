"""The handlers of the storm's server. Each does what the plan of its request says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from aiohttp_jobs import (
    SCHEDULER,
    Job,
    JobCancelled,
    atomic,
    get_scheduler,
    shield,
    spawn,
    spawn_nowait,
)

from .jobs import CURRENT, Abort, Planned, accepting, background, forever, work
from .ledger import Event, Ledger
from .plan import Failure, JobKind, Plan, Route

__all__ = ("LEDGER", "SEED", "add_routes")

LEDGER: Final = web.AppKey("LEDGER", Ledger)
SEED: Final = web.AppKey("SEED", int)

# Seconds until a handler gives up on a body: aiohttp does not report everything that can
# be wrong with one.
BODY_TIMEOUT: Final = 0.5
# The timeout of some kinds of jobs, in seconds.
JOB_TIMEOUT: Final = 0.2


@contextlib.contextmanager
def handling(request: web.Request) -> Iterator[Plan]:
    """Record when the handler begins, and how it ends."""
    plan = Plan.of(request.app[SEED], int(request.match_info["number"]))
    CURRENT.set(plan.number)
    with request.app[LEDGER].span(plan.request_name, plan.route):
        yield plan


def answer(plan: Plan) -> web.Response:
    """Answer as planned, or raise what is planned."""
    if plan.failure is Failure.ERROR:
        raise Planned(plan.request_name)
    if plan.failure is Failure.HTTP:
        raise web.HTTPConflict
    return web.Response(text=plan.request_name)


# -- plain handlers, each of which also exists as an atomic one -------------------------


async def handle(request: web.Request) -> web.Response:
    """Work, then answer."""
    with handling(request) as plan:
        await work(plan.seconds)
        return answer(plan)


async def handle_body(request: web.Request) -> web.Response:
    """Read the body, then work; answer 408 or 400 if there is none."""
    with handling(request) as plan:
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                await request.json()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody has cancelled the handler: at shutdown, this is how aiohttp says that
            # the rest of the body will not come.
            raise web.HTTPBadRequest from None
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        except Exception as error:
            raise web.HTTPBadRequest from error
        await work(plan.seconds)
        return answer(plan)


class AtomicView(web.View):
    @atomic
    async def get(self) -> web.Response:
        return await handle(self.request)


@atomic
async def handle_stream(request: web.Request) -> web.StreamResponse:
    """Answer in pieces, and go on even without a client."""
    response = web.StreamResponse()
    with handling(request) as plan:
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(plan.request_name.encode())
            await work(plan.seconds / 3)
        return response


# -- handlers that spawn ----------------------------------------------------------------


async def handle_spawn(request: web.Request) -> web.Response:
    """Spawn a job, waiting for room if need be."""
    with handling(request) as plan:
        await work(plan.seconds / 2)
        await spawn_job(request, plan)
        await work(plan.seconds / 2)
        return answer(plan)


async def handle_spawn_nowait(request: web.Request) -> web.Response:
    """Spawn a job, or be refused."""
    with handling(request) as plan:
        await work(plan.seconds / 2)
        with accepting(request.app[LEDGER], plan.job_name):
            spawn_nowait(
                request, make_job(request, plan), plan.job_name, timeout=timeout_of(plan)
            )
        await work(plan.seconds / 2)
        return answer(plan)


async def handle_after_response(request: web.Request) -> web.Response:
    """Spawn a job that starts after the response."""
    with handling(request) as plan:
        await work(plan.seconds / 2)
        with accepting(request.app[LEDGER], plan.job_name):
            await spawn(
                request,
                make_job(request, plan),
                plan.job_name,
                timeout=timeout_of(plan),
                after_response=True,
            )
        await work(plan.seconds / 2)
        return answer(plan)


async def handle_wait(request: web.Request) -> web.Response:
    """Spawn a job and wait for it; answer 409 if it fails."""
    with handling(request) as plan:
        job = await spawn_job(request, plan)
        try:
            return web.Response(text=await job)
        except JobCancelled:
            raise web.HTTPServiceUnavailable from None
        except (Planned, Abort, TimeoutError):
            request.app[LEDGER].note(plan.job_name, Event.RECEIVED)
            raise web.HTTPConflict from None


async def handle_shield(request: web.Request) -> web.Response:
    """Work in a shield; answer 409 if that fails."""
    with handling(request) as plan:
        try:
            await shield(request, shielded(request.app[LEDGER], plan))
        except Planned:
            request.app[LEDGER].note(plan.job_name, Event.RECEIVED)
            raise web.HTTPConflict from None
        return web.Response()


async def shielded(ledger: Ledger, plan: Plan) -> None:
    with ledger.span(plan.job_name, "shielded"):
        await work(plan.seconds)
        if plan.failure is Failure.ERROR:
            raise Planned(plan.job_name)


async def spawn_job(request: web.Request, plan: Plan) -> Job[str]:
    with accepting(request.app[LEDGER], plan.job_name):
        return await spawn(
            request, make_job(request, plan), plan.job_name, timeout=timeout_of(plan)
        )


def make_job(request: web.Request, plan: Plan) -> Coroutine[Any, Any, str]:
    return background(request.app[LEDGER], request.app[SCHEDULER], plan)


def timeout_of(plan: Plan) -> float | None:
    return JOB_TIMEOUT if plan.job in (JobKind.HANGS, JobKind.STUBBORN) else None


# -- handlers without a plan ------------------------------------------------------------


async def ready(request: web.Request) -> web.Response:
    return web.Response()


async def flood(request: web.Request) -> web.Response:
    """Let jobs that never end take all the slots."""
    ledger = request.app[LEDGER]

    async def take_slot(number: int) -> None:
        name = f"flood {number}"
        with accepting(ledger, name):
            await spawn(request, forever(ledger, name), name)

    limit = get_scheduler(request).limit
    assert limit is not None
    await asyncio.gather(*(take_slot(number) for number in range(limit)))
    return web.Response()


HANDLERS: Final[Mapping[Route, Handler | type[web.View]]] = {
    Route.PLAIN: handle,
    Route.PLAIN_BODY: handle_body,
    Route.ATOMIC: atomic(handle),
    Route.ATOMIC_BODY: atomic(handle_body),
    Route.ATOMIC_METHOD: handle,
    Route.ATOMIC_VIEW: AtomicView,
    Route.ATOMIC_STREAM: handle_stream,
    Route.ATOMIC_WAIT: atomic(handle_wait),
    Route.SHIELD: handle_shield,
    Route.SPAWN: handle_spawn,
    Route.SPAWN_NOWAIT: handle_spawn_nowait,
    Route.AFTER_RESPONSE: handle_after_response,
    Route.WAIT: handle_wait,
}


def add_routes(app: web.Application) -> None:
    """Add the routes to the application."""
    app.router.add_get("/", ready)
    app.router.add_get("/flood", flood)
    for route, handler in HANDLERS.items():
        app.router.add_route(route.method, f"/{route}/{{number}}", handler)
