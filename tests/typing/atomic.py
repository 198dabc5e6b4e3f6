"""@atomic keeps the types of what it decorates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import assert_type

from aiohttp import web
from aiohttp.typedefs import Handler

from aiohttp_jobs import atomic

routes = web.RouteTableDef()


class Notes:
    """Handlers that are methods, and one that takes more than the request."""

    @atomic
    async def read(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse("notes.txt")

    @atomic
    async def write(self, mode: str, request: web.Request) -> web.Response:
        return web.Response()

    @classmethod
    @atomic
    async def count(cls, request: web.Request) -> web.Response:
        return web.Response()

    @staticmethod
    @atomic
    async def erase(request: web.Request) -> web.Response:
        return web.Response()


@atomic
class WholeView(web.View):
    """All its methods are atomic."""

    letters = 3

    async def get(self) -> web.Response:
        return web.Response()


class PartialView(web.View):
    """One of its methods is atomic."""

    @atomic
    async def post(self) -> web.StreamResponse:
        return web.StreamResponse()


@atomic
async def show(request: web.Request) -> web.Response:
    return web.Response()


@routes.get("/routed")
@atomic
async def routed(request: web.Request) -> web.Response:
    return web.Response()


@atomic
async def chat(request: web.Request) -> web.WebSocketResponse:
    return web.WebSocketResponse()


@atomic
@atomic
async def twice(request: web.Request) -> web.Response:
    return web.Response()


@atomic
def awaitable(request: web.Request) -> Awaitable[web.Response]:
    return show(request)


@atomic
async def generous(request: web.Request, *words: str, loud: bool = False) -> web.Response:
    return web.Response()


async def functions(request: web.Request) -> None:
    assert_type(await show(request), web.Response)
    assert_type(await show(request=request), web.Response)
    assert_type(await chat(request), web.WebSocketResponse)
    assert_type(await twice(request), web.Response)
    assert_type(await awaitable(request), web.Response)
    assert_type(await generous(request, "a", "b", loud=True), web.Response)

    await show()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await show("/")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await show(query=request)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await generous(request, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await generous(request, loud="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def methods(request: web.Request, notes: Notes) -> None:
    assert_type(await notes.read(request), web.FileResponse)
    assert_type(await Notes.read(notes, request), web.FileResponse)
    assert_type(await notes.write("a", request), web.Response)
    assert_type(await Notes.count(request), web.Response)
    assert_type(await Notes.erase(request), web.Response)

    await notes.read()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await notes.write(request)  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    await Notes.read(request)  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]


async def views(request: web.Request) -> None:
    assert_type(WholeView, type[WholeView])
    assert_type(WholeView(request).letters, int)
    assert_type(await WholeView(request).get(), web.Response)
    assert_type(await PartialView(request).post(), web.StreamResponse)

    WholeView()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await PartialView(request).post(request)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def routing(app: web.Application, notes: Notes) -> None:
    handler: Handler = show
    app.router.add_get("/", handler)
    app.router.add_get("/notes", notes.read)
    app.router.add_get("/chat", chat)
    app.router.add_view("/view", WholeView)
    app.router.add_view("/other", PartialView)
    app.add_routes([web.get("/again", twice), web.view("/third", WholeView)])

    takes_text(show)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def takes_text(handler: Callable[[str], Awaitable[web.Response]]) -> None:
    pass


def refused() -> None:
    def blocking(request: web.Request) -> web.Response:
        return web.Response()

    class Plain:
        pass

    atomic(blocking)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    atomic(Plain)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    atomic("show")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    atomic()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
