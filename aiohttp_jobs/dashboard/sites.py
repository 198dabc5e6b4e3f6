"""Sites: other sites may do nothing here, not even look."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

__all__ = ("add_security_headers", "check_site")

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": forms would then come from the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

# The answer to a link on another site. Whoever goes on from here comes from this site;
# the page loads nothing else, and says nothing that depends on the visitor.
_DOOR: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Jobs</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head>
<body><h1>403: You come from another site</h1>
<p>Its link is not followed by itself. <a href="">Go on to the jobs</a></p></body>
</html>
"""


async def add_security_headers(
    request: web.Request, response: web.StreamResponse
) -> None:
    """Add the headers that keep other sites out to each response."""
    response.headers.update(SECURITY_HEADERS)
    is_file = isinstance(response, web.FileResponse)
    response.headers["Cache-Control"] = "no-cache" if is_file else "no-store"


def check_site(request: web.Request, is_safe: bool) -> None:
    """Refuse what another site has made a browser ask for.

    Browsers say who asks in `Sec-Fetch-Site`, and no page can make them say otherwise.
    They leave it out over plain HTTP; then the host of the page's origin has to be the
    one that was asked. The scheme is not compared, since a proxy may speak another one
    with the browser. Somebody who has typed the address comes from no site, and may look.

    Args:
        is_safe: whether the request only looks. If so, it need not say where it is from.

    Raises:
        HTTPForbidden: another site asks, or the request does not say who does.
    """
    sites = request.headers.getall("Sec-Fetch-Site", [])
    if sites:
        is_from_here = all(
            site == "same-origin" or (is_safe and site == "none") for site in sites
        )
    else:
        origins = request.headers.getall("Origin", [])
        is_from_here = (is_safe or bool(origins)) and all(
            _has_our_host(request, origin) for origin in origins
        )
    if is_from_here:
        return
    if is_safe and request.headers.get("Sec-Fetch-Mode") == "navigate":
        raise web.HTTPForbidden(text=_DOOR, content_type="text/html")
    raise web.HTTPForbidden(text="403: The request comes from another site")


def _has_our_host(request: web.Request, origin: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower() != ""
    except ValueError:
        return False
