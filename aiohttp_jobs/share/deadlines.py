"""Until when an action that a worker is asked for may be begun.

A worker that is stopped or blocked finds what it was asked for when it goes on. Who asked
has been told long ago that it does not answer: then nothing may be done any more.
"""

from __future__ import annotations

import math
import time
from typing import Final

from aiohttp import web

__all__ = ("DEADLINE", "check_deadline", "deadline_after")

# The header, in seconds of a clock that all processes of the machine have in common.
DEADLINE: Final = "Aiohttp-Jobs-Deadline"


def deadline_after(seconds: float) -> str:
    """Return the value of the header for an action that begins until then or never."""
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
    # The body first: the handler finds it read, and it may have been long in coming.
    await request.read()
    if time.monotonic() > deadline:
        raise web.HTTPGone(text="Too late: it was not done.")
