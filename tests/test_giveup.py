"""Requests that were given up while something still tries to answer them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request

from aiohttp_jobs import Scheduler, atomic, setup, shield, spawn
from aiohttp_jobs.web.giveup import guard
from tests.clients import (
    UPGRADE,
    Answer,
    Client,
    Failures,
    Gate,
    Handler,
    both_cancellations,
    one_route,
    serving,
    turns,
)

# Data that must not reach anybody else.
SECRET = "alice's secret"


class Deadline:
    """A middleware that answers 504 when the test says so.

    Args:
        way: how it bounds the time, one of `WAYS`.
        hold: let the test hold it before it answers.
    """

    def __init__(self, way: str = "timeout", *, hold: bool = False) -> None:
        self._way = way
        self._hold = hold
        self.gate = Gate()
        self._passed = asyncio.Event()

    def pass_by(self) -> None:
        self._passed.set()

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def deadline(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._passed.is_set():
                return await handler(request)
            try:
                answer: Any = handler(request)
                return await HASTY[self._way](answer, self._passed)  # type: ignore[no-any-return]
            except TimeoutError:
                if self._hold:
                    await self.gate.pass_through()
                return web.Response(status=504, text="too slow")

        return deadline


async def by_timeout(answer: Awaitable[Any], passed: asyncio.Event) -> Any:
    async with asyncio.timeout(None) as timeout:

        async def expire() -> None:
            await passed.wait()
            timeout.reschedule(asyncio.get_running_loop().time())

        watcher = asyncio.create_task(expire())
        try:
            return await answer
        finally:
            watcher.cancel()


async def by_a_hasty_task(answer: Awaitable[Any], passed: asyncio.Event) -> Any:
    """Answer without waiting for the cancelled task to end."""
    task = asyncio.ensure_future(answer)
    watcher = asyncio.create_task(passed.wait())
    await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
    watcher.cancel()
    if not task.done():
        task.cancel()
        raise TimeoutError
    return await task


async def by_a_task(answer: Awaitable[Any], passed: asyncio.Event) -> Any:
    """Do as asyncio.wait_for() does on Python 3.11."""
    task = asyncio.ensure_future(answer)
    watcher = asyncio.create_task(passed.wait())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if passed.is_set():
        raise TimeoutError
    return await task


WAYS = {"timeout": by_timeout, "task": by_a_task}
HASTY = {**WAYS, "hasty": by_a_hasty_task}


# -- what writes ------------------------------------------------------------------------


async def write_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"X-Secret": SECRET})
    await response.prepare(request)
    await response.write(SECRET.encode())
    await response.write_eof()
    return response


async def write_text(request: web.Request) -> web.StreamResponse:
    response = web.Response(text=SECRET)
    await response.prepare(request)
    await response.write_eof()
    return response


async def write_compressed(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"X-Secret": SECRET})
    response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    await response.write(SECRET.encode())
    await response.write_eof()
    return response


async def write_file(request: web.Request) -> web.StreamResponse:
    response = web.FileResponse(__file__, headers={"X-Secret": SECRET})
    await response.prepare(request)
    await response.write_eof()
    return response


async def write_to_socket(request: web.Request) -> web.StreamResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    await response.send_str(SECRET)
    return response


async def write_raw(request: web.Request) -> web.StreamResponse:
    await request.writer.write(SECRET.encode())
    return web.Response()


async def write_from_a_child(request: web.Request) -> web.StreamResponse:
    async with asyncio.TaskGroup() as group:
        group.create_task(write_stream(request))
    return web.Response()


async def return_text(request: web.Request) -> web.StreamResponse:
    return web.Response(text=SECRET)


WRITERS = {
    "stream": write_stream,
    "text": write_text,
    "compressed": write_compressed,
    "file": write_file,
    "socket": write_to_socket,
    "raw": write_raw,
    "child": write_from_a_child,
    "returned": return_text,
}
all_writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)

Write = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Late:
    """A handler whose work goes on, and writes, after its request was given up.

    Args:
        write: how it writes.
        shape: how the work belongs to the request, one of `SHAPES`.
    """

    def __init__(self, write: Write = write_stream, shape: str = "atomic") -> None:
        self._write = write
        self.gate = Gate()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.failures = Failures()
        self.handler = SHAPES[shape](self.work)
        self.scheduler: Scheduler

    async def work(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.gate.pass_through()
            return await self._write(request)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    def set_up(self, app: web.Application, **options: Any) -> None:
        self.scheduler = setup(app, exception_handler=self.failures, **options)


def in_atomic(work: Write) -> Any:
    return atomic(work)


def in_atomic_view(work: Write) -> Any:
    @atomic
    class View(web.View):
        async def get(self) -> web.StreamResponse:
            return await work(self.request)

    return View


def in_hidden_atomic(work: Write) -> Any:
    """Wrap the work in an atomic handler that a decorator hides."""
    inner = atomic(work)

    async def handler(request: web.Request) -> web.StreamResponse:
        return await inner(request)

    return handler


def in_shield(work: Write) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await shield(request, work(request))

    return handler


def in_shielded_task(work: Write) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        task = asyncio.ensure_future(work(request))
        return await shield(request, task)

    return handler


def in_shielded_gather(work: Write) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        (response,) = await shield(request, asyncio.gather(work(request)))
        return response

    return handler


def in_shield_of_atomic(work: Write) -> Any:
    """Shield the work in an atomic handler, which may answer before it ends."""

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        return await shield(request, work(request))

    return handler


SHAPES = {
    "atomic": in_atomic,
    "view": in_atomic_view,
    "hidden": in_hidden_atomic,
    "shield": in_shield,
    "task": in_shielded_task,
    "gather": in_shielded_gather,
    "shield-in-atomic": in_shield_of_atomic,
}
all_shapes = pytest.mark.parametrize("shape", SHAPES)


async def rest(client: Client) -> str:
    """Return everything that comes until the server ends the connection."""
    received = ""
    with contextlib.suppress(ConnectionError):
        while some := await client.receive_some():
            received += some
    return received


def is_last_answer(answer: Answer) -> bool:
    return (answer.status, answer.text, answer.headers["connection"]) == (
        504,
        "too slow",
        "close",
    )


# -- work that goes on writes to nobody -------------------------------------------------


@all_shapes
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["outside", "parent", "both-set-up"])
async def test_deadline_outside_answers_work_that_goes_on_writes_to_nobody(
    shape: str, way: str, place: str
) -> None:
    """W4: nothing that an atomic handler or a shielded awaitable still writes reaches the
    connection, which is closed after the answer, wherever the deadline is."""
    late, deadline = Late(shape=shape), Deadline(way)
    app = root = one_route(late.handler)
    path = "/"
    if place == "outside":
        app.middlewares.append(deadline.middleware)
        late.set_up(app)
    else:
        root, path = web.Application(), "/below/"
        if place == "both-set-up":
            setup(root)
        root.middlewares.append(deadline.middleware)
        late.set_up(app)
        root.add_subapp("/below", app)
    async with serving(root) as server:
        client = await server.send("GET", path)
        await late.gate.reached.wait()
        deadline.pass_by()
        assert is_last_answer(await client.receive())
        late.gate.open()
        await late.ended.wait()
        assert await rest(client) == ""
        assert isinstance(late.error, ConnectionError)
        await turns()
        assert len(late.scheduler) == 0
    assert late.failures == []


@all_writers
@pytest.mark.parametrize("shape", ["atomic", "shield", "gather"])
@pytest.mark.parametrize("way", WAYS)
async def test_answer_is_delayed_what_is_written_meanwhile_does_not_take_its_place(
    write: Write, shape: str, way: str
) -> None:
    """W4: between give-up and answer nothing else is sent, and the answer is
    unchanged."""
    late, deadline = Late(write, shape), Deadline(way, hold=True)
    app = one_route(late.handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(
            "GET", "/", headers=UPGRADE if "socket" in write.__name__ else ""
        )
        await late.gate.reached.wait()
        deadline.pass_by()
        await deadline.gate.reached.wait()
        late.gate.open()
        await late.ended.wait()
        await turns()
        deadline.gate.open()
        assert is_last_answer(await client.receive())
        assert await rest(client) == ""
    assert late.failures == []
    assert (late.error is None) is (write is return_text)


async def test_answer_is_streamed_by_the_deadline_nothing_is_written_in_between() -> None:
    """W4: the code that gave up the request may stream its answer."""
    late, gate = Late(write_text), Gate()
    passed = asyncio.Event()

    @web.middleware
    async def deadline(request: web.Request, handler: Handler) -> web.StreamResponse:
        with contextlib.suppress(TimeoutError):
            return await by_timeout(handler(request), passed)  # type: ignore[no-any-return]
        response = web.StreamResponse(status=504)
        response.content_length = len("too slow")
        await response.prepare(request)
        await response.write(b"too ")
        await gate.pass_through()
        await response.write(b"slow")
        return response

    app = one_route(late.handler)
    app.middlewares.append(deadline)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        passed.set()
        await gate.reached.wait()
        late.gate.open()
        await late.ended.wait()
        gate.open()
        assert is_last_answer(await client.receive())
        assert await rest(client) == ""


async def test_decorator_has_a_deadline_hidden_atomic_handler_writes_to_nobody() -> None:
    """W4: also if the deadline is inside setup's middleware, around a handler that is a
    job of its own."""
    late, deadline = Late(), Deadline(hold=True)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await deadline.middleware(request, late.handler)
        assert isinstance(response, web.StreamResponse)
        return response

    app = one_route(handler)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        deadline.pass_by()
        await deadline.gate.reached.wait()
        late.gate.open()
        await late.ended.wait()
        deadline.gate.open()
        assert is_last_answer(await client.receive())
        assert await rest(client) == ""


@pytest.mark.parametrize("shape", ["shield", "task", "gather"])
async def test_handler_stops_waiting_and_answers_its_shield_writes_to_nobody(
    shape: str,
) -> None:
    """W4: the handler itself may give up on what it shields."""
    late, deadline = Late(shape=shape), Deadline()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await deadline.middleware(request, late.handler)
        assert isinstance(response, web.StreamResponse)
        return response

    app = one_route(handler)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        deadline.pass_by()
        assert is_last_answer(await client.receive())
        late.gate.open()
        await late.ended.wait()
        assert await rest(client) == ""
        assert isinstance(late.error, ConnectionError)
    assert late.failures == []


async def test_handler_stops_waiting_and_streams_its_answer_is_complete() -> None:
    """W4: the client gets the answer of the handler, even if that had begun before the
    handler stopped waiting."""
    late = Late()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"accepted, ")
        work = shield(request, late.work(request))
        await late.gate.reached.wait()
        work.cancel()
        await response.write(b"wait for mail")
        return response

    app = one_route(handler)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        assert (await client.receive()).text == "accepted, wait for mail"
        late.gate.open()
        await late.ended.wait()
        assert await rest(client) == ""


async def test_requests_are_pipelined_none_is_begun_after_one_that_was_given_up() -> None:
    """W4: the connection is closed after that answer; the client, which was told so,
    repeats the requests that were not answered."""
    late, deadline = Late(), Deadline()
    app = one_route(late.handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(3):
            await client.send("GET", "/")
        await late.gate.reached.wait()
        deadline.pass_by()
        assert is_last_answer(await client.receive())
        assert await rest(client) == ""
        late.gate.open()
        await late.ended.wait()
        await turns()
        assert len(late.scheduler) == 0
        assert late.scheduler.statistics().succeeded == 0


async def test_outer_middleware_tries_again_only_the_second_try_answers() -> None:
    """W4: only the first try was given up, not the request."""
    late, deadline = Late(), Deadline(hold=True)
    tries = 0

    @web.middleware
    async def try_again(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await deadline.middleware(request, handler)
        assert response.status == 504
        response = await handler(request)
        assert isinstance(response, web.StreamResponse)
        return response

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries == 1:
            return await late.work(request)
        late.gate.open()
        await late.ended.wait()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the second")
        return response

    app = one_route(handler)
    app.middlewares.append(try_again)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        deadline.gate.open()
        deadline.pass_by()
        answer = await client.receive()
        assert (answer.text, answer.headers["connection"]) == ("the second", "close")
        assert await rest(client) == ""
        assert isinstance(late.error, ConnectionError)


async def test_atomic_handler_was_let_go_it_writes_to_nobody() -> None:
    """W4, E0: a handler that swallows its cancellation counts as closed, and its client
    gets 503 (W7); nothing that it then writes reaches anybody."""
    late = Late()

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        with contextlib.suppress(asyncio.CancelledError):
            await stopped.pass_through()
        return await late.work(request)

    stopped = Gate()
    app = one_route(handler)
    late.set_up(app, close_timeout=0)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await stopped.reached.wait()
        (job,) = late.scheduler
        with pytest.raises(TimeoutError):
            await job.close()
        assert (await client.receive()).status == 503
        late.gate.open()
        await late.ended.wait()
        assert await rest(client) == ""
        assert isinstance(late.error, ConnectionError)


@both_cancellations
async def test_server_shuts_down_work_that_goes_on_reads_and_writes_nothing(
    handler_cancellation: bool,
) -> None:
    """W4: also when the server gave the request up."""
    late = Late()
    app = one_route(late.handler)
    late.set_up(app)
    async with serving(
        app, handler_cancellation=handler_cancellation, shutdown_timeout=0.01
    ) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        closing = asyncio.create_task(server.close())
        assert await rest(client) == ""
        late.gate.open()
        await closing
        assert isinstance(late.error, ConnectionError)
    assert late.failures == []


# -- responses that had begun -----------------------------------------------------------


class Begun(Late):
    """A handler that has begun to write its response when it is given up."""

    async def work(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Name": "alice"})
        await response.prepare(request)
        await response.write(b"first, ")
        self.response = response
        return await super().work(request)

    async def write_on(self, request: web.Request) -> web.StreamResponse:
        await self.response.write(SECRET.encode())
        return self.response


async def test_deadline_does_not_wait_for_what_it_cancels_the_answer_is_whole() -> None:
    """W4: even if the answer is sent before setup's middleware is left, nothing is added
    to it, and the connection is closed."""
    late, deadline = Late(), Deadline("hasty")
    app = one_route(late.handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send("GET", "/")
        await late.gate.reached.wait()
        deadline.pass_by()
        answer = await client.receive()
        assert (answer.status, answer.text) == (504, "too slow")
        late.gate.open()
        await late.ended.wait()
        assert await rest(client) == ""
        assert isinstance(late.error, ConnectionError)


@pytest.mark.parametrize("hold", [False, True], ids=["at-once", "held"])
@pytest.mark.parametrize("shape", ["atomic", "hidden", "shield", "gather"])
async def test_response_had_begun_the_connection_breaks_off(
    shape: str, hold: bool
) -> None:
    """W4: a response that has begun cannot be replaced: what was sent stays, nothing is
    added, and the connection ends."""
    begun, deadline = Begun(shape=shape), Deadline(hold=hold)
    begun._write = begun.write_on
    app = one_route(begun.handler)
    app.middlewares.append(deadline.middleware)
    begun.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await begun.gate.reached.wait()
        await client.send("GET", "/")
        deadline.pass_by()
        deadline.gate.open()
        received = await rest(client)
        assert received.startswith("HTTP/1.1 200 OK\r\n")
        assert received.endswith("\r\n7\r\nfirst, \r\n")
        begun.gate.open()
        await begun.ended.wait()
        assert isinstance(begun.error, ConnectionError)
    assert begun.failures == []


async def test_response_was_prepared_and_not_sent_the_answer_does_not_suffer() -> None:
    """W4: a newer aiohttp keeps the head of a prepared response until it has a body."""
    late, deadline = Late(), Deadline()

    async def work(request: web.Request) -> web.StreamResponse:
        response = web.Response(text=SECRET * 9)
        await response.prepare(request)
        await late.gate.pass_through()
        await response.write_eof()
        return response

    app = one_route(atomic(work))
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        await late.gate.reached.wait()
        deadline.pass_by()
        received = await rest(client)
        late.gate.open()
        await turns()
    head, _, body = received.partition("\r\n\r\n")
    # Or an older aiohttp has sent the head, and nothing else.
    assert (head.split()[1], body) in (("504", "too slow"), ("200", ""))


async def test_file_is_being_sent_the_connection_breaks_off_and_the_job_ends(
    tmp_path: Path,
) -> None:
    """W4: also if the operating system sends the file, for which asyncio would wait for
    ever if the transport were closed."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(2**28)  # more than all buffers on the way hold
    late, deadline = Late(), Deadline()

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            response = web.FileResponse(path)
            await response.prepare(request)
        except BaseException as error:
            late.error = error
            raise
        finally:
            late.ended.set()
        raise AssertionError("it was sent in full")

    app = one_route(handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.send("GET", "/")
        assert (await client.receive_some()).startswith("HTTP/1.1 200 OK\r\n")
        deadline.pass_by()
        await late.ended.wait()
        assert isinstance(late.error, ConnectionError)
        assert "HTTP/1.1" not in await rest(client)
        await turns()
        assert late.scheduler.statistics().hung_up == 1
    assert late.failures == []


@pytest.mark.parametrize("shuts_down", [False, True], ids=["deadline", "shutdown"])
@pytest.mark.parametrize("shape", ["atomic", "shield"])
async def test_client_does_not_read_the_response_what_writes_it_ends(
    shape: str, shuts_down: bool
) -> None:
    """W4, L4: otherwise it would wait for as long as the client likes."""
    deadline = Deadline()

    async def write_much(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        # More than all buffers on the way hold: this waits for the client to read.
        await response.write(b"much" * 2**24)
        await response.write(b"more")
        raise AssertionError("it was sent in full")

    late = Late(write_much, shape)
    late.gate.open()
    app = one_route(late.handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app, wait_timeout=None)
    async with serving(app, shutdown_timeout=0.01) as server:
        await server.send("GET", "/")
        await late.gate.reached.wait()
        await turns()
        if shuts_down:
            await server.close()
        else:
            deadline.pass_by()
        await late.ended.wait()
        assert isinstance(late.error, ConnectionError)
        await turns()
        assert len(late.scheduler) == 0
    assert late.failures == []


async def test_web_socket_is_open_it_is_broken_off() -> None:
    """W4: nothing more is written to a web socket whose request was given up."""
    late, deadline = Late(), Deadline()

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        await late.gate.pass_through()
        try:
            await socket.send_str(SECRET)
        except ConnectionError as error:
            late.error = error
            raise
        finally:
            late.ended.set()
        return socket

    app = one_route(handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with (
        serving(app) as server,
        ClientSession() as session,
        session.ws_connect(server.make_url("/")) as socket,
    ):
        assert (await socket.receive()).data == "hello"
        deadline.pass_by()
        assert (await socket.receive()).data != SECRET
        late.gate.open()
        await late.ended.wait()
        assert isinstance(late.error, ConnectionError)
        await turns()
        assert late.scheduler.statistics().hung_up == 1
    assert late.failures == []


# -- reading the body -------------------------------------------------------------------


async def read_all(request: web.Request) -> None:
    await request.read()


async def read_chunks(request: web.Request) -> None:
    async for _ in request.content.iter_any():
        pass


async def read_form(request: web.Request) -> None:
    await request.post()


async def read_parts(request: web.Request) -> None:
    async for part in await request.multipart():
        await part.text()  # type: ignore[union-attr]


READERS = {
    "all": (read_all, "text/plain"),
    "chunks": (read_chunks, "text/plain"),
    "form": (read_form, "application/x-www-form-urlencoded"),
    "parts": (read_parts, "multipart/form-data; boundary=half"),
}


@pytest.mark.parametrize(("read", "kind"), READERS.values(), ids=READERS)
@pytest.mark.parametrize("when", ["waits", "later", "much-later"])
@pytest.mark.parametrize("way", WAYS)
async def test_body_never_arrives_reading_it_raises(
    read: Callable[[web.Request], Awaitable[None]],
    kind: str,
    when: str,
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W4: reading the body of a request that was given up raises, so that the job of an
    endless upload does end; aiohttp does not take that for an error of its own."""
    late, deadline = Late(), Deadline(way, hold=True)
    reading = asyncio.Event()

    @atomic
    async def handler(request: web.Request) -> web.StreamResponse:
        reading.set()
        if when != "waits":
            await late.gate.pass_through()
        try:
            await read(request)
        except BaseException as error:
            late.error = error
            raise
        finally:
            late.ended.set()
        raise AssertionError("the body was read")

    app = one_route(handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(
            "POST", "/", "--half\r\n", length=999, headers=f"Content-Type: {kind}\r\n"
        )
        await reading.wait()
        await turns()
        deadline.pass_by()
        await deadline.gate.reached.wait()
        if when == "later":
            late.gate.open()
        if when != "much-later":
            await late.ended.wait()
        deadline.gate.open()
        assert is_last_answer(await client.receive())
        assert await rest(client) == ""
        late.gate.open()
        await late.ended.wait()
        await turns()
        assert len(late.scheduler) == 0
        assert late.scheduler.statistics().hung_up == 1
    assert isinstance(late.error, ConnectionError | web.PayloadAccessError)
    assert late.failures == []
    assert [each for each in caplog.records if each.name != "aiohttp_jobs"] == []


async def test_client_goes_on_to_upload_what_it_sends_is_dropped() -> None:
    """W4: nothing more is read from a connection that is about to be closed."""
    late, deadline = Late(), Deadline(hold=True)
    app = one_route(late.handler)
    app.middlewares.append(deadline.middleware)
    late.set_up(app)
    async with serving(app) as server:
        client = await server.connect()
        await client.send("POST", "/", "half", length=8)
        await late.gate.reached.wait()
        deadline.pass_by()
        await deadline.gate.reached.wait()
        await client.send_more("half")
        await client.send("GET", "/")
        await turns()
        deadline.gate.open()
        assert is_last_answer(await client.receive())
        late.gate.open()


# -- requests that nobody gave up -------------------------------------------------------


async def answer_plain(request: web.Request) -> web.StreamResponse:
    return web.Response(text="plain")


@atomic
async def answer_atomic(request: web.Request) -> web.StreamResponse:
    await request.read()
    return web.Response(text="atomic")


@atomic
async def answer_atomic_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"stream")
    return response


@atomic
async def answer_failing(request: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden


async def answer_shield(request: web.Request) -> web.StreamResponse:
    await shield(request, turns(3))
    return web.Response(text=await shield(request, asyncio.sleep(0, "shielded")))


async def answer_shield_of_a_job(request: web.Request) -> web.StreamResponse:
    job = await spawn(request, asyncio.sleep(0, "job"))
    return web.Response(text=await shield(request, job))


async def answer_background(request: web.Request) -> web.StreamResponse:
    await spawn(request, turns(50))
    await spawn(request, turns(), after_response=True)
    return web.Response(text="background")


async def answer_cancelled_job(request: web.Request) -> web.StreamResponse:
    job = await spawn(request, asyncio.Event().wait())
    await job.close()
    return web.Response(text=str(await job))


async def answer_after_a_deadline_of_its_own(request: web.Request) -> web.StreamResponse:
    """Answer after a shielded awaitable is over, though the handler stopped waiting."""
    shielded = asyncio.ensure_future(asyncio.sleep(0))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await shield(request, shielded)
            await asyncio.Event().wait()
    await shielded
    return web.Response(text="in time")


@pytest.mark.parametrize(
    "handler",
    [
        answer_plain,
        answer_atomic,
        answer_atomic_stream,
        answer_failing,
        answer_shield,
        answer_shield_of_a_job,
        answer_background,
        answer_cancelled_job,
        answer_after_a_deadline_of_its_own,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_gave_the_request_up_its_connection_stays(
    handler: Any, method: str
) -> None:
    """W4: a response that nobody gave up keeps its connection."""
    app = one_route(handler)
    setup(app)
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(3):
            await client.send(method, "/", "body" if method == "POST" else "")
            answer = await client.receive()
            assert answer.status in (200, 403, 503)
            assert "connection" not in answer.headers


async def test_middleware_outside_shields_its_own_work_the_connection_stays() -> None:
    """W4: a middleware outside setup's may shield work and wait for it after the handler,
    which has not left that behind."""
    gate = Gate()

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        note = shield(request, gate.pass_through())
        response = await handler(request)
        gate.open()
        await note
        return response

    app = one_route(answer_plain)
    app.middlewares.append(audit)
    setup(app)
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(3):
            await client.send("GET", "/")
            assert "connection" not in (await client.receive()).headers


async def test_deadline_passes_for_a_plain_handler_the_connection_stays() -> None:
    """W4: if nothing goes on, a deadline works as usual."""
    deadline, gate = Deadline(), Gate()

    async def handler(request: web.Request) -> web.StreamResponse:
        await shield(request, asyncio.sleep(0))
        await gate.pass_through()
        raise AssertionError("the gate stays shut")

    app = one_route(handler)
    app.middlewares.append(deadline.middleware)
    setup(app)
    async with serving(app) as server:
        client = await server.connect()
        await client.send("GET", "/")
        await gate.reached.wait()
        deadline.pass_by()
        answer = await client.receive()
        assert (answer.status, answer.headers.get("connection")) == (504, None)


# -- what is shared, what is kept, what cannot be done ----------------------------------


async def test_requests_share_what_they_shield_it_keeps_none_of_them() -> None:
    """W4, L4: a task that many requests shield belongs to none of them: it goes on, and
    keeps no request that has stopped waiting for it."""
    refresh = Gate()
    alive: list[web.Request] = []
    references: list[weakref.ref[web.Request]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        references.append(weakref.ref(request))
        shield(request, task)
        return web.Response(status=202)

    app = one_route(handler)
    setup(app)
    async with serving(app) as server:
        task = asyncio.ensure_future(refresh.pass_through())
        for _ in range(5):
            answer = await server.get()
            assert (answer.status, answer.headers["connection"]) == (202, "close")
        await turns()
        gc.collect()
        assert [reference() for reference in references] == [None] * 5
        refresh.open()
        await task
    assert alive == []


def test_writer_of_another_kind_cannot_be_guarded() -> None:
    """W4: then the connection is broken off instead."""

    writer: Any = object()
    assert not guard(writer)


async def test_mocked_request_of_a_test_is_given_up_without_an_error() -> None:
    """W4: a unit test of a handler has no connection."""
    late = Late()
    app = web.Application()
    late.set_up(app)
    request = make_mocked_request("GET", "/", app=app)
    task = asyncio.ensure_future(late.handler(request))
    await late.gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    late.gate.open()
    await late.ended.wait()
    await late.scheduler.close()
