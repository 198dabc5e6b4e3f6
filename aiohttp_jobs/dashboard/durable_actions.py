"""Durable actions: the handlers that retry or drop dead jobs; each asks first."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from aiohttp import web

from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.scheduler import Scheduler

from . import data
from .access import VISITOR, require_manage
from .actions import fields_of, tell
from .durable_data import Turned
from .durable_source import DurableSource, NoSuchDead, find_durable
from .durable_views import DEAD, NONE
from .pages import Links, Pages

__all__ = ("DurableActions",)

_WORDS = {"retry": "Retry", "drop": "Drop"}


class DurableActions:
    """The handlers. A GET asks, a POST does.

    Args:
        scheduler: the scheduler whose durable jobs are meant.
    """

    def __init__(self, scheduler: Scheduler, pages: Pages) -> None:
        self._scheduler = scheduler
        self._pages = pages

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers into the dashboard's application."""
        one, all_of = f"{DEAD}/{{action:retry|drop}}", "/durable/{action:retry|drop}"
        app.add_routes(
            [
                web.get(one, self.ask, name="durable-change"),
                web.post(one, self.do),
                web.get(all_of, self.ask_for_all, name="durable-change-all"),
                web.post(all_of, self.do_to_all),
            ]
        )

    async def ask(self, request: web.Request) -> web.Response:
        require_manage(request)
        action, id = request.match_info["action"], request.match_info["id"]
        links = self._pages.links("durable-change", action=action, id=id)
        source = self._source(request)
        try:
            dead = await source.dead(id)
        except NoSuchDead as error:
            return self._pages.message(request, links, f"{error}.", 404, "durable")
        except StoreUnavailable as error:
            return self._pages.message(request, links, _in_vain(error), 503, "durable")
        context = {**dead, "action": action, "word": _WORDS[action]}
        return self._pages.page("durable_change.html", request, links, context)

    async def do(self, request: web.Request) -> web.Response:
        action, id = request.match_info["action"], request.match_info["id"]
        links = self._pages.links("durable-change", action=action, id=id)
        source = self._source(request)
        change = source.retry if action == "retry" else source.drop
        try:
            outcome = await change(id, request[VISITOR])
        except NoSuchDead as error:
            return self._tell(request, links, {"done": False, "says": str(error)}, 404)
        except StoreUnavailable as error:
            return self._tell(request, links, _failed(error), 503)
        return self._tell(request, links, outcome)

    async def ask_for_all(self, request: web.Request) -> web.Response:
        require_manage(request)
        action = request.match_info["action"]
        links = self._pages.links("durable-change-all", action=action)
        # Before they are counted: jobs that die later are left alone.
        until = time.time()
        told = await self._source(request).overview(Turned())
        if told["now"] is None:
            says = told["silent"] or " ".join(told["faults"])
            return self._pages.message(request, links, says, 503, "durable")
        context = {
            "action": action,
            "word": _WORDS[action],
            "until": until,
            "count": told["now"]["dead"],
        }
        return self._pages.page("durable_change_all.html", request, links, context)

    async def do_to_all(self, request: web.Request) -> web.Response:
        action = request.match_info["action"]
        links = self._pages.links("durable-change-all", action=action)
        until = _moment(await fields_of(request))
        source = self._source(request)
        change = source.retry_all if action == "retry" else source.drop_all
        try:
            outcome = await change(until, request[VISITOR])
        except StoreUnavailable as error:
            return self._tell(request, links, _failed(error), 503)
        return self._tell(request, links, outcome)

    def _source(self, request: web.Request) -> DurableSource:
        source = find_durable(request, self._scheduler)
        if source is None:
            raise web.HTTPNotFound(text=f"404: {NONE}")
        return source

    def _tell(
        self, request: web.Request, links: Links, outcome: data.Outcome, status: int = 200
    ) -> web.Response:
        return tell(self._pages, request, links, outcome, status, "durable")


def _moment(fields: Mapping[str, str]) -> float:
    try:
        until = float(fields.get("until", ""))
    except ValueError:
        until = math.nan
    if not math.isfinite(until):
        raise web.HTTPBadRequest(text="400: until takes a number")
    return until


def _in_vain(error: StoreUnavailable) -> str:
    return f"It cannot be done just now: {error.args[0]}."


def _failed(error: StoreUnavailable) -> data.Outcome:
    return {"done": False, "says": f"It cannot be done just now: {error.args[0]}"}
