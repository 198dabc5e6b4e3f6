"""A line: questions and answers in frames, beside HTTP at the same socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from aiohttp_jobs.share import line as module
from aiohttp_jobs.share.asking import Answer, Trouble, ask
from aiohttp_jobs.share.line import Line
from aiohttp_jobs.share.names import SocketName
from aiohttp_jobs.share.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


class Owner:
    """A worker that answers by lines and by HTTP."""

    def __init__(self, share: str) -> None:
        questions = {"/echo": self.echo, "/wrong": self.wrong, "/never": self.never}
        self.worker = Worker(share, {"/http": self.http}, questions, application="shop")
        self.asked = asyncio.Event()
        self.broken_off = asyncio.Event()

    async def echo(self, data: object) -> bytes:
        return json.dumps(data).encode()

    async def wrong(self, data: object) -> bytes:
        raise ValueError("wrong")

    async def never(self, data: object) -> bytes:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.broken_off.set()
        raise AssertionError

    async def http(self, request: web.BaseRequest) -> web.Response:
        return web.json_response("by HTTP")

    @property
    def name(self) -> SocketName:
        assert self.worker.place is not None
        return self.worker.place.name

    @property
    def address(self) -> str:
        assert self.worker.place is not None
        # Not by the descriptor of its directory, which ends with it.
        return f"{self.worker.place.folder.path}/{self.name}"

    def line(self) -> Line:
        return Line(self.name, self.address)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    owner = Owner(str(tmp_path / "share"))
    await owner.worker.open()
    yield owner
    await owner.worker.close()


async def test_one_is_asked_again_and_again(owner: Owner) -> None:
    """By one connection; answers may be long."""
    line = owner.line()
    for data in (None, "é", {"a": [1]}, "x" * 1_000_000):
        answer = await line.ask("/echo", data)
        assert json.loads(answer.data) == data
    assert len(owner.worker._lines) == 1
    assert (await ask(owner.name, owner.address, "/http")).data == "by HTTP"
    line.close()
    line.close()


async def test_what_is_no_answer_is_told(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown question, and one that fails: the line goes on."""
    line = owner.line()
    assert await line.ask("/unknown") == Answer(owner.name, trouble=Trouble.NOTHING)
    assert await line.ask("/wrong") == Answer(owner.name, trouble=Trouble.FAILED)
    assert caplog.messages == ["A question of another worker could not be answered"]
    assert (await line.ask("/echo", 1)).data == b"1"
    line.close()


async def test_line_that_was_hung_up_begins_anew(owner: Owner) -> None:
    """Once: who is gone is told to be."""
    line = owner.line()
    assert (await line.ask("/echo", 1)).data == b"1"
    for end in [*owner.worker._lines]:
        end.close()
    assert (await line.ask("/echo", 2)).data == b"2"
    name = owner.name
    await owner.worker.close()
    assert await line.ask("/echo") == Answer(name, trouble=Trouble.GONE)


async def test_asker_gives_up_answer_is_broken_off(owner: Owner) -> None:
    """The connection is closed; the next question has one of its own."""
    line = owner.line()
    asking = asyncio.create_task(line.ask("/never"))
    await owner.asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    await owner.broken_off.wait()
    assert (await line.ask("/echo", 1)).data == b"1"
    line.close()


async def test_worker_that_closes_breaks_its_answers_off(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that they have; who asks is told."""
    monkeypatch.setattr("aiohttp_jobs.share.worker._GRACE", 0.01)
    line, name = owner.line(), owner.name
    asking = asyncio.create_task(line.ask("/never"))
    await owner.asked.wait()
    await owner.worker.close()
    answer = await asking
    assert answer.name == name
    assert answer.trouble is not None
    assert owner.broken_off.is_set()


@contextlib.asynccontextmanager
async def connected(
    owner: Owner,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(owner.address)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_greeting_and_frames_may_come_in_pieces(owner: Owner) -> None:
    """Each byte by itself."""
    asked = json.dumps(["/echo", "x"]).encode()
    frame = module._HEAD.pack(b"?", len(asked)) + asked
    async with connected(owner) as (reader, writer):
        for byte in module._GREETING + frame:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        sign, length = module._HEAD.unpack(await reader.readexactly(5))
        assert (sign, await reader.readexactly(length)) == (b"!", b'"x"')


async def test_who_speaks_otherwise_is_hung_up_on(owner: Owner) -> None:
    """A frame that is no question, and two questions at a time."""
    asked = json.dumps(["/never", None]).encode()
    frame = module._HEAD.pack(b"?", len(asked)) + asked
    for wrong in (module._HEAD.pack(b"!", 0), frame + frame):
        async with connected(owner) as (reader, writer):
            writer.write(module._GREETING + wrong)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""


async def test_another_user_begins_no_line(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is answered."""
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    async with connected(owner) as (reader, writer):
        writer.write(module._GREETING)
        assert b"HTTP/1" in await reader.read(100)
