"""Asking one worker: if it is silent, it is waited for only once, but still asked."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aiohttp_jobs.share import patience as module
from aiohttp_jobs.share.asking import Answer, Trouble
from aiohttp_jobs.share.member import Member
from aiohttp_jobs.share.patience import Patience
from tests.processes import before_the_next_look

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


class Owner:
    """A worker that answers when the test lets it."""

    def __init__(self, share: str) -> None:
        self.member = Member(share, "/shop", {"job": self.job})
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0

    async def job(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        number = self.asked
        await self.open.wait()
        return web.json_response(number)

    async def ask(self, patience: Patience, query: str = "") -> object:
        place = self.member.place
        assert place is not None
        address = place.folder.address(str(place.name))
        answer = await patience.ask(place.name, address, f"/shop/job?{query}")
        assert answer.name == place.name
        return answer.data if answer.trouble is None else answer.trouble

    async def hear(self, patience: Patience) -> object:
        """Ask until it answers."""
        async with asyncio.timeout(60):
            while True:
                told = await self.ask(patience)
                if told is not Trouble.SLOW:
                    return told
                await before_the_next_look()


async def started(tmp_path: Path) -> tuple[Owner, Patience]:
    owner = Owner(str(tmp_path / "share"))
    await owner.member.open()
    return owner, Patience()


async def ended(owner: Owner, patience: Patience) -> None:
    owner.open.set()
    await patience.close()
    await patience.close()
    await owner.member.close()


async def test_silent_worker_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that, it is only checked for an answer; once that has come, it is asked
    anew."""
    owner, patience = await started(tmp_path)
    waits = 0
    wait = asyncio.wait

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(*args, **options)

    monkeypatch.setattr(asyncio, "wait", counted)
    assert await owner.ask(patience) == 1
    owner.open.clear()
    assert await owner.ask(patience) is Trouble.SLOW
    before = waits
    for _ in range(5):
        assert await owner.ask(patience) is Trouble.SLOW
    assert (owner.asked, waits) == (2, before)
    owner.open.set()
    assert await owner.hear(patience) == 2
    assert await owner.ask(patience) == 3
    await ended(owner, patience)


async def test_silent_worker_is_asked_a_few_things_at_most(tmp_path: Path) -> None:
    """However many pages of its jobs are open."""
    owner, patience = await started(tmp_path)
    owner.open.clear()
    for number in range(20):
        assert await owner.ask(patience, f"a{number}") is Trouble.SLOW
    assert owner.asked <= 4
    await ended(owner, patience)


async def test_questions_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is given up; its callers are told that there is no answer."""
    monkeypatch.setattr(module, "_MOST", 2)
    owner, patience = await started(tmp_path)
    owner.open.clear()
    asking = [asyncio.create_task(owner.ask(patience, f"a{n}")) for n in range(4)]
    assert await asyncio.gather(*asking) == [Trouble.SLOW] * 4
    await ended(owner, patience)


async def test_old_answer_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waited for it, and it came long before the next question."""
    monkeypatch.setattr(module, "_GOOD_FOR", -1.0)
    owner, patience = await started(tmp_path)
    owner.open.clear()
    assert await owner.ask(patience) is Trouble.SLOW
    owner.open.set()
    assert await owner.hear(patience) != 1
    await ended(owner, patience)


async def test_dead_worker_is_gone(tmp_path: Path) -> None:
    """At once."""
    owner, patience = await started(tmp_path)
    place = owner.member.place
    assert place is not None
    name = place.name
    await owner.member.close()
    answer = await patience.ask(name, str(tmp_path / "nowhere"), "/shop/job")
    assert answer == Answer(name, trouble=Trouble.GONE)
    await ended(owner, patience)
