"""Access: who may look at the jobs, and who may end the server."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from aiohttp_jobs.dashboard import Access, setup_dashboard

__all__ = ("add_dashboard", "authorize", "is_here")

# The names by which a browser on the same machine reaches the shop. Another site cannot
# use them, even if it points its own name at this machine (DNS rebinding).
THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


async def authorize(request: web.Request) -> Access:
    return Access.MANAGE if is_here(request) else Access.NONE


def add_dashboard(app: web.Application) -> None:
    setup_dashboard(app, authorize=authorize, title="Jobs of the shop", home="/")


def is_here(request: web.Request) -> bool:
    """Whether the visitor is on this machine."""
    name = re.sub(r":\d+$", "", request.host).strip("[]")
    return request.remote in THIS_MACHINE and name in THIS_MACHINE
