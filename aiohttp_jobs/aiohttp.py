"""The names of ``aiojobs.aiohttp``, for applications that come from there.

They are those of :mod:`aiohttp_jobs`, so that it is enough to replace the word
``aiojobs`` with ``aiohttp_jobs`` in an application's sources. New code imports them from
:mod:`aiohttp_jobs` itself.
"""

from typing import Final

from .web.atomic import atomic
from .web.request import (
    SCHEDULER,
    get_scheduler,
    get_scheduler_from_app,
    get_scheduler_from_request,
    shield,
    spawn,
)
from .web.setup import setup

__all__ = (
    "AIOJOBS_SCHEDULER",
    "atomic",
    "get_scheduler",
    "get_scheduler_from_app",
    "get_scheduler_from_request",
    "setup",
    "shield",
    "spawn",
)

#: The same key as :data:`aiohttp_jobs.SCHEDULER`: ``app[AIOJOBS_SCHEDULER]``.
AIOJOBS_SCHEDULER: Final = SCHEDULER
