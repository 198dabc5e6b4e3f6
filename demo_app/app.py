"""make_app: the application, with its scheduler and what its jobs use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from aiohttp_jobs import setup
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.prometheus import setup_metrics

from .experiment import LABORATORY, Laboratory
from .mail import setup_mail
from .outbox import outbox_context
from .shop import shop_context
from .views import add_routes, add_security_headers

__all__ = ("make_app",)

_HERE: Final = Path(__file__).parent
# What the shop is called in the address bar of a browser on the same machine. A page of
# another site cannot reach it by these, whatever address it gives to its own name.
_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def make_app(
    database: Path, *, mail_takes: float = 1.0, broker_url: str | None = None
) -> web.Application:
    """Make the demo shop.

    Args:
        database: the SQLite file; it is made if need be.
        mail_takes: seconds that the SMTP server takes for each mail.
        broker_url: the address of a RabbitMQ server that keeps the durable jobs, instead
            of the SQLite file.
    """
    app = web.Application()
    # At shutdown the jobs end before the database and the SMTP server do, which they
    # need; the order of these lines does not matter.
    setup(app, limit=20, wait_timeout=30)
    setup_metrics(app)
    setup_mail(app, database, broker_url)
    app.cleanup_ctx.append(shop_context(database))
    app.cleanup_ctx.append(outbox_context(database, mail_takes))

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
    app.router.add_static("/static", _HERE / "static")
    setup_dashboard(app, authorize=_authorize, title="Jobs of the shop", home="/")
    return app


async def _authorize(request: web.Request) -> Access:
    """Whoever sits at this machine may look at the jobs and cancel them."""
    name = re.sub(r":\d+$", "", request.host).strip("[]")
    is_here = request.remote in _THIS_MACHINE and name in _THIS_MACHINE
    return Access.MANAGE if is_here else Access.NONE


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02} €"
