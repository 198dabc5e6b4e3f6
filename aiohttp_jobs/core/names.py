"""Names: how the names that users give to jobs are written into a line of a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

__all__ = ("listed", "shown")

# How many characters of a name, and how many different names, a line has at most.
MOST_LETTERS: Final = 100
MOST_NAMES: Final = 50


def shown(name: str) -> str:
    """Return the name as one line of bounded length: it cannot forge a log line."""
    text = name[:MOST_LETTERS]
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in text
        )[:MOST_LETTERS]
    return text if len(name) <= MOST_LETTERS else f"{text}..."


def listed(names: Iterable[str]) -> str:
    """Return the names with how often each occurs, the most frequent first."""
    counted = Counter(map(shown, names)).most_common(MOST_NAMES + 1)
    texts = [name if times == 1 else f"{name} x{times}" for name, times in counted]
    return ", ".join([*texts[:MOST_NAMES], *["..."] * (len(texts) > MOST_NAMES)])
