"""Access: who may look at the jobs, and who may end the server."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from aiohttp_jobs.dashboard import Access, setup_dashboard

__all__ = ("add_dashboard", "authorize", "is_here")

# What the shop is called in the address bar of a browser on the same machine. A page of
# another site cannot reach it by these, whatever address it gives to its own name.
THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


async def authorize(request: web.Request) -> Access:
    return Access.MANAGE if is_here(request) else Access.NONE


def add_dashboard(app: web.Application) -> None:
    setup_dashboard(app, authorize=authorize, title="Jobs of the shop", home="/")


def is_here(request: web.Request) -> bool:
    """Does the visitor sit at this machine?"""
    name = re.sub(r":\d+$", "", request.host).strip("[]")
    return request.remote in THIS_MACHINE and name in THIS_MACHINE
