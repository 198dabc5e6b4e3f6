"""The durable jobs of an application, for code that shows them but can do without."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .durable import Durable

__all__ = ("durable_of",)


def durable_of(app: Mapping[Any, Any]) -> Durable | None:
    """Return what setup_durable() made for an application; None if it was not called.

    Args:
        app: the application, or the ``config_dict`` of a request.
    """
    # An application with durable jobs has imported this. Others need no SQLite.
    if "aiohttp_jobs.durable" not in sys.modules:
        return None
    from .durable import DURABLE

    found: Durable | None = app.get(DURABLE)
    return found
