"""The handlers: what each page shows, and what it leaves to jobs."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from aiohttp_jobs import atomic
from aiohttp_jobs.durable import spawn_durable

from .counting import VIEWS
from .experiment import LABORATORY
from .forms import MOST_CLIENTS, Form, read_form
from .mail import send_welcome
from .outbox import OUTBOX
from .pages import show_page
from .shop import ARTICLES, SHOP, Route, Shop
from .source import source_of
from .tour import tour_context

__all__ = ("add_routes",)

# Initial values of the forms, so that trying them takes one click.
SAMPLE_ORDER: Final = {
    "customer": "ann@example.org",
    "article": "notebook",
    "quantity": "1",
}
SAMPLE_CUSTOMER: Final = {"name": "Ann", "email": "ann@example.org"}


async def take_order(request: web.Request, route: Route) -> web.Response:
    """Take an order; the common part of the two handlers below."""
    form = await read_form(request)
    order = form.order()
    if order is None:
        return await _start_page(request, order_form=form, status=400)
    await request.app[SHOP].take_order(route, order)
    raise web.HTTPSeeOther(f"/orders?done={route}")


async def order_plain(request: web.Request) -> web.Response:
    return await take_order(request, Route.PLAIN)


@atomic
async def order_atomic(request: web.Request) -> web.Response:
    return await take_order(request, Route.ATOMIC)


async def sign_up(request: web.Request) -> web.Response:
    """Answer once the store keeps the job that sends the mail: it cannot be lost."""
    form = await read_form(request)
    customer = form.sign_up()
    if customer is None:
        return await _start_page(request, signup_form=form, status=400)
    job_id = await spawn_durable(request, send_welcome, *customer)
    await request.app[OUTBOX].expect([job_id])
    raise web.HTTPSeeOther("/outbox?done=signup")


async def show_start(request: web.Request) -> web.Response:
    return await _start_page(request)


async def show_orders(request: web.Request) -> web.Response:
    shop = request.app[SHOP]
    return await show_page(
        request,
        "orders.html",
        {
            "tallies": await shop.tally(),
            "under_way": shop.under_way,
            "half_done": await shop.entries(half_done=True),
            "entries": await shop.entries(),
        },
    )


async def show_outbox(request: web.Request) -> web.Response:
    outbox = request.app[OUTBOX]
    return await show_page(
        request,
        "outbox.html",
        {
            "mails": await outbox.mails(),
            "on_their_way": await outbox.on_their_way(),
        },
    )


async def start_experiment(request: web.Request) -> web.Response:
    form = await read_form(request)
    wanted = form.experiment()
    if wanted is None:
        return await _experiment_page(request, form, status=400)
    await request.app[LABORATORY].start(request, *wanted)
    raise web.HTTPSeeOther("/experiment")


async def show_experiment(request: web.Request) -> web.Response:
    return await _experiment_page(request)


async def show_progress(request: web.Request) -> web.Response:
    """Return the progress of the experiment, for the script of the page."""
    experiment = request.app[LABORATORY].latest
    if experiment is None:
        raise web.HTTPNotFound(text="404: There was no experiment yet")
    return web.json_response(
        {
            "over": experiment.over,
            "done": experiment.done,
            "total": experiment.total,
        },
        headers={"Cache-Control": "no-store"},
    )


async def _start_page(
    request: web.Request,
    *,
    order_form: Form | None = None,
    signup_form: Form | None = None,
    status: int = 200,
) -> web.Response:
    return await show_page(
        request,
        "tour.html",
        {
            "order_form": order_form or Form(SAMPLE_ORDER),
            "signup_form": signup_form or Form(SAMPLE_CUSTOMER),
            "articles": ARTICLES.values(),
            "handlers": source_of(order_plain, order_atomic),
            "steps": source_of(Shop.take_order, after="with self._counted():"),
            "views": await request.app[VIEWS].read(request.app[SHOP]),
            **_experiment(request),
            **await tour_context(request),
        },
        status,
    )


async def _experiment_page(
    request: web.Request, form: Form | None = None, *, status: int = 200
) -> web.Response:
    context = _experiment(request, form)
    return await show_page(request, "experiment.html", context, status)


def _experiment(request: web.Request, form: Form | None = None) -> dict[str, Any]:
    return {
        "experiment": request.app[LABORATORY].latest,
        "experiment_form": form or Form({"clients": "200"}),
        "most_clients": MOST_CLIENTS,
    }


def add_routes(app: web.Application) -> None:
    """Add all handlers to the application."""
    app.add_routes(
        [
            web.get("/", show_start),
            web.post("/orders/plain", order_plain),
            web.post("/orders/atomic", order_atomic),
            web.get("/orders", show_orders),
            web.post("/signup", sign_up),
            web.get("/outbox", show_outbox),
            web.post("/experiment", start_experiment),
            web.get("/experiment", show_experiment),
            web.get("/experiment/progress", show_progress),
        ]
    )
