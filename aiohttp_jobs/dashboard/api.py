"""API: what the pages show as JSON, for scripts, chat bots and checks."""

from __future__ import annotations

import json

from aiohttp import web

from . import data
from .query import Query
from .source import NoSuchJob, Source
from .views import JOB

__all__ = ("Api",)

BASE = f"/api/v{data.VERSION}"


class Api:
    """The handlers. They look, and change nothing."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers into the dashboard's application."""
        app.add_routes(
            [
                web.get(f"{BASE}/overview", self.overview, name="api-overview"),
                web.get(f"{BASE}/pending", self.find_pending, name="api-pending"),
                web.get(BASE + JOB, self.job, name="api-job"),
            ]
        )

    async def overview(self, request: web.Request) -> web.Response:
        """Return all that the first page shows, for the same fields of the address."""
        return _answer(await self._source.overview(Query.of(request.query)))

    async def find_pending(self, request: web.Request) -> web.Response:
        """Return the pending jobs, of all, whose number or exact name is `search`."""
        query = Query.of(request.query)
        if not query.search:
            return _refuse("search has to be a job's number, or a name", 400)
        return _answer(await self._source.find_pending(query))

    async def job(self, request: web.Request) -> web.Response:
        """Return all that a job's own page shows."""
        try:
            details = await self._source.job(request.match_info["address"])
        except NoSuchJob as error:
            return _refuse(str(error), error.status)
        return _answer(details)


def _answer(
    told: data.Overview | data.Found | data.JobDetails, status: int = 200
) -> web.Response:
    # No infinity and no NaN, which are not JSON.
    return web.json_response(text=json.dumps(told, allow_nan=False), status=status)


def _refuse(says: str, status: int) -> web.Response:
    return web.json_response({"version": data.VERSION, "error": says}, status=status)
