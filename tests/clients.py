"""A server and its clients, over real sockets, to hang up while a handler is held.

Everything waits for events, and `serving` bounds all waits: a missing event is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from aiohttp_jobs import Scheduler
from aiohttp_jobs.core.states import SchedulerState

__all__ = (
    "UPGRADE",
    "Answer",
    "Client",
    "Failures",
    "Gate",
    "Handler",
    "Server",
    "both_cancellations",
    "draining",
    "one_route",
    "read_answer",
    "resource",
    "serving",
    "turns",
)

# Seconds after which a test has failed; a passing test never waits this long.
PATIENCE = 20.0

# The headers of a request that opens a web socket.
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

both_cancellations = pytest.mark.parametrize(
    "handler_cancellation",
    [
        pytest.param(True, id="handler-cancellation"),
        pytest.param(False, id="no-handler-cancellation"),
    ],
)


class Gate:
    """A place where code under test stops until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()


class Failures(list[dict[str, Any]]):
    """An exception handler that keeps the contexts it is called with."""

    def __call__(self, scheduler: Scheduler, context: dict[str, Any]) -> None:
        self.append(context)

    def exceptions(self) -> list[str]:
        return [repr(context["exception"]) for context in self]


@dataclass(frozen=True)
class Answer:
    """The response that a client got."""

    status: int
    headers: Mapping[str, str]  # the names in lower case
    text: str


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read the whole answer; EOFError if the server breaks off before its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.strip().split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(status.split()[1]), headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> str:
    if headers.get("transfer-encoding") != "chunked":
        size = int(headers.get("content-length", 0))
        return (await reader.readexactly(size)).decode()
    chunks = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return chunks.decode()


class Client:
    """One raw connection, which can be aborted at any moment."""

    def __init__(
        self,
        server: Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    async def send(
        self,
        method: str,
        path: str,
        body: str = "",
        *,
        length: int | None = None,
        headers: str = "",
    ) -> None:
        """Send a request, without waiting for its answer.

        Args:
            length: the length of the body, if the rest of it is sent later or never.
            headers: more headers, each with its line end.
        """
        length = len(body) if length is None else length
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"
            f"Content-Length: {length}\r\n\r\n{body}".encode()
        )
        await self._writer.drain()

    async def send_more(self, body: str) -> None:
        self._writer.write(body.encode())
        await self._writer.drain()

    async def receive(self) -> Answer:
        """Wait for the whole answer; EOFError if the server breaks off before it."""
        return await read_answer(self._reader)

    async def receive_some(self) -> str:
        """Wait for the next bytes, whatever they are."""
        return (await self._reader.read(2**16)).decode()

    async def hang_up(self) -> None:
        """Abort the connection, and return when the server has noticed."""
        lost = self._server.losses()
        self._writer.transport.abort()
        await lost
        # The server cancels its handler in the next turns of the loop.
        await turns()

    def close(self) -> None:
        self._writer.transport.abort()


class Server(TestServer):
    """An application on a port of its own, with the options of `web.run_app`.

    Args:
        app: the application.
        handler_cancellation: as for `web.run_app`; aiohttp's own test server always
            has it.
        shutdown_timeout: seconds that handlers are given at shutdown.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        handler_cancellation: bool = False,
        shutdown_timeout: float = PATIENCE,
    ) -> None:
        super().__init__(app)
        self._options = {
            "handler_cancellation": handler_cancellation,
            "shutdown_timeout": shutdown_timeout,
            "access_log": None,
        }
        # What the loop's exception handler was called with. A test that expects an error
        # removes it.
        self.loop_errors: list[dict[str, Any]] = []
        self._waiting_for_loss: list[asyncio.Future[None]] = []
        self._clients: list[Client] = []

    async def _make_runner(self, **kwargs: Any) -> web.AppRunner:
        return web.AppRunner(self.app, **{**kwargs, **self._options})

    async def start_server(self, *args: Any, **kwargs: Any) -> None:
        await super().start_server(*args, **kwargs)
        server = self.handler
        connection_lost = server.connection_lost

        def lost(*args: Any) -> None:
            connection_lost(*args)
            while self._waiting_for_loss:
                waiting = self._waiting_for_loss.pop()
                if not waiting.done():
                    waiting.set_result(None)

        server.connection_lost = lost  # type: ignore[assignment,method-assign]

    def losses(self) -> asyncio.Future[None]:
        """Return a future that is done when the server has lost a connection."""
        future = asyncio.get_running_loop().create_future()
        self._waiting_for_loss.append(future)
        return future

    async def connect(self) -> Client:
        assert self.port is not None
        client = Client(self, *await asyncio.open_connection(self.host, self.port))
        self._clients.append(client)
        return client

    async def send(self, method: str, path: str, body: str = "") -> Client:
        """Send a request from a new client."""
        client = await self.connect()
        await client.send(method, path, body)
        return client

    async def request(self, method: str, path: str, body: str = "") -> Answer:
        client = await self.send(method, path, body)
        return await client.receive()

    async def get(self, path: str = "/") -> Answer:
        return await self.request("GET", path)

    def drop_clients(self) -> None:
        for client in self._clients:
            client.close()


@contextlib.asynccontextmanager
async def serving(
    app: web.Application,
    *,
    handler_cancellation: bool = False,
    shutdown_timeout: float = PATIENCE,
) -> AsyncIterator[Server]:
    """Serve the application; at the end, fail if tasks or errors are left."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    server = Server(
        app,
        handler_cancellation=handler_cancellation,
        shutdown_timeout=shutdown_timeout,
    )
    loop.set_exception_handler(lambda loop, context: server.loop_errors.append(context))
    try:
        async with asyncio.timeout(PATIENCE):
            await server.start_server()
            try:
                yield server
            except BaseException:
                # The test has failed, so nobody will open its gates.
                for task in asyncio.all_tasks() - before:
                    task.cancel()
                raise
            finally:
                server.drop_clients()
                await server.close()
        await turns()
        left = asyncio.all_tasks() - before
        assert not left, f"left running: {left}"
        gc.collect()
        assert not server.loop_errors, f"the loop was told: {server.loop_errors}"
    finally:
        loop.set_exception_handler(None)


async def turns(count: int = 20) -> None:
    """Let everything run that is ready, and what becomes ready by that."""
    for _ in range(count):
        await asyncio.sleep(0)


async def draining(scheduler: Scheduler) -> None:
    """Wait until the scheduler is draining, or past that."""
    async with asyncio.timeout(PATIENCE):
        while scheduler.state is SchedulerState.OPEN:  # noqa: ASYNC110
            await asyncio.sleep(0)


def one_route(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | type[web.View],
) -> web.Application:
    """Make an application with this handler, for all methods of "/"."""
    app = web.Application()
    app.router.add_route("*", "/", handler)
    return app


def resource(name: str, log: list[str]) -> Callable[[web.Application], Any]:
    """Make a clean-up context, such as a database's, that logs when it is left."""

    async def context(app: web.Application) -> AsyncIterator[None]:
        yield
        log.append(f"{name} closed")

    return context
