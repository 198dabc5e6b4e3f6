"""SQLiteStore: durable jobs in one file, for the processes of one machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from aiohttp_jobs.core.errors import StoreUnavailable

from .envelope import Envelope
from .store import OPTIONS, Delivery

__all__ = ("SQLiteStore",)


class SQLiteStore:
    """Keeps durable jobs in an SQLite file.

    Args:
        path: the file. It is made if it is not there; its folder has to be.
    """

    supports: Collection[str] = OPTIONS

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    async def start(self, tasks: Collection[str], *, worker: bool) -> None:
        raise StoreUnavailable("not written yet")

    async def stop(self) -> None: ...

    async def put(self, envelope: Envelope, *, connection: object = None) -> str:
        raise NotImplementedError

    async def put_tick(self, envelope: Envelope, tick: float, seen: float) -> bool:
        raise NotImplementedError

    async def last_tick(self, task: str, now: float) -> float | None:
        raise NotImplementedError

    async def fetch(self, count: int) -> Sequence[Delivery]:
        raise NotImplementedError

    def ack(self, delivery: Delivery) -> None: ...

    def retry(self, delivery: Delivery, due: float) -> None: ...

    def bury(self, delivery: Delivery, reason: str) -> None: ...

    def give_back(self, delivery: Delivery) -> None: ...
