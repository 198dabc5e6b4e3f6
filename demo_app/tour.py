"""The tour: handlers for the steps that a real shop would not have."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from aiohttp_jobs import Job, spawn
from aiohttp_jobs.durable import spawn_durable

from .access import add_dashboard, authorize, is_here
from .mail import send_welcome
from .outbox import OUTBOX
from .pages import show_page
from .source import source_of

__all__ = ("GUESTS", "TOUR", "Tour", "add_tour", "tour_context")

# How many people sign up at once.
GUESTS: Final = 500

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Tour:
    """The state of the tour's steps.

    Args:
        token: part of each form, so that no other site can submit it; None for a new one.
        restarts: whether the server is started again if it is killed.
    """

    def __init__(self, token: str | None, restarts: bool) -> None:
        self.token = token or secrets.token_urlsafe()
        self.restarts = restarts
        # The latest job of each kind.
        self.failing: Job[int] | None = None
        self.hanging: Job[str] | None = None


#: The tour of an application, ``app[TOUR]``.
TOUR: Final = web.AppKey("TOUR", Tour)


# -- the mail ---------------------------------------------------------------------------


async def sign_up_many(request: web.Request) -> web.Response:
    batch, guests = invite(GUESTS)
    jobs = [spawn_durable(request, send_welcome, *guest) for guest in guests]
    # Once this returns, all of them are on disk, or in RabbitMQ.
    ids = await asyncio.gather(*jobs)
    await request.app[OUTBOX].expect(ids, batch)
    raise web.HTTPSeeOther("/tour/mail")


def invite(count: int) -> tuple[str, list[tuple[str, str]]]:
    """Make up a batch name, and people with names and addresses."""
    batch = f"guests-{secrets.token_hex(4)}"
    people = range(1, count + 1)
    return batch, [(f"Guest {n}", f"guest-{n}@{batch}.example") for n in people]


async def kill_server(request: web.Request) -> web.Response:
    """Answer, then end this process like `kill -9`, without any clean-up."""
    if not request.app[TOUR].restarts:
        raise web.HTTPNotFound(text="404: Nothing would start the server again")
    if not is_here(request):
        raise web.HTTPForbidden(text="403: Only from the machine that it runs on")
    await spawn(request, die(), "kill -9", after_response=True)
    answer = web.HTTPSeeOther("/tour/mail")
    answer.force_close()  # so that the next request goes to the next process
    raise answer


async def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- a failing job ----------------------------------------------------------------------


async def count_stock() -> int:
    await asyncio.sleep(0.5)
    shelves = {"lamp": 3, "pencil": 12}
    return shelves["lamp"] + shelves["clock"]


async def start_failing(request: web.Request) -> web.Response:
    job = await spawn(request, count_stock(), "stock count")
    request.app[TOUR].failing = job  # for this page; nobody waits for it
    raise web.HTTPSeeOther("/tour/failing")


# -- a hanging job ----------------------------------------------------------------------


async def ask_warehouse() -> str:
    answer = asyncio.get_running_loop().create_future()
    return str(await answer)  # nobody will set it


async def start_hanging(request: web.Request) -> web.Response:
    # With a key, ten clicks start one job; the timeout ends it if nobody cancels it.
    job = await spawn(request, ask_warehouse(), timeout=300, key="warehouse")
    request.app[TOUR].hanging = job
    raise web.HTTPSeeOther("/tour/hanging")


async def cancel_hanging(request: web.Request) -> web.Response:
    job = request.app[TOUR].hanging
    if job is not None:
        await job.close()
    raise web.HTTPSeeOther("/tour/hanging")


# -- the pages --------------------------------------------------------------------------

STEPS: Final = ("mail", "failing", "hanging")


async def show_step(request: web.Request) -> web.Response:
    """Show one step by itself: the page its forms lead to without JavaScript."""
    step = request.match_info["step"]
    context = {"step": step, **await tour_context(request)}
    return await show_page(request, "step.html", context)


async def tour_context(request: web.Request) -> dict[str, Any]:
    """Return what the templates of the steps need."""
    tour = request.app[TOUR]
    hanging = tour.hanging
    return {
        "token": tour.token,
        "guests": GUESTS,
        "batch": await request.app[OUTBOX].latest_batch(),
        "process": os.getpid(),
        "can_kill": tour.restarts and is_here(request),
        "failing": tour.failing,
        "failure": _failure_of(tour.failing),
        "hanging": hanging,
        "hanging_for": _seconds_of(hanging),
        "hanging_at": hanging.stack(limit=1) if hanging is not None else None,
        "mail_code": source_of(send_welcome, sign_up_many),
        "failing_code": source_of(count_stock, start_failing),
        "hanging_code": source_of(ask_warehouse, start_hanging, cancel_hanging),
        "dashboard_code": source_of(authorize, add_dashboard),
    }


def _failure_of(job: Job[Any] | None) -> str | None:
    """Return a description of the job's exception; None if it has none."""
    error = None if job is None else job.exception()
    return None if error is None else f"{type(error).__name__}: {error}"


def _seconds_of(job: Job[Any] | None) -> int:
    if job is None or job.started_at is None:
        return 0
    return round(time.monotonic() - job.started_at)


def guarded(handler: Handler) -> Handler:
    """Refuse forms that are not from a page of this demo."""

    async def guard(request: web.Request) -> web.StreamResponse:
        token = (await request.post()).get("token")
        ours = request.app[TOUR].token
        if not isinstance(token, str) or not secrets.compare_digest(
            token.encode(), ours.encode()
        ):
            raise web.HTTPForbidden(
                text="403: The demo was started anew since this page was loaded: go "
                "back, and reload it"
            )
        return await handler(request)

    return guard


def add_tour(app: web.Application) -> None:
    """Add the handlers of the tour to the application."""
    app.router.add_get(f"/tour/{{step:{'|'.join(STEPS)}}}", show_step)
    for path, handler in {
        "/tour/mail": sign_up_many,
        "/tour/kill": kill_server,
        "/tour/failing": start_failing,
        "/tour/hanging": start_hanging,
        "/tour/hanging/cancel": cancel_hanging,
    }.items():
        app.router.add_post(path, guarded(handler))
