"""Counting: how often each page was looked at, by jobs that start after the response."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from aiohttp_jobs import spawn

from .shop import SHOP, Shop

__all__ = ("VIEWS", "Views")

# Seconds between two jobs. One for each view would crowd out all others on the dashboard.
PAUSE: Final = 60.0


class Views:
    """Counts in memory, and writes that down now and then."""

    def __init__(self) -> None:
        self._fresh = Counter[str]()
        self._written_at = float("-inf")

    async def count(self, request: web.Request) -> None:
        """Count that the page was looked at, when the browser has it in full."""
        self._fresh[request.path] += 1
        now = time.monotonic()
        if now - self._written_at >= PAUSE:
            self._written_at = now
            write = self._write(request.app[SHOP])
            await spawn(request, write, "page views", after_response=True)

    async def read(self, shop: Shop) -> dict[str, int]:
        """Return how often each page was looked at, most often first."""
        total = Counter(await shop.views())
        total.update(self._fresh)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """At the end write down the rest, while the shop is open."""
        app[VIEWS] = self
        yield
        await self._write(app[SHOP])

    async def _write(self, shop: Shop) -> None:
        fresh, self._fresh = self._fresh, Counter[str]()
        for page, times in fresh.items():
            await shop.add_views(page, times)


#: The page views of an application, ``app[VIEWS]``; see :meth:`Views.context`.
VIEWS: Final = web.AppKey("VIEWS", Views)
