"""The durable jobs of an application, for those who show them and do not need them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from .durable import Durable

__all__ = ("durable_of",)


def durable_of(app: web.Application) -> Durable | None:
    """Return what setup_durable() has made for it; None without that."""
    # An application that has some has imported them. Others need no SQLite.
    if "aiohttp_jobs.durable" not in sys.modules:
        return None
    from .durable import DURABLE

    return app.get(DURABLE)
