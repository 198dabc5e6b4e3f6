"""Kinds: failures that are the same, kept together.

Two failures are of one kind if their exceptions are of one class and were raised at one
place in the application's own code. The last few of each kind are kept: a thousand equal
ones do not push out the rare one that somebody is called for at night.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeAlias

__all__ = ("Kind", "Kinds", "Raw")

# How many failures of each kind to keep, and how many kinds: the last to occur.
MOST_OF_KIND: Final = 5
MOST_KINDS: Final = 100

# The fields of a record, or the first of them: quicker to make, and few are looked at.
Raw: TypeAlias = tuple[Any, ...]


@dataclass(slots=True)
class Kind:
    """What is known of one kind; moments are those of :func:`time.monotonic`."""

    number: int  # no other one has it
    type_name: str
    place: str
    first_at: float
    last_at: float = 0.0
    count: int = 0
    latest: deque[Raw] = field(default_factory=lambda: deque(maxlen=MOST_OF_KIND))


class Kinds:
    """The kinds, the one that occurred last at the end."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._numbers = count(1)
        #: How many were forgotten, as there were too many.
        self.forgotten = 0

    def add(self, type_name: str, place: str, closed_at: float, raw: Raw) -> None:
        """Count a failure, and keep it with the last ones of its kind."""
        key = type_name, place
        kind = self._kinds.pop(key, None)
        if kind is None:
            kind = Kind(next(self._numbers), type_name, place, closed_at)
            if len(self._kinds) == MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
                self.forgotten += 1
        kind.last_at = closed_at
        kind.count += 1
        kind.latest.append(raw)
        self._kinds[key] = kind

    def __iter__(self) -> Iterator[Kind]:
        """Go over them, the one that occurred last first."""
        return iter([*reversed(self._kinds.values())])

    def kept(self) -> Iterator[Raw]:
        """Yield all that is kept of all kinds."""
        for kind in self._kinds.values():
            yield from kind.latest
