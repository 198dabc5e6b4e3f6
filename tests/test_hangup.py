"""A client's own hang-up is no failure; a failure of something else is one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs import JobState, Scheduler, atomic, setup, shield
from tests.clients import (
    UPGRADE,
    Failures,
    Gate,
    both_cancellations,
    one_route,
    serving,
    turns,
)

Talk = Callable[[web.Request], Awaitable[None]]


async def write_chunks(request: web.Request) -> None:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 2**16)


async def write_headers(request: web.Request) -> None:
    await web.StreamResponse().prepare(request)


async def write_text(request: web.Request) -> None:
    response = web.Response(text="done")
    await response.prepare(request)
    await response.write_eof()


async def read_all(request: web.Request) -> None:
    await request.read()


async def read_chunks(request: web.Request) -> None:
    async for _ in request.content.iter_chunked(2):
        pass


async def read_parts(request: web.Request) -> None:
    async for _ in await request.multipart():
        pass


async def write_in_a_group(request: web.Request) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(write_chunks(request))
        group.create_task(write_headers(request))


async def write_through_gather(request: web.Request) -> None:
    await asyncio.gather(write_chunks(request))


async def write_by_a_library(request: web.Request) -> None:
    """Write by a library that does not know the request."""
    response = web.StreamResponse()
    await json_lines(response.prepare(request))


async def json_lines(begin: Awaitable[Any]) -> None:
    await begin


TALKS = {
    "chunks": write_chunks,
    "headers": write_headers,
    "text": write_text,
    "read": read_all,
    "read-chunks": read_chunks,
    "read-parts": read_parts,
    "group": write_in_a_group,
    "gather": write_through_gather,
    "library": write_by_a_library,
}
# These are over before anybody can hang up.
QUICK = {"headers", "text", "library"}


class Job:
    """An atomic handler that talks to its client when the test says so."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.gate = Gate()
        self.ended = asyncio.Event()
        self.states: list[JobState] = []
        self.failures = Failures()
        self.app = one_route(atomic(self.handler))
        self.scheduler: Scheduler = setup(
            self.app, exception_handler=self.failures, observers=[self]
        )

    def job_closed(self, job: Any) -> None:
        self.states.append(job.state)
        assert (job.exception() is None) is (job.state is not JobState.FAILED)

    async def handler(self, request: web.Request) -> web.StreamResponse:
        await self.gate.pass_through()
        try:
            await self._talk(request)
        finally:
            self.ended.set()
        return web.Response()


@pytest.mark.parametrize(
    ("name", "when"),
    [
        *((name, "before") for name in TALKS),
        *((name, "meanwhile") for name in TALKS if name not in QUICK),
    ],
)
@both_cancellations
async def test_client_hangs_up_that_is_no_failure_and_counted_by_itself(
    name: str, when: str, handler_cancellation: bool
) -> None:
    """W4: a ConnectionError because the request's own client has gone is not reported."""
    job = Job(TALKS[name])
    async with serving(job.app, handler_cancellation=handler_cancellation) as server:
        client = await server.connect()
        await client.send(
            "POST",
            "/",
            "--x\r\n",
            length=999,
            headers="Content-Type: multipart/mixed; boundary=x\r\n",
        )
        await job.gate.reached.wait()
        if when == "meanwhile":
            job.gate.open()
            await turns()
        await client.hang_up()
        job.gate.open()
        await job.ended.wait()
        await turns()
    assert job.states == [JobState.HUNG_UP]
    statistics = job.scheduler.statistics()
    assert (statistics.hung_up, statistics.failed, statistics.succeeded) == (1, 0, 0)
    assert job.failures == []


@both_cancellations
async def test_client_hangs_up_on_a_file_that_is_no_failure(
    handler_cancellation: bool, tmp_path: Path
) -> None:
    """W4: also if the operating system sends the file, and is the first to notice."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(2**28)  # more than any buffer on the way

    async def send(request: web.Request) -> None:
        await web.FileResponse(path).prepare(request)

    job = Job(send)
    async with serving(job.app, handler_cancellation=handler_cancellation) as server:
        client = await server.send("GET", "/")
        job.gate.open()
        assert (await client.receive_some()).startswith("HTTP/1.1 200 OK\r\n")
        client.close()
        await job.ended.wait()
        await turns()
    assert job.states == [JobState.HUNG_UP]
    assert job.failures == []


async def test_client_hangs_up_on_a_web_socket_that_is_no_failure() -> None:
    """W4: a web socket has a writer of its own."""
    gone = asyncio.Event()

    async def talk(request: web.Request) -> None:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await gone.wait()
        while True:
            await socket.send_str("hello")

    job = Job(talk)
    job.gate.open()
    async with serving(job.app) as server:
        client = await server.connect()
        await client.send("GET", "/", headers=UPGRADE)
        assert (await client.receive()).status == 101
        await client.hang_up()
        gone.set()
        await job.ended.wait()
        await turns()
    assert job.states == [JobState.HUNG_UP]
    assert job.failures == []


# -- failures ---------------------------------------------------------------------------


async def use_a_database(request: web.Request) -> None:
    raise ConnectionRefusedError("the database is down")


async def use_a_database_that_hangs_up(request: web.Request) -> None:
    """Use asyncio's own streams, as drivers do."""
    async with asyncio.timeout(10):

        async def hang_up(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            writer.transport.abort()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as database:
            port = database.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(b"x" * 2**16)
                    await writer.drain()
            finally:
                writer.transport.abort()


async def fail_while_writing(request: web.Request) -> None:
    """Write rows that come from a failing database."""

    async def rows() -> Any:
        yield b"row"
        await use_a_database(request)

    response = web.Response(body=rows())
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
    await use_a_database(request)


async def fail_in_a_group(request: web.Request) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(use_a_database(request))
        group.create_task(write_headers(request))


async def fail_because_of_it(request: web.Request) -> None:
    try:
        await write_chunks(request)
    except ConnectionError as error:
        raise ValueError("the client has not got its receipt") from error


FAILING = {
    "database": use_a_database,
    "database-hangs-up": use_a_database_that_hangs_up,
    "writing": fail_while_writing,
    "group": fail_in_a_group,
    "because": fail_because_of_it,
}


@pytest.mark.parametrize("talk", FAILING.values(), ids=FAILING)
async def test_client_hangs_up_the_failure_of_something_else_is_told(
    talk: Talk,
) -> None:
    """W4, R2: the ConnectionError of a database is a failure, even when the client has
    gone; so is an exception that the handler raises because of a hang-up."""
    job = Job(talk)
    async with serving(job.app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await job.gate.reached.wait()
        await client.hang_up()
        job.gate.open()
        await job.ended.wait()
        await turns()
    assert job.states == [JobState.FAILED]
    assert len(job.failures) == 1


@pytest.mark.parametrize("talk", [use_a_database, use_a_database_that_hangs_up])
async def test_database_is_down_while_the_client_waits_it_gets_500(talk: Talk) -> None:
    """W4: an error comes out as without @atomic."""
    job = Job(talk)
    job.gate.open()
    async with serving(job.app) as server:
        assert (await server.get()).status == 500
    assert job.states == [JobState.FAILED]


async def test_another_client_hangs_up_that_is_a_failure() -> None:
    """W4: a handler that writes to many clients has failed if it does not expect that one
    of them has gone; its own client waits for the answer."""
    sockets: list[web.WebSocketResponse] = []
    connected, gone = asyncio.Event(), asyncio.Event()

    async def listen(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sockets.append(socket)
        connected.set()
        await gone.wait()
        return socket

    async def talk(request: web.Request) -> None:
        for socket in sockets:
            while True:
                await socket.send_str("news")

    job = Job(talk)
    job.gate.open()
    job.app.router.add_get("/listen", listen)
    async with serving(job.app) as server:
        client = await server.connect()
        await client.send("GET", "/listen", headers=UPGRADE)
        assert (await client.receive()).status == 101
        await connected.wait()
        await client.hang_up()
        answer = await server.get()
        gone.set()
        assert answer.status == 500
    assert job.states == [JobState.FAILED]


# -- shields ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["coroutine", "task", "gather"])
@pytest.mark.parametrize("talk", [write_chunks, write_headers, use_a_database])
async def test_client_hangs_up_on_what_is_shielded_that_is_no_failure(
    talk: Talk, shape: str
) -> None:
    """W4: nor is it a failure of a shielded awaitable, whose caller has gone with the
    client; but other failures there are reported (R2)."""
    gate, failures = Gate(), Failures()
    ended = asyncio.Event()

    async def work(request: web.Request) -> None:
        await gate.pass_through()
        try:
            await talk(request)
        finally:
            ended.set()

    async def handler(request: web.Request) -> web.StreamResponse:
        arg: Any = work(request)
        if shape == "task":
            arg = asyncio.ensure_future(arg)
        elif shape == "gather":
            arg = asyncio.gather(arg)
        await shield(request, arg)
        return web.Response()

    app = one_route(handler)
    setup(app, exception_handler=failures)
    async with serving(app, handler_cancellation=True) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        await client.hang_up()
        gate.open()
        await ended.wait()
        await turns()
    assert len(failures) == (1 if talk is use_a_database else 0)


async def test_caller_waits_for_what_is_shielded_it_gets_the_error() -> None:
    """W4: a caller that is still there gets the error."""
    gate, failures = Gate(), Failures()
    caught: list[BaseException] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        await gate.pass_through()
        try:
            await shield(request, write_chunks(request))
        except ConnectionError as error:
            caught.append(error)
        return web.Response()

    app = one_route(handler)
    setup(app, exception_handler=failures)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await gate.reached.wait()
        await client.hang_up()
        gate.open()
        await turns()
    assert len(caught) == 1
    assert failures == []
