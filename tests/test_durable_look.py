"""Looking into the file of durable jobs, in Python and by the command; and dead jobs."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from pathlib import Path
from time import time

import pytest

from aiohttp_jobs.durable import (
    Delivery,
    DurableStatistics,
    Inspectable,
    KeptJob,
    Place,
    SQLiteStore,
    StoreUnavailable,
)
from aiohttp_jobs.durable.__main__ import main
from aiohttp_jobs.durable.sqlite import dead, schema
from aiohttp_jobs.durable.sqlite import look as look_module
from tests.envelopes import MemoryStore, envelope, look, opened, started

SECRET = "hunter2"
STATES = {
    Place.DELAYED: schema.DELAYED,
    Place.WAITING: schema.READY,
    Place.RUNNING: schema.RUNNING,
    Place.DEAD: schema.DEAD,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list whose last item counts SQLite's steps in reading, in tens."""
    steps = list[int]()

    def tick() -> int:
        steps[-1] += 1
        return 0

    def connect(path: str) -> sqlite3.Connection:
        connection = schema.connect(path)
        connection.set_progress_handler(tick, 10)
        return connection

    monkeypatch.setattr(look_module, "connect", connect)
    return steps


async def fill(store: SQLiteStore) -> list[Delivery]:
    """Put a job into each state, with two dead ones and one of an unknown task."""
    for name in ("dead", "buried", "runs"):
        await store.put(envelope("mail", id=name, arguments=f'[["{SECRET}"], {{}}]'))
    deliveries = list(await store.fetch(3))
    store.bury(
        deliveries[0], "Traceback (most recent call last):\nValueError: \x1b[31mno"
    )
    store.bury(deliveries[1], "its process died")
    await store.put(envelope("mail", id="waits", accepted_at=time() - 100, attempt=3))
    await store.put(envelope("new", id="unknown", accepted_at=time() - 50))
    await store.put(
        envelope(
            "mail", id="later", due=time() + 60, key="k", origin="POST /", priority=4
        )
    )
    return deliveries[2:]


async def test_statistics_tell_how_many_are_where(path: Path) -> None:
    """And for how long the first waiting job has waited."""
    async with started(path) as store:
        assert await store.statistics() == DurableStatistics(0, 0, 0, 0, 0.0)
        await fill(store)
        found = await store.statistics()
    assert (found.waiting, found.delayed, found.running, found.dead) == (2, 1, 1, 2)
    assert 100 <= found.oldest_waiting < 160


async def assert_counts(store: SQLiteStore) -> None:
    """Assert that the store's counts are those of the table."""
    found = await store.statistics()
    told = {
        Place.WAITING: found.waiting,
        Place.DELAYED: found.delayed,
        Place.RUNNING: found.running,
        Place.DEAD: found.dead,
    }
    rows = look(Path(store.path), "SELECT state, COUNT(*) FROM aiohttp_jobs GROUP BY 1")
    assert told == {place: dict(rows).get(state, 0) for place, state in STATES.items()}


async def test_counts_are_exact_whatever_happens_to_jobs(path: Path) -> None:
    """After every possible move, of one job and of several, of two workers."""
    async with started(path) as store, started(path, "other") as other:
        await fill(store)
        await assert_counts(store)
        await asyncio.gather(*(store.put(envelope()) for _ in range(20)))
        await asyncio.gather(*(store.put(envelope(key="k")) for _ in range(3)))
        await store.put(envelope("other"))
        await store.put_tick(envelope(), 5.0, 5.0)
        await assert_counts(store)
        taken = [*await store.fetch(12), *await other.fetch(1)]
        await assert_counts(store)
        for number, each in enumerate(taken):
            due = time() + (60 if number % 2 else -1)
            match number % 4:
                case 0:
                    store.ack(each)
                case 1:
                    store.retry(each, due)
                case 2:
                    store.bury(each, "no")
                case _:
                    store.give_back(each)
        await store.put(envelope(due=time() - 1))
        await assert_counts(store)
        await store.fetch(5)
        await assert_counts(store)
        await store.retry_dead(["buried"])
        await store.drop_dead(["dead"])
        await assert_counts(store)
        await store.retry_dead()
        await assert_counts(store)
    async with started(path, worker=False) as store:
        await assert_counts(store)


async def test_counts_are_those_of_what_is_committed(path: Path) -> None:
    """A transaction of the application or of another program counts once it ends."""
    async with started(path) as store:
        with opened(path) as connection:
            connection.execute("BEGIN")
            await store.put(envelope(), connection=connection)
            await store.put(envelope(due=time() + 60), connection=connection)
            assert (await store.statistics()).waiting == 0
            connection.execute("ROLLBACK")
            await assert_counts(store)
            connection.execute("BEGIN")
            await store.put(envelope(), connection=connection)
            connection.execute("SAVEPOINT s")
            await store.put(envelope(), connection=connection)
            connection.execute("ROLLBACK TO s")
            await store.put(envelope(due=time() + 60), connection=connection)
            connection.execute("COMMIT")
            found = await store.statistics()
            assert (found.waiting, found.delayed) == (1, 1)
            with opened(path.with_name("mine")) as mine:
                mine.execute("ATTACH ? AS jobs", (str(path),))
                await store.put(envelope(), connection=mine)
            await assert_counts(store)
            connection.execute("DELETE FROM aiohttp_jobs WHERE state = 1")
            await assert_counts(store)
            connection.execute("DELETE FROM aiohttp_jobs")
            await assert_counts(store)


async def test_cost_of_the_statistics_does_not_grow(path: Path, steps: list[int]) -> None:
    """Counted: SQLite's steps with a hundred jobs in each state, or ten thousand."""
    async with started(path) as store:
        for count in (400, 10_000):
            await asyncio.gather(*(store.put(envelope()) for _ in range(count)))
            with opened(path) as connection:
                for state in (schema.DELAYED, schema.DEAD):
                    connection.execute(
                        f"UPDATE aiohttp_jobs SET state = {state} WHERE number % 4 = ?",
                        (state,),
                    )
            steps.append(0)
            await assert_counts(store)
    assert steps[1] <= steps[0] * 1.1


async def test_jobs_of_each_place_are_listed_without_their_arguments(path: Path) -> None:
    """Dead jobs with their reasons, running ones with their process."""
    async with started(path) as store:
        await fill(store)
        found = {place: list(await store.jobs(place)) for place in Place}
        assert [[job.id for job in found[place]] for place in Place] == [
            ["waits", "unknown"],
            ["later"],
            ["runs"],
            ["buried", "dead"],
        ]
        [later], [running] = found[Place.DELAYED], found[Place.RUNNING]
        assert (later.key, later.origin, later.priority) == ("k", "POST /", 4)
        assert running.process is not None
        assert found[Place.DEAD][0].reason == "its process died"
        assert found[Place.WAITING][0].attempt == 3
        assert len(await store.jobs(Place.WAITING, 1)) == 1
        everything = repr(list(itertools.chain.from_iterable(found.values())))
        assert SECRET not in everything
        assert isinstance(later, KeptJob)


async def test_dead_jobs_run_again_as_new_ones(path: Path) -> None:
    """Those asked for, at once, with their ids and all their attempts."""
    async with started(path) as store:
        await store.put(envelope(id="dead", attempt=5))
        [delivery] = await store.fetch(1)
        store.bury(delivery, "no")
        await store.put(envelope(id="other"))
        [delivery] = await store.fetch(1)
        store.bury(delivery, "no")
        with opened(path) as connection:
            connection.execute("UPDATE aiohttp_jobs SET crashes = 4")
        fetching = asyncio.create_task(store.fetch(10))
        assert await store.retry_dead(["dead", "nobody"]) == 1
        [again] = await fetching
        assert (again.envelope.id, again.envelope.attempt) == ("dead", 1)
        assert look(path, "SELECT crashes FROM aiohttp_jobs WHERE id = 'dead'") == [(0,)]
        store.ack(again)
        assert await store.retry_dead() == 1
        [again] = await store.fetch(10)
        assert again.envelope.id == "other"


async def test_dead_job_gets_no_second_one_beside_the_one_that_waits(path: Path) -> None:
    """If its key is taken, it waits without the key."""
    async with started(path) as store:
        await store.put(envelope(id="dead", key="k"))
        [delivery] = await store.fetch(1)
        store.bury(delivery, "no")
        await store.put(envelope(id="waits", key="k"))
        assert await store.retry_dead() == 1
        found = look(path, "SELECT id, key FROM aiohttp_jobs ORDER BY id")
        assert found == [("dead", None), ("waits", "k")]


async def test_dead_jobs_are_dropped(path: Path) -> None:
    """Other jobs are not."""
    async with started(path) as store:
        await fill(store)
        assert await store.drop_dead(["dead", "waits"]) == 1
        assert await store.drop_dead() == 1
        left = {row[0] for row in look(path, "SELECT id FROM aiohttp_jobs")}
        assert left == {"runs", "waits", "unknown", "later"}


async def bury_many(store: SQLiteStore, count: int) -> None:
    """Bury this many jobs, with numbers as ids, in order."""
    for number in range(count):
        await store.put(envelope(id=str(number)))
    for each in await store.fetch(count):
        store.bury(each, "no")
    await store.last_tick("mail", 0)  # waits until they are written
    with opened(Path(store.path)) as connection:
        connection.execute("UPDATE aiohttp_jobs SET buried_at = number")


@pytest.fixture
def parts_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead, "MOST", 10)


@pytest.mark.usefixtures("parts_of_ten")
@pytest.mark.parametrize("change", ["retry_dead", "drop_dead"])
@pytest.mark.parametrize("ids", [None, [*map(str, range(4, 29)), "nobody"]])
async def test_many_dead_jobs_are_changed_a_part_at_a_time(
    path: Path, change: str, ids: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is a transaction of its own, and jobs can be put meanwhile."""
    parts = list[int]()
    do_part = dead.Change.do_part

    def noted(change: dead.Change, connection: sqlite3.Connection) -> dead.Part:
        part = do_part(change, connection)
        parts.append(part.changed)
        return part

    monkeypatch.setattr(dead.Change, "do_part", noted)
    async with started(path) as store:
        await bury_many(store, 33)
        changing = asyncio.create_task(getattr(store, change)(ids))
        while not changing.done():
            await store.put(envelope(task="other"))
        assert await changing == (33 if ids is None else 25)
        assert parts == ([10, 10, 10, 3] if ids is None else [10, 10, 5])
        left = [each.id for each in await store.jobs(Place.DEAD)]
        assert left == ([] if ids is None else ["32", "31", "30", "29", *"3210"])
        await assert_counts(store)


@pytest.mark.usefixtures("parts_of_ten")
async def test_change_of_the_dead_ends_in_time_and_says_how_many(
    path: Path,
) -> None:
    """The jobs that were buried first come first."""
    async with started(path) as store:
        await bury_many(store, 25)
        assert await store.drop_dead(within=0) == 10
        assert await store.retry_dead(within=0, until=13.5) == 3
        assert await store.drop_dead(within=0, until=13.5) == 0
        assert await store.drop_dead([*map(str, range(25))], within=0) == 0
        assert await store.drop_dead([]) == 0
        assert (await store.statistics()).dead == 12


@pytest.mark.usefixtures("parts_of_ten")
async def test_jobs_that_die_while_the_dead_are_retried_are_left(
    path: Path,
) -> None:
    """Otherwise it would never end, with jobs that fail at once."""
    async with started(path) as store:
        await bury_many(store, 25)
        changing = asyncio.create_task(store.retry_dead())
        while not changing.done():
            [delivery, *others] = await store.fetch(5)
            store.bury(delivery, "no")
            for each in others:
                store.ack(each)
        assert await changing == 25


@pytest.mark.usefixtures("parts_of_ten")
async def test_change_that_fails_in_the_middle_says_how_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts before it are done."""
    do_part = dead.Change.do_part

    def do_one(change: dead.Change, connection: sqlite3.Connection) -> dead.Part:
        if change.done:
            raise StoreUnavailable("the file x is full")
        return do_part(change, connection)

    monkeypatch.setattr(dead.Change, "do_part", do_one)
    async with started(path) as store:
        await bury_many(store, 25)
        says = "the file x is full; it was done to 10 jobs before"
        with pytest.raises(StoreUnavailable) as raised:
            await store.drop_dead()
        assert str(raised.value) == f"Durable jobs cannot be kept: {says}"
        assert (await store.statistics()).dead == 15


async def test_file_that_cannot_be_read_is_named(path: Path) -> None:
    """As when something is put."""
    async with started(path) as store:
        with opened(path) as connection:
            connection.execute("DROP TABLE aiohttp_jobs")
        with pytest.raises(StoreUnavailable, match="no such table"):
            await store.statistics()
        await store.stop()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.statistics()


def test_store_says_whether_it_can_be_looked_into(path: Path) -> None:
    """The store of a broker cannot."""
    assert isinstance(SQLiteStore(path), Inspectable)
    assert not isinstance(MemoryStore(), Inspectable)


async def test_dead_jobs_are_found_by_their_ids(path: Path) -> None:
    """With their tracebacks; other jobs are not found."""
    async with started(path) as store:
        await fill(store)
        found = await store.find_dead("buried")
        assert found is not None
        assert (found.id, found.place, found.reason) == (
            *("buried", Place.DEAD, "its process died"),
        )
        assert await store.find_dead("waits") is None
        assert await store.find_dead("nobody") is None


async def test_dead_jobs_that_come_later_are_left_alone(path: Path) -> None:
    """A user who says "all" means those that were there."""
    async with started(path) as store:
        await fill(store)
        with opened(path) as connection:
            connection.execute("UPDATE aiohttp_jobs SET buried_at = 5 WHERE id = 'dead'")
        assert await store.retry_dead(["buried"], until=5) == 0
        assert await store.retry_dead(until=4.9) == 0
        assert await store.drop_dead(until=5) == 1
        assert [job.id for job in await store.jobs(Place.DEAD)] == ["buried"]
        assert await store.retry_dead(["buried"], until=time() + 60) == 1


async def test_lists_have_pages(path: Path) -> None:
    """Waiting jobs are in the order they were accepted, whatever their task or
    priority."""
    async with started(path) as store:
        for number in range(60):
            task, priority = f"task {number % 7}", number % 3
            await store.put(envelope(task, id=str(number), priority=priority))
        for number in range(5):
            await store.put(envelope(id=f"later {number}", due=time() + 900 - number))
        pages = [
            [job.id for job in await store.jobs(Place.WAITING, 25, skip)]
            for skip in (0, 25, 50, 75)
        ]
        assert pages == [[*map(str, range(60))][at : at + 25] for at in (0, 25, 50, 75)]
        assert len(look_module.jobs(str(path), Place.WAITING, -1)) == 60
        later = await store.jobs(Place.DELAYED, 2, 1)
        assert [job.id for job in later] == ["later 3", "later 2"]


async def test_order_of_what_waits_is_the_same_with_many_priorities(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then all jobs are sorted."""
    monkeypatch.setattr(look_module, "_MOST_KINDS", 10)
    async with started(path) as store:
        for number in range(20):
            await store.put(envelope(id=str(number), priority=-number))
        jobs = await store.jobs(Place.WAITING, 5, 10)
        assert [job.id for job in jobs] == ["10", "11", "12", "13", "14"]
        assert (await store.statistics()).oldest_waiting < 60


@pytest.mark.parametrize("place", Place)
async def test_cost_of_a_list_does_not_grow_with_what_is_elsewhere(
    path: Path, steps: list[int], place: Place
) -> None:
    """Counted: SQLite does not go through the whole table to sort."""
    async with started(path) as store:
        for count in (20, 5000):
            await asyncio.gather(*(store.put(envelope()) for _ in range(count)))
            with opened(path) as connection:
                for state, moment in enumerate(("due", "due", "due", "buried_at")):
                    connection.execute(
                        f"UPDATE aiohttp_jobs SET state = {state}, {moment} = 9e9, "
                        f"owner = 1 WHERE number % 4 = {state}"
                    )
                others = f"state != {STATES[place]}"
                connection.execute(
                    "DELETE FROM aiohttp_jobs WHERE NOT "
                    f"({others}) AND number NOT IN (SELECT number FROM aiohttp_jobs "
                    f"WHERE NOT ({others}) ORDER BY number DESC LIMIT 5)"
                )
            steps.append(0)
            assert len(await store.jobs(place, 50)) == 5
            if place is Place.DEAD:
                [*_, last] = await store.jobs(place, 50)
                assert await store.find_dead(last.id) == last
    assert steps[1] <= steps[0] * 1.1


async def test_cost_of_a_list_does_not_grow_with_what_waits(
    path: Path, steps: list[int]
) -> None:
    """Counted: SQLite's steps for the first of a hundred or of ten thousand jobs."""
    async with started(path) as store:
        for count in (100, 9_900):
            await asyncio.gather(*(store.put(envelope()) for _ in range(count)))
            steps.append(0)
            assert len(await store.jobs(Place.WAITING, 50)) == 50
    assert steps[1] <= steps[0] * 1.1


# -- the command ------------------------------------------------------------------------


async def test_command_shows_what_waits_and_why(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has to write SQL to know why a job does not run."""
    async with started(path) as store:
        await fill(store)
        assert await asyncio.to_thread(main, [str(path)]) == 0
        text = capsys.readouterr().out
        assert SECRET not in text
        lines = {line.split()[1]: line for line in text.splitlines() if ": " in line}
        assert text.startswith("waiting 2 (the first for 1")
        assert "delayed 1, running 1, dead 2" in text
        assert "in process " in lines["runs"]
        assert "attempt 3, for a free slot" in lines["waits"]
        assert "no worker that uses this file has this task" in lines["unknown"]
        assert "due in " in lines["later"]
    assert await asyncio.to_thread(main, [str(path)]) == 0
    assert "no worker uses this file" in capsys.readouterr().out


@pytest.mark.parametrize("most", [1, 500])
async def test_command_deals_with_the_dead(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """While the application runs."""
    monkeypatch.setattr(dead, "MOST", most)

    def run(*arguments: str) -> str:
        assert main([str(path), *arguments]) == 0
        return capsys.readouterr().out

    async with started(path) as store:
        await fill(store)
        text = await asyncio.to_thread(run, "dead")
        assert "dead  mail: 0 s ago, attempt 1" in text
        assert r"    ValueError: \x1b[31mno" in text
        assert SECRET not in text
        assert "dropped: 1" in await asyncio.to_thread(run, "drop", "buried", "waits")
        assert "waiting again: 1" in await asyncio.to_thread(run, "retry", "--all")
        got = {each.envelope.id for each in await store.fetch(10)}
        assert got == {"dead", "waits"}
        assert await asyncio.to_thread(run, "dead") == ""


@pytest.mark.parametrize(
    "arguments",
    [["retry"], ["drop", "--all", "7"], ["list", "7"], ["dead", "--all"], ["x"]],
)
def test_command_refuses_what_makes_no_sense(
    path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is dropped by mistake."""
    with pytest.raises(SystemExit):
        main([str(path), *arguments])
    assert "usage:" in capsys.readouterr().err
    assert not path.exists()


async def test_command_names_what_is_wrong_with_the_file(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And does not create one."""
    assert main([str(path)]) == 1
    assert f"there is no file {path}" in capsys.readouterr().err
    assert not path.exists()
    with opened(path) as connection:
        connection.execute("CREATE TABLE users (name)")
    assert main([str(path)]) == 1
    assert f"the file {path} has no durable jobs" in capsys.readouterr().err
    async with started(path):
        pass
    with opened(path) as connection:
        connection.execute("UPDATE aiohttp_jobs_schema SET version = 99")
    assert main([str(path)]) == 1
    assert "has version 99" in capsys.readouterr().err
    path.write_bytes(b"Dear diary, " * 1000)
    assert main([str(path)]) == 1
    assert f"{path} is not an SQLite database" in capsys.readouterr().err
