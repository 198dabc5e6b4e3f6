"""The places where a process can be made to die, by kill -9.

The code under test knows nothing of this: it is patched in the process that is to die.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from aiohttp_jobs.durable import SQLiteStore
from aiohttp_jobs.durable.attempt import Attempt
from aiohttp_jobs.durable.sqlite import rows, writer

__all__ = ("POINTS", "die_at")


def die(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, matters: Callable[..., Any]) -> Callable[[], None]:
    return lambda: _patch(owner, name, matters, die, None)


def after(owner: Any, name: str, matters: Callable[..., Any]) -> Callable[[], None]:
    return lambda: _patch(owner, name, matters, None, die)


def _patch(
    owner: Any,
    name: str,
    matters: Callable[..., Any],
    first: Callable[..., None] | None,
    then: Callable[..., None] | None,
) -> None:
    original = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        # Call `matters` only once, as it may use up iterators in the arguments.
        is_it = matters(*args, **options)
        if is_it and first is not None:
            first()
        result = original(*args, **options)
        if is_it and then is not None:
            then()
        return result

    setattr(owner, name, call)


def _has_rows(connection: Any, given: Any, *args: Any) -> bool:
    return bool(given)


def _has_batch(name: str) -> Callable[..., bool]:
    return lambda self, batch, claims: bool(getattr(batch, name))


def _is_answer_to_put(self: Any, answers: Any) -> bool:
    return any(isinstance(result, str) for _, result in answers)


def _always(*args: Any, **options: Any) -> bool:
    return True


# By name: what happens, and when in it. The jobs of process.py reach all of them.
POINTS: dict[str, Callable[[], None]] = {
    "put, before the commit": after(rows, "insert", _has_rows),
    "put, between commit and return": before(writer.Writer, "_answer", _is_answer_to_put),
    "claim, before the commit": after(rows, "claim", _always),
    "between claim and start": before(writer.Writer, "_hand_on", _always),
    "running": before(Attempt, "_settle", _always),
    "between end and acknowledgement": before(SQLiteStore, "ack", _always),
    "acknowledgement, before the commit": after(rows, "ack", _has_rows),
    "acknowledgement, after the commit": after(
        writer.Writer, "_transact", _has_batch("acked")
    ),
    "retry, before the commit": after(rows, "retry", _has_rows),
    "retry, after the commit": after(writer.Writer, "_transact", _has_batch("retried")),
    "burial, before the commit": after(rows, "bury", _has_rows),
    "burial, after the commit": after(writer.Writer, "_transact", _has_batch("buried")),
    "release, before the commit": after(rows, "give_back_all", _always),
    "take-over, before the commit": after(rows, "take_over", _always),
    "take-over, after the commit": after(writer.Writer, "_beat", _always),
}


def die_at(point: str) -> None:
    """Let this process die the first time that it reaches this point."""
    POINTS[point]()
