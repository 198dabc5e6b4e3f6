"""Pages: what all pages have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web

from .counting import VIEWS

__all__ = ("add_security_headers", "show_page")

# What the page says after a form was accepted and the browser redirected.
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


async def show_page(
    request: web.Request, template: str, context: Mapping[str, Any], status: int = 200
) -> web.Response:
    """Return the rendered page, and count the view."""
    # Pages that a script fetches are not views.
    destination = request.headers.get("Sec-Fetch-Dest", "document")
    if request.method == "GET" and destination == "document":
        await request.app[VIEWS].count(request)
    more = {"path": request.path, "notice": NOTICES.get(request.query.get("done", ""))}
    response = aiohttp_jinja2.render_template(
        template, request, {**context, **more}, status=status
    )
    response.headers["Cache-Control"] = "no-store"
    return response


async def add_security_headers(
    request: web.Request, response: web.StreamResponse
) -> None:
    """Add headers that isolate the pages from other sites to each response."""
    response.headers.update(SECURITY_HEADERS)
