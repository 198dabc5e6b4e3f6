"""Views: the handlers that show something."""

from __future__ import annotations

import functools
import posixpath
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final

from aiohttp import web

from . import data
from .access import VISITOR, Access, Authorize, ask
from .durable_data import DurableSummary
from .pages import Links, Pages
from .query import Query
from .sections import Kept, in_sections
from .source import NoSuchJob, Source
from .stream import MOST, Live, Render, Streams
from .text import as_text
from .words import encode

__all__ = ("JOB", "Views")

# The path of a job's own page.
JOB: Final = "/job/{address:[0-9a-f]{1,32}-[0-9]{1,15}}"


class Views:
    """The handlers, and what they share.

    Args:
        authorize: called again by live pages, while they are open.
        durable: returns the summary of the durable jobs, if there are any.
    """

    def __init__(
        self,
        source: Source,
        pages: Pages,
        streams: Streams,
        authorize: Authorize,
        durable: Callable[[web.Request], Awaitable[DurableSummary | None]],
    ) -> None:
        self._source = source
        self._pages = pages
        self._streams = streams
        self._authorize = authorize
        self._durable = durable
        # What is kept for each of the pages that were rendered last; no more are open.
        self._kept = functools.lru_cache(MOST)(_kept_for)

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers into the dashboard's application."""
        app.add_routes(
            [
                web.get("", self.to_overview),
                web.get("/", self.show_overview, name="overview"),
                web.get("/live", self.follow_overview, name="live", allow_head=False),
                web.get(JOB, self.show_job, name="job"),
                web.get(
                    f"{JOB}/live", self.follow_job, name="job-live", allow_head=False
                ),
                web.get(f"{JOB}/text", self.show_text, name="job-text"),
            ]
        )

    async def to_overview(self, request: web.Request) -> web.Response:
        """Redirect to the address with a slash at its end, which the others are below."""
        url = posixpath.basename(request.rel_url.raw_path) + "/"
        query = request.rel_url.raw_query_string
        raise web.HTTPFound(f"{url}?{query}" if query else url)

    async def show_overview(self, request: web.Request) -> web.Response:
        links = self._pages.links("overview")
        query = Query.of(request.query)
        overview = await self._source.overview(query)
        context = {
            **overview,
            "query": query,
            "kept": Kept(),
            "names": _names(overview, query),
            "stream": links.to("live") + str(query),
            "found": await self._found(overview, query),
            "durable": await self._durable(request),
            "is_alone": self._source.is_alone,
        }
        return self._pages.page("overview.html", request, links, context)

    async def _found(self, overview: data.Overview, query: Query) -> data.Found | None:
        """Look among all pending jobs, if more are pending than are listed.

        This is done when the form is sent, and not each second.
        """
        if not query.search or not overview["pending"]["beyond"]:
            return None
        return await self._source.find_pending(query)

    async def follow_overview(self, request: web.Request) -> web.StreamResponse:
        links = self._pages.links("overview")
        query, visitor = Query.of(request.query), request[VISITOR]

        async def render() -> Live:
            overview = await self._source.overview(query)
            durable = await self._durable(request)
            sections = self._pages.sections(
                "overview_live.html",
                visitor,
                links,
                {**overview, "query": query, "durable": durable},
                self._kept(query, visitor.access),
                in_sections(overview, durable),
            )
            return Live(overview["at"], sections)

        return await self.follow(request, (query, visitor.access), render)

    async def show_job(self, request: web.Request) -> web.Response:
        links, address = self._job(request)
        try:
            details = await self._source.job(address)
        except NoSuchJob as error:
            return self._pages.message(request, links, str(error), error.status)
        context = {
            **details,
            "stream": links.to_job(address, "job-live"),
            "told": request.query.get("told") == "cancel",
        }
        return self._pages.page("job.html", request, links, context)

    async def follow_job(self, request: web.Request) -> web.StreamResponse:
        links, address = self._job(request)
        visitor = request[VISITOR]
        try:
            await self._source.job(address)
        except NoSuchJob as error:
            return _refused(error)

        async def render() -> Live:
            context: dict[str, Any]
            templates = {"process": "process.html", "job": "job_live.html"}
            try:
                context = {**await self._source.job(address)}
            except NoSuchJob as error:
                context = {"at": time.time(), "says": str(error)}
                del templates["process"]
            return self._pages.live(templates, visitor, links, context)

        return await self.follow(request, (address, visitor.access), render)

    async def show_text(self, request: web.Request) -> web.Response:
        """Show the stack or the traceback as text, to be copied into a mail."""
        _, address = self._job(request)
        try:
            text = as_text(await self._source.job(address))
        except NoSuchJob as error:
            return _refused(error)
        return web.Response(body=encode(text), content_type="text/plain", charset="utf-8")

    async def follow(
        self, request: web.Request, key: Hashable, render: Render
    ) -> web.StreamResponse:
        """Serve a live page: snapshots of what `render` makes, until the visitor has gone
        or may no longer see it."""
        visitor = request[VISITOR]

        async def may_go_on() -> bool:
            # As for a page, it may raise to ask for a login: that means no here.
            try:
                return await ask(self._authorize, request) == visitor
            except web.HTTPException:
                return False

        return await self._streams.serve(
            request, key, render, party=visitor.party, may_go_on=may_go_on
        )

    def _job(self, request: web.Request) -> tuple[Links, str]:
        """Return the addresses as a job's page needs them, and the job's own."""
        address = request.match_info["address"]
        name = request.match_info.route.name or "job"
        return self._pages.links(name, address=address), address


def _kept_for(query: Query, access: Access) -> Kept:
    return Kept()


def _refused(error: NoSuchJob) -> web.Response:
    return web.Response(text=f"{error.status}: {error}", status=error.status)


def _names(overview: data.Overview, query: Query) -> list[str]:
    """Return the names of coroutines to choose from."""
    names = {row["coro"] for row in overview["coroutines"]}
    return sorted(names | ({query.name} if query.name else set()))
