"""Answering: what this process tells the other workers, and does for them.

As JSON, over a socket that only processes of this user can speak to. A request to do
something says who asked for it and what they may do, and is logged here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import fields
from itertools import islice
from typing import Any, Final, TypeAlias

from aiohttp import web

from aiohttp_jobs.core.names import shown
from aiohttp_jobs.share.worker import Handler

from .access import Access, Visitor
from .pieces import Teller
from .process import process_name
from .query import Query
from .source import NoSuchJob, ThisProcess

__all__ = ("MOST_QUERIES", "Answering", "packed_query", "packed_visitor")

_Act: TypeAlias = Callable[[Any, Visitor], Awaitable[object]]

# How many filters are looked at in one answer.
MOST_QUERIES: Final = 50


class Answering:
    """The handlers.

    Args:
        source: what this process knows.
        number: returns this worker's current number.
    """

    def __init__(self, source: ThisProcess, number: Callable[[], int]) -> None:
        self._source = source
        self._number = number
        self._teller = Teller()

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by path, as :class:`.share.member.Member` takes them."""
        source = self._source
        actions: dict[str, _Act] = {
            "cancel": lambda data, visitor: source.cancel(data["address"], visitor),
            "cancel-matching": lambda data, visitor: source.cancel_matching(
                _query(data["query"]), data["process"], data["until"], visitor
            ),
            "hold": lambda data, visitor: source.hold(data["process"], visitor),
            "release": lambda data, visitor: source.release(data["process"], visitor),
            "limit": lambda data, visitor: source.change_limit(
                data["process"], data["before"], data["limit"], visitor
            ),
        }
        return {
            "overview": self._overview,
            "job": self._job,
            "pending": self._pending,
            "matching": self._matching,
            **{path: _acting(act) for path, act in actions.items()},
        }

    async def _overview(self, request: web.BaseRequest) -> web.Response:
        asked = await request.json()
        some = islice(asked["queries"].items(), MOST_QUERIES)
        queries = {name: _query(sent) for name, sent in some}
        part, looks = self._source.voice(self._number(), queries.values())
        known = asked["known"].get(process_name(), {})
        told = dict(zip(queries, looks, strict=True))
        return web.json_response(self._teller.tell(part, told, known))

    async def _job(self, request: web.BaseRequest) -> web.Response:
        return await _answer(self._source.job(request.query["address"]))

    async def _pending(self, request: web.BaseRequest) -> web.Response:
        query = _query(await request.json())
        return await _answer(self._source.find_pending(query))

    async def _matching(self, request: web.BaseRequest) -> web.Response:
        query = _query(await request.json())
        return await _answer(self._source.matching_here(query))


def _acting(act: _Act) -> Handler:
    async def handler(request: web.BaseRequest) -> web.Response:
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        data = await request.json()
        visitor = _visitor(data["visitor"])
        if visitor.access is not Access.MANAGE:
            raise web.HTTPForbidden
        return await _answer(act(data, visitor))

    return handler


async def _answer(told: Awaitable[object]) -> web.Response:
    try:
        return web.json_response({"told": await told})
    except NoSuchJob as error:
        return web.json_response({"refused": str(error)})


# -- what is sent -----------------------------------------------------------------------


def packed_query(query: Query) -> dict[str, Any]:
    """Return a query as JSON can hold it."""
    return {field.name: getattr(query, field.name) for field in fields(query)}


def _query(sent: dict[str, Any]) -> Query:
    return Query(**sent)


def packed_visitor(visitor: Visitor) -> dict[str, Any]:
    """Return a visitor as JSON can hold it."""
    return {
        "access": int(visitor.access),
        "name": visitor.name,
        "remote": visitor.remote,
    }


def _visitor(sent: dict[str, Any]) -> Visitor:
    name = None if sent["name"] is None else shown(sent["name"])
    return Visitor(Access(sent["access"]), name, shown(sent["remote"]))
