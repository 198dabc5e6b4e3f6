"""BrokerStore: what happens to a job between a broker's four methods."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from time import time
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from taskiq import AckableMessage, AsyncBroker, BrokerMessage, InMemoryBroker

import aiohttp_jobs.taskiq as module
from aiohttp_jobs import StoreUnavailable, every, setup
from aiohttp_jobs.durable import (
    DURABLE,
    Delivery,
    Envelope,
    current_durable,
    durable,
    setup_durable,
    spawn_durable,
)
from aiohttp_jobs.taskiq import BrokerStore
from tests.clients import Failures, serving
from tests.envelopes import envelope
from tests.processes import until

# Seconds after which waiting is a failure; a passing test never waits this long.
PATIENCE = 20.0


HERE = ContextVar("HERE", default="outside")


class FakeBroker(AsyncBroker):
    """A broker whose queue is a list, which the test inspects and breaks.

    As with RabbitMQ, unacknowledged messages come back when their connection is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = list[str]()
        self.waiting = list[bytes]()
        self.unacknowledged = list[bytes]()
        self.labels = list[dict[str, Any]]()
        #: The exceptions that the next calls of a method raise.
        self.faults = dict[str, Exception]()
        #: Methods that do not return.
        self.hanging = set[str]()
        self.takes_acks = True
        self.acknowledged_in = list[str]()
        self._connection = 0
        self.changed = asyncio.Condition()

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        await self._tell()
        if name in self.hanging:
            async with self.changed:
                await self.changed.wait_for(lambda: name not in self.hanging)
        if name in self.faults:
            raise self.faults[name]
        await asyncio.sleep(0)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def startup(self) -> None:
        await super().startup()
        await self._call(f"startup, worker={self.is_worker_process}")

    async def shutdown(self) -> None:
        await super().shutdown()
        await self._call("shutdown")
        await self.lose_connection()

    async def kick(self, message: BrokerMessage) -> None:
        await self._call(f"kick {message.task_name}")
        self.labels.append(message.labels)
        await self.deliver(message.message)

    async def deliver(self, data: bytes) -> None:
        self.waiting.append(data)
        await self._tell()

    async def lose_connection(self) -> None:
        """Let unacknowledged messages come back; they can no longer be acknowledged."""
        self._connection += 1
        self.waiting[:0] = self.unacknowledged
        self.unacknowledged.clear()
        await self._tell()

    async def listen(self) -> AsyncGenerator[AckableMessage | bytes, None]:
        await self._call("listen")
        try:
            while True:
                async with self.changed:
                    await self.changed.wait_for(
                        lambda: self.waiting or "broken" in self.faults
                    )
                    if "broken" in self.faults:
                        raise self.faults.pop("broken")
                    data = self.waiting.pop(0)
                    if self.takes_acks:
                        self.unacknowledged.append(data)
                    self.changed.notify_all()
                ack = self._acknowledge(data, self._connection)
                yield AckableMessage(data=data, ack=ack) if self.takes_acks else data
        finally:
            await self._call("listened")

    def _acknowledge(self, data: bytes, connection: int) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            self.acknowledged_in.append(HERE.get())
            await self._call("ack")
            if connection != self._connection:
                raise ConnectionError("its channel is closed")
            self.unacknowledged.remove(data)
            await self._tell()

        return ack

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(condition)

    @property
    def kept(self) -> list[Envelope]:
        """Return everything that a crash of every process would leave."""
        return [Envelope.from_json(data) for data in self.unacknowledged + self.waiting]


@contextlib.asynccontextmanager
async def started(
    broker: AsyncBroker, *, worker: bool = True, delays: bool = False
) -> AsyncIterator[BrokerStore]:
    store = BrokerStore(broker, delays=delays)
    await store.start(["mail"], worker=worker)
    try:
        async with asyncio.timeout(PATIENCE):
            yield store
    finally:
        await store.stop()


async def fetch_one(store: BrokerStore) -> Delivery:
    [delivery] = await store.fetch(1)
    return delivery


def records(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "aiohttp_jobs"]


# -- made, opened, closed ---------------------------------------------------------------


def test_what_is_no_broker_that_keeps_jobs_is_refused() -> None:
    """Each with its own sentence."""
    wrong: Any = "amqp://"
    with pytest.raises(TypeError, match=r"broker takes a taskiq broker.*'amqp://'"):
        BrokerStore(wrong)
    with pytest.raises(TypeError, match=r"dead takes a taskiq broker.*'amqp://'"):
        BrokerStore(FakeBroker(), dead=wrong)
    broker = FakeBroker()
    with pytest.raises(ValueError, match="dead takes another broker"):
        BrokerStore(broker, dead=broker)
    with pytest.raises(TypeError, match=r"InMemoryBroker keeps none"):
        BrokerStore(InMemoryBroker())
    with pytest.raises(TypeError, match="delays takes True or False, not 30"):
        BrokerStore(FakeBroker(), delays=30)  # type: ignore[arg-type]


@pytest.mark.parametrize("worker", [True, False])
async def test_broker_knows_before_its_start_whether_it_will_listen(worker: bool) -> None:
    """Otherwise AioPikaBroker has nothing to listen with."""
    broker = FakeBroker()
    async with started(broker, worker=worker):
        assert broker.calls == [f"startup, worker={worker}"]
    assert broker.calls[1:] == ["shutdown"]


async def test_start_that_fails_is_shut_down_before_the_next() -> None:
    """Its handlers have run, and half of its connections may be open."""
    broker = FakeBroker()
    store = BrokerStore(broker)
    broker.faults["startup, worker=True"] = ConnectionError("refused")
    with pytest.raises(StoreUnavailable, match=r"the broker is down: .*refused"):
        await store.start(["mail"], worker=True)
    assert broker.calls == ["startup, worker=True", "shutdown"]
    broker.faults.clear()
    await store.start(["mail"], worker=True)
    await store.stop()
    assert broker.calls == ["startup, worker=True", "shutdown"] * 2


async def test_start_that_fails_and_cannot_be_shut_down_may_be_tried_again() -> None:
    """The error of the start is the one that is raised."""
    broker = FakeBroker()
    store = BrokerStore(broker)
    broker.faults["startup, worker=True"] = ConnectionError("refused")
    broker.faults["shutdown"] = RuntimeError("nothing to close")
    with pytest.raises(StoreUnavailable, match="refused"):
        await store.start(["mail"], worker=True)
    broker.faults.clear()
    await store.start(["mail"], worker=True)
    await store.stop()


async def test_start_that_hangs_ends_and_is_shut_down() -> None:
    """The start of AioPikaBroker may hang."""
    broker = FakeBroker()
    broker.hanging.add("startup, worker=True")
    with (
        mock.patch.object(module, "_START", 0.01),
        pytest.raises(StoreUnavailable, match="TimeoutError"),
    ):
        await BrokerStore(broker).start(["mail"], worker=True)
    assert broker.calls[-1] == "shutdown"


async def test_start_that_is_cancelled_is_shut_down() -> None:
    """And the broker is free for another store."""
    broker = FakeBroker()
    broker.hanging.add("startup, worker=True")
    starting = asyncio.create_task(BrokerStore(broker).start(["mail"], worker=True))
    await broker.until(lambda: broker.calls)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert broker.calls[-1] == "shutdown"
    broker.hanging.clear()
    async with started(broker):
        pass


async def test_one_broker_for_two_applications_is_refused_while_both_run() -> None:
    """The second start would take the connections of the first."""
    broker = FakeBroker()
    async with started(broker):
        with pytest.raises(StoreUnavailable, match="make one for each"):
            await BrokerStore(broker).start(["mail"], worker=True)
    assert broker.calls == ["startup, worker=True", "shutdown"]
    async with started(broker):
        pass


async def test_nothing_is_put_or_fetched_before_the_start_and_after_the_stop() -> None:
    """A kick during AioPikaBroker's start would hang it."""
    broker = FakeBroker()
    store = BrokerStore(broker)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not started"):
            await store.put(envelope())
        with pytest.raises(StoreUnavailable, match="not started"):
            await store.fetch(1)
        if not broker.calls:
            await store.start(["mail"], worker=True)
            await store.stop()
            await store.stop()
    assert broker.calls == ["startup, worker=True", "shutdown"]


async def test_stop_of_what_was_never_started_touches_nothing() -> None:
    """A shutdown might fail then."""
    broker = FakeBroker()
    await BrokerStore(broker).stop()
    assert broker.calls == []


async def test_stop_of_a_broker_that_hangs_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Jobs that it does not answer for come back by themselves."""
    broker = FakeBroker()
    with mock.patch.object(module, "_STOP", 0.01):
        async with started(broker) as store:
            await store.put(envelope())
            store.give_back(await fetch_one(store))
            broker.hanging |= {"kick mail", "shutdown"}
    assert len(broker.kept) == 1
    [first, second] = records(caplog)
    assert first == "The broker does not answer: 1 durable jobs come back by themselves"
    assert second.startswith("The broker could not be shut down: TimeoutError")


async def test_stop_that_is_cancelled_shuts_the_broker_down() -> None:
    """It does not wait for the remaining jobs, which come back by themselves."""
    broker = FakeBroker()
    store = BrokerStore(broker)
    await store.start(["mail"], worker=True)
    await store.put(job := envelope())
    delivery = await fetch_one(store)
    broker.hanging.add("ack")
    store.ack(delivery)
    await broker.until(lambda: "ack" in broker.calls)
    stopping = asyncio.create_task(store.stop())
    await broker.until(lambda: "listened" in broker.calls)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    assert broker.calls[-1] == "shutdown"
    assert broker.kept == [job]
    broker.hanging.clear()
    await broker.lose_connection()  # tells


# -- put and fetched --------------------------------------------------------------------


async def test_job_is_fetched_as_it_was_put_and_gone_when_acknowledged() -> None:
    """Until then the broker keeps it."""
    broker = FakeBroker()
    async with started(broker) as store:
        job = envelope(origin="POST /", traceparent="00-1-2-01")
        assert await store.put(job) == job.id
        delivery = await fetch_one(store)
        assert delivery.envelope == job
        assert broker.kept == [job]
        store.ack(delivery)
        await broker.until(lambda: not broker.kept)
    assert broker.labels == [{}]


async def test_put_that_fails_or_hangs_is_refused() -> None:
    """With the reason; the next one may work."""
    broker = FakeBroker()
    async with started(broker) as store:
        broker.faults["kick mail"] = ConnectionError("reset")
        with pytest.raises(StoreUnavailable, match=r"has not taken the job: .*reset"):
            await store.put(envelope())
        broker.faults.clear()
        broker.hanging.add("kick mail")
        with (
            mock.patch.object(module, "_KICK", 0.01),
            pytest.raises(StoreUnavailable, match="TimeoutError"),
        ):
            await store.put(envelope())
        broker.hanging.clear()
        await store.put(envelope())


async def test_no_more_messages_are_taken_than_are_asked_for() -> None:
    """NATS waits for an acknowledgement for only 30 seconds."""
    broker = FakeBroker()
    async with started(broker) as store:
        for _ in range(5):
            await store.put(envelope())
        await fetch_one(store)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(broker.unacknowledged) == 1


async def test_listening_that_ends_is_told_and_begun_again() -> None:
    """The caller makes the pauses."""
    broker = FakeBroker()
    async with started(broker) as store:
        broker.faults["broken"] = ConnectionError("reset")
        with pytest.raises(StoreUnavailable, match=r"listen any more: .*reset"):
            await store.fetch(1)
        await store.put(envelope())
        assert await store.fetch(1)
    assert broker.calls.count("listen") == 2


async def test_fetch_that_is_cancelled_takes_nothing_with_it() -> None:
    """It no longer listens; a later fetch does."""
    broker = FakeBroker()
    async with started(broker) as store:
        fetching = asyncio.create_task(store.fetch(1))
        await broker.until(lambda: "listen" in broker.calls)
        fetching.cancel()
        await asyncio.wait([fetching])
        await broker.until(lambda: "listened" in broker.calls)
        await store.put(envelope())
        assert len(broker.waiting) == 1
        assert await store.fetch(1)


async def test_what_was_taken_for_a_fetch_that_is_cancelled_is_put_back() -> None:
    """Uncounted, and at once."""
    broker = FakeBroker()
    async with started(broker) as store:
        job = envelope()
        fetching = asyncio.create_task(store.fetch(2))
        await store.put(job)
        # In the very turn in which the message has come, before fetch() goes on.
        await broker.until(lambda: broker.unacknowledged)
        fetching.cancel()
        await asyncio.wait([fetching])
        assert fetching.cancelled()
        await broker.until(lambda: broker.waiting and not broker.unacknowledged)
        assert broker.kept == [job]


@pytest.mark.eager
async def test_what_has_come_before_the_listener_was_waited_for_is_fetched() -> None:
    """As happens under an eager task factory, if the broker has a message ready."""

    class Ready(FakeBroker):
        async def listen(self) -> AsyncGenerator[AckableMessage | bytes, None]:
            yield self.waiting.pop()
            await asyncio.Event().wait()

    asyncio.get_running_loop().set_task_factory(
        asyncio.eager_task_factory  # type: ignore[attr-defined,unused-ignore]
    )
    async with started(Ready()) as store:
        await store.put(job := envelope())
        assert (await fetch_one(store)).envelope == job


async def test_broker_without_acknowledgements_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its jobs run, but are lost if the process dies."""
    broker = FakeBroker()
    broker.takes_acks = False
    async with started(broker) as store:
        for _ in range(2):
            await store.put(envelope())
            store.ack(await fetch_one(store))
    [record] = records(caplog)
    assert record.startswith("FakeBroker takes no acknowledgements")


# -- what cannot be begun ---------------------------------------------------------------


async def test_unknown_name_stays_unacknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It waits for a process of a newer release, and others pass it. One log record."""
    broker = FakeBroker()
    async with started(broker) as store:
        strangers = [envelope("new"), envelope("new")]
        for each in (*strangers, envelope()):
            await store.put(each)
        assert (await fetch_one(store)).envelope.task == "mail"
        assert "ack" not in broker.calls
        [record] = records(caplog)
        assert "'new' wait for a process that has it" in record
    assert {each.id for each in strangers} < {each.id for each in broker.kept}


async def test_unknown_name_goes_round_after_a_while() -> None:
    """It is put back unchanged before it is acknowledged; the queue goes on meanwhile."""
    broker = FakeBroker()
    stranger = envelope("new").to_json().encode()[:-1] + b', "of_a_newer_release": 1}'
    with mock.patch.object(module, "_HOLD", 0.01):
        async with started(broker) as store:
            await broker.deliver(stranger)
            fetching = asyncio.create_task(store.fetch(1))
            await broker.until(lambda: "ack" in broker.calls)
            fetching.cancel()
            await asyncio.wait([fetching])
    assert broker.calls.index("kick new") < broker.calls.index("ack")
    assert broker.waiting == [stranger]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff", id="no-text"),
        pytest.param(b'{"task_id": "1", "task_name": "mail", "args": []}', id="taskiq"),
        pytest.param(
            envelope().to_json().encode().replace(b'"version": 1', b'"version": 999'),
            id="newer-release",
        ),
        pytest.param(
            envelope().to_json().encode().replace(b'"attempt": 1', b'"attempt": []'),
            id="odd-attempt",
        ),
        pytest.param(
            envelope().to_json().encode().replace(b'"due": null', b'"due": "x"'),
            id="odd-due",
        ),
    ],
)
async def test_message_that_cannot_be_read_stays_unacknowledged(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It belongs to another program; the listener goes on."""
    broker = FakeBroker()
    async with started(broker) as store:
        await broker.deliver(data)
        await store.put(envelope())
        await fetch_one(store)
        assert data in broker.unacknowledged
    assert data in broker.waiting
    assert "stays unacknowledged until this process ends" in records(caplog)[0]


async def test_job_that_is_not_due_is_held_until_it_is() -> None:
    """If the broker knows no delays; here another process put it for later."""
    broker = FakeBroker()
    async with started(broker) as store:
        job = envelope(due=time() + 0.05)
        await store.put(job)
        delivery = await fetch_one(store)
        assert delivery.envelope == job
        assert time() >= (job.due or 0)
        assert broker.calls.count("kick mail") == 1


async def test_job_that_becomes_due_when_nobody_fetches_goes_back() -> None:
    """For example during a drain: another process may begin it at once."""
    broker = FakeBroker()
    async with started(broker) as store:
        await store.put(job := envelope(due=time() + 0.05))
        fetching = asyncio.create_task(store.fetch(1))
        await broker.until(lambda: broker.unacknowledged)
        fetching.cancel()
        await asyncio.wait([fetching])
        await broker.until(lambda: broker.waiting and not broker.unacknowledged)
        assert broker.kept == [job]


async def test_job_that_is_far_from_due_goes_round() -> None:
    """RabbitMQ closes the channel of a client that keeps a message for half an hour."""
    broker = FakeBroker()
    with mock.patch.object(module, "_HOLD", 0.01):
        async with started(broker) as store:
            job = envelope(due=time() + 3600)
            await store.put(job)
            fetching = asyncio.create_task(store.fetch(1))
            await broker.until(lambda: broker.calls.count("kick mail") > 1)
            fetching.cancel()
            await asyncio.wait([fetching])
    assert broker.kept == [job]


async def test_delays_are_the_broker_s_if_it_knows_them() -> None:
    """In short hops: one long delay at the head of RabbitMQ's queue holds up others."""
    broker = FakeBroker()
    async with started(broker, delays=True) as store:
        assert set(store.supports) == {"delay", "at"}
        await store.put(envelope(due=time() + 5))
        await store.put(envelope(due=time() + 3600))
        await store.put(envelope(due=time() - 5))
        first, second, third = broker.labels
        assert 4 < float(first["delay"]) <= 5.001
        assert second == {"delay": "60.001"}
        assert third == {}
        # This broker forgets the delays: the jobs come at once, and are sent round.
        fetching = asyncio.create_task(store.fetch(1))
        await broker.until(lambda: len(broker.labels) > 4)
        assert all("delay" in each for each in broker.labels[3:5])
        await asyncio.wait([fetching])


# -- settled ----------------------------------------------------------------------------


async def fetched(broker: FakeBroker, store: BrokerStore) -> Delivery:
    await store.put(envelope())
    delivery = await fetch_one(store)
    broker.calls.clear()
    return delivery


async def test_retry_is_put_first_and_acknowledged_then() -> None:
    """In between it exists twice, and it is never missing."""
    broker = FakeBroker()
    async with started(broker, delays=True) as store:
        delivery = await fetched(broker, store)
        due = time() + 5
        store.retry(delivery, due)
        await broker.until(lambda: "ack" in broker.calls and not broker.unacknowledged)
        assert broker.calls == ["kick mail", "ack"]
        assert broker.kept == [delivery.envelope.again(due)]
        assert 4 < float(broker.labels[-1]["delay"]) <= 5.001


async def test_retry_without_delays_waits_in_the_process() -> None:
    """Unacknowledged, so that it survives the process; the count of attempts is kept."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        due = time() + 3600
        store.retry(delivery, due)
        for _ in range(20):
            await asyncio.sleep(0)
        assert broker.calls == []
        assert broker.kept == [delivery.envelope]
    assert broker.kept == [delivery.envelope.again(due)]


async def test_retry_without_delays_goes_on_when_it_is_due() -> None:
    """As the next attempt."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        store.retry(delivery, time() + 0.02)
        assert (await fetch_one(store)).envelope.attempt == 2


async def test_what_cannot_be_put_back_is_not_acknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is tried again and again, with one log record."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        broker.faults["kick mail"] = ConnectionError("reset")
        with mock.patch.object(module, "pause_after", return_value=0.001):
            store.give_back(delivery)
            await broker.until(lambda: broker.calls.count("kick mail") > 2)
            assert broker.kept == [delivery.envelope]
            assert "ack" not in broker.calls
            broker.faults.clear()
            await broker.until(lambda: "ack" in broker.calls)
        assert (await fetch_one(store)).envelope == delivery.envelope
    [record] = records(caplog)
    assert "could not be put back, and stays unacknowledged meanwhile" in record


async def test_what_cannot_be_put_back_at_the_stop_comes_back_by_itself() -> None:
    """The stop does not wait for it."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        broker.faults["kick mail"] = ConnectionError("reset")
        store.retry(delivery, time())
    assert broker.kept == [delivery.envelope]


async def test_give_back_puts_the_same_attempt_first() -> None:
    """Left unacknowledged, it would count as one of RabbitMQ's deliveries."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        store.give_back(delivery)
        await broker.until(lambda: not broker.unacknowledged)
        assert broker.calls == ["kick mail", "ack"]
        assert broker.kept == [delivery.envelope]


async def test_job_that_comes_back_before_it_is_acknowledged_is_another_one() -> None:
    """The message that was put back is not dropped together with the original."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        broker.hanging.add("ack")
        store.give_back(delivery)
        await broker.until(lambda: "ack" in broker.calls)
        again = await fetch_one(store)
        assert again.envelope == delivery.envelope
        broker.hanging.clear()
        await broker.lose_connection()  # tells
        assert broker.kept == [delivery.envelope] * 2


async def test_bury_logs_the_reason_and_not_the_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is no place for dead jobs, unless one is given."""
    broker = FakeBroker()
    async with started(broker) as store:
        await store.put(envelope(arguments='[["secret"], {}]'))
        delivery = await fetch_one(store)
        store.bury(delivery, "ValueError: no")
        await broker.until(lambda: not broker.kept)
    [record] = records(caplog)
    assert "ValueError: no" in record
    assert delivery.envelope.id in record
    assert "secret" not in record


async def test_bury_puts_the_job_where_the_dead_are_first() -> None:
    """Unchanged; and it tries again until it is there."""
    broker, dead = FakeBroker(), FakeBroker()
    store = BrokerStore(broker, dead=dead)
    await store.start(["mail"], worker=True)
    delivery = await fetched(broker, store)
    assert dead.calls == ["startup, worker=False"]
    dead.faults["kick mail"] = ConnectionError("reset")
    with mock.patch.object(module, "pause_after", return_value=0.001):
        store.bury(delivery, "ValueError: no")
        await dead.until(lambda: dead.calls.count("kick mail") > 2)
        assert broker.kept == [delivery.envelope]
        dead.faults.clear()
        await broker.until(lambda: not broker.kept)
    assert dead.kept == [delivery.envelope]
    await store.stop()
    assert broker.calls[-1] == dead.calls[-1] == "shutdown"


async def test_start_without_the_place_for_the_dead_fails_as_a_whole() -> None:
    """And both can be started again."""
    broker, dead = FakeBroker(), FakeBroker()
    store = BrokerStore(broker, dead=dead)
    dead.faults["startup, worker=False"] = ConnectionError("refused")
    with pytest.raises(StoreUnavailable, match="refused"):
        await store.start(["mail"], worker=True)
    assert broker.calls[-1] == dead.calls[-1] == "shutdown"
    dead.faults.clear()
    await store.start(["mail"], worker=True)
    await store.stop()


async def test_settled_before_the_stop_is_settled_by_its_end() -> None:
    """stop() settles the jobs that were handed over."""
    broker = FakeBroker()
    async with started(broker) as store:
        store.ack(await fetched(broker, store))
    assert broker.kept == []


async def test_step_is_not_in_the_context_of_the_job_that_has_ended() -> None:
    """The job's context variables do not apply to the broker's code."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        token = HERE.set("job")
        store.ack(delivery)
        store.give_back(await fetched(broker, store))
        HERE.reset(token)
        await broker.until(lambda: not broker.unacknowledged)
    assert set(broker.acknowledged_in) == {"outside"}


async def test_settled_after_the_stop_harms_nobody() -> None:
    """A job that was let go may end then, and has come back by itself."""
    broker = FakeBroker()
    async with started(broker) as store:
        first, second = await fetched(broker, store), await fetched(broker, store)
    store.ack(first)
    store.give_back(second)
    await broker.until(lambda: "ack" in broker.calls)
    for _ in range(20):
        await asyncio.sleep(0)
    assert broker.kept == [first.envelope, second.envelope]


# -- connections that are lost ----------------------------------------------------------


async def test_acknowledgement_after_a_lost_connection_is_a_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The job runs again, and that delivery is acknowledged."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        await broker.lose_connection()
        store.ack(delivery)
        await until(lambda: records(caplog))
        again = await fetch_one(store)
        assert again.envelope == delivery.envelope
        store.ack(again)
        await broker.until(lambda: not broker.kept)
    [record] = records(caplog)
    assert "could not be acknowledged, so it runs again" in record
    assert "its channel is closed" in record


async def test_job_that_comes_again_while_it_runs_is_not_run_beside_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is acknowledged for its latest delivery."""
    broker = FakeBroker()
    async with started(broker) as store:
        delivery = await fetched(broker, store)
        await broker.lose_connection()
        await store.put(other := envelope())
        assert (await fetch_one(store)).envelope == other
        store.ack(delivery)
        await broker.until(lambda: broker.kept == [other])
    assert records(caplog) == []


async def test_two_copies_of_one_job_are_acknowledged_together() -> None:
    """As after a process that died between the two steps of putting a job back."""
    broker = FakeBroker()
    async with started(broker) as store:
        job = envelope()
        for each in (job, job, other := envelope()):
            await store.put(each)
        delivery = await fetch_one(store)
        assert (await fetch_one(store)).envelope == other
        store.ack(delivery)
        await broker.until(lambda: broker.kept == [other])


# -- in an application ------------------------------------------------------------------

GATE = web.AppKey("GATE", asyncio.Event)
BEGUN = web.AppKey("BEGUN", asyncio.Queue[Any])


@durable("mail", max_attempts=2, backoff=lambda attempt: 0)
async def mail(app: web.Application, what: str = "") -> None:
    job = current_durable()
    assert job is not None
    app[BEGUN].put_nowait((what, job.attempt))
    if what == "fails":
        raise ValueError(what)
    if what == "waits":
        await app[GATE].wait()


def make(
    broker: AsyncBroker, wait_timeout: float = 10, **options: Any
) -> web.Application:
    async def send(request: web.Request) -> web.Response:
        return web.Response(text=await spawn_durable(request, mail, "waits"))

    app = web.Application()
    app[GATE], app[BEGUN] = asyncio.Event(), asyncio.Queue()
    setup(app, exception_handler=Failures(), wait_timeout=wait_timeout)
    setup_durable(app, BrokerStore(broker), tasks=[mail], **options)
    app.router.add_post("/", send)
    return app


async def test_application_runs_and_retries_jobs_of_a_broker() -> None:
    """And buries them at last."""
    broker = FakeBroker()
    app = make(broker)
    async with serving(app) as server:
        app[GATE].set()
        assert (await server.request("POST", "/")).status == 200
        assert await app[BEGUN].get() == ("waits", 1)
        await spawn_durable(app, mail, "fails")
        assert await app[BEGUN].get() == ("fails", 1)
        assert await app[BEGUN].get() == ("fails", 2)
        await broker.until(lambda: not broker.kept)


async def test_shutdown_that_is_too_short_loses_nothing() -> None:
    """Cancelled jobs go back uncounted, before the broker is shut down."""
    broker = FakeBroker()
    app = make(broker, wait_timeout=0.01, limit=2)
    async with serving(app) as server:
        for _ in range(5):
            await server.request("POST", "/")
        await app[BEGUN].get()
        await app[BEGUN].get()
    assert broker.unacknowledged == []
    assert len({each.id for each in broker.kept}) == len(broker.kept) == 5
    assert {each.attempt for each in broker.kept} == {1}
    assert broker.calls[-1] == "shutdown"


async def test_broker_that_is_down_at_the_start_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients get 503 meanwhile, and each change is one log record."""
    broker = FakeBroker()
    broker.faults["startup, worker=True"] = ConnectionError("refused")
    app = make(broker)
    async with serving(app) as server:
        app[GATE].set()
        answer = await server.request("POST", "/")
        assert answer.status == 503
        assert "retry-after" in answer.headers
        broker.faults.clear()
        await until(lambda: app[DURABLE].fault is None)
        assert (await server.request("POST", "/")).status == 200
        await app[BEGUN].get()
    assert [each.levelno for each in caplog.records if each.name == "aiohttp_jobs"] == [
        logging.ERROR,
        logging.WARNING,
    ]


async def test_broker_that_is_lost_refuses_jobs_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each change is one log record."""
    broker = FakeBroker()
    app = make(broker, worker=False)
    async with serving(app) as server:
        broker.faults["kick mail"] = ConnectionError("reset")
        assert [(await server.request("POST", "/")).status for _ in range(3)] == [503] * 3
        broker.faults.clear()
        assert [(await server.request("POST", "/")).status for _ in range(2)] == [200] * 2
    assert len(records(caplog)) == 2


@pytest.mark.parametrize(
    "options", [{"delay": 1}, {"priority": 1}, {"key": "k"}, {"connection": object()}]
)
async def test_options_that_a_broker_cannot_keep_are_refused(
    options: dict[str, Any],
) -> None:
    """The sentence names the option and the store."""
    app = make(FakeBroker(), worker=False)
    async with serving(app):
        with pytest.raises(
            ValueError, match=f"BrokerStore cannot keep .*{next(iter(options))}="
        ):
            await spawn_durable(app, mail.options(**options))


@pytest.mark.parametrize(("told", "puts"), [(None, False), (False, False), (True, True)])
async def test_periodic_jobs_are_put_by_the_process_that_is_told_to(
    told: bool | None, puts: bool
) -> None:
    """A broker does not remember which ticks it was given."""
    broker = FakeBroker()
    app = make(broker, periodic={mail: every(0.01)}, put_periodic=told)
    async with serving(app):
        if puts:
            assert await app[BEGUN].get() == ("", 1)
        else:
            names = [task.get_name() for task in asyncio.all_tasks()]
            assert "durable jobs: fetch" in names
            assert "durable jobs: mail" not in names
