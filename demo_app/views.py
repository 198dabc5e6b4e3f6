"""The handlers: what each page shows, and which work it leaves to jobs."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web

from aiohttp_jobs import atomic, spawn
from aiohttp_jobs.durable import spawn_durable

from .experiment import LABORATORY
from .forms import MOST_CLIENTS, Form, read_form
from .mail import send_welcome
from .outbox import OUTBOX
from .shop import ARTICLES, SHOP, Route, Shop

__all__ = ("add_routes", "add_security_headers")

# What the forms begin with: to try them takes one click.
SAMPLE_ORDER: Final = {
    "customer": "ann@example.org",
    "article": "notebook",
    "quantity": "1",
}
SAMPLE_CUSTOMER: Final = {"name": "Ann", "email": "ann@example.org"}

# What the page says after a form was taken and the browser sent on.
NOTICES: Final = {
    "plain": "The order was taken by the plain handler: charged, then recorded.",
    "atomic": "The order was taken by the atomic handler: charged, then recorded.",
    "signup": "Thank you. A durable job sends the welcome mail, whatever happens.",
}

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def take_order(request: web.Request, route: Route) -> web.Response:
    """Take an order: what the two handlers below have in common."""
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
    """Answer when the job that sends the mail is kept; nothing loses it then."""
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
    return await _page(
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
    return await _page(
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
    """Tell the script of the page how far the experiment is."""
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
    return await _page(
        request,
        "start.html",
        {
            "order_form": order_form or Form(SAMPLE_ORDER),
            "signup_form": signup_form or Form(SAMPLE_CUSTOMER),
            "articles": ARTICLES.values(),
            "steps": _source(Shop.take_order, "with self._counted():"),
            "handlers": f"{_source(order_plain)}\n\n{_source(order_atomic)}",
            "views": await request.app[SHOP].views(),
            **_experiment(request),
        },
        status,
    )


async def _experiment_page(
    request: web.Request, form: Form | None = None, *, status: int = 200
) -> web.Response:
    context = _experiment(request, form)
    return await _page(request, "experiment.html", context, status)


def _experiment(request: web.Request, form: Form | None = None) -> dict[str, Any]:
    return {
        "experiment": request.app[LABORATORY].latest,
        "experiment_form": form or Form({"clients": "200"}),
        "most_clients": MOST_CLIENTS,
    }


async def _page(
    request: web.Request, template: str, context: Mapping[str, Any], status: int = 200
) -> web.Response:
    """Show a page; a job counts that when the browser has it in full."""
    # What the script of a page fetches is looked at by nobody.
    destination = request.headers.get("Sec-Fetch-Dest", "document")
    if request.method == "GET" and destination == "document":
        count = request.app[SHOP].count_view(request.path)
        await spawn(request, count, "page view", after_response=True)
    more = {"path": request.path, "notice": NOTICES.get(request.query.get("done", ""))}
    response = aiohttp_jinja2.render_template(
        template, request, {**context, **more}, status=status
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _source(function: object, after: str = "") -> str:
    """Return the code of a function, or what follows a certain line of it."""
    assert inspect.isroutine(function)
    code = inspect.getsource(inspect.unwrap(function))
    return textwrap.dedent(code.partition(after + "\n")[2] if after else code).strip()


async def add_security_headers(
    request: web.Request, response: web.StreamResponse
) -> None:
    """Add to each response what keeps the pages to themselves."""
    response.headers.update(SECURITY_HEADERS)


def add_routes(app: web.Application) -> None:
    """Put all handlers into the application."""
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
