"""Counting: page views, recorded by jobs that start after the response."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from aiohttp_jobs import spawn

from .shop import SHOP, Shop

__all__ = ("VIEWS", "Views")

# Seconds between two jobs. One per view would crowd out all others on the dashboard.
PAUSE: Final = 60.0


class Views:
    """Counts page views in memory, and saves them now and then."""

    def __init__(self) -> None:
        self._fresh = Counter[str]()
        self._written_at = float("-inf")

    async def count(self, request: web.Request) -> None:
        """Count a view; a job may save the counts once the response has been sent."""
        self._fresh[request.path] += 1
        now = time.monotonic()
        if now - self._written_at >= PAUSE:
            self._written_at = now
            write = self._write(request.app[SHOP])
            await spawn(request, write, "page views", after_response=True)

    async def read(self, shop: Shop) -> dict[str, int]:
        """Return how often each page was viewed, most viewed first."""
        total = Counter(await shop.views())
        total.update(self._fresh)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """Save the remaining views at the end, while the shop is still open."""
        app[VIEWS] = self
        yield
        await self._write(app[SHOP])

    async def _write(self, shop: Shop) -> None:
        fresh, self._fresh = self._fresh, Counter[str]()
        for page, times in fresh.items():
            await shop.add_views(page, times)


#: The page views of an application, ``app[VIEWS]``; see :meth:`Views.context`.
VIEWS: Final = web.AppKey("VIEWS", Views)
