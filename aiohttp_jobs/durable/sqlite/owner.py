"""Owner: this process as an owner of jobs, and how it takes over from dead owners."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
from collections.abc import Callable, Collection
from time import time
from typing import Final, TypeAlias

from aiohttp_jobs.core.errors import StoreUnavailable

from . import rows
from .locks import Locks
from .schema import RUNNING

__all__ = ("Owner",)

# Begins a transaction that need not be on the disk when it is committed.
Begin: TypeAlias = Callable[[], sqlite3.Connection]

# Numbers are random, so that no two owners have the same: even if one file is put in the
# place of another, a job of the one is never taken for a job of the other. They are also
# offsets in a file, for which Windows has 31 bits.
_HIGHEST: Final = 2**31 - 1
# How many numbers to try: one is hardly ever taken.
_TRIES: Final = 1000


class Owner:
    """The number of this process among those that claim jobs, and the lock on it.

    Args:
        path: the file of the jobs.
        tasks: the names of the tasks whose jobs this process claims, for people to see.
        max_crashes: how many times a job may take its process down before it is buried.
    """

    def __init__(self, path: str, tasks: Collection[str], max_crashes: int) -> None:
        self._path = f"{path}-owners"
        self._tasks = json.dumps(sorted(tasks))
        self._max_crashes = max_crashes
        self._locks: Locks | None = None
        #: The number; None while it has none.
        self.number: int | None = None

    def register(self, connection: sqlite3.Connection, begin: Begin) -> None:
        """Get a number: first the lock on it, then the row that others look at."""
        self.close()
        locks = self._locks = Locks(self._path)
        begin()
        for _ in range(_TRIES):
            number = secrets.randbelow(_HIGHEST) + 1
            if not locks.take(number):
                continue
            done = connection.execute(
                "INSERT OR IGNORE INTO aiohttp_jobs_owners "
                "(number, process, host, started_at, tasks) VALUES (?, ?, ?, ?, ?)",
                (number, os.getpid(), socket.gethostname(), time(), self._tasks),
            )
            if done.rowcount == 1:
                break
            locks.free(number)
        else:
            raise StoreUnavailable(
                f"the file {self._path} cannot be locked: put it on a local disk"
            )
        try:
            connection.execute("COMMIT")
        except BaseException:
            locks.free(number)
            raise
        self.number = number

    def beat(self, connection: sqlite3.Connection, begin: Begin) -> list[rows.Crashed]:
        """Look for owners that have died, and let their jobs come back.

        Returns:
            What became of the jobs of each dead owner.
        """
        owners = {
            number
            for (number,) in connection.execute(
                "SELECT number FROM aiohttp_jobs_owners UNION "
                f"SELECT DISTINCT owner FROM aiohttp_jobs WHERE state = {RUNNING}"
            )
        }
        if self.number not in owners:
            # The database that it is registered in was replaced by an older one.
            self.register(connection, begin)
        locks = self._locks_in_place()
        if locks is None:
            return []
        crashed = list[rows.Crashed]()
        for number in owners - {self.number}:
            if locks.take(number):
                try:
                    begin()
                    crashed.append(
                        rows.take_over(connection, number, self._max_crashes, time())
                    )
                    connection.execute("COMMIT")
                finally:
                    locks.free(number)
        return crashed

    def _locks_in_place(self) -> Locks | None:
        """Return the locks that the others see; None if its number cannot be locked."""
        locks = self._locks
        if locks is not None and self.number is not None and not locks.is_in_place():
            # Somebody has removed the file. The others make it again, and so does this.
            new = Locks(self._path)
            if not new.take(self.number):
                new.close()  # one of the others is looking at the number
                return None
            locks.close()
            locks = self._locks = new
        return locks

    def close(self) -> None:
        """Give up the number."""
        locks, self._locks = self._locks, None
        if locks is not None:
            if self.number is not None:
                locks.free(self.number)
            locks.close()
        self.number = None
