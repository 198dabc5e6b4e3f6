"""Actions: the handlers of what is done, each of which asks first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from . import data
from .access import VISITOR, require_manage
from .pages import Links, Pages
from .query import Query
from .source import NoSuchJob, Source
from .views import JOB

__all__ = ("Actions", "fields_of", "wants_json")


class Actions:
    """The handlers, and what they share. A GET asks, a POST does."""

    def __init__(self, source: Source, pages: Pages) -> None:
        self._source = source
        self._pages = pages

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers into the dashboard's application."""
        app.add_routes(
            [
                web.get(f"{JOB}/cancel", self.ask_to_cancel, name="cancel"),
                web.post(f"{JOB}/cancel", self.cancel),
                web.get("/cancel", self.ask_to_cancel_all, name="cancel-all"),
                web.post("/cancel", self.cancel_all),
                web.get("/queue", self.show_queue, name="queue"),
                web.post("/queue", self.steer_queue),
            ]
        )

    # -- one job ------------------------------------------------------------------------

    async def ask_to_cancel(self, request: web.Request) -> web.Response:
        require_manage(request)
        address = request.match_info["address"]
        links = self._pages.links("cancel", address=address)
        try:
            details = await self._source.job(address)
        except NoSuchJob as error:
            return self._pages.message(request, links, str(error), 404)
        return self._pages.page("cancel.html", request, links, {**details})

    async def cancel(self, request: web.Request) -> web.Response:
        address = request.match_info["address"]
        links = self._pages.links("cancel", address=address)
        try:
            outcome = await self._source.cancel(address, request[VISITOR])
        except NoSuchJob as error:
            return self._tell(request, links, {"done": False, "says": str(error)}, 404)
        if wants_json(request):
            return web.json_response(outcome)
        # Its page says what has become of it, and may be loaded again.
        raise web.HTTPSeeOther(f"{links.to_job(address)}?told=cancel")

    # -- all that fit a filter ----------------------------------------------------------

    async def ask_to_cancel_all(self, request: web.Request) -> web.Response:
        require_manage(request)
        query = Query.of(request.query)
        links = self._pages.links("cancel-all")
        if not query.filters_jobs:
            return self._pages.message(request, links, _NO_FILTER, 400)
        matching = await self._source.matching(query)
        context = {"query": query, "matching": matching}
        return self._pages.page("cancel_all.html", request, links, context)

    async def cancel_all(self, request: web.Request) -> web.Response:
        links = self._pages.links("cancel-all")
        fields = await fields_of(request)
        query = Query.of(fields)
        if not query.filters_jobs:
            return self._tell(request, links, {"done": False, "says": _NO_FILTER}, 400)
        try:
            until = float(fields.get("until", ""))
        except ValueError:
            raise web.HTTPBadRequest(text="400: until takes a number") from None
        try:
            outcome = await self._source.cancel_matching(
                query, fields.get("process", ""), until, request[VISITOR]
            )
        except NoSuchJob as error:
            return self._tell(request, links, {"done": False, "says": str(error)}, 409)
        return self._tell(request, links, outcome)

    # -- the queue ----------------------------------------------------------------------

    async def show_queue(self, request: web.Request) -> web.Response:
        require_manage(request)
        links = self._pages.links("queue")
        overview = await self._source.overview(Query())
        context: dict[str, Any] = {
            "process": overview["process"],
            "now": overview["now"],
            "asked": False,
        }
        if "limit" in request.query:
            limit = _limit(request.query)
            context |= {"asked": True, "limit": limit, "starts": _starts(overview, limit)}
        return self._pages.page("queue.html", request, links, context)

    async def steer_queue(self, request: web.Request) -> web.Response:
        links = self._pages.links("queue")
        fields = await fields_of(request)
        process, visitor = fields.get("process", ""), request[VISITOR]
        action = fields.get("action")
        try:
            if action == "hold":
                outcome = await self._source.hold(process, visitor)
            elif action == "release":
                outcome = await self._source.release(process, visitor)
            elif action == "limit":
                before = _limit({"limit": fields.get("before", "")})
                outcome = await self._source.change_limit(
                    process, before, _limit(fields), visitor
                )
            else:
                raise web.HTTPBadRequest(text="400: action is hold, release or limit")
        except NoSuchJob as error:
            return self._tell(request, links, {"done": False, "says": str(error)}, 409)
        return self._tell(request, links, outcome)

    def _tell(
        self,
        request: web.Request,
        links: Links,
        outcome: data.Outcome,
        status: int = 200,
    ) -> web.Response:
        if wants_json(request):
            return web.json_response(outcome, status=status)
        return self._pages.message(request, links, outcome["says"] + ".", status)


_NO_FILTER = (
    "Nothing was cancelled: search for something or choose a name first, as all that fit "
    "are cancelled"
)


def wants_json(request: web.Request) -> bool:
    """Is it a script that asks, ours or somebody else's?"""
    return "application/json" in request.headers.get("Accept", "")


async def fields_of(request: web.Request) -> Mapping[str, str]:
    """Return the fields of the form; what is no text of a form of ours is left out."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="415: A form of the dashboard is needed")
    form = await request.post()
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _limit(fields: Mapping[str, str]) -> int | None:
    """The limit in a form; empty is none."""
    text = fields.get("limit", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
        return int(text)
    raise web.HTTPBadRequest(text="400: limit takes a number from 1 on, or nothing")


def _starts(overview: data.Overview, limit: int | None) -> int:
    """How many pending jobs start at once under another limit."""
    now = overview["now"]
    if overview["process"]["held"]:
        return 0
    free = now["pending"] if limit is None else max(0, limit - now["slots_taken"])
    return min(free, now["pending"])
