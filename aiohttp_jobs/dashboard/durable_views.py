"""Durable views: the handlers that show durable jobs, as pages and as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, TypeAlias

from aiohttp import web

from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.scheduler import Scheduler

from . import data
from .access import VISITOR
from .api import BASE
from .durable_data import Turned
from .durable_source import DurableSource, NoSuchDead, find_durable
from .pages import Pages
from .stream import Live, Render

__all__ = ("DEAD", "NONE", "DurableViews")

# The path of a dead job's own page.
DEAD: Final = "/durable/dead/{id:[^/]{1,200}}"

NONE: Final = (
    "This application has no durable jobs: they come with setup_durable(), for the "
    "scheduler that is shown here"
)

Follow: TypeAlias = Callable[
    [web.Request, Hashable, Render], Awaitable[web.StreamResponse]
]


class DurableViews:
    """The handlers that show something, and what they share.

    Args:
        scheduler: the scheduler whose durable jobs are shown.
        follow: serves a live page.
    """

    def __init__(self, scheduler: Scheduler, pages: Pages, follow: Follow) -> None:
        self._scheduler = scheduler
        self._pages = pages
        self._follow = follow

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers into the dashboard's application."""
        live = "/durable/live"
        app.add_routes(
            [
                web.get("/durable", self.show, name="durable"),
                web.get(live, self.follow, name="durable-live", allow_head=False),
                web.get(DEAD, self.show_dead, name="durable-dead"),
                web.get(f"{BASE}/durable", self.tell, name="api-durable"),
                web.get(BASE + DEAD, self.tell_dead, name="api-durable-dead"),
            ]
        )

    async def show(self, request: web.Request) -> web.Response:
        links = self._pages.links("durable")
        source = self._source(request)
        if source is None:
            return self._pages.message(request, links, f"{NONE}.", 404)
        turned = Turned.of(request.query)
        context = {
            **await source.overview(turned),
            "turned": turned,
            "stream": links.to("durable-live") + str(turned),
        }
        return self._pages.page("durable.html", request, links, context)

    async def follow(self, request: web.Request) -> web.StreamResponse:
        source = self._source(request)
        if source is None:
            raise web.HTTPNotFound(text=f"404: {NONE}")
        links = self._pages.links("durable")
        turned, visitor = Turned.of(request.query), request[VISITOR]

        async def render() -> Live:
            context = {**await source.overview(turned), "turned": turned}
            templates = {"durable-jobs": "durable_live.html"}
            return self._pages.live(templates, visitor, links, context)

        return await self._follow(request, (turned, visitor.access), render)

    async def show_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        links = self._pages.links("durable-dead", id=id)
        source = self._source(request)
        if source is None:
            return self._pages.message(request, links, f"{NONE}.", 404)
        try:
            context: dict[str, Any] = {**await source.dead(id)}
        except NoSuchDead as error:
            return self._pages.message(request, links, f"{error}.", 404, "durable")
        except StoreUnavailable as error:
            says = f"The store cannot be looked into just now: {error.args[0]}."
            return self._pages.message(request, links, says, 503, "durable")
        return self._pages.page("durable_dead.html", request, links, context)

    # -- as JSON ------------------------------------------------------------------------

    async def tell(self, request: web.Request) -> web.Response:
        """Return all that the page shows, for the same fields of the address."""
        source = self._source(request)
        if source is None:
            return _refuse(NONE, 404)
        overview = await source.overview(Turned.of(request.query))
        return web.json_response(text=json.dumps(overview, allow_nan=False))

    async def tell_dead(self, request: web.Request) -> web.Response:
        """Return all that the page of a dead job shows."""
        source = self._source(request)
        if source is None:
            return _refuse(NONE, 404)
        try:
            dead = await source.dead(request.match_info["id"])
        except NoSuchDead as error:
            return _refuse(str(error), 404)
        except StoreUnavailable as error:
            return _refuse(str(error.args[0]), 503)
        return web.json_response(text=json.dumps(dead, allow_nan=False))

    def _source(self, request: web.Request) -> DurableSource | None:
        return find_durable(request, self._scheduler)


def _refuse(says: str, status: int) -> web.Response:
    return web.json_response({"version": data.VERSION, "error": says}, status=status)
