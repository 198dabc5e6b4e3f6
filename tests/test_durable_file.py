"""The file of the SQLite store: faults, owners, locks, versions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from aiohttp_jobs.durable import SQLiteStore, StoreUnavailable
from aiohttp_jobs.durable.sqlite import disk, owner, rows, schema, turn, writer
from aiohttp_jobs.durable.sqlite.disk import file_system_of
from aiohttp_jobs.durable.sqlite.faults import fault_of
from aiohttp_jobs.durable.sqlite.locks import Locks
from tests.envelopes import envelope, look, opened, started
from tests.processes import ROOT, needs_signals, running

# Seconds after which waiting is a failure; a passing test never waits this long.
PATIENCE = 30.0


_IS_ROOT = sys.platform != "win32" and os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


async def refusal(path: Path) -> str:
    """Return the message of a store that cannot be started."""
    store = SQLiteStore(path)
    with pytest.raises(StoreUnavailable) as raised:
        await store.start(["mail"], worker=True)
    await store.stop()
    return str(raised.value)


def connecting(monkeypatch: pytest.MonkeyPatch, *statements: str, **options: Any) -> None:
    """Make stores connect with these options, and begin with these statements."""
    connect = schema.connect
    if "timeout" in options:
        monkeypatch.setattr(turn, "PATIENCE", options["timeout"])

    def connect_so(path: str) -> sqlite3.Connection:
        connection = connect(path, **options)
        for statement in statements:
            connection.execute(statement)
        return connection

    monkeypatch.setattr(writer, "connect", connect_so)


# -- faults -----------------------------------------------------------------------------


async def test_file_that_is_no_database_is_named(path: Path) -> None:
    """And left as it is."""
    path.write_bytes(b"Dear diary, " * 1000)
    assert f"the file {path} is not an SQLite database" in await refusal(path)
    assert path.read_bytes() == b"Dear diary, " * 1000


async def test_damaged_file_is_named(path: Path) -> None:
    """It accepts no job that could not be found again."""
    async with started(path) as store:
        await store.put(envelope())
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    assert f"the file {path} is damaged" in await refusal(path)


async def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """It is not created: it may be a disk that is not mounted."""
    path = tmp_path / "data" / "jobs.sqlite"
    assert f"the file {path} cannot be opened: make its folder" in await refusal(path)


async def test_file_that_cannot_be_written_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The put is refused, and so is the fetch, which would write as well."""
    async with started(path) as store:
        await store.put(envelope())
    connecting(monkeypatch, "PRAGMA query_only = ON")
    assert f"the file {path} is read-only" in await refusal(path)


@needs_signals
@pytest.mark.skipif(_IS_ROOT, reason="root may write to everything")
async def test_file_that_belongs_to_somebody_else_is_named(path: Path) -> None:
    """The same with real permissions."""
    async with started(path):
        pass
    path.chmod(0o400)
    assert f"the file {path} is read-only" in await refusal(path)


async def test_full_disk_refuses_and_serves_again_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a batch, each job is either refused or kept."""
    connecting(monkeypatch, "PRAGMA max_page_count = 30")
    async with started(path) as store:
        big = [envelope(arguments="x" * 5000) for _ in range(40)]
        results = list[Any]()
        for start in range(0, 40, 4):
            puts = map(store.put, big[start : start + 4])
            results += await asyncio.gather(*puts, return_exceptions=True)
        accepted = [result for result in results if isinstance(result, str)]
        refused = [result for result in results if not isinstance(result, str)]
        assert 0 < len(accepted) < 40
        assert all(isinstance(error, StoreUnavailable) for error in refused)
        assert f"the disk of {path} is full" in str(refused[0])
        kept = [row[0] for row in look(path, "SELECT id FROM aiohttp_jobs")]
        assert kept == accepted

        connecting(monkeypatch)
        with opened(path) as connection:
            connection.execute("DELETE FROM aiohttp_jobs")
        assert await store.put(sent := envelope()) == sent.id


async def test_file_that_stays_locked_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds a transaction open; jobs put meanwhile are refused, not lost."""
    connecting(monkeypatch, timeout=0.2)
    async with started(path) as store:
        await store.put(sent := envelope())
        with opened(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="was locked for over 30 s"):
                await store.put(envelope())
            with pytest.raises(StoreUnavailable, match="was locked for over 30 s"):
                await store.fetch(1)
            other.execute("COMMIT")
        [delivery] = await store.fetch(1)
        assert delivery.envelope == sent


async def test_end_of_a_job_is_noted_when_the_file_is_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ended while the file was locked does not run again."""
    connecting(monkeypatch, timeout=0.2)
    async with started(path) as store:
        await store.put(envelope())
        [delivery] = await store.fetch(1)
        with opened(path) as other:
            other.execute("BEGIN IMMEDIATE")
            store.ack(delivery)
            with pytest.raises(StoreUnavailable, match="was locked"):
                await store.put(envelope())
            other.execute("COMMIT")
        await store.put(sent := envelope())
        assert look(path, "SELECT id FROM aiohttp_jobs") == [(sent.id,)]


async def test_end_does_not_wait_long_for_a_file_that_stays_locked(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process will be killed soon, and other parts have to end, too. What the store
    could not write is logged, and the job runs again: at-least-once.

    Otherwise it would wait half a minute for the current step, and again for each
    further one.
    """
    store = SQLiteStore(path)
    await store.start(["mail"], worker=True)
    await store.put(envelope())
    [delivery] = await store.fetch(1)
    with opened(path) as other:
        other.execute("BEGIN IMMEDIATE")
        putting = asyncio.ensure_future(store.put(envelope()))
        await asyncio.sleep(0)
        store.ack(delivery)
        begun = monotonic()
        await store.stop()
        assert monotonic() - begun < 60  # of 90 seconds
        with pytest.raises(StoreUnavailable, match="locked by another program"):
            await putting
        other.execute("COMMIT")
    assert "The end of the last durable jobs is not recorded" in caplog.text
    async with started(path) as again, asyncio.timeout(PATIENCE):
        [once_more] = await again.fetch(1)
        assert once_more.envelope.id == delivery.envelope.id
        assert once_more.envelope.attempt == 1


async def test_file_of_a_newer_release_is_named(path: Path) -> None:
    """It is not touched: it may contain things that this release does not know."""
    async with started(path):
        pass
    with opened(path) as connection:
        connection.execute("UPDATE aiohttp_jobs_schema SET version = 99")
    assert f"the file {path} has version 99" in await refusal(path)


async def test_file_on_a_network_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the log nor the locks reach the other machines."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 1 0:5 / {tmp_path} rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(disk, "_MOUNTS", mounts)
    assert "a file system that machines share (nfs4)" in await refusal(path)


async def test_journal_that_stays_as_it_is_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database in memory has no log; some file systems do not allow one."""
    monkeypatch.setattr(writer, "connect", lambda path: schema.connect(":memory:"))
    assert "cannot have a write-ahead log" in await refusal(path)


async def test_file_that_was_removed_takes_no_job(path: Path) -> None:
    """SQLite would go on writing to a file that no longer has a name."""
    async with started(path) as store:
        await store.put(envelope())
        path.unlink()
        with pytest.raises(StoreUnavailable, match="cannot be used: No such file"):
            await store.put(envelope())
        await store.put(sent := envelope())
        assert look(path, "SELECT id FROM aiohttp_jobs") == [(sent.id,)]
        async with asyncio.timeout(PATIENCE):
            [delivery] = await store.fetch(1)
        store.ack(delivery)


async def test_file_that_was_replaced_takes_no_job(path: Path, tmp_path: Path) -> None:
    """For example by a backup."""
    async with started(other := tmp_path / "backup.sqlite"):
        pass
    async with started(path) as store:
        other.rename(path)
        with pytest.raises(StoreUnavailable, match="another file was put in the place"):
            await store.put(envelope())
        await store.put(sent := envelope())
        assert (sent.id,) in look(path, "SELECT id FROM aiohttp_jobs")


async def test_job_of_a_file_that_was_replaced_is_not_taken_for_one_of_the_new_file(
    path: Path,
) -> None:
    """Both jobs have the first number in their file, and the same process runs them."""
    async with started(path) as store:
        await store.put(envelope())
        async with asyncio.timeout(PATIENCE):
            [old] = await store.fetch(1)
        path.unlink()
        with pytest.raises(StoreUnavailable):
            await store.put(envelope())
        await store.put(sent := envelope())
        async with asyncio.timeout(PATIENCE):
            [new] = await store.fetch(1)
        store.ack(old)
        await store.put(envelope(task="other"))
        running = look(path, "SELECT id FROM aiohttp_jobs WHERE state = 2")
        assert running == [(sent.id,)]
        store.retry(new, time())
        async with asyncio.timeout(PATIENCE):
            [again] = await store.fetch(1)
        assert (again.envelope.id, again.envelope.attempt) == (sent.id, 2)


def test_fault_of_one_row_is_no_fault_of_the_file() -> None:
    """SQLite's error codes tell them apart."""
    assert fault_of(OverflowError("too large"), "jobs") is None
    assert fault_of(sqlite3.IntegrityError("NOT NULL"), "jobs") is None
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(sqlite3.OperationalError) as raised,
    ):
        connection.execute("SELECT * FROM nowhere")
    assert "no such table" in str(fault_of(raised.value, "jobs"))


MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /srv rw shared:2 - nfs4 server:/srv rw
31 30 0:27 / /srv/local rw - xfs /dev/vdb rw
32 22 0:28 / /mnt/two\040words rw - cifs //server/share rw
33 22 0:29 / /mnt/over rw - nfs server:/ rw
34 22 0:30 / /mnt/over rw - ext4 /dev/vdc rw
broken
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/home/jobs.sqlite", "ext4"),
        ("/srv/jobs.sqlite", "nfs4"),
        ("/srv/local/jobs.sqlite", "xfs"),
        ("/srv/locally/jobs.sqlite", "nfs4"),
        ("/srvs/jobs.sqlite", "ext4"),
        ("/mnt/two words/jobs.sqlite", "cifs"),
        ("/mnt/over/jobs.sqlite", "ext4"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(place: str, kind: str) -> None:
    """Whole names count, and the later of two mounts at the same place."""
    assert file_system_of(place, MOUNTS) == kind


# -- owners -----------------------------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_jobs_of_a_dead_process_come_back(
    path: Path, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    """Without counting an attempt, within a heartbeat and the pause; the log says so."""
    async with started(path) as store:
        sent = [envelope() for _ in range(3)]
        await asyncio.gather(*map(store.put, sent))
        with running("tests.claimer", str(path), "3") as claimer:
            await asyncio.to_thread(claimer.read_until, lambda line: "claimed" in line)
            fetching = asyncio.create_task(store.fetch(10))
            claimer.send(how)
            await asyncio.to_thread(claimer.end)
        async with asyncio.timeout(PATIENCE):
            got = list(await fetching)
            while len(got) < 3:
                got += await store.fetch(10)
        assert {each.envelope.id for each in got} == {each.id for each in sent}
        assert {each.envelope.attempt for each in got} == {1}
        assert look(path, "SELECT DISTINCT crashes FROM aiohttp_jobs") == [(1,)]
        assert "the durable jobs that it ran come back: 3" in caplog.text


async def test_jobs_of_a_process_that_lives_stay_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, and however it blocks its loop: nothing is renewed."""
    beats = asyncio.Queue[list[rows.Crashed]]()
    loop = asyncio.get_running_loop()
    beat = owner.Owner.beat

    def tell(self: owner.Owner, *args: Any) -> list[rows.Crashed]:
        crashed = beat(self, *args)
        loop.call_soon_threadsafe(beats.put_nowait, crashed)
        return crashed

    monkeypatch.setattr(writer, "HEARTBEAT", 0.01)
    monkeypatch.setattr(owner.Owner, "beat", tell)
    async with started(path, worker=False) as putter:
        await putter.put(envelope())
        with running("tests.claimer", str(path), "1") as claimer:
            await asyncio.to_thread(claimer.read_until, lambda line: "claimed" in line)
            if sys.platform != "win32":
                claimer.send(signal.SIGSTOP)
            # In this process there are two more stores, which do not take from each
            # other.
            async with started(path), started(path), asyncio.timeout(PATIENCE):
                for _ in range(20):
                    assert await beats.get() == []
            claimer.send(signal.SIGCONT)
            claimer.tell("stop")
            await asyncio.to_thread(claimer.end)
        assert look(path, "SELECT state, crashes FROM aiohttp_jobs") == [(1, 0)]


async def test_job_that_kills_each_process_is_buried(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After max_crashes, with a reason."""
    async with started(path) as store:
        await store.put(envelope("poison"))
        await store.put(envelope())
    with opened(path) as connection:
        for crashes in range(1, 6):
            connection.execute("UPDATE aiohttp_jobs SET state = 2, owner = 77")
            crashed = rows.take_over(connection, 77, 5, time())
            if crashes < 5:
                assert crashed == (2, [])
                found = look(path, "SELECT state, crashes, attempt FROM aiohttp_jobs")
                assert found == [(0, crashes, 1)] * 2
        assert sorted(crashed.buried) == ["mail", "poison"]
    reasons = look(path, "SELECT reason, buried_at FROM aiohttp_jobs WHERE state = 3")
    assert {reason for reason, _ in reasons} == {
        "Its process died each time that it ran, 5 times"
    }


def test_pause_after_a_crash_is_random_and_grows() -> None:
    """So that a job that kills its process is alone before its neighbours are buried."""
    for crashes in range(1, 9):
        pauses = [rows.crash_pause(crashes) for _ in range(200)]
        longest = min(4.0 ** (crashes - 1), 256)
        assert 0 <= min(pauses) < longest / 4
        assert longest * 3 / 4 < max(pauses) <= longest


def test_poison_does_not_bury_its_neighbours(path: Path) -> None:
    """Nine short jobs ran with it at first; it alone is buried."""
    now = 0.0
    with opened(path) as connection:
        schema.prepare(connection, str(path))
        sent = [envelope("poison"), *(envelope() for _ in range(9))]
        rows.insert(connection, [rows.row_of(each, now) for each in sent])
        buried = list[str]()
        while not buried:
            now += 0.05  # how long each job takes
            rows.make_ready(connection, now)
            got = rows.claim(connection, 1, ["mail", "poison"], 10)
            if any(each.envelope.task == "poison" for each in got):
                buried += rows.take_over(connection, 1, 5, now).buried
            else:
                rows.ack(connection, [each.receipt for each in got])
        assert buried == ["poison"]


async def test_removed_file_of_locks_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others see its owner again, and the owner keeps its jobs."""
    monkeypatch.setattr(writer, "HEARTBEAT", 0.01)
    locks = Path(f"{path}-owners")
    async with started(path) as store, asyncio.timeout(PATIENCE):
        await store.put(envelope())
        [delivery] = await store.fetch(1)
        locks.unlink()
        _, number = delivery.receipt
        while taken(locks, [number]) != f"[{number}]":  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        assert look(path, "SELECT state, owner FROM aiohttp_jobs") == [(2, number)]
        store.ack(delivery)
    assert look(path, "SELECT * FROM aiohttp_jobs") == []


# -- locks ------------------------------------------------------------------------------

PROBE = """
import sys
from aiohttp_jobs.durable.sqlite.locks import Locks
locks = Locks(sys.argv[1])
print([number for number in map(int, sys.argv[2:]) if not locks.take(number)])
"""


def taken(path: Path, numbers: Iterable[int] = range(1, 6)) -> str:
    """Return the numbers among these that another process finds locked."""
    return subprocess.run(
        [sys.executable, "-c", PROBE, str(path), *map(str, numbers)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_lock_is_seen_by_the_same_process_and_by_others(path: Path) -> None:
    """Opening and closing the file once more does not drop any lock."""
    one, two = Locks(str(path)), Locks(str(path))
    assert one.take(1)
    assert two.take(4)
    assert not two.take(1)
    assert not one.take(1)
    Locks(str(path)).close()
    assert taken(path) == "[1, 4]"
    one.free(1)
    one.close()
    one.close()
    assert not one.take(2)
    assert taken(path) == "[4]"
    two.close()
    assert taken(path) == "[]"


@needs_signals
def test_lock_does_not_live_on_in_a_child(path: Path) -> None:
    """A lock by flock() would, and the parent's jobs would wait for the child's end."""
    code = (
        "import subprocess, sys, os\n"
        "from aiohttp_jobs.durable.sqlite.locks import Locks\n"
        f"locks = Locks({str(path)!r})\n"
        "assert locks.take(2)\n"
        "if not os.fork():\n"
        f"    assert not Locks({str(path)!r}).take(2)\n"
        "    print('forked', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    os._exit(0)\n"
        "sys.stdout.flush()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            process.wait(PATIENCE)
            assert taken(path) == "[]"
        finally:
            assert process.stdin is not None
            process.stdin.close()


# -- versions ---------------------------------------------------------------------------

# As the first release created it. It stays here for ever, as such files may still exist.
VERSION_1 = """
CREATE TABLE aiohttp_jobs (
    number INTEGER PRIMARY KEY, state INTEGER NOT NULL, task TEXT NOT NULL,
    priority INTEGER NOT NULL, due REAL, owner INTEGER, attempt INTEGER NOT NULL,
    crashes INTEGER NOT NULL DEFAULT 0, id TEXT NOT NULL, key TEXT,
    accepted_at REAL NOT NULL, origin TEXT, traceparent TEXT, arguments TEXT NOT NULL,
    buried_at REAL, reason TEXT);
CREATE INDEX aiohttp_jobs_ready ON aiohttp_jobs (task, priority DESC, number)
    WHERE state = 1;
CREATE INDEX aiohttp_jobs_delayed ON aiohttp_jobs (due) WHERE state = 0;
CREATE INDEX aiohttp_jobs_running ON aiohttp_jobs (owner) WHERE state = 2;
CREATE INDEX aiohttp_jobs_dead ON aiohttp_jobs (buried_at) WHERE state = 3;
CREATE UNIQUE INDEX aiohttp_jobs_key ON aiohttp_jobs (task, key)
    WHERE key IS NOT NULL AND state <= 1;
CREATE TABLE aiohttp_jobs_owners (
    number INTEGER PRIMARY KEY AUTOINCREMENT, process INTEGER NOT NULL,
    host TEXT NOT NULL, started_at REAL NOT NULL, tasks TEXT NOT NULL);
CREATE TABLE aiohttp_jobs_ticks (task TEXT PRIMARY KEY, seen REAL NOT NULL);
CREATE TABLE aiohttp_jobs_schema (version INTEGER NOT NULL);
INSERT INTO aiohttp_jobs_schema VALUES (1);
INSERT INTO aiohttp_jobs (state, task, priority, attempt, id, accepted_at, arguments)
    VALUES (1, 'mail', 0, 2, 'waiting', 1e9, '[[1], {}]');
INSERT INTO aiohttp_jobs (state, task, priority, owner, attempt, id, accepted_at,
    arguments) VALUES (2, 'mail', 0, 7, 1, 'running', 1e9, '[[2], {}]');
INSERT INTO aiohttp_jobs (state, task, priority, attempt, id, accepted_at, arguments,
    buried_at, reason) VALUES (3, 'mail', 0, 5, 'dead', 1e9, '[[3], {}]', 1e9, 'boom');
INSERT INTO aiohttp_jobs_ticks VALUES ('digest', 3600.0);
"""

VERSION_2 = f"""{VERSION_1}
CREATE INDEX aiohttp_jobs_dead_id ON aiohttp_jobs (id) WHERE state = 3;
UPDATE aiohttp_jobs_schema SET version = 2;
"""


@pytest.mark.parametrize("tables", [VERSION_1, VERSION_2])
async def test_file_of_an_older_version_is_brought_up(path: Path, tables: str) -> None:
    """Its jobs run, even those that a dead process had claimed; dead jobs stay."""
    with opened(path) as connection:
        connection.executescript(tables)
    async with started(path, worker=False) as store:
        counts = await store.statistics()
        assert (counts.waiting, counts.delayed, counts.dead) == (1, 0, 1)
    async with started(path) as store, asyncio.timeout(PATIENCE):
        got = list(await store.fetch(10))
        while len(got) < 2:
            got += await store.fetch(10)
        found = {each.envelope.id: each.envelope for each in got}
        assert found["waiting"].unpack() == ([1], {})
        assert found["waiting"].attempt == 2
        assert found["running"].attempt == 1
        assert await store.last_tick("digest", 0) == 3600
        assert look(path, "SELECT id, reason FROM aiohttp_jobs WHERE state = 3") == [
            ("dead", "boom")
        ]
        versions = look(path, "SELECT version FROM aiohttp_jobs_schema")
        assert versions == [(schema.VERSION,)]


async def test_new_file_is_what_the_steps_make_of_an_old_one(
    path: Path, tmp_path: Path
) -> None:
    """A current file has the same tables, whether it is new or upgraded."""
    with opened(old := tmp_path / "old.sqlite") as connection:
        connection.executescript(VERSION_1)
    async with started(old), started(path):
        pass
    described = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"

    def tables(path: Path) -> list[Any]:
        return [
            (*row[:3], row[3] and "".join(row[3].split()))
            for row in look(path, described)
        ]

    assert tables(old) == tables(path)


async def test_step_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of a future release fails in the middle."""
    async with started(path) as store:
        await store.put(sent := envelope())

    def step(connection: sqlite3.Connection, *, fails: bool) -> None:
        connection.execute("ALTER TABLE aiohttp_jobs ADD COLUMN colour TEXT")
        if fails:
            raise OSError(28, "No space left on device")

    steps = schema._STEPS
    before, after = schema.VERSION, schema.VERSION + 1
    monkeypatch.setattr(schema, "VERSION", after)
    monkeypatch.setattr(schema, "_STEPS", (*steps, partial(step, fails=True)))
    assert "No space left" in await refusal(path)
    assert look(path, "SELECT version FROM aiohttp_jobs_schema") == [(before,)]
    monkeypatch.setattr(schema, "_STEPS", (*steps, partial(step, fails=False)))
    async with started(path) as store:
        [delivery] = await store.fetch(1)
        assert delivery.envelope == sent
        assert look(path, "SELECT version FROM aiohttp_jobs_schema") == [(after,)]
        assert look(path, "SELECT colour FROM aiohttp_jobs") == [(None,)]


async def test_file_may_be_the_application_s_own(path: Path) -> None:
    """Its tables and its version stay as they are."""
    with opened(path) as connection:
        connection.executescript(
            "CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('Ada');"
            "PRAGMA user_version = 42; PRAGMA application_id = 7;"
        )
    async with started(path) as store:
        await store.put(envelope())
    assert look(path, "SELECT * FROM users") == [("Ada",)]
    assert look(path, "PRAGMA user_version") == [(42,)]
    assert look(path, "PRAGMA application_id") == [(7,)]


def test_file_is_made_by_several_processes_at_once(path: Path) -> None:
    """Each of them can put at once, and none finds an incomplete file."""
    command = [sys.executable, "-m", "tests.claimer", str(path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    accepted = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert {row[0] for row in look(path, "SELECT id FROM aiohttp_jobs")} == accepted
    assert len(accepted) == 4


async def test_log_of_what_is_lost_names_the_logger(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error of the store is logged with its traceback, and ends nothing."""

    def fail(*args: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    async with started(path) as store:
        await store.put(envelope())
        with monkeypatch.context() as broken:
            broken.setattr(rows, "claim", fail)
            with pytest.raises(StoreUnavailable, match="ZeroDivisionError"):
                await store.fetch(1)
        [delivery] = await store.fetch(1)
        store.ack(delivery)
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.name == "aiohttp_jobs"
    assert record.exc_info is not None
