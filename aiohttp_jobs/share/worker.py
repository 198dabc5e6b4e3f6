"""A worker that the others of its application can ask, from start to end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

from aiohttp import web

from .deadlines import check_deadline
from .folder import check_share
from .names import VERSION, application_id
from .peer import is_own_user, peer_of
from .place import Place

__all__ = ("Handler", "Worker")

#: What answers the others.
Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log: Final = logging.getLogger("aiohttp_jobs")

# Seconds from one look at the directory to the next.
_PATROL: Final = 2.0
# Seconds that answers under way are given at the end.
_GRACE: Final = 1.0


class Worker:
    """This process, for the other workers of its application.

    Args:
        share: the path of the directory that they share.
        handlers: what answers them, by path; GET and POST requests. A POST that is late
            does not reach its handler, see ``deadlines``. Handlers are looked up at each
            request, so they may be added and removed while the worker is open.
        application: what the application is called, to tell its workers from those of
            another one; None for the program, and the directory that it runs in.
        patrol: seconds from one look at the directory to the next.

    Raises:
        TypeError, ValueError: the path is invalid.
        RuntimeError: workers cannot find each other on this platform.
    """

    def __init__(
        self,
        share: str | os.PathLike[str],
        handlers: Mapping[str, Handler],
        *,
        application: str | None = None,
        patrol: float = _PATROL,
    ) -> None:
        self._path = check_share(share)
        self._handlers = handlers
        self._application = application
        self._patrol = patrol
        self._place: Place | None = None
        self._number = 0
        self._runner: web.ServerRunner | None = None
        self._server: asyncio.AbstractServer | None = None
        self._watch: asyncio.Task[None] | None = None
        # What was wrong at the last look, so that it is logged once.
        self._trouble = ""

    @property
    def place(self) -> Place | None:
        """Where the others find it; None before its start, after its end, and while the
        directory is gone or refused."""
        return self._place

    @property
    def number(self) -> int:
        """Its number; while it has none, the last one."""
        return self._number

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """Be open while this application runs: one of its clean-up contexts.

        A server that forks has forked by then. The jobs end before the clean-up contexts,
        so a worker that drains can still be asked.
        """
        await self.open()
        try:
            yield
        finally:
            await self.close()

    async def open(self) -> None:
        """Take a number, and answer.

        Raises:
            RuntimeError: it is already open, or the directory is refused.
            OSError: a file in there cannot be made.

        Cancellation:
            It is closed, as if it had never been open.
        """
        if self._runner is not None:
            raise RuntimeError("Worker.open() was called twice: close it first")
        # No application: its routes and middlewares would cost each question more than
        # all that is needed here.
        server = web.Server(self._answer, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_GRACE)
        try:
            await self._runner.setup()
            await self._take_place(None)
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.create_task(self._keep_place())

    async def close(self) -> None:
        """Leave the directory, and end what is being answered. May be called twice.

        Cancellation:
            The place is given up all the same; requests are broken off.
        """
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(watch, return_exceptions=True)
        self._leave_place()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def look(self) -> None:
        """Check that the others find this worker; if they would not, put it back.

        Its number stays the same, unless another worker was quicker to take it. What goes
        wrong is logged, once.
        """
        place = self._place
        if place is not None and place.is_whole():
            return
        self._leave_place()
        try:
            await self._take_place(None if place is None else place.number)
        except (OSError, RuntimeError) as exc:
            if self._trouble != str(exc):
                self._trouble = str(exc)
                _log.warning("The other workers cannot find this one: %s", exc)
            return
        self._trouble = ""
        _log.warning("The directory %r was repaired: this worker is in it", self._path)

    async def _keep_place(self) -> None:
        while True:
            await asyncio.sleep(self._patrol)
            await self.look()

    async def _take_place(self, wish: int | None) -> None:
        assert self._runner is not None
        serve = self._runner.server
        assert serve is not None
        place = Place(self._path, application_id(self._application), wish)
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(serve, sock=place.socket)
        except BaseException:
            place.close()
            raise
        self._place = place
        self._number = place.number

    def _leave_place(self) -> None:
        place, self._place = self._place, None
        server, self._server = self._server, None
        # The name goes first: so nobody finds a socket at which nobody answers. The
        # server goes before its socket, which the event loop still looks at.
        if place is not None:
            place.leave()
        if server is not None:
            server.close()
        if place is not None:
            place.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.transport and request.transport.get_extra_info("socket")
        if not connection or not is_own_user(peer_of(connection.fileno())):
            raise web.HTTPForbidden(text="This socket is for workers of its own user.")
        if request.path == "/":
            return self._hello()
        handler = self._handlers.get(request.path)
        if handler is None:
            raise web.HTTPNotFound
        if request.method not in ("GET", "POST"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"])
        if request.method == "POST":
            await check_deadline(request)
        return await handler(request)

    def _hello(self) -> web.Response:
        assert self._place is not None
        return web.json_response(
            {
                "version": VERSION,
                "number": self._place.number,
                "process": os.getpid(),
            }
        )
