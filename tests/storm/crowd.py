"""The clients: hundreds at once, each with one connection at a time."""

from __future__ import annotations

import asyncio
import enum
import itertools
import json
import random
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.clients import Answer, read_answer

from .plan import Manner, Plan

__all__ = ("Crowd", "Fate", "Outcome")

# Seconds after which a client should have had its answer, whatever it is.
TOO_LONG: Final = 30.0
# SO_LINGER with a timeout of 0: closing the connection resets it.
RESET: Final = struct.pack("ii", 1, 0)
# The most characters in a body, so that it arrives in several pieces.
LARGEST_BODY: Final = 100_000
# The most seconds between two pieces that a client sends.
PAUSE: Final = 0.02


class Fate(enum.StrEnum):
    """The outcome of a request, as its client saw it."""

    ANSWERED = "answered"
    HUNG_UP = "hung up"
    BROKEN_OFF = "broken off by the server"
    REFUSED = "no connection"
    UNANSWERED = "left without an answer"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request; `stopping` if the server was about to be stopped."""

    plan: Plan
    fate: Fate
    status: int
    stopping: bool


class Crowd:
    """Clients that send requests until there are no more, or the server takes no more.

    Args:
        port: the port of the server, on this machine.
        seed: the seed of the plans.
        connections: how many clients there are.
        numbers: the numbers of the requests.
    """

    def __init__(
        self, port: int, seed: int, connections: int, numbers: Iterable[int]
    ) -> None:
        self._port = port
        self._seed = seed
        self._connections = connections
        self._numbers = iter(numbers)
        # Set by the caller that is about to stop the server.
        self.stopping = False
        self.outcomes: list[Outcome] = []

    async def visit(self, path: str) -> None:
        """Send a request without a plan, and wait for the answer."""
        connection = await _Connection.open(self._port)
        connection.send(f"GET {path} HTTP/1.1\r\nHost: storm\r\n\r\n".encode())
        await connection.receive()
        connection.close()

    async def run(self) -> None:
        """Let all clients in, and return when the last one has gone."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._be_client())

    async def _be_client(self) -> None:
        connection: _Connection | None = None
        for number in self._numbers:
            plan = Plan.of(self._seed, number)
            try:
                if connection is None:
                    connection = await _Connection.open(self._port)
            except OSError:
                self._note(plan, Fate.REFUSED)
                return
            answer: Answer | None = None
            try:
                # If its handler never ends, the client waits until the server stops.
                async with asyncio.timeout(TOO_LONG if plan.ends else None):
                    answer = await _perform(plan, connection)
                fate = Fate.HUNG_UP if answer is None else Fate.ANSWERED
            except TimeoutError:
                fate = Fate.UNANSWERED
            except (OSError, EOFError):
                fate = Fate.BROKEN_OFF
            self._note(plan, fate, answer.status if answer else 0)
            if (
                answer is None
                or answer.headers.get("connection") == "close"
                or plan.manner is Manner.BREAKS
            ):
                connection.close(reset=plan.moment * 100 % 2 < 1)
                connection = None
        if connection is not None:
            connection.close()

    def _note(self, plan: Plan, fate: Fate, status: int = 0) -> None:
        self.outcomes.append(Outcome(plan, fate, status, self.stopping))


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> _Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def send_slowly(self, data: bytes, chance: random.Random) -> None:
        """Send the data in pieces, so that the server sees each of them separately."""
        places = sorted(chance.randrange(len(data)) for _ in range(3))
        for start, end in itertools.pairwise((0, *places, len(data))):
            self.send(data[start:end])
            await asyncio.sleep(chance.uniform(0, PAUSE))

    async def receive(self) -> Answer:
        return await read_answer(self._reader)

    async def receive_first(self) -> None:
        """Wait for the beginning of an answer."""
        if not await self._reader.read(1):
            raise EOFError

    def close(self, *, reset: bool = False) -> None:
        if reset and not self._writer.transport.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._writer.transport.abort()


async def _perform(plan: Plan, connection: _Connection) -> Answer | None:
    """Do what the plan says; return the answer, or None if the client has hung up."""
    chance = random.Random(plan.moment)
    request = _request(plan, chance)
    match plan.manner:
        case Manner.PATIENT:
            connection.send(request)
            return await connection.receive()
        case Manner.SLOW:
            await connection.send_slowly(request, chance)
            return await connection.receive()
        case Manner.HANGS_UP:
            await _hang_up(plan, connection, request, chance)
            return None
        case Manner.BREAKS:
            return await _break(plan, connection, chance)


async def _hang_up(
    plan: Plan, connection: _Connection, request: bytes, chance: random.Random
) -> None:
    """Return at the moment that the plan chooses, when the caller is to hang up."""
    if plan.moment < 0.2:  # in the middle of the request
        connection.send(request[: chance.randrange(len(request))])
        await asyncio.sleep(chance.uniform(0, PAUSE))
    elif plan.moment < 0.9:  # while the handler runs, or shortly before or after that
        connection.send(request)
        await asyncio.sleep(chance.uniform(0, plan.seconds + PAUSE))
    else:  # in the middle of the answer
        connection.send(request)
        await connection.receive_first()


async def _break(
    plan: Plan, connection: _Connection, chance: random.Random
) -> Answer | None:
    """Send a malformed request."""
    start = f"{plan.route.method} /{plan.route}/{plan.number} HTTP/1.1\r\nHost: storm\r\n"
    match int(plan.moment * 5):
        case 0:  # does not send the body it announces
            connection.send(f"{start}Content-Length: 1000\r\n\r\n[1, 2,".encode())
            await asyncio.sleep(chance.uniform(0, 5 * PAUSE))
            return None
        case 1:
            body = b'{"half": '
            head = f"{start}Content-Length: {len(body)}\r\n\r\n"
            await connection.send_slowly(head.encode() + body, chance)
        case 2:  # once the handler is running
            connection.send(f"{start}Transfer-Encoding: chunked\r\n\r\n".encode())
            await asyncio.sleep(chance.uniform(0, PAUSE))
            connection.send(b"2\r\n[1\r\nno number\r\n]\r\n")
        case 3:
            connection.send(f"{start}Content-Length: many\r\n\r\n[]".encode())
        case _:
            connection.send(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
    return await connection.receive()


def _request(plan: Plan, chance: random.Random) -> bytes:
    body = b""
    if plan.route.reads_body:
        body = json.dumps("x" * chance.randrange(LARGEST_BODY)).encode()
    return (
        f"{plan.route.method} /{plan.route}/{plan.number} HTTP/1.1\r\n"
        f"Host: storm\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
