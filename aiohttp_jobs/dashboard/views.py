"""Views: the handlers of the dashboard."""

from __future__ import annotations

import functools
import os
import posixpath
import secrets
import socket
from collections.abc import Mapping
from typing import Any, Final

import jinja2
from aiohttp import web

from aiohttp_jobs.core.job import Job, stop
from aiohttp_jobs.core.scheduler import Scheduler

from .access import ACCESS, Access
from .details import details, find, find_job
from .history import History
from .overview import OUTCOMES, Query, names, overview
from .record import cut
from .stream import Streams
from .words import encode

__all__ = ("Links", "Views", "add_security_headers", "process_name")

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": then forms would come from the origin "null".
    "Referrer-Policy": "same-origin",
}


async def add_security_headers(
    request: web.Request, response: web.StreamResponse
) -> None:
    """Add to each response what keeps the pages to themselves."""
    response.headers.update(SECURITY_HEADERS)
    is_file = isinstance(response, web.FileResponse)
    response.headers["Cache-Control"] = "no-cache" if is_file else "no-store"


def process_name() -> str:
    """What no other process is called, nor this one after a restart.

    Jobs are numbered in each process from 1 on. Their addresses have this beside the
    number: a page may have come from one worker, and its button lead to another.
    """
    return _name_of(os.getpid())  # asked for each time: workers are forks


@functools.cache
def _name_of(pid: int) -> str:
    return secrets.token_hex(4)


class Links:
    """Addresses of the dashboard's pages, from their named routes.

    They are relative, so a proxy may show the application below any path, and need not
    tell.

    Args:
        app: the dashboard's application.
        page: the path of the page that the addresses are for.
    """

    def __init__(self, app: web.Application, page: str) -> None:
        self._router = app.router
        # All of them are below the first page, whose address ends with a slash.
        self._top = app.router["overview"].url_for().raw_path
        self._to_top = "../" * page.removeprefix(self._top).count("/")

    def to(self, name: str, **parts: str) -> str:
        """The address of the route of this name, with these parts of its path."""
        path = self._router[name].url_for(**parts).raw_path
        return self._to_top + path.removeprefix(self._top) or "./"

    def to_job(self, job_id: int, name: str = "job") -> str:
        """The address of a job's own page, or of what else there is of it."""
        return self.to(name, **_job_parts(job_id))


class Views:
    """The handlers, and what they share.

    Args:
        app: the dashboard's application.
        environment: renders the templates.
    """

    def __init__(
        self,
        app: web.Application,
        scheduler: Scheduler,
        history: History,
        streams: Streams,
        environment: jinja2.Environment,
    ) -> None:
        self._app = app
        self._scheduler = scheduler
        self._history = history
        self._streams = streams
        self._environment = environment

    def add_routes(self) -> None:
        """Put the handlers into the application."""
        job = "/job/{process:[0-9a-f]+}-{id:[0-9]{1,15}}"
        self._app.add_routes(
            [
                web.get("", self.to_overview),
                web.get("/", self.show_overview, name="overview"),
                web.get("/live", self.follow_overview, name="live", allow_head=False),
                web.get(job, self.show_job, name="job"),
                web.get(
                    f"{job}/live", self.follow_job, name="job-live", allow_head=False
                ),
                web.post(f"{job}/cancel", self.cancel_job, name="cancel"),
            ]
        )

    async def to_overview(self, request: web.Request) -> web.Response:
        """Go on to the address that ends with a slash, which the others stand below."""
        url = posixpath.basename(request.rel_url.raw_path) + "/"
        query = request.rel_url.raw_query_string
        raise web.HTTPFound(f"{url}?{query}" if query else url)

    async def show_overview(self, request: web.Request) -> web.Response:
        links = self._links("overview")
        query = Query.of(request.query)
        context = {
            **overview(self._scheduler, self._history, query),
            "names": names(self._scheduler, self._history),
            "outcomes": OUTCOMES,
            "stream": links.to("live") + str(query),
        }
        return self._page("overview.html", request, links, context)

    async def follow_overview(self, request: web.Request) -> web.StreamResponse:
        links = self._links("overview")
        query, access = Query.of(request.query), request[ACCESS]

        def render() -> str:
            context = overview(self._scheduler, self._history, query)
            return self._snapshot("overview_live.html", access, links, context)

        return await self._streams.serve(request, (query, access), render)

    async def show_job(self, request: web.Request) -> web.Response:
        job_id = _job_id(request)
        job = find(self._scheduler, self._history, job_id)
        if job is None:
            raise _not_found(job_id)
        links = self._links("job", job_id)
        context = {**details(job), "stream": links.to_job(job_id, "job-live")}
        return self._page("job.html", request, links, context)

    async def follow_job(self, request: web.Request) -> web.StreamResponse:
        job_id = _job_id(request)
        job = find(self._scheduler, self._history, job_id)
        if job is None:
            raise _not_found(job_id)
        links, access = self._links("job", job_id), request[ACCESS]

        def render() -> str:
            nonlocal job
            if isinstance(job, Job) and job.closed:
                # What is remembered tells more; and the job can be forgotten.
                job = self._history.find(job_id)
            context = {"id": job_id} if job is None else details(job)
            return self._snapshot("job_live.html", access, links, context)

        return await self._streams.serve(request, (job_id, access), render)

    async def cancel_job(self, request: web.Request) -> web.Response:
        job_id = _job_id(request)
        job = find_job(self._scheduler, job_id)
        if job is not None:
            # As close() does, but nobody waits here: how it takes its cancellation is
            # told to those who would be told without a dashboard, and shown on its page.
            stop(job, self._scheduler.close_timeout)
        elif self._history.find(job_id) is None:
            raise _not_found(job_id)
        raise web.HTTPSeeOther(self._links("cancel", job_id).to_job(job_id))

    def _links(self, name: str, job_id: int | None = None) -> Links:
        """The addresses as the page of this route needs them."""
        parts = {} if job_id is None else _job_parts(job_id)
        page = self._app.router[name].url_for(**parts).raw_path
        return Links(self._app, page)

    def _page(
        self,
        template: str,
        request: web.Request,
        links: Links,
        context: Mapping[str, Any],
    ) -> web.Response:
        html = self._render(template, request[ACCESS], links, context)
        return web.Response(body=encode(html), content_type="text/html", charset="utf-8")

    def _snapshot(
        self, template: str, access: Access, links: Links, context: Mapping[str, Any]
    ) -> str:
        """Render what changes: who answers, which may be another process by now."""
        return self._render("snapshot.html", access, links, {**context, "live": template})

    def _render(
        self, template: str, access: Access, links: Links, context: Mapping[str, Any]
    ) -> str:
        return self._environment.get_template(template).render(
            context,
            links=links,
            may_manage=access is Access.MANAGE,
            host=cut(socket.gethostname()),
            pid=os.getpid(),
            scheduler_state=self._scheduler.state.name.lower(),
            is_held=self._scheduler.held,
        )


def _job_parts(job_id: int) -> dict[str, str]:
    return {"process": process_name(), "id": str(job_id)}


def _job_id(request: web.Request) -> int:
    """The number of the job that the request is about, which has to be one of ours."""
    job_id = int(request.match_info["id"])
    if request.match_info["process"] != process_name():
        raise web.HTTPNotFound(
            text=f"404: Job {job_id} is of another process than {os.getpid()}, which has "
            "answered, or was lost in a restart: go back to all jobs"
        )
    return job_id


def _not_found(job_id: int) -> web.HTTPNotFound:
    return web.HTTPNotFound(
        text=f"404: There is no job {job_id} in this process, or not any more"
    )
