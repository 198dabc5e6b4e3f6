"""One worker asks the others: a slow, stopped or dead one is reported, without an
error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web

from aiohttp_jobs.share import others as module
from aiohttp_jobs.share.asking import Answer, Trouble, ask, order
from aiohttp_jobs.share.deadlines import DEADLINE, deadline_after
from aiohttp_jobs.share.names import SocketName, application_id
from aiohttp_jobs.share.others import Others
from aiohttp_jobs.share.worker import Worker
from tests.processes import Command, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def share(tmp_path: Path) -> str:
    return str(tmp_path / "share")


class Shop:
    """A worker in this process, whose answers wait until they may go."""

    def __init__(self, share: str, application: str = "shop") -> None:
        self.worker = Worker(
            share, {"/figures": self.figures, "/act": self.act}, application=application
        )
        self.asked = asyncio.Semaphore(0)
        self.times_asked = 0
        self.open = asyncio.Event()
        self.open.set()
        self.answered = asyncio.Event()
        self.done: list[object] = []

    @property
    def name(self) -> SocketName:
        assert self.worker.place is not None
        return self.worker.place.name

    @property
    def address(self) -> str:
        assert self.worker.place is not None
        return self.worker.place.folder.address(str(self.name))

    async def figures(self, request: web.BaseRequest) -> web.Response:
        self.times_asked += 1
        self.asked.release()
        await self.open.wait()
        self.answered.set()
        return web.json_response(self.times_asked)

    async def act(self, request: web.BaseRequest) -> web.Response:
        self.done.append(await request.json())
        return web.json_response("done")


@contextlib.asynccontextmanager
async def working(share: str, *applications: str) -> AsyncIterator[list[Shop]]:
    shops = [Shop(share, application) for application in applications]
    for shop in shops:
        await shop.worker.open()
    try:
        yield shops
    finally:
        for shop in shops:
            shop.open.set()
            await shop.worker.close()


@contextlib.asynccontextmanager
async def asking(shop: Shop) -> AsyncIterator[Others]:
    others = Others(shop.worker, "/figures")
    try:
        yield others
    finally:
        await others.close()


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not reuse answers: each ask() is a round of its own."""
    monkeypatch.setattr(module, "_GOOD_FOR", 0.0)


@contextlib.contextmanager
def another(share: str) -> Iterator[Command]:
    with running("tests.sharing", share) as command:
        command.read_until(lambda line: line == "ready\n")
        yield command


async def test_others_answer_in_the_order_of_their_numbers(share: str) -> None:
    """The asking worker is not among them."""
    async with (
        working(share, "shop", "shop", "shop") as shops,
        asking(shops[1]) as others,
    ):
        assert await others.ask() == [Answer(shops[0].name, 1), Answer(shops[2].name, 1)]


async def test_others_are_asked_once_however_many_want_to_know(share: str) -> None:
    """At the same time, or within the second for which answers are good."""
    async with working(share, "shop", "shop") as shops, asking(shops[0]) as others:
        told = await asyncio.gather(*(others.ask() for _ in range(20)))
        assert told == [[Answer(shops[1].name, 1)]] * 20
        assert await others.ask() == told[0]
        assert shops[1].times_asked == 1


@pytest.mark.usefixtures("no_wait")
async def test_others_are_asked_again_when_answers_are_old(share: str) -> None:
    """The next caller gets new ones."""
    async with working(share, "shop", "shop") as shops, asking(shops[0]) as others:
        assert [(await others.ask())[0].data for _ in range(3)] == [1, 2, 3]


async def test_asker_gives_up_others_still_get_their_answer(share: str) -> None:
    """The caller that asked first is cancelled; one that joined is not."""
    async with working(share, "shop", "shop") as shops, asking(shops[0]) as others:
        shops[1].open.clear()
        first = asyncio.create_task(others.ask())
        await shops[1].asked.acquire()
        second = asyncio.create_task(others.ask())
        first.cancel()
        await asyncio.wait([first])
        shops[1].open.set()
        assert await second == [Answer(shops[1].name, 1)]
        assert first.cancelled()


@pytest.mark.usefixtures("no_wait")
async def test_slow_worker_is_waited_for_once_and_asked_on(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs half a second once; its answer is used once it has come. The others'
    answers are there each time."""
    async with working(share, *["shop"] * 3) as shops, asking(shops[0]) as others:
        shops[1].open.clear()
        slow = Answer(shops[1].name, trouble=Trouble.SLOW)
        start = time.monotonic()
        assert await others.ask() == [slow, Answer(shops[2].name, 1)]
        assert time.monotonic() - start >= 0.45
        monkeypatch.setattr(module, "_TURN", 3600.0)  # a wait would now be noticed
        assert await others.ask() == [slow, Answer(shops[2].name, 2)]
        assert await others.ask() == [slow, Answer(shops[2].name, 3)]
        assert shops[1].times_asked == 1
        shops[1].open.set()
        task = others._asked[shops[1].name]
        await asyncio.wait([task])
        assert await others.ask() == [Answer(shops[1].name, 1), Answer(shops[2].name, 4)]
        assert (await others.ask())[0] == Answer(shops[1].name, 2)


async def test_own_lag_is_not_held_against_others(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This event loop blocks for longer than it waits for others: by its clock, which
    jumps when the other one has been asked."""
    loop = asyncio.get_running_loop()
    real_time = loop.time
    async with working(share, "shop", "shop") as shops, asking(shops[0]) as others:
        shops[1].open.clear()
        task = asyncio.create_task(others.ask())
        await shops[1].asked.acquire()
        monkeypatch.setattr(loop, "time", lambda: real_time() + 1.2)
        shops[1].open.set()
        assert await task == [Answer(shops[1].name, 1)]


async def test_others_versions_and_applications_are_told(share: str) -> None:
    """Their names show them; they are not asked."""
    async with working(share, "shop", "mill") as shops, asking(shops[0]) as others:
        foreign = SocketName(7, 1, application_id("shop"), version="0.0.9")
        Path(share, str(foreign)).touch()
        assert await others.ask() == [
            Answer(shops[1].name, trouble=Trouble.APPLICATION),
            Answer(foreign, trouble=Trouble.VERSION),
        ]
        assert shops[1].times_asked == 0


@pytest.mark.usefixtures("no_wait")
async def test_killed_worker_is_told_once(share: str) -> None:
    """The asking worker removes its socket, which it could not do itself."""
    with another(share) as command:
        async with working(share, "shop") as shops, asking(shops[0]) as others:
            [answer] = await others.ask()
            assert answer.trouble is None
            command.send(signal.SIGKILL)
            command.end()
            assert await others.ask() == [Answer(answer.name, trouble=Trouble.GONE)]
            assert await others.ask() == []


@pytest.mark.usefixtures("no_wait")
async def test_stopped_worker_is_slow_until_it_goes_on(share: str) -> None:
    """And actions that it was asked for meanwhile are never done."""
    with another(share) as command:
        async with working(share, "shop") as shops, asking(shops[0]) as others:
            [answer] = await others.ask()
            name = answer.name
            assert shops[0].worker.place is not None
            address = shops[0].worker.place.folder.address(str(name))
            assert await order(name, address, "/act", 1) == Answer(name, "done")
            os.kill(answer.data["process"], signal.SIGSTOP)
            slow = Answer(name, trouble=Trouble.SLOW)
            assert await others.ask() == [slow]
            assert await order(name, address, "/act", 2) == slow
            assert await others.ask() == [slow]
            os.kill(answer.data["process"], signal.SIGCONT)
            # It answers in the order in which it is asked.
            after = await ask(name, address, "/figures")
            assert after.data["done"] == [1]
            assert await order(name, address, "/act", 3) == Answer(name, "done")
            after = await ask(name, address, "/figures")
            assert after.data["done"] == [1, 3]
        command.tell("")
        assert command.end() == (0, "")


@pytest.mark.parametrize(
    ("deadline", "status"),
    [(None, 400), ("soon", 400), ("nan", 400), ("inf", 400), (-0.001, 410), (600, 200)],
)
async def test_owner_checks_the_deadline(
    share: str, deadline: str | float | None, status: int
) -> None:
    """Nothing is done without one, or after it."""
    if isinstance(deadline, int | float):
        deadline = deadline_after(deadline)  # from now on, not from the collection on
    headers = {} if deadline is None else {DEADLINE: deadline}
    async with (
        working(share, "shop") as [shop],
        ClientSession(connector=UnixConnector(shop.address)) as session,
        session.post("http://worker/act", json=1, headers=headers) as response,
    ):
        assert response.status == status
        assert shop.done == ([1] if status == 200 else [])


async def test_answers_that_are_none_are_told(share: str) -> None:
    """An unknown path, and a socket at which something else listens."""
    async with working(share, "shop") as [shop]:
        nothing = Answer(shop.name, trouble=Trouble.NOTHING)
        assert await ask(shop.name, shop.address, "/unknown") == nothing
        failed = Answer(shop.name, trouble=Trouble.FAILED)

        async def talk(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            writer.write(b"220 mail\r\n\r\n")
            writer.close()

        path = f"{share}/mail"
        async with await asyncio.start_unix_server(talk, path):
            assert await ask(shop.name, path, "/figures") == failed
        Path(path).unlink(missing_ok=True)
        gone = Answer(shop.name, trouble=Trouble.GONE)
        assert await ask(shop.name, path, "/figures") == gone


async def test_nothing_is_sent_to_another_user(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In case one has put a socket in place of a worker's."""
    path = f"{share}.sock"
    user = os.geteuid()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        name = SocketName(0, 1, application_id("shop"))
        answer = await order(name, path, "/act", 1)
        monkeypatch.undo()
        assert answer == Answer(name, trouble=Trouble.FAILED)
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(100) == b""


async def test_directory_is_gone_nobody_is_told_of(share: str) -> None:
    """Until this worker is back in the directory."""
    shop = Shop(share)
    async with asking(shop) as others:
        assert await others.ask() == []
