"""make_app: the application, with its scheduler and what its jobs use."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from aiohttp_jobs import setup
from aiohttp_jobs.prometheus import setup_metrics

from .access import add_dashboard
from .counting import Views
from .experiment import LABORATORY, Laboratory
from .mail import setup_mail
from .outbox import outbox_context
from .pages import add_security_headers
from .shop import shop_context
from .tour import TOUR, Tour, add_tour
from .views import add_routes

__all__ = ("make_app",)

_HERE: Final = Path(__file__).parent


def make_app(
    database: Path,
    *,
    mail_takes: float = 1.0,
    broker_url: str | None = None,
    token: str | None = None,
) -> web.Application:
    """Make the demo shop.

    Args:
        database: the SQLite file; created if it does not exist.
        mail_takes: seconds that the SMTP server takes for each mail.
        broker_url: the address of a RabbitMQ server that keeps the durable jobs, instead
            of an SQLite file.
        token: the token of the supervisor, which restarts the server if it is killed; or
            None if there is no supervisor.
    """
    app = web.Application()
    # At shutdown the jobs end before the database and the SMTP server, which they need;
    # the order of these lines does not matter.
    setup(app, limit=20, wait_timeout=30)
    setup_metrics(app)
    setup_mail(app, database, broker_url)
    app.cleanup_ctx.append(shop_context(database))
    app.cleanup_ctx.append(outbox_context(database, mail_takes))

    views = Views()
    app.cleanup_ctx.append(views.context)
    app[TOUR] = Tour(token, restarts=token is not None)

    app[LABORATORY] = laboratory = Laboratory()
    app.on_shutdown.append(laboratory.stop)

    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["money"] = _money
    app.on_response_prepare.append(add_security_headers)
    add_routes(app)
    add_tour(app)
    app.router.add_static("/static", _HERE / "static")
    add_dashboard(app)
    return app


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02} €"
