"""What a scheduler keeps inside, found by inspection and not by name."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

from aiohttp_jobs import Scheduler

__all__ = ("kept_by",)

# The parts of a scheduler, and their containers that do not grow.
PARTS = ("gate", "keys", "slots", "pending", "shields", "reports", "ending")
CONSTANT = {"ended"}


def kept_by(scheduler: Scheduler) -> dict[str, int]:
    """Return the size of each container of the scheduler that is not empty."""
    return {
        f"{part}.{name}": len(value)
        for part in PARTS
        for name, value in _containers(getattr(scheduler._parts, part))
        if len(value) and name not in CONSTANT
    }


def _containers(part: Any) -> Iterator[tuple[str, Sized]]:
    names = [
        name
        for kind in type(part).__mro__
        for name in (getattr(kind, "__slots__", None) or ())
    ]
    for name in [*names, *getattr(part, "__dict__", ())]:
        value = getattr(part, name)
        if (
            isinstance(value, dict)
            and value
            and all(isinstance(inside, set) for inside in value.values())
        ):
            value = [each for inside in value.values() for each in inside]
        if (
            type(value).__module__ in ("builtins", "collections")
            and isinstance(value, Sized)
            and not isinstance(value, str)
        ):
            yield name, value
