"""The durable jobs of an application, for those who show them and do not need them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .durable import Durable

__all__ = ("durable_of",)


def durable_of(app: Mapping[Any, Any]) -> Durable | None:
    """Return what setup_durable() has made for an application; None without that.

    Args:
        app: the application, or the ``config_dict`` of a request.
    """
    # An application that has some has imported them. Others need no SQLite.
    if "aiohttp_jobs.durable" not in sys.modules:
        return None
    from .durable import DURABLE

    found: Durable | None = app.get(DURABLE)
    return found
