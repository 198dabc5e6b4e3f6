"""Durable jobs that travel by a taskiq broker: RabbitMQ and others. Extra ``taskiq``.

Four methods of the broker are used: ``startup``, ``kick``, ``listen`` and ``shutdown``.
The receiver of taskiq's own worker is not used: it acknowledges what was cancelled, what
it does not know and what it cannot read, so these jobs would be lost.

What a taskiq broker has no call for takes two steps. A job goes back, or on to its next
attempt, by being put again and then acknowledged; a process that dies between the two
leaves it there twice, never not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import weakref
from collections import deque
from collections.abc import Collection, Coroutine, Sequence
from time import time
from typing import Any, Final

from .core.errors import StoreUnavailable, missing_extra

try:
    from taskiq import AckableMessage, AsyncBroker, BrokerMessage, InMemoryBroker
except ModuleNotFoundError as error:
    raise missing_extra(error, "taskiq") from error

from .core.checks import check_flag
from .core.failures import line_of
from .core.logs import say
from .durable.envelope import Envelope
from .durable.store import Delivery
from .durable.upkeep import pause_after
from .taskiq_message import Message

__all__ = ("BrokerStore",)

# Seconds that one call to the broker may take: one that hangs longer has failed.
_START, _KICK, _STOP = 60.0, 30.0, 10.0

# Seconds that a job which cannot be begun stays unacknowledged in this process. Meanwhile
# it takes the place of others, and after 30 minutes RabbitMQ would close the channel.
_HOLD: Final = 60.0

# Seconds that a message is delayed at a time. In RabbitMQ, the message at the head of a
# delay queue holds up those that are due earlier, so a long delay is made of short ones.
_HOP: Final = 60.0

# Up to this many seconds, a job is held, not sent round once more: clocks differ.
_ROUND: Final = 1.0
# The most different faults of messages to log, each once.
_MOST_TOLD: Final = 100

_BURIED: Final = "Durable job %s (%s) has failed for good, and is given up: %s"
_NO_ANSWER: Final = "The broker does not answer: %d durable jobs come back by themselves"
_NOT_ACKNOWLEDGED: Final = (
    "Durable job %s has ended but could not be acknowledged, so it runs again: %s"
)
_NOT_MOVED: Final = (
    "Durable job %s could not be put back, and stays unacknowledged meanwhile: %s"
)

# Brokers that a store has started: one cannot serve two.
_taken: Final = weakref.WeakSet[AsyncBroker]()


class BrokerStore:
    """A store for `setup_durable()` that is a taskiq broker.

    Make the broker for this store alone: the store starts it, listens to it and stops it,
    and a taskiq worker on the same queue would drop the jobs.

    Args:
        broker: a taskiq broker that keeps messages and takes acknowledgements.
        delays: whether the broker honours the label ``delay``, in seconds.
            taskiq-aio-pika's does if it has a ``delay_queue``, or the plugin for delayed
            messages. Without that, `delay=` and `at=` are refused, and a job that has
            failed waits for its next attempt in the process, which need not live until
            then.
        dead: another broker, with another queue, for the jobs that have failed for good.
            Nothing listens to it here. Without it they are only logged, and without
            their arguments.

    Raises:
        TypeError, ValueError: an argument is not a broker, keeps nothing, or is invalid;
            the message names it.
    """

    #: It does not know which ticks of periodic jobs were put: let one process put them.
    remembers_ticks = False

    def __init__(
        self,
        broker: AsyncBroker,
        *,
        delays: bool = False,
        dead: AsyncBroker | None = None,
    ) -> None:
        _check("broker", broker)
        if dead is not None:
            _check("dead", dead)
        if dead is broker:
            raise ValueError("dead takes another broker than the one for waiting jobs")
        check_flag("delays", delays)
        #: The options of a call that it supports.
        self.supports: Collection[str] = ("delay", "at") if delays else ()
        self._broker = broker
        self._dead = dead
        self._brokers = [broker] if dead is None else [broker, dead]
        self._delays = delays
        self._tasks: Collection[str] = ()
        self._is_open = False
        self._is_stopped = False
        self._stopping = asyncio.Event()
        # What was received and not settled, by id and attempt.
        self._mine: dict[tuple[str, int], Delivery] = {}
        # Those of them that can be begun, and how many of these fetch() asks for.
        self._ready = deque[Delivery]()
        self._asked = 0
        self._wanted = asyncio.Event()
        self._arrived = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        # Steps that are under way, which `stop` waits for.
        self._steps = set[asyncio.Task[None]]()
        self._told = set[str]()

    # -- opened and closed ---------------------------------------------------------------

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        """Start the broker. Nothing is put until it has started."""
        if not _taken.isdisjoint(self._brokers):
            raise StoreUnavailable(
                "another application of this process uses the same broker: make one "
                "for each"
            )
        _taken.update(self._brokers)
        self._tasks = tasks
        try:
            async with asyncio.timeout(_START):
                for each in self._brokers:
                    # Before its start, so that it opens what it listens with.
                    each.is_worker_process = worker and each is self._broker
                    await each.startup()
        except BaseException as error:
            # Its handlers have run, and connections may be open: the next start would
            # leave them so.
            await self._shut_down(logging.DEBUG)
            if isinstance(error, Exception):
                raise StoreUnavailable(f"the broker is down: {line_of(error)}") from error
            raise
        self._is_open = True

    async def stop(self) -> None:
        """Finish what is under way, and shut the broker down.

        What is not acknowledged by then goes back to the queue.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        self._withdraw()
        self._stopping.set()  # jobs that wait here are put at once
        try:
            await self._finish_steps()
        finally:
            if self._is_open:
                self._is_open = False
                await self._shut_down(logging.WARNING)

    async def _finish_steps(self) -> None:
        while self._steps:
            _, late = await asyncio.wait(self._steps, timeout=_STOP)
            if late:
                say(logging.WARNING, _NO_ANSWER, len(late))
                for each in late:
                    each.cancel()
                await asyncio.wait(late, timeout=_STOP)
                return

    async def _shut_down(self, level: int) -> None:
        for each in self._brokers:
            try:
                async with asyncio.timeout(_STOP):
                    await each.shutdown()
            except Exception as error:
                say(level, "The broker could not be shut down: %s", line_of(error))
            finally:
                _taken.discard(each)

    # -- put -----------------------------------------------------------------------------

    async def put(self, envelope: Envelope, *, connection: object = None) -> str:
        """Send it; a broker that confirms, such as RabbitMQ, has it when this returns."""
        await self._kick(envelope, envelope.to_json().encode())
        return envelope.id

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        """Send it: only one process was chosen to."""
        return bool(await self.put(envelope))

    async def last_tick(self, task: str, now: float) -> float | None:
        """Return None: it does not know."""
        return None

    async def _kick(
        self, envelope: Envelope, data: bytes, to: AsyncBroker | None = None
    ) -> None:
        if not self._is_open:
            raise StoreUnavailable("the broker is not started")
        labels = dict[str, Any]()
        wait = 0.0 if envelope.due is None else envelope.due - time()
        if self._delays and wait > 0:
            # A little more, since it is truncated to milliseconds.
            labels["delay"] = f"{min(wait, _HOP) + 0.001:.3f}"
        message = BrokerMessage(
            task_id=envelope.id, task_name=envelope.task, message=data, labels=labels
        )
        try:
            async with asyncio.timeout(_KICK):
                await (to or self._broker).kick(message)
        except Exception as error:
            raise StoreUnavailable(
                f"the broker has not taken the job: {line_of(error)}"
            ) from error

    # -- fetched -------------------------------------------------------------------------

    async def fetch(self, count: int) -> Sequence[Delivery]:
        """Listen until a job is there that can be begun."""
        if not self._is_open:
            raise StoreUnavailable("the broker is not started")
        self._asked = count
        self._wanted.set()
        try:
            while not self._ready:
                self._arrived.clear()  # an eager task may set it at once
                if self._listener is None:
                    self._listener = asyncio.create_task(
                        self._listen(), name="durable jobs: listen"
                    )
                    self._listener.add_done_callback(lambda task: self._arrived.set())
                await self._arrived.wait()
                self._check_listener()
        except asyncio.CancelledError:
            self._withdraw()
            raise
        finally:
            self._asked = 0
            self._wanted.clear()
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    async def _listen(self) -> None:
        """Take one message after another, no more than asked for.

        Brokers limit how many are unacknowledged at a time, or for how long.
        """
        async with contextlib.aclosing(self._broker.listen()) as messages:
            async for message in messages:
                self._take(message)
                if len(self._ready) >= self._asked:
                    self._wanted.clear()
                await self._wanted.wait()

    def _check_listener(self) -> None:
        """Raise StoreUnavailable, with the reason, if the listener has ended."""
        listener = self._listener
        if listener is None or not listener.done():
            return
        self._listener = None
        error = None if listener.cancelled() else listener.exception()
        raise StoreUnavailable(
            "the broker does not listen any more"
            + ("" if error is None else f": {line_of(error)}")
        ) from error

    def _withdraw(self) -> None:
        """Stop listening, and put back what was not begun."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            self._begin(_end_of(listener))
        while self._ready:
            self._begin(self._move(self._ready.popleft()))

    def _take(self, message: AckableMessage | bytes) -> None:
        """Find out what has come, and what to do with it."""
        came = Message.of(message)
        if not came.acks:
            self._tell_once(
                "no ack",
                f"{type(self._broker).__name__} takes no acknowledgements: durable jobs "
                "that run are lost with the process. Use another broker",
            )
        try:
            envelope = Envelope.from_json(came.data)
        except ValueError as error:
            # It stays in the queue, for a newer release or whomever it is for.
            self._tell_once(
                f"unreadable {error}",
                f"A message stays unacknowledged until this process ends. {error}",
            )
            return
        place = envelope.id, envelope.attempt
        if place in self._mine:
            # It is here already: its connection was lost, or the broker would not wait
            # any longer. Both deliveries are acknowledged together.
            self._mine[place].receipt.acks.extend(came.acks)
            return
        self._mine[place] = delivery = Delivery(envelope, came)
        if envelope.task not in self._tasks:
            self._tell_once(
                f"unknown {envelope.task}",
                f"Durable jobs of the task {envelope.task!r} wait for a process that has "
                "it: it is not one of setup_durable(tasks=...)",
            )
            self._begin(self._hold(delivery, time() + _HOLD))
        elif envelope.due is not None and envelope.due > time():
            self._begin(self._hold(delivery, envelope.due))
        else:
            self._make_ready(delivery)

    def _make_ready(self, delivery: Delivery) -> None:
        self._ready.append(delivery)
        self._arrived.set()

    async def _hold(self, delivery: Delivery, until: float) -> None:
        """Keep a job that cannot be begun yet; then begin it, or send it round again."""
        envelope = delivery.envelope
        is_known = envelope.task in self._tasks
        if not (is_known and self._delays and until - time() > _ROUND):
            await self._sleep_until(min(until, time() + _HOLD))
        if is_known and until <= time() and self._listener is not None:
            self._make_ready(delivery)
        else:
            await self._move(delivery)

    def _tell_once(self, what: str, sentence: str) -> None:
        if what not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(what)
            say(logging.WARNING, "%s", sentence)

    # -- settled -------------------------------------------------------------------------

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge it."""
        self._begin(self._acknowledge(delivery))

    def retry(self, delivery: Delivery, due: float) -> None:
        """Put its next attempt, then acknowledge this one."""
        self._begin(self._retry(delivery, due))

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Log it; put it in the queue of the dead, if there is one; acknowledge it."""
        envelope = delivery.envelope
        say(logging.ERROR, _BURIED, envelope.task, envelope.id, reason)
        if self._dead is None:
            self._begin(self._acknowledge(delivery))
        else:
            self._begin(self._move(delivery, to=self._dead))

    def give_back(self, delivery: Delivery) -> None:
        """Put it again, then acknowledge it.

        A broker gives unacknowledged messages to others when the process ends. But that
        may be much later, and RabbitMQ counts it towards its limit of deliveries.
        """
        self._begin(self._move(delivery))

    async def _retry(self, delivery: Delivery, due: float) -> None:
        if not self._delays:
            await self._sleep_until(min(due, time() + _HOLD))
        await self._move(delivery, delivery.envelope.again(due))

    async def _move(
        self,
        delivery: Delivery,
        envelope: Envelope | None = None,
        to: AsyncBroker | None = None,
    ) -> None:
        """Put it, as it came or as this envelope, then acknowledge it."""
        if envelope is None:
            # As it came: a newer release may have written what this one cannot read.
            envelope, data = delivery.envelope, delivery.receipt.data
            # It may come here again before this delivery is acknowledged, as another one.
            self._forget(delivery)
        else:
            data = envelope.to_json().encode()
        tries = 0
        while True:
            try:
                await self._kick(envelope, data, to)
            except StoreUnavailable as error:
                tries += 1
                if tries == 1:
                    say(logging.WARNING, _NOT_MOVED, envelope.task, error.args[0])
                if self._stopping.is_set():
                    return
                await self._sleep_until(time() + pause_after(tries))
            else:
                break
        await self._acknowledge(delivery)

    async def _acknowledge(self, delivery: Delivery) -> None:
        fault = await delivery.receipt.acknowledge(_KICK)
        self._forget(delivery)
        if fault is not None:
            say(
                logging.WARNING, _NOT_ACKNOWLEDGED, delivery.envelope.task, line_of(fault)
            )

    def _forget(self, delivery: Delivery) -> None:
        place = delivery.envelope.id, delivery.envelope.attempt
        if self._mine.get(place) is delivery:
            del self._mine[place]

    # -- steps ---------------------------------------------------------------------------

    def _begin(self, step: Coroutine[Any, Any, None]) -> None:
        """Run a step on its own, whatever becomes of the job that has called.

        Not in that job's context, which says what is part of the job.
        """
        task = contextvars.Context().run(asyncio.create_task, step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)

    async def _sleep_until(self, moment: float) -> None:
        """Wait until this moment, or until the store is being stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(moment - time()):
                await self._stopping.wait()


def _check(name: str, broker: AsyncBroker) -> None:
    if not isinstance(broker, AsyncBroker):
        raise TypeError(f"{name} takes a taskiq broker, not {broker!r}")
    if isinstance(broker, InMemoryBroker):
        raise TypeError(
            f"{name} takes a broker that keeps messages, and InMemoryBroker keeps none: "
            "for tests, use aiohttp_jobs.testing.MemoryStore"
        )


async def _end_of(listener: asyncio.Task[None]) -> None:
    await asyncio.wait([listener])
    if not listener.cancelled():
        listener.exception()  # nobody waits for it any longer
