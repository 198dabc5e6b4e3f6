"""Pieces: what one process tells another each second, without what it told before.

Most of what a page shows stays the same for some seconds: the charts, the failures, the
jobs that ran last where few end. Each piece of an answer has a number, which changes when
the piece does. The process that asks names the numbers of the pieces that it has, and
gets the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Final, NamedTuple

from .part import Look, Part

__all__ = ("Heard", "Said", "Teller")

# How many pieces the process that tells them remembers.
MOST_PIECES: Final = 500

# The fields that are pieces; whatever else is in a part is told each time.
_OF_PART: Final = ("periods", "coroutines")
_OF_LOOK: Final = ("kinds", "active", "pending", "recent")


class Teller:
    """Tells pieces to the other processes, however many."""

    def __init__(self) -> None:
        self._numbers = count(1)
        # The number of each piece, and what it was last.
        self._last = OrderedDict[str, tuple[int, Any]]()

    def tell(
        self, part: Part, looks: Mapping[str, Look], known: Mapping[str, int]
    ) -> dict[str, Any]:
        """Return what :meth:`Heard.hear` takes.

        Args:
            looks: the looks, by what was asked.
            known: the numbers of the pieces that the process that asks has.
        """
        rest: dict[str, Any] = {**part}
        pieces = {field: rest.pop(field) for field in _OF_PART}
        for asked, look in looks.items():
            seen: dict[str, Any] = {**look}
            pieces |= {f"{field} {asked}": seen[field] for field in _OF_LOOK}
        numbers = {name: self._number(name, piece) for name, piece in pieces.items()}
        while len(self._last) > MOST_PIECES:
            self._last.popitem(last=False)
        return {
            "part": rest,
            "forgotten": {asked: look["forgotten"] for asked, look in looks.items()},
            "numbers": numbers,
            "pieces": {
                name: piece
                for name, piece in pieces.items()
                if known.get(name) != numbers[name]
            },
        }

    def _number(self, name: str, piece: Any) -> int:
        number, before = self._last.get(name, (0, None))
        # This compares quickly: equal rows are the same object.
        if not number or before != piece:
            number = next(self._numbers)
            self._last[name] = number, piece
        self._last.move_to_end(name)
        return number


class Said(NamedTuple):
    """All that one process says, whether it said it just now or before."""

    part: dict[str, Any]
    forgotten: dict[str, int]
    #: With their numbers.
    pieces: dict[str, tuple[int, Any]]

    def about(self, asked: str) -> tuple[Part, Look]:
        """Return what it says to this question.

        Raises:
            LookupError: it was not asked that.
        """
        part: Any = {**self.part, **self._those(_OF_PART, "")}
        look: Any = {
            "forgotten": self.forgotten[asked],
            **self._those(_OF_LOOK, f" {asked}"),
        }
        return part, look

    def _those(self, fields: Iterable[str], after: str) -> dict[str, Any]:
        return {field: self.pieces[field + after][1] for field in fields}


class Heard:
    """What another process has told so far."""

    def __init__(self) -> None:
        self._pieces: dict[str, tuple[int, Any]] = {}

    def known(self) -> dict[str, int]:
        """Return the numbers of the pieces that are here."""
        return {name: number for name, (number, _) in self._pieces.items()}

    def hear(self, told: Any) -> Said:
        """Take what :meth:`Teller.tell` returned.

        Raises:
            LookupError, TypeError, AttributeError: it is something else.
        """
        pieces: dict[str, tuple[int, Any]] = {}
        for name, number in told["numbers"].items():
            if name in told["pieces"]:
                pieces[name] = number, told["pieces"][name]
            elif self._pieces[name][0] == number:
                pieces[name] = self._pieces[name]
            else:
                raise LookupError(f"{name} was not told")
        self._pieces = pieces
        return Said(told["part"], told["forgotten"], pieces)
