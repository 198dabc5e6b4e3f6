"""Actions: the handlers that do something, each of which asks first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from aiohttp import web
from multidict import MultiDict, MultiMapping

from . import data
from .access import VISITOR, require_manage
from .pages import Links, Pages
from .query import Query
from .source import NoSuchJob, Source
from .views import JOB

__all__ = ("Actions", "fields_of", "tell")

# How many processes a form may name.
MOST_PROCESSES: Final = 1000

T = TypeVar("T")


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
            return self._pages.message(request, links, str(error), error.status)
        return self._pages.page("cancel.html", request, links, {**details})

    async def cancel(self, request: web.Request) -> web.Response:
        address = request.match_info["address"]
        links = self._pages.links("cancel", address=address)
        outcome: data.Outcome
        try:
            outcome = await self._source.cancel(address, request[VISITOR])
        except NoSuchJob as error:
            outcome = {"done": False, "says": str(error)}
            return self._tell(request, links, outcome, error.status)
        if wants_json(request):
            return web.json_response(outcome)
        # The job's page says what has become of it, and may be reloaded.
        raise web.HTTPSeeOther(f"{links.to_job(address)}?told=cancel")

    # -- all that fit a filter ----------------------------------------------------------

    async def ask_to_cancel_all(self, request: web.Request) -> web.Response:
        require_manage(request)
        query = Query.of(request.query)
        links = self._pages.links("cancel-all")
        if not query.filters_jobs:
            return self._pages.message(request, links, _NO_FILTER, 400)
        matches = await self._source.matching(query)
        processes = matches["processes"]
        context = {
            "query": query,
            "processes": processes,
            "silent": matches["silent"],
            "active": sum(each["active"] for each in processes),
            "pending": sum(each["pending"] for each in processes),
            "beyond": sum(each["beyond"] for each in processes),
        }
        return self._pages.page("cancel_all.html", request, links, context)

    async def cancel_all(self, request: web.Request) -> web.Response:
        links = self._pages.links("cancel-all")
        fields = await fields_of(request)
        query, visitor = Query.of(fields), request[VISITOR]
        if not query.filters_jobs:
            return self._tell(request, links, {"done": False, "says": _NO_FILTER}, 400)
        try:
            untils = [float(until) for until in fields.getall("until", [])]
        except ValueError:
            raise web.HTTPBadRequest(text="400: until takes a number") from None
        return await self._do(
            request,
            links,
            [
                self._source.cancel_matching(query, process, until, visitor)
                for process, until in _pairs(fields, untils)
            ],
        )

    # -- the queue ----------------------------------------------------------------------

    async def show_queue(self, request: web.Request) -> web.Response:
        require_manage(request)
        links = self._pages.links("queue")
        overview = await self._source.overview(Query())
        workers = overview["workers"] or [_only(overview)]
        context: dict[str, Any] = {
            "process": overview["process"],
            "workers": workers,
            "asked": False,
        }
        if "limit" in request.query:
            limit = _limit(request.query)
            chosen = _chosen(workers, request.query.getall("process", []))
            starts = sum(_starts(worker, limit) for worker in chosen)
            context |= {"asked": True, "limit": limit, "chosen": chosen, "starts": starts}
        return self._pages.page("queue.html", request, links, context)

    async def steer_queue(self, request: web.Request) -> web.Response:
        links = self._pages.links("queue")
        fields = await fields_of(request)
        visitor, source = request[VISITOR], self._source
        action = fields.get("action")
        if action == "hold":
            acts = [source.hold(each, visitor) for each in _processes(fields)]
        elif action == "release":
            acts = [source.release(each, visitor) for each in _processes(fields)]
        elif action == "limit":
            limit = _limit(fields)
            befores = [_limit({"limit": text}) for text in fields.getall("before", [])]
            acts = [
                source.change_limit(each, before, limit, visitor)
                for each, before in _pairs(fields, befores)
            ]
        else:
            raise web.HTTPBadRequest(text="400: action is hold, release or limit")
        return await self._do(request, links, acts)

    async def _do(
        self,
        request: web.Request,
        links: Links,
        acts: Sequence[Coroutine[Any, Any, data.Outcome]],
    ) -> web.Response:
        """Do it in each chosen process, and answer with the outcome in each."""
        told = await asyncio.gather(*acts, return_exceptions=True)
        outcomes: list[data.Outcome] = []
        lost = 0
        for each in told:
            if isinstance(each, NoSuchJob):
                lost += 1
                outcomes.append({"done": False, "says": str(each)})
            elif isinstance(each, BaseException):
                raise each
            else:
                outcomes.append(each)
        outcome: data.Outcome = {
            "done": any(each["done"] for each in outcomes),
            "says": ". ".join(each["says"] for each in outcomes),
        }
        return self._tell(request, links, outcome, 409 if lost == len(told) else 200)

    def _tell(
        self, request: web.Request, links: Links, outcome: data.Outcome, status: int = 200
    ) -> web.Response:
        return tell(self._pages, request, links, outcome, status)


_NO_FILTER = (
    "Nothing was cancelled: search for something or choose a name first, as all that fit "
    "are cancelled"
)


def wants_json(request: web.Request) -> bool:
    """Return whether a script asks, ours or somebody else's."""
    return "application/json" in request.headers.get("Accept", "")


def tell(
    pages: Pages,
    request: web.Request,
    links: Links,
    outcome: data.Outcome,
    status: int,
    back: str = "overview",
) -> web.Response:
    """Answer with the outcome of an action; as a page, it leads back to this route."""
    if wants_json(request):
        return web.json_response(outcome, status=status)
    return pages.message(request, links, f"{outcome['says']}.", status, back)


async def fields_of(request: web.Request) -> MultiMapping[str]:
    """Return the text fields of one of our forms; anything else is left out."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="415: A form of the dashboard is needed")
    form = await request.post()
    return MultiDict((k, value) for k, value in form.items() if isinstance(value, str))


def _processes(fields: MultiMapping[str]) -> list[str]:
    """Return the processes that were chosen, each once."""
    chosen = list(dict.fromkeys(fields.getall("process", [])))
    if not chosen:
        raise web.HTTPBadRequest(text="400: Nothing was done: no worker was chosen")
    return chosen[:MOST_PROCESSES]


def _pairs(fields: MultiMapping[str], values: list[T]) -> list[tuple[str, T]]:
    """Return the processes, each with what the form says of it."""
    processes = _processes(fields)
    if len(processes) != len(values):
        raise web.HTTPBadRequest(text="400: A form of the dashboard is needed")
    return list(zip(processes, values, strict=True))


def _only(overview: data.Overview) -> data.Worker:
    """Return the one process that is shown, as if it were one of several."""
    return {
        "number": 0,
        "trouble": "",
        "process": overview["process"],
        "now": overview["now"],
    }


def _chosen(workers: list[data.Worker], names: list[str]) -> list[data.Worker]:
    """Return the chosen workers that answer; if none was chosen, all that answer."""
    return [
        worker
        for worker in workers
        if worker["process"] and (not names or worker["process"]["name"] in names)
    ]


def _limit(fields: Mapping[str, str]) -> int | None:
    """Return the limit in a form; an empty field means no limit."""
    text = fields.get("limit", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
        return int(text)
    raise web.HTTPBadRequest(text="400: limit takes a number from 1 on, or nothing")


def _starts(worker: data.Worker, limit: int | None) -> int:
    """Return how many pending jobs would start at once under another limit."""
    now = worker["now"]
    if now is None or worker["process"] is None or worker["process"]["held"]:
        return 0
    free = now["pending"] if limit is None else max(0, limit - now["slots_taken"])
    return min(free, now["pending"])
