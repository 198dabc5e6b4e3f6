"""The experiment: clients that order over real sockets and hang up half-way.

Each client orders twice at the same moment, by the plain and by the atomic route, and
waits equally long for both. Then the database shows what became of the orders.
"""

from __future__ import annotations

import asyncio
import enum
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from aiohttp_jobs import Job, spawn

from .shop import SHOP, Route, Shop, Tally

__all__ = ("LABORATORY", "Experiment", "Fate", "Laboratory", "Row", "State")

# How many clients are connected at once, each with two connections.
AT_ONCE: Final = 20
# Seconds that a client waits for its answer, at least and at most. An order takes 0.3.
PATIENCE: Final = (0.02, 0.46)


class State(enum.StrEnum):
    """The state of an experiment."""

    RUNNING = "running"
    COUNTING = "counting"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"


class Fate(enum.Enum):
    """The outcome of one client's order, as the client saw it."""

    ANSWERED = enum.auto()
    HUNG_UP = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one route's orders, as the clients and the database saw it."""

    route: Route
    clients: int
    answered: int
    hung_up: int
    failed: int
    tally: Tally


class Experiment:
    """One run, against one server.

    Args:
        clients: how many clients there are.
        seed: decides how patient they are; None for a new one.
        progress: called with the experiment whenever an order is over.
    """

    def __init__(
        self,
        clients: int = 200,
        seed: int | None = None,
        progress: Callable[[Experiment], object] | None = None,
    ) -> None:
        self.clients = clients
        self.seed = secrets.randbelow(1_000_000) if seed is None else seed
        self.state = State.RUNNING
        self._progress = progress
        self._fates: Counter[tuple[Route, Fate]] = Counter()
        self._tallies: dict[Route, Tally] = {}
        # The orders of one run are recognized by their customers' domain.
        self._domain = f"run-{secrets.token_hex(4)}.example"

    @property
    def total(self) -> int:
        """How many orders there will be."""
        return self.clients * len(Route)

    @property
    def done(self) -> int:
        """How many orders are over: answered, failed, or given up by the client."""
        return self._fates.total()

    @property
    def over(self) -> bool:
        """Whether the experiment is finished or interrupted."""
        return self.state in (State.FINISHED, State.INTERRUPTED)

    async def run(self, host: str, port: int) -> None:
        """Let all clients order at the server's address.

        Cancellation:
            All clients that are connected hang up.
        """
        chance = random.Random(self.seed)
        patience = [chance.uniform(*PATIENCE) for _ in range(self.clients)]
        room = asyncio.Semaphore(AT_ONCE)

        async def be_client(number: int) -> None:
            async with room, asyncio.TaskGroup() as group:
                for route in Route:
                    request = _request(host, route, f"client-{number}@{self._domain}")
                    group.create_task(
                        self._order(host, port, route, request, patience[number])
                    )

        with self._interrupted_by_errors():
            async with asyncio.TaskGroup() as group:
                for number in range(self.clients):
                    group.create_task(be_client(number))
            # One last client that waits: once it has its answer, the server has seen all
            # clients before it. But some of those may have hung up only just now.
            await _visit(host, port)
        self.state = State.COUNTING

    async def count(self, shop: Shop) -> None:
        """Count the orders in the database, once none is under way any more."""
        with self._interrupted_by_errors():
            await shop.settled()
            self._tallies = await shop.tally(f"%@{self._domain}")
        if self.state is State.COUNTING:
            self.state = State.FINISHED

    def rows(self) -> list[Row]:
        """Return the table, one row per route."""
        return [
            Row(
                route,
                self.clients,
                self._fates[route, Fate.ANSWERED],
                self._fates[route, Fate.HUNG_UP],
                self._fates[route, Fate.FAILED],
                self._tallies.get(route, Tally()),
            )
            for route in Route
        ]

    async def _order(
        self, host: str, port: int, route: Route, request: bytes, patience: float
    ) -> None:
        try:
            fate = await _order_and_wait(host, port, request, patience)
        except TimeoutError:
            fate = Fate.HUNG_UP
        except OSError:
            fate = Fate.FAILED
        self._fates[route, fate] += 1
        if self._progress is not None:
            self._progress(self)

    @contextmanager
    def _interrupted_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.state = State.INTERRUPTED
            raise


class Laboratory:
    """Runs the experiments of an application as background jobs, one at a time."""

    def __init__(self) -> None:
        # The running experiment, or the last one.
        self.latest: Experiment | None = None
        self._job: Job[None] | None = None

    async def start(self, request: web.Request, clients: int, seed: int | None) -> None:
        """Start an experiment against the address that the request came to.

        Do nothing if one is running already.
        """
        if self.latest is not None and not self.latest.over:
            return
        if request.transport is None:
            return  # the visitor has gone
        host, port, *_ = request.transport.get_extra_info("sockname")
        self.latest = experiment = Experiment(clients, seed)
        shop = request.app[SHOP]
        self._job = await spawn(
            request, _conduct(experiment, host, port, shop), "experiment"
        )

    async def stop(self, app: web.Application) -> None:
        """Stop the running experiment at shutdown: its clients hang up."""
        if self._job is not None:
            # Hundreds of clients may take longer than the scheduler's close_timeout.
            await self._job.close(timeout=10)


#: The application's experiments: ``app[LABORATORY]``.
LABORATORY: Final = web.AppKey("LABORATORY", Laboratory)


async def _conduct(experiment: Experiment, host: str, port: int, shop: Shop) -> None:
    await experiment.run(host, port)
    await experiment.count(shop)


async def _order_and_wait(host: str, port: int, request: bytes, patience: float) -> Fate:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        async with asyncio.timeout(patience):
            status = await reader.readline()
    finally:
        # The client hangs up without closing the connection properly.
        writer.transport.abort()
    return Fate.ANSWERED if b" 303 " in status else Fate.FAILED


async def _visit(host: str, port: int) -> None:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return  # the server is about to end
    try:
        writer.write(
            f"GET /experiment/progress HTTP/1.1\r\nHost: {_host(host)}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        await reader.read()
    except OSError:
        pass
    finally:
        writer.transport.abort()


def _request(host: str, route: Route, customer: str) -> bytes:
    body = urlencode({"customer": customer, "article": "pencil", "quantity": 1})
    head = (
        f"POST /orders/{route} HTTP/1.1",
        f"Host: {_host(host)}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
