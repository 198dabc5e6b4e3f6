"""Sites: other ones may do nothing, looking included."""

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
    # Not "no-referrer": then forms would come from the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

# What a link on another site gets. Whoever goes on from here comes from this site; the
# page asks for nothing else, and says nothing that depends on who has come.
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
    """Add to each response what keeps the pages to themselves."""
    response.headers.update(SECURITY_HEADERS)
    is_file = isinstance(response, web.FileResponse)
    response.headers["Cache-Control"] = "no-cache" if is_file else "no-store"


def check_site(request: web.Request, is_safe: bool) -> None:
    """Refuse what another site has made a browser ask for.

    Browsers say who asks by `Sec-Fetch-Site`, and no page can make them say otherwise.
    They leave it out over plain HTTP; then the page's origin has to have the host that
    was asked. A proxy may speak another scheme with the browser, which is why that is not
    compared. Somebody who has typed the address comes from no site, and may look.

    Args:
        is_safe: does the request only look? Then it need not tell where it comes from.

    Raises:
        HTTPForbidden: another site asks, or nobody says who does.
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
