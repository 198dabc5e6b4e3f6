"""How workers find each other: directory, numbers, sockets; and what forks keep."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import uvloop
from aiohttp import ClientSession, UnixConnector, web

import aiohttp_jobs
from aiohttp_jobs.share.folder import Folder, check_share
from aiohttp_jobs.share.names import VERSION, SocketName, application_id, lock_name
from aiohttp_jobs.share.peer import is_own_user, peer_of
from aiohttp_jobs.share.place import Place
from aiohttp_jobs.share.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

APPLICATION = application_id("shop")


@pytest.fixture
def share() -> Iterator[str]:
    """Not below pytest's own directory, whose paths are too long for some sockets."""
    with TemporaryDirectory() as directory:
        yield f"{directory}/share"


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """A list of places, all of which are closed at the end."""
    opened: list[Place] = []
    yield opened
    for place in opened:
        place.close()


def reach(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


# -- the directory ----------------------------------------------------------------------


def test_directory_that_is_not_there_is_made_for_its_user_only(share: str) -> None:
    """Whatever the umask."""
    before = os.umask(0)
    try:
        folder = Folder(check_share(f"{share}/"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(share).st_mode) == 0o700
    folder.close()
    folder.close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_directory_that_others_get_into_is_refused(share: str, mode: int) -> None:
    """The error names its mode, and says what to do."""
    os.mkdir(share)
    os.chmod(share, mode)
    with pytest.raises(RuntimeError, match=f"has the mode {mode:04o}.*chmod 700"):
        Folder(share)


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_link_to_a_directory_is_refused(share: str, tmp_path: Path, slash: str) -> None:
    """With a trailing slash, the kernel by itself would follow it."""
    (tmp_path / "real").mkdir(mode=0o700)
    os.symlink("real", share)
    with pytest.raises(RuntimeError, match="is not a directory, or is a link to one"):
        Folder(check_share(share + slash))


def test_file_is_refused(share: str) -> None:
    """It is not a directory."""
    Path(share).touch()
    with pytest.raises(RuntimeError, match="is not a directory"):
        Folder(share)


def test_directory_of_another_user_is_refused(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its mode; whether it is root's, or the application runs as root."""
    os.mkdir(share, 0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(RuntimeError, match=f"number {user}, and the application runs as"):
        Folder(share)


def test_directory_that_cannot_be_made_is_refused(share: str) -> None:
    """Its parent directory is missing: the error says so."""
    with pytest.raises(RuntimeError, match=r"cannot be opened.*No such file"):
        Folder(f"{share}/inside")


def test_refused_directories_leave_no_descriptor_open(share: str) -> None:
    """However often it is tried."""
    os.mkdir(share)
    os.chmod(share, 0o777)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(RuntimeError):
            Folder(share)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("wrong", [3, None, b"share"])
def test_share_that_is_no_path_is_refused(wrong: object) -> None:
    """The error names the argument."""
    with pytest.raises(TypeError, match="share takes the path of a directory"):
        check_share(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["", "a\0b"])
def test_share_that_can_be_no_path_is_refused(wrong: str) -> None:
    """Before it gets to the kernel."""
    with pytest.raises(ValueError, match="share takes the path of a directory"):
        check_share(wrong)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_platforms_are_refused(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do."""
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(RuntimeError, match="Linux only, leave share out"):
        check_share("share")


# -- names ------------------------------------------------------------------------------


def test_name_of_a_socket_is_read_as_it_was_written() -> None:
    """And a name that no worker wrote is rejected."""
    name = SocketName(3, 4711, APPLICATION)
    assert SocketName.parse(str(name)) == name
    for other in (f"{name}.new", lock_name(APPLICATION, 3), "x", f"v1-{APPLICATION}-3"):
        assert SocketName.parse(other) is None


def test_name_of_a_socket_has_the_version_of_the_package() -> None:
    """Whatever form that has by PEP 440: nobody has to remember to raise another one."""
    assert SocketName(3, 4711, APPLICATION).version == aiohttp_jobs.__version__
    for version in ("0.1.0", "12.0.3.dev4+g1a2b3c4.d20261127", "1!2.0rc1.post2"):
        name = SocketName(3, 4711, APPLICATION, version)
        assert SocketName.parse(str(name)) == name


def test_applications_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names, else by the program and its working directory."""
    assert application_id("shop") == APPLICATION != application_id("mill")
    ours = application_id()
    assert application_id() == ours
    monkeypatch.setattr(sys, "argv", ["another"])
    assert application_id() != ours


# -- numbers and sockets ----------------------------------------------------------------


def test_lowest_free_number_is_taken(share: str, places: list[Place]) -> None:
    """A worker that ends leaves its number to the next one."""
    places += [Place(share, APPLICATION) for _ in range(3)]
    assert [place.number for place in places] == [0, 1, 2]
    places[1].close()
    places[1].close()
    places.append(Place(share, APPLICATION))
    assert places[-1].number == 1


def test_wished_number_is_taken_if_it_is_free(share: str, places: list[Place]) -> None:
    """Otherwise the lowest free one."""
    places += [Place(share, APPLICATION, 2) for _ in range(2)]
    assert [place.number for place in places] == [2, 0]


def test_another_application_has_numbers_of_its_own(
    share: str, places: list[Place]
) -> None:
    """The names in the directory show whose they are."""
    mill = application_id("mill")
    places += [Place(share, APPLICATION), Place(share, mill)]
    assert [place.number for place in places] == [0, 0]
    found = places[0].folder.sockets()
    assert {name.application for name in found} == {APPLICATION, mill}


def test_socket_that_has_its_name_listens(share: str, places: list[Place]) -> None:
    """The path of the directory may be longer than that of a socket."""
    long = os.path.join(share, *["d" * 60] * 3)
    os.makedirs(long, 0o700)
    places.append(Place(long, APPLICATION))
    [name] = places[0].folder.sockets()
    assert name == places[0].name
    assert name.process == os.getpid()
    assert reach(places[0].folder.address(str(name)))
    assert sorted(os.listdir(long)) == sorted([str(name), lock_name(APPLICATION, 0)])


def test_dead_workers_socket_goes_when_its_number_is_taken(
    share: str, places: list[Place]
) -> None:
    """Whatever its version; sockets of other numbers and applications stay."""
    Folder(share).close()
    kept = [SocketName(1, 5, APPLICATION), SocketName(0, 5, application_id("mill"))]
    for name in (
        SocketName(0, 5, APPLICATION),
        SocketName(0, 6, APPLICATION, "9.1.0rc1"),
        *kept,
    ):
        Path(share, str(name)).touch()
    places.append(Place(share, APPLICATION))
    assert places[0].folder.sockets() == sorted([places[0].name, *kept])


def test_forked_child_keeps_neither_number_nor_socket(
    share: str, places: list[Place]
) -> None:
    """The child of a killed worker lives on. Here the parent only closes its descriptors,
    as when it is killed."""
    place = Place(share, APPLICATION)
    places.append(place)
    path = str(Path(share, str(place.name)))
    told, tell = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover
        held = (place.folder.descriptor, place.socket, len(open_in(share)))
        os.write(tell, repr(held).encode())
        signal.pause()
        os._exit(0)
    try:
        assert os.read(told, 100) == b"(-1, None, 0)"
        assert len(open_in(share)) == 2
        assert reach(path)
        assert place.is_whole()
        places.append(Place(share, APPLICATION))
        assert places[-1].number == 1  # the parent still has its lock
        place.give_up()
        assert not reach(path)
        places.append(Place(share, APPLICATION))
        assert places[-1].number == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


def open_in(share: str) -> list[str]:
    """Return what this process has open there: the directory, and files in it."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in found if path.startswith(share)]


def test_what_is_missing_is_noticed(share: str, places: list[Place]) -> None:
    """The socket, the lock or the directory, or one replaced by another."""
    places += [Place(share, APPLICATION) for _ in range(4)]
    assert all(place.is_whole() for place in places)
    os.unlink(Path(share, str(places[0].name)))
    os.unlink(Path(share, lock_name(APPLICATION, 1)))
    os.rename(Path(share, str(places[3].name)), Path(share, str(places[2].name)))
    assert [place.is_whole() for place in places] == [False] * 4
    places.append(Place(share, APPLICATION))
    assert places[-1].is_whole()
    os.rename(share, f"{share}-old")
    assert not places[-1].is_whole()
    os.mkdir(share, 0o700)
    assert not places[-1].is_whole()
    places[-1].close()
    assert not places[-1].is_whole()


def test_close_leaves_what_another_one_has_put_there(
    share: str, places: list[Place]
) -> None:
    """It no longer belongs to this worker."""
    places += [Place(share, APPLICATION) for _ in range(2)]
    name = Path(share, str(places[0].name))
    os.rename(Path(share, str(places[1].name)), name)
    places[0].close()
    assert reach(str(name))


def test_peer_is_told_by_the_kernel(share: str, places: list[Place]) -> None:
    """On both ends."""
    place = Place(share, APPLICATION)
    places.append(place)
    assert place.socket is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place.folder.address(str(place.name)))
        accepted, _ = place.socket.accept()
        with accepted:
            for end in (connection, accepted):
                peer = peer_of(end.fileno())
                assert peer == (os.getpid(), os.geteuid(), os.getegid())
                assert is_own_user(peer)
                assert not is_own_user(peer._replace(user=peer.user + 1))


# -- a worker ---------------------------------------------------------------------------


def own(number: int) -> dict[str, Any]:
    """What a worker of this process answers."""
    return {"version": VERSION, "number": number, "process": os.getpid()}


async def ask(worker: Worker, path: str = "/") -> object:
    assert worker.place is not None
    address = worker.place.folder.address(str(worker.place.name))
    async with (
        ClientSession(connector=UnixConnector(address)) as session,
        session.get(f"http://worker{path}") as response,
    ):
        if response.content_type == "application/json":
            return await response.json()
        return response.status, await response.text()


async def test_worker_answers_from_its_start_to_its_end(share: str) -> None:
    """It says who it is, and what its handlers answer; afterwards it has left."""

    async def shop(request: web.BaseRequest) -> web.Response:
        return web.json_response("open")

    worker = Worker(share, {"/shop": shop}, application="shop")
    await worker.open()
    assert await ask(worker) == own(0)
    assert await ask(worker, "/shop") == "open"
    with pytest.raises(RuntimeError, match=r"open\(\) was called twice"):
        await worker.open()
    await worker.close()
    await worker.close()
    assert os.listdir(share) == [lock_name(APPLICATION, 0)]
    assert open_in(share) == []


def test_worker_on_uvloop(share: str) -> None:
    """Its sockets are uvloop's own; still a forked child keeps none of them."""

    async def run() -> None:
        worker = Worker(share, {}, application="shop")
        await worker.open()
        assert await ask(worker) == {
            "version": VERSION,
            "number": 0,
            "process": os.getpid(),
        }
        child = os.fork()
        if not child:  # pragma: no cover
            os._exit(len(open_in(share)) + (worker.place is None or listens(share)))
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
        assert os.waitstatus_to_exitcode(status) == 0
        assert await ask(worker) == {
            "version": VERSION,
            "number": 0,
            "process": os.getpid(),
        }
        await worker.close()
        assert open_in(share) == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert not listens(share)


def listens(share: str) -> bool:
    """Whether this process has a listening socket in this directory."""
    numbers = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if line.split()[3] == "00010000"
    }
    mine = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            mine.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return bool({f"socket:[{number}]" for number in numbers} & mine)


async def test_process_of_another_user_is_refused(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In case one gets into the directory."""
    worker = Worker(share, {}, application="shop")
    await worker.open()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    answer = await ask(worker)
    monkeypatch.undo()
    assert answer == (403, "This socket is for workers of its own user.")
    await worker.close()


async def test_refused_directory_refuses_the_application(share: str) -> None:
    """At its start, and nothing stays open."""
    os.mkdir(share, 0o755)
    app = web.Application()
    app.cleanup_ctx.append(Worker(share, {}).context)
    runner = web.AppRunner(app)
    with pytest.raises(RuntimeError, match="has the mode 0755"):
        await runner.setup()
    await runner.cleanup()


async def test_what_is_missing_is_put_back(
    share: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same number, even if lower ones are free; logged once."""
    first, second = (Worker(share, {}, application="shop") for _ in range(2))
    await first.open()
    await second.open()
    await first.close()
    await second.look()
    assert caplog.messages == []
    shutil.rmtree(share)
    await second.look()
    assert second.place is not None
    assert second.place.number == 1
    assert await ask(second) == own(1)
    [message] = caplog.messages
    assert message == f"The directory {share!r} was repaired: this worker is in it"
    await second.close()


async def test_directory_that_is_refused_later_is_told_once(
    share: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker goes on, and is back when the directory is its own again."""
    worker = Worker(share, {}, application="shop")
    await worker.open()
    shutil.rmtree(share)
    os.mkdir(share)
    os.chmod(share, 0o777)
    for _ in range(2):
        await worker.look()
        assert worker.place is None
    assert len(caplog.messages) == 1
    assert "has the mode 0777" in caplog.text
    os.chmod(share, 0o700)
    await worker.look()
    assert worker.place is not None
    assert await ask(worker) == own(0)
    await worker.close()


async def test_directory_is_looked_at_again_and_again(share: str) -> None:
    """The worker does so itself."""
    looked = asyncio.Semaphore(0)

    class Looking(Worker):
        async def look(self) -> None:
            await super().look()
            looked.release()

    worker = Looking(share, {}, application="shop", patrol=0.001)
    await worker.open()
    shutil.rmtree(share)
    for _ in range(2):
        await asyncio.wait_for(looked.acquire(), 30)
    assert worker.place is not None
    assert worker.place.is_whole()
    await worker.close()
