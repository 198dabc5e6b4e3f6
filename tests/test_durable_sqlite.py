"""SQLiteStore keeps the promises of a store, in one process and between several."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from time import time
from typing import Any

import aiosqlite
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiohttp_jobs.durable import Delivery, SQLiteStore, StoreUnavailable
from aiohttp_jobs.durable.sqlite import rows, schema
from tests.envelopes import envelope, look, opened, started

# Seconds after which waiting is a failure; a passing test never waits this long.
PATIENCE = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


async def fetch(store: SQLiteStore, count: int = 100) -> list[Delivery]:
    async with asyncio.timeout(PATIENCE):
        return list(await store.fetch(count))


async def is_idle(store: SQLiteStore) -> bool:
    """Whether nothing is due, which shows if a fetch waits after the store has looked."""
    fetching = asyncio.create_task(fetch(store))
    await store.last_tick("a question that is answered after the look", 0)
    await store.last_tick("and one that was handed over after the first", 0)
    await asyncio.sleep(0)
    is_idle = not fetching.done()
    fetching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        for delivery in await fetching:
            store.give_back(delivery)
    return is_idle


def states(path: Path) -> list[int]:
    return [state for (state,) in look(path, "SELECT state FROM aiohttp_jobs")]


# -- to put -----------------------------------------------------------------------------


async def test_what_is_put_is_in_the_file_when_the_call_returns(path: Path) -> None:
    """Every field, as another connection reads it."""
    sent = envelope(
        arguments='[["é"], {}]',
        attempt=3,
        due=time() + 3600,
        priority=-7,
        key="k",
        origin="POST /",
        traceparent="00-1-2-01",
    )
    async with started(path) as store:
        assert await store.put(sent) == sent.id
        [row] = look(
            path,
            "SELECT id, task, arguments, accepted_at, attempt, due, priority, key, "
            "origin, traceparent FROM aiohttp_jobs",
        )
        assert type(sent)(*row) == sent


async def test_what_is_put_together_shares_a_transaction(path: Path) -> None:
    """A hundred callers cost a few waits for the disk, and not a hundred."""
    async with started(path) as store:
        before = store.counts.lasting
        await asyncio.gather(*(store.put(envelope()) for _ in range(500)))
        assert store.counts.lasting - before == 1
        assert len(states(path)) == 500


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10, 13, 49, 50, 64, 137])
async def test_any_number_at_once_is_kept_fetched_and_settled(
    path: Path, count: int
) -> None:
    """Each once, in order, by however many statements."""
    sent = [envelope(arguments=f"[[{number}], {{}}]") for number in range(count)]
    async with started(path) as store, asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*map(store.put, sent)) == [each.id for each in sent]
        got = await fetch(store, count)
        assert [each.envelope for each in got] == sent
        assert states(path) == [schema.RUNNING] * count
        for each in got:
            store.ack(each)
        await store.last_tick("a question that comes after", 0)
        assert states(path) == []


async def test_what_waits_shares_the_next_transaction(path: Path) -> None:
    """While one transaction is written, jobs of several turns collect for the next."""
    async with started(path) as store:
        before = store.counts.lasting
        with opened(path) as other:
            other.execute("BEGIN IMMEDIATE")  # as long as a slow disk takes
            puts = []
            for _ in range(50):
                puts.append(asyncio.create_task(store.put(envelope())))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            other.execute("COMMIT")
        await asyncio.gather(*puts)
        assert store.counts.lasting - before <= 2


async def test_transaction_with_a_put_waits_for_the_disk_and_others_do_not(
    path: Path,
) -> None:
    """Claims, and the ends of jobs, are written without waiting for the disk."""
    async with started(path) as store:
        await asyncio.gather(*(store.put(envelope()) for _ in range(20)))
        before = store.counts.lasting
        for _ in range(2):
            for delivery in await fetch(store, 10):
                store.ack(delivery)
        await store.last_tick("to see that it was written", 0)
        assert states(path) == []
        assert store.counts.lasting == before
        assert store.counts.passing > 0


async def test_fsync_acks_lets_every_transaction_wait_for_the_disk(path: Path) -> None:
    """For users who do not want a power cut to repeat jobs that had ended."""
    async with started(path, fsync_acks=True) as store:
        await store.put(envelope())
        before = store.counts.lasting
        for delivery in await fetch(store):
            store.ack(delivery)
        await store.last_tick("to see that it was written", 0)
        assert store.counts.passing == 0
        assert store.counts.lasting > before


async def test_bad_row_fails_alone(path: Path) -> None:
    """Jobs that share its transaction are kept."""
    async with started(path) as store:
        good = [envelope() for _ in range(10)]
        bad = [
            (envelope(arguments="\ud800"), UnicodeEncodeError),
            (envelope(priority=2**70), OverflowError),
            (envelope(accepted_at=None), sqlite3.IntegrityError),
        ]
        sent = (*good[:5], *(each for each, _ in bad), *good[5:])
        results = await asyncio.gather(*map(store.put, sent), return_exceptions=True)
        assert results[:5] + results[8:] == [each.id for each in good]
        for result, (_, error) in zip(results[5:8], bad, strict=True):
            assert type(result) is error
        kept = look(path, "SELECT id FROM aiohttp_jobs ORDER BY number")
        assert kept == [(each.id,) for each in good]


async def test_cancelled_put_may_be_kept_and_harms_nobody(path: Path) -> None:
    """The other puts of its transaction get their answers."""
    async with started(path) as store:
        puts = [asyncio.create_task(store.put(envelope())) for _ in range(3)]
        await asyncio.sleep(0)
        puts[1].cancel()
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert isinstance(results[1], asyncio.CancelledError)
        assert isinstance(results[0], str)
        assert isinstance(results[2], str)


async def test_put_into_a_store_that_is_not_started_is_refused(path: Path) -> None:
    """Before and after."""
    store = SQLiteStore(path)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.put(envelope())
    async with started(path) as store:
        pass
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.put(envelope())


# -- keys -------------------------------------------------------------------------------


async def test_second_job_with_a_key_is_given_the_id_of_the_first(path: Path) -> None:
    """Even in the same transaction; keys are per task."""
    async with started(path) as store:
        first, second = envelope(key="k"), envelope(key="k")
        ids = await asyncio.gather(store.put(first), store.put(second))
        assert set(ids) == {first.id}
        assert await store.put(envelope(key="k", due=time() + 60)) == first.id
        other = envelope("report", key="k")
        assert await store.put(other) == other.id
        assert len(states(path)) == 2


async def test_key_is_free_again_when_its_job_has_begun(path: Path) -> None:
    """At most one waits; a running job may be older than the reason for the second."""
    async with started(path) as store:
        first, second = envelope(key="k"), envelope(key="k")
        await store.put(first)
        [running] = await fetch(store)
        assert await store.put(second) == second.id
        # The first comes back, and waits without its key beside the second: none is lost.
        store.retry(running, time())
        [*again] = await fetch(store)
        if len(again) < 2:
            again += await fetch(store)
        assert {each.envelope.id for each in again} == {first.id, second.id}
        assert {each.envelope.key for each in again} == {None, "k"}


# -- to fetch ---------------------------------------------------------------------------


async def test_any_number_may_be_fetched(path: Path) -> None:
    """Even one too large for SQLite, meaning no limit."""
    async with started(path) as store:
        await store.put(sent := envelope())
        async with asyncio.timeout(PATIENCE):
            [delivery] = await store.fetch(2**70)
    assert delivery.envelope == sent


async def test_jobs_with_and_without_keys_come_in_the_order_of_put(path: Path) -> None:
    """Even those of one transaction."""
    keys = [None, None, "a", None, "b", "c", None]
    sent = [envelope(key=key) for key in keys]
    async with started(path) as store:
        await asyncio.gather(*map(store.put, sent))
        async with asyncio.timeout(PATIENCE):
            fetched = await store.fetch(len(sent))
    assert [each.envelope for each in fetched] == sent


async def test_jobs_come_in_the_order_of_priority_then_of_put(path: Path) -> None:
    """Whatever their tasks; and no more than asked for."""
    async with started(path, "mail", "report") as store:
        sent = [
            envelope(task, priority=priority)
            for priority in (0, 5, -5, 0)
            for task in ("report", "mail")
        ]
        for each in sent:
            await store.put(each)
        got = [*await fetch(store, 3), *await fetch(store, 100)]
        expected = sorted(sent, key=lambda each: -each.priority)
        assert [each.envelope.id for each in got] == [each.id for each in expected]


async def test_fetch_waits_for_what_is_put_later(path: Path) -> None:
    """By this process, and by another one, which sends no notice."""
    async with started(path) as store, started(path, worker=False) as other:
        for putter in (store, other):  # the other one sends no notice
            fetching = asyncio.create_task(fetch(store))
            await asyncio.sleep(0)
            sent = envelope()
            await putter.put(sent)
            [delivery] = await fetching
            assert delivery.envelope == sent
            store.ack(delivery)


async def test_job_is_fetched_once(path: Path) -> None:
    """However many fetch at the same time."""
    async with started(path) as one, started(path) as two:
        sent = [envelope() for _ in range(200)]
        await asyncio.gather(*(one.put(each) for each in sent))
        got, all_are_there = list[str](), asyncio.Event()

        async def take(store: SQLiteStore) -> None:
            while True:
                got.extend(each.envelope.id for each in await store.fetch(7))
                if len(got) >= len(sent):
                    all_are_there.set()

        takers = [asyncio.create_task(take(store)) for store in (one, two)]
        async with asyncio.timeout(PATIENCE):
            await all_are_there.wait()
        for taker in takers:
            taker.cancel()
        await asyncio.wait(takers)
        assert sorted(got) == sorted(each.id for each in sent)


async def test_job_that_is_not_due_waits(path: Path) -> None:
    """A job that is due comes first; later the other one comes by itself."""
    async with started(path) as store:
        later, now = envelope(due=time() + 0.5), envelope()
        await asyncio.gather(store.put(later), store.put(now))
        [first] = await fetch(store)
        assert first.envelope.id == now.id
        [second] = await fetch(store)
        assert second.envelope.id == later.id
        assert time() >= (later.due or 0)


async def test_job_of_an_unknown_task_waits_for_who_knows_it(path: Path) -> None:
    """For example, of a new release while the old one still runs."""
    async with started(path, "old") as old:
        await old.put(envelope("new"))
        assert await is_idle(old)
        async with started(path, "new") as new:
            [delivery] = await fetch(new)
            new.ack(delivery)


async def test_cancelled_fetch_loses_nothing(path: Path) -> None:
    """Jobs that were claimed for it meanwhile are given back."""
    async with started(path) as store:
        for _ in range(20):
            fetching = asyncio.create_task(store.fetch(10))
            await asyncio.sleep(0)
            put = asyncio.create_task(store.put(envelope()))
            await asyncio.sleep(0)
            fetching.cancel()
            await put
            [delivery] = await fetch(store)
            assert delivery.envelope.attempt == 1
            store.ack(delivery)


# -- to settle --------------------------------------------------------------------------


async def test_retried_job_comes_back_with_its_next_attempt(path: Path) -> None:
    """With the same id, when it is due."""
    async with started(path) as store:
        sent = envelope()
        await store.put(sent)
        [delivery] = await fetch(store)
        due = time() + 0.2
        store.retry(delivery, due)
        [again] = await fetch(store)
        assert time() >= due
        assert again.envelope == sent.again(due)


async def test_given_back_job_comes_back_at_once_and_uncounted(path: Path) -> None:
    """As if it had not been fetched."""
    async with started(path) as store:
        sent = envelope(key="k")
        await store.put(sent)
        for _ in range(10):
            [delivery] = await fetch(store)
            assert delivery.envelope == sent
            store.give_back(delivery)


async def test_buried_job_is_kept_with_its_reason(path: Path) -> None:
    """And does not run again."""
    async with started(path) as store:
        await store.put(envelope())
        [delivery] = await fetch(store)
        store.bury(delivery, "Traceback: é")
        assert await is_idle(store)
        assert look(path, "SELECT state, reason, owner FROM aiohttp_jobs") == [
            (3, "Traceback: é", None)
        ]


async def test_stop_gives_back_what_is_not_settled(path: Path) -> None:
    """And settles the jobs that were handed over in the same turn."""
    async with started(path) as store:
        await asyncio.gather(*(store.put(envelope(priority=p)) for p in (3, 2, 1)))
        done, _, retried = await fetch(store)
        store.ack(done)
        store.retry(retried, 0)
    assert look(path, "SELECT priority, attempt, crashes FROM aiohttp_jobs") == [
        (2, 1, 0),
        (1, 2, 0),
    ]
    assert 2 not in states(path)
    assert look(path, "SELECT * FROM aiohttp_jobs_owners") == []


async def test_stop_answers_those_who_wait(path: Path) -> None:
    """Puts that were handed over are kept; a fetch is refused."""
    async with started(path) as store:
        fetching = asyncio.create_task(store.fetch(1))
        await asyncio.sleep(0)
        puts = [asyncio.create_task(store.put(envelope(due=time() + 60))) for _ in "ab"]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*puts)) == 2
    with pytest.raises(StoreUnavailable, match="closed"):
        await fetching
    assert len(states(path)) == 2


async def test_what_is_settled_after_the_stop_is_ignored(path: Path) -> None:
    """A job that was let go may end at any time."""
    async with started(path) as store:
        await store.put(envelope())
        [delivery] = await fetch(store)
    store.ack(delivery)
    await store.start(["mail"], worker=True)
    [again] = await fetch(store)
    assert again.envelope == delivery.envelope
    await store.stop()
    await store.stop()


def test_jobs_of_two_owners_are_acknowledged_together(path: Path) -> None:
    """Each for its owner; one that has lost a job does not keep others from ending it."""
    with opened(path) as connection:
        schema.prepare(connection, str(path))
        rows.insert(connection, [rows.row_of(envelope(), 0) for _ in range(6)])
        first = rows.claim(connection, 1, ["mail"], 4)
        second = rows.claim(connection, 2, ["mail"], 2)
        lost = [(number, 3) for number, _ in (each.receipt for each in first[:2])]
        kept = [each.receipt for each in (*first[2:], *second)]
        rows.ack(connection, [*lost, *kept])
        left = connection.execute("SELECT id FROM aiohttp_jobs ORDER BY number")
        assert [id for (id,) in left] == [each.envelope.id for each in first[:2]]


async def test_who_has_lost_a_job_does_not_settle_it(path: Path) -> None:
    """Another owner has it now, and settles it."""
    async with started(path) as store, started(path) as other:
        await store.put(envelope())
        [delivery] = await fetch(store)
        number, owner = delivery.receipt
        with opened(path) as connection:
            rows.take_over(connection, owner, 5, time() - 1000)
        [taken] = await fetch(other)
        assert taken.receipt[0] == number
        store.ack(delivery)
        store.retry(delivery, 0)
        store.give_back(delivery)
        await store.last_tick("to see that it was written", 0)
        assert states(path) == [2]
        other.ack(taken)
        await other.last_tick("to see that it was written", 0)
        assert states(path) == []


# -- ticks ------------------------------------------------------------------------------


async def test_tick_is_put_once_by_however_many(path: Path) -> None:
    """The first one puts it; all of them take it as seen."""
    async with started(path) as one, started(path) as two:
        assert await one.last_tick("mail", 100.0) == 100.0
        assert await two.last_tick("mail", 150.0) == 100.0
        kept = await asyncio.gather(
            *(store.put_tick(envelope(), 200.0, 230.0) for store in (one, two) * 3)
        )
        assert sorted(kept) == [False] * 5 + [True]
        assert await two.last_tick("mail", 0.0) == 230.0
        assert not await two.put_tick(envelope(), 230.0, 240.0)
        assert await two.put_tick(envelope(), 240.0, 240.0)
        assert len(states(path)) == 2


# -- a transaction of the application's own ---------------------------------------------


async def test_sqlalchemy_has_the_driver_s_connection(path: Path) -> None:
    """Its own connections and sessions are refused; the error says what to pass."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with started(path) as store:
        async with engine.connect() as connection, AsyncSession(engine) as session:
            for wrong in connection, session, await connection.get_raw_connection():
                with pytest.raises(TypeError, match=r"driver_connection`$"):
                    await store.put(envelope(), connection=wrong)
        sent = envelope()
        async with engine.begin() as connection:
            raw = await connection.get_raw_connection()
            assert await store.put(sent, connection=raw.driver_connection) == sent.id
        [delivery] = await fetch(store)
        assert delivery.envelope == sent
        store.ack(delivery)
    await engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite3", "aiosqlite"])
async def test_job_shares_the_application_s_transaction(path: Path, kind: str) -> None:
    """If rolled back, the job was never put; if committed, it is fetched."""
    async with started(path) as store, contextlib.AsyncExitStack() as stack:
        connection: Any
        if kind == "sqlite3":
            connection = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
        else:
            connection = await stack.enter_async_context(aiosqlite.connect(path))

        async def end(how: str) -> None:
            done = getattr(connection, how)()
            if done is not None:
                await done

        never, sent = envelope(key="k"), envelope(key="k")
        assert await store.put(never, connection=connection) == never.id
        await end("rollback")
        assert await store.put(sent, connection=connection) == sent.id
        assert await store.put(envelope(key="k"), connection=connection) == sent.id
        await end("commit")
        [delivery] = await fetch(store)
        assert delivery.envelope == sent
        store.ack(delivery)


async def test_job_shares_the_transaction_of_a_file_that_is_attached(
    path: Path, tmp_path: Path
) -> None:
    """Whatever its schema name there, and whatever row factory the connection has."""
    async with started(path) as store:
        with opened(tmp_path / "shop.sqlite") as connection:
            connection.row_factory = lambda cursor, row: {
                column[0]: value
                for column, value in zip(cursor.description, row, strict=True)
            }
            connection.execute('ATTACH ? AS "the "" jobs"', (str(path),))
            sent = envelope(key="k")
            assert await store.put(sent, connection=connection) == sent.id
            assert await store.put(envelope(key="k"), connection=connection) == sent.id
        [delivery] = await fetch(store)
        assert delivery.envelope == sent


async def test_connection_to_another_file_is_refused(path: Path, tmp_path: Path) -> None:
    """With the names of both files."""
    async with started(path) as store:
        with opened(tmp_path / "shop.sqlite") as connection:
            with pytest.raises(ValueError, match=r"shop\.sqlite") as raised:
                await store.put(envelope(), connection=connection)
            assert str(path) in str(raised.value)
        with (
            contextlib.closing(sqlite3.connect(":memory:")) as memory,
            pytest.raises(ValueError, match="memory"),
        ):
            await store.put(envelope(), connection=memory)
        with opened(path) as connection:
            for wrong in "jobs.sqlite", connection.cursor():
                with pytest.raises(TypeError, match="takes one of sqlite3 or aiosqlite"):
                    await store.put(envelope(), connection=wrong)


# -- what it takes ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ":memory:", "file:jobs.sqlite?mode=ro"])
def test_store_takes_the_path_of_a_file(name: str) -> None:
    """A database in memory survives nothing."""
    with pytest.raises(ValueError, match="takes the path of a file"):
        SQLiteStore(name)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (None, TypeError)])
def test_max_crashes_is_checked(path: Path, value: int, error: type[Exception]) -> None:
    """At the call."""
    with pytest.raises(error, match="max_crashes"):
        SQLiteStore(path, max_crashes=value)


async def test_store_is_started_once(path: Path) -> None:
    """Two applications that share one object would share its loop, too."""
    async with started(path) as store:
        with pytest.raises(RuntimeError, match="already started"):
            await store.start(["mail"], worker=True)
