"""Durable jobs over a real RabbitMQ: processes killed and ended, the server restarted.

The server is started here, see tests/rabbitmq.py; without one these tests are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest
from aiohttp import web
from taskiq_aio_pika import AioPikaBroker, Queue

from aiohttp_jobs import StoreUnavailable, setup
from aiohttp_jobs.durable import (
    DURABLE,
    Envelope,
    current_durable,
    durable,
    setup_durable,
    spawn_durable,
)
from aiohttp_jobs.taskiq import BrokerStore
from tests.clients import Failures, serving
from tests.courier import DELIVERIES, LIMIT, TASKS, broker
from tests.envelopes import envelope
from tests.pages import blocks
from tests.processes import Command, needs_signals, running, until
from tests.rabbitmq import RabbitMQ, rabbitmq

pytestmark = [pytest.mark.heavy, needs_signals]

# Seconds after which waiting is a failure; a passing test never waits this long.
PATIENCE = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMQ]:
    with rabbitmq() as server:
        yield server


class Ledger:
    """The jobs that the processes of a test have begun and ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, what: str) -> list[tuple[int, int]]:
        """Return numbers and attempts of the jobs that have begun, or ended."""
        if not self.path.exists():
            return []
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(int(n), int(attempt)) for _, did, n, attempt in lines if did == what]

    def numbers(self, what: str) -> Counter[int]:
        return Counter(number for number, _ in self.entries(what))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def courier(
    server: RabbitMQ, name: str, ledger: Ledger, seconds: float = 30
) -> contextlib.AbstractContextManager[Command]:
    return running("tests.courier", server.url, name, str(ledger.path), str(seconds))


@contextlib.asynccontextmanager
async def started(
    broker: AioPikaBroker, *tasks: str, worker: bool = False
) -> AsyncIterator[BrokerStore]:
    store = BrokerStore(broker, delays=True)
    await store.start(tasks, worker=worker)
    try:
        async with asyncio.timeout(PATIENCE):
            yield store
    finally:
        await store.stop()


async def connected(put: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Retry the put until it works: the broker reconnects after a pause of its own."""
    for tries in itertools.count(1):
        with contextlib.suppress(StoreUnavailable):
            await put()
            return
        await until(_later(0.2))
        assert tries < 500


def _later(seconds: float) -> Callable[[], bool]:
    end = monotonic() + seconds
    return lambda: monotonic() > end


async def put(store: BrokerStore, task: str, numbers: range) -> None:
    for number in numbers:
        await store.put(envelope(task, arguments=f"[[{number}], {{}}]"))


async def what_is_left(broker: AioPikaBroker) -> list[Envelope]:
    """Take all jobs in a queue that are due."""
    found = list[Envelope]()
    async with started(broker, *(each.name for each in TASKS), worker=True) as store:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while True:
                    for delivery in await store.fetch(100):
                        found.append(delivery.envelope)
                        store.ack(delivery)
    return found


async def test_process_is_killed_then_the_server_restarted_and_nothing_is_lost(
    server: RabbitMQ, ledger: Ledger
) -> None:
    """Jobs that ran or were on their way to a process at these moments may run twice."""
    name = "killed"
    async with started(broker(server.url, name)) as store:
        with courier(server, name, ledger) as first, courier(server, name, ledger):
            await put(store, "quick", range(400))
            await until(lambda: len(ledger.entries("end")) > 100)
            first.send(signal.SIGKILL)
            ended = len(ledger.entries("end"))
            await until(lambda: len(ledger.entries("end")) > ended + 50)
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailable):
                await put(store, "quick", range(1000, 1001))
            await asyncio.to_thread(server.start)
            await connected(lambda: put(store, "quick", range(400, 401)))
            await put(store, "quick", range(401, 500))
            await until(lambda: set(range(500)) <= ledger.numbers("end").keys())
    again = {n: times for n, times in ledger.numbers("end").items() if times > 1}
    assert len(again) <= 3 * LIMIT
    assert {attempt for _, attempt in ledger.entries("begin")} == {1}
    assert await what_is_left(broker(server.url, name)) == []


async def test_drain_that_is_too_short_loses_nothing(
    server: RabbitMQ, ledger: Ledger
) -> None:
    """Jobs that SIGTERM cancels run again, uncounted, in the next process."""
    name = "short"
    async with started(broker(server.url, name)) as store:
        await put(store, "slow", range(2 * LIMIT))
        with courier(server, name, ledger, seconds=0.1) as process:
            await until(lambda: len(ledger.entries("begin")) == LIMIT)
            process.send(signal.SIGTERM)
            status, errors = await asyncio.to_thread(process.end)
            assert status == 0, errors
        assert ledger.entries("end") == []
        ledger.path.with_suffix(".go").touch()
        with courier(server, name, ledger) as process:
            await until(lambda: len(ledger.entries("end")) == 2 * LIMIT)
            process.send(signal.SIGTERM)
            assert (await asyncio.to_thread(process.end))[0] == 0
    assert ledger.numbers("end") == Counter(range(2 * LIMIT))
    assert {attempt for _, attempt in ledger.entries("begin")} == {1}
    assert await what_is_left(broker(server.url, name)) == []


async def test_job_that_kills_its_process_is_laid_aside_after_some_deliveries(
    server: RabbitMQ, ledger: Ledger
) -> None:
    """By RabbitMQ, in the dead-letter queue, where it can be fetched from."""
    name = "poison"
    async with started(broker(server.url, name)) as store:
        await put(store, "poison", range(1))
    for _ in range(DELIVERIES + 1):
        with courier(server, name, ledger) as process:
            status, _ = await asyncio.to_thread(process.end)
            assert status == 1
    assert ledger.numbers("begin") == {0: DELIVERIES + 1}
    async with started(broker(server.url, name)) as store:
        await put(store, "quick", range(1, 2))
        with courier(server, name, ledger):
            await until(lambda: ledger.entries("end") == [(1, 1)])
    dead = AioPikaBroker(
        server.url,
        task_queues=[Queue(name=f"{name}.dead", declare=False)],
        dead_letter_queue=Queue(name=f"{name}.dead", declare=False),
    )
    assert [each.task for each in await what_is_left(dead)] == ["poison"]


# -- in this process --------------------------------------------------------------------

GATE = web.AppKey("GATE", asyncio.Event)
SEEN = web.AppKey("SEEN", asyncio.Queue[Any])


@durable("job", max_attempts=3, backoff=lambda attempt: 0.3)
async def job(app: web.Application, what: str) -> None:
    current = current_durable()
    assert current is not None
    app[SEEN].put_nowait((what, current.attempt, time()))
    if what == "waits":
        await app[GATE].wait()
    elif what == "fails" and current.attempt == 1:
        raise ValueError(what)


@contextlib.asynccontextmanager
async def application(store: BrokerStore) -> AsyncIterator[web.Application]:
    app = web.Application()
    app[GATE], app[SEEN] = asyncio.Event(), asyncio.Queue()
    setup(app, exception_handler=Failures())
    setup_durable(app, store, tasks=[job])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        async with asyncio.timeout(PATIENCE):
            yield app
    finally:
        await runner.cleanup()


async def test_delay_and_retry_wait_in_the_delay_queue(server: RabbitMQ) -> None:
    """Neither is begun too early, and one delay does not hold up the other for long."""
    store = BrokerStore(broker(server.url, "delays"), delays=True)
    async with application(store) as app:
        now = time()
        await spawn_durable(app, job.options(delay=0.5), "later")
        await spawn_durable(app, job, "fails")
        assert (await app[SEEN].get())[:2] == ("fails", 1)
        seen = [await app[SEEN].get() for _ in range(2)]
    begun = {(what, attempt): moment - now for what, attempt, moment in seen}
    assert begun["later", 1] >= 0.5
    assert begun["fails", 2] >= 0.3


async def test_delay_without_a_delay_queue_is_said(server: RabbitMQ) -> None:
    """If delays=True promises too much, the error has the broker's own message."""
    store = BrokerStore(
        AioPikaBroker(server.url, task_queues=[Queue(name="no-delays")]), delays=True
    )
    async with application(store) as app:
        with pytest.raises(StoreUnavailable, match="no delay queue"):
            await spawn_durable(app, job.options(delay=1), "later")


async def test_server_that_is_down_at_the_start_and_lost_later(
    server: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """The application runs; each change is one log record. A job that has run throughout
    ends once, and is acknowledged for the delivery that RabbitMQ has repeated."""
    await asyncio.to_thread(server.stop)
    made = broker(server.url, "down")
    begun = monotonic()
    async with application(BrokerStore(made, delays=True)) as app:
        assert monotonic() - begun < 10
        with pytest.raises(StoreUnavailable):
            await spawn_durable(app, job, "waits")
        await asyncio.to_thread(server.start)
        await until(lambda: app[DURABLE].fault is None)
        await spawn_durable(app, job, "waits")
        assert (await app[SEEN].get())[:2] == ("waits", 1)
        await asyncio.to_thread(server.stop)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await spawn_durable(app, job, "refused")
        await asyncio.to_thread(server.start)
        await connected(lambda: spawn_durable(app, job, "quick"))
        assert (await app[SEEN].get())[:2] == ("quick", 1)
        app[GATE].set()
    assert app[SEEN].empty()
    ours = [each.levelname for each in caplog.records if each.name == "aiohttp_jobs"]
    assert ours == ["ERROR", "WARNING"] * 2
    assert await what_is_left(broker(server.url, "down")) == []


async def test_page_in_the_docs_with_a_server(
    server: RabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/brokers.rst, followed literally; failed jobs end up in the queue it names."""
    monkeypatch.setenv("BROKER_URL", server.url)
    names: dict[str, Any] = {"__name__": "page"}
    code = {block.name: block.code for block in blocks("docs/brokers.rst")}
    exec(code["brokers-rabbitmq"], names)
    async with serving(names["app"]) as client:
        sender = await client.connect()
        form = "Content-Type: application/x-www-form-urlencoded\r\n"
        await sender.send("POST", "/sign-up", "email=ann", headers=form)
        assert (await sender.receive()).status == 200
        printed = ""

        def has_printed() -> bool:
            nonlocal printed
            printed += capsys.readouterr().out
            return printed.endswith("\n")

        await until(has_printed)
        assert printed == "mail to ann\n"
