"""Until when a worker may begin an action that it is asked for.

A worker that was stopped or blocked finds the request when it goes on. By then the caller
has long been told that the worker does not answer: so nothing may be done any more.
"""

from __future__ import annotations

import math
import time
from typing import Final

from aiohttp import web

__all__ = ("DEADLINE", "check_deadline", "deadline_after")

# The header, in seconds of a clock that all processes of the machine share.
DEADLINE: Final = "Aiohttp-Jobs-Deadline"


def deadline_after(seconds: float) -> str:
    """Return the value of the header for an action that begins by then or never."""
    return repr(time.monotonic() + seconds)


async def check_deadline(request: web.BaseRequest) -> None:
    """Refuse a request whose deadline has passed, or that has none.

    Raises:
        HTTPBadRequest, HTTPGone: it is refused.
    """
    try:
        deadline = float(request.headers.get(DEADLINE, ""))
    except ValueError:
        deadline = math.nan
    if not math.isfinite(deadline):
        raise web.HTTPBadRequest(text=f"An action needs the header {DEADLINE}.")
    # The body first: it may take long to arrive, and the handler finds it read.
    await request.read()
    if time.monotonic() > deadline:
        raise web.HTTPGone(text="Too late: it was not done.")
