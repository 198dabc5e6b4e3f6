"""Several parts of a process are one worker: one number, one socket, a path for each."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from aiohttp import web

from aiohttp_jobs.share.asking import Answer, Trouble, ask
from aiohttp_jobs.share.member import Member
from aiohttp_jobs.share.others import Others
from aiohttp_jobs.share.worker import Handler
from tests.apart import apart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def share(tmp_path: Path) -> str:
    return str(tmp_path / "share")


def says(text: str) -> Handler:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.json_response(text)

    return handler


def member(share: str, text: str, name: str = "/jobs") -> Member:
    return Member(share, name, {"text": says(text)})


def sockets(share: str) -> list[str]:
    return [name for name in os.listdir(share) if name.endswith(".sock")]


async def hear(member: Member) -> object:
    """Return what another worker gets from it."""
    assert member.place is not None
    name = member.place.name
    address = member.place.folder.address(str(name))
    answer = await ask(name, address, f"{member.path}/text")
    return answer.data if answer.trouble is None else answer.trouble


async def test_parts_share_a_number_and_a_socket(share: str) -> None:
    """Each answers at its own path; of two with the same name, the second at another."""
    members = [member(share, "a"), member(share, "b"), member(share, "c", "/metrics")]
    for each in members:
        await each.open()
    assert len(sockets(share)) == 1
    assert {each.number for each in members} == {0}
    assert [each.path for each in members] == ["/jobs", "/jobs~2", "/metrics"]
    assert [await hear(each) for each in members] == ["a", "b", "c"]
    await members[0].close()
    again = member(share, "d")
    await again.open()
    assert (again.path, await hear(again)) == ("/jobs", "d")
    for each in (*members, again):
        await each.close()
    assert sockets(share) == []
    assert again.place is None


async def test_part_that_another_worker_does_not_have_is_told(share: str) -> None:
    """That is not an error of the other worker."""
    first, other = member(share, "a"), member(share, "b", "/metrics")
    await first.open()
    with apart():
        await other.open()
    assert (first.number, other.number) == (0, 1)
    others = Others(first, f"{first.path}/text")
    assert other.place is not None
    nothing = Answer(other.place.name, trouble=Trouble.NOTHING)
    assert await others.ask() == [nothing]
    await others.close()
    await first.close()
    await other.close()


async def test_parts_that_begin_and_end_at_one_time(share: str) -> None:
    """The worker is opened once, and closed by the last one."""
    members = [member(share, str(number)) for number in range(5)]
    await asyncio.gather(*(each.open() for each in members))
    assert len(sockets(share)) == 1
    late = member(share, "late")
    await asyncio.gather(*(each.close() for each in members), late.open())
    assert await hear(late) == "late"
    assert len(sockets(share)) == 1
    await late.close()
    await late.close()
    assert sockets(share) == []


async def test_directory_is_refused_and_the_next_part_may_try_again(share: str) -> None:
    """Nothing is left of the first try."""
    Path(share).touch()
    first, second = member(share, "a"), member(share, "b")
    with pytest.raises(RuntimeError, match="is not a directory"):
        await first.open()
    await first.close()
    Path(share).unlink()
    await second.open()
    assert (second.path, await hear(second)) == ("/jobs", "b")
    await second.close()
