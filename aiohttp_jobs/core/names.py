"""Names: how what users call their jobs is written into a line of a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

__all__ = ("listed", "shown")

# Letters of one name, and different names of one line.
MOST_LETTERS: Final = 100
MOST_NAMES: Final = 50


def shown(name: str) -> str:
    """Return it in one line of bounded length: no name can forge a line of its own."""
    text = name[:MOST_LETTERS]
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in text
        )[:MOST_LETTERS]
    return text if len(name) <= MOST_LETTERS else f"{text}..."


def listed(names: Iterable[str]) -> str:
    """Return the names with the number of times that each is there, the most first."""
    counted = Counter(map(shown, names)).most_common(MOST_NAMES + 1)
    texts = [name if times == 1 else f"{name} x{times}" for name, times in counted]
    return ", ".join([*texts[:MOST_NAMES], *["..."] * (len(texts) > MOST_NAMES)])
