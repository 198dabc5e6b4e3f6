"""The shop: its articles, and its orders in SQLite.

An order is taken in two steps, with waits for the bank before the first and between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiosqlite
from aiohttp import web

__all__ = (
    "ARTICLES",
    "SHOP",
    "Article",
    "Entry",
    "Order",
    "Route",
    "Shop",
    "State",
    "Tally",
    "open_shop",
    "shop_context",
)

# Seconds until the bank has charged the card, then until it has confirmed the charge.
BANK_CHARGES_IN: Final = 0.1
BANK_CONFIRMS_IN: Final = 0.2
# For visitors who want to hang up by hand.
SLOW_BANK_CONFIRMS_IN: Final = 7.0

# Every statement is a transaction of its own. As with a real bank, a charge cannot be
# rolled back.
SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS charges (
    id INTEGER PRIMARY KEY,
    route TEXT NOT NULL,
    customer TEXT NOT NULL,
    article TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    cents INTEGER NOT NULL,
    charged_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY,
    charge INTEGER NOT NULL UNIQUE REFERENCES charges (id),
    recorded_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS views (
    page TEXT PRIMARY KEY,
    times INTEGER NOT NULL
);
"""


class Route(enum.StrEnum):
    """The two ways to order: the same handler without and with @atomic."""

    PLAIN = "plain"
    ATOMIC = "atomic"


@dataclass(frozen=True, slots=True)
class Article:
    """Something to buy."""

    key: str
    title: str
    cents: int


ARTICLES: Final[Mapping[str, Article]] = {
    article.key: article
    for article in (
        Article("notebook", "Notebook", 640),
        Article("pencil", "Pencil", 130),
        Article("lamp", "Desk lamp", 4900),
        Article("clock", "Wall clock", 2750),
    )
}


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer asks for."""

    customer: str
    article: Article
    quantity: int = 1
    slow_bank: bool = False


class State(enum.StrEnum):
    """What has become of an order that was charged."""

    RECORDED = "recorded"
    UNDER_WAY = "under way"
    HALF_DONE = "half-done"


@dataclass(frozen=True, slots=True)
class Entry:
    """A charge, and what has become of its order."""

    charge: int
    route: Route
    customer: str
    title: str
    quantity: int
    cents: int
    charged_at: datetime
    state: State


@dataclass(frozen=True, slots=True)
class Tally:
    """How many orders of one route were charged, are recorded, and are under way."""

    charged: int = 0
    recorded: int = 0
    under_way: int = 0

    @property
    def half_done(self) -> int:
        """How many customers paid for an order that does not exist."""
        return self.charged - self.recorded - self.under_way


class Shop:
    """Takes orders, and reports what has become of them.

    Args:
        database: an open connection in autocommit mode; see :func:`open_shop`.
    """

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        # The charge of each order that is under way, by the task that takes the order;
        # None until the customer is charged.
        self._charges = dict[asyncio.Task[Any] | None, int | None]()
        # Set while no order is under way, so while `_charges` is empty.
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def under_way(self) -> int:
        """How many orders are being taken."""
        return len(self._charges)

    async def take_order(self, route: Route, order: Order) -> None:
        """Charge the customer, then record the order.

        Cancellation:
            Between the steps, this leaves a customer who has paid for nothing. This shop
            exists to show that.
        """
        with self._counted():
            # Takes the money.
            charge = await self._charge(route, order)
            # Meanwhile clients hang up.
            await self._wait_for_bank(order)
            # Makes it an order.
            await self._record(charge)

    async def settled(self) -> None:
        """Wait until no order is under way."""
        await self._settled.wait()

    async def tally(self, customers: str = "%") -> dict[Route, Tally]:
        """Count the orders of each route.

        Args:
            customers: count only the orders of these customers; a pattern for SQL's LIKE.
        """
        tallies = {route: Tally() for route in Route}
        async with self._database.execute(
            "SELECT route, count(*), count(orders.id),"
            f" count(*) FILTER (WHERE orders.id IS NULL AND {self._is_under_way()})"
            " FROM charges LEFT JOIN orders ON orders.charge = charges.id"
            " WHERE customer LIKE ? GROUP BY route",
            [customers],
        ) as rows:
            async for route, charged, recorded, under_way in rows:
                tallies[Route(route)] = Tally(charged, recorded, under_way)
        return tallies

    async def entries(self, *, half_done: bool = False, limit: int = 10) -> list[Entry]:
        """Return the latest orders, newest first; or the latest half-done ones."""
        under_way = self._is_under_way()
        only = f"WHERE orders.id IS NULL AND NOT {under_way}" if half_done else ""
        async with self._database.execute(
            "SELECT charges.id, route, customer, article, quantity, cents, charged_at,"
            f" orders.id IS NOT NULL, {under_way}"
            " FROM charges LEFT JOIN orders ON orders.charge = charges.id"
            f" {only} ORDER BY charges.id DESC LIMIT ?",
            [limit],
        ) as rows:
            return [_entry(*row) async for row in rows]

    def _is_under_way(self) -> str:
        ids = ", ".join(str(charge) for charge in self._charges.values() if charge)
        return f"charges.id IN ({ids})"

    async def add_views(self, page: str, times: int) -> None:
        """Add this many views to the page."""
        await self._write(
            "INSERT INTO views VALUES (?, ?)"
            " ON CONFLICT (page) DO UPDATE SET times = times + excluded.times",
            page,
            times,
        )

    async def views(self) -> dict[str, int]:
        """Return how often each page was viewed, most viewed first."""
        async with self._database.execute(
            "SELECT page, times FROM views ORDER BY times DESC, page"
        ) as rows:
            return {page: times async for page, times in rows}

    async def _charge(self, route: Route, order: Order) -> int:
        await asyncio.sleep(BANK_CHARGES_IN)
        charge = await self._write(
            "INSERT INTO charges (route, customer, article, quantity, cents, charged_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            route,
            order.customer,
            order.article.key,
            order.quantity,
            order.quantity * order.article.cents,
            _now(),
        )
        self._charges[asyncio.current_task()] = charge
        return charge

    async def _wait_for_bank(self, order: Order) -> None:
        slow = order.slow_bank
        await asyncio.sleep(SLOW_BANK_CONFIRMS_IN if slow else BANK_CONFIRMS_IN)

    async def _record(self, charge: int) -> None:
        await self._write(
            "INSERT INTO orders (charge, recorded_at) VALUES (?, ?)", charge, _now()
        )

    async def _write(self, statement: str, *values: str | int) -> int:
        async with self._database.execute(statement, values) as cursor:
            return cursor.lastrowid or 0

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        task = asyncio.current_task()
        self._charges[task] = None
        self._settled.clear()
        try:
            yield
        finally:
            del self._charges[task]
            if not self._charges:
                self._settled.set()


#: Where :func:`shop_context` puts the shop: ``app[SHOP]``.
SHOP: Final = web.AppKey("SHOP", Shop)


@contextlib.asynccontextmanager
async def open_shop(path: Path) -> AsyncIterator[Shop]:
    """Open the shop whose database is at `path`, creating the file if need be.

    Raises:
        sqlite3.Error: the file cannot be opened, or is not a database.
    """
    # aiosqlite leaves its thread behind if it cannot connect, so try first.
    sqlite3.connect(path).close()
    async with aiosqlite.connect(path, isolation_level=None) as database:
        await database.executescript(SCHEMA)
        yield Shop(database)


def shop_context(path: Path) -> Callable[[web.Application], AsyncIterator[None]]:
    """Make the clean-up context that keeps the shop open while the application runs."""

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with open_shop(path) as shop:
            app[SHOP] = shop
            yield

    return context


def _entry(
    charge: int,
    route: str,
    customer: str,
    article: str,
    quantity: int,
    cents: int,
    charged_at: str,
    recorded: int,
    under_way: int,
) -> Entry:
    if recorded:
        state = State.RECORDED
    else:
        state = State.UNDER_WAY if under_way else State.HALF_DONE
    return Entry(
        charge=charge,
        route=Route(route),
        customer=customer,
        title=ARTICLES[article].title if article in ARTICLES else article,
        quantity=quantity,
        cents=cents,
        charged_at=datetime.fromisoformat(charged_at),
        state=state,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
