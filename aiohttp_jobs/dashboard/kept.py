"""Kept: what is rendered of a live page stays until what it shows is another.

Of a page that is rendered each second hardly anything changes but how long ago things
were.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

__all__ = ("Kept", "KeptOfPages")

# Of how many pages it is remembered.
MOST_PAGES: Final = 20


class Kept:
    """What was made for one page; what the last time did not need is forgotten."""

    def __init__(self) -> None:
        self._before: dict[Hashable, tuple[Any, Any]] = {}
        self._now: dict[Hashable, tuple[Any, Any]] = {}

    def begin(self) -> None:
        """Begin to render the page."""
        self._before, self._now = self._now, {}

    def cell(self, macro: Any, key: Hashable, *arguments: Any) -> Any:
        """Return what a macro makes of these arguments.

        Args:
            key: another one if it would make something else.
        """
        return self.same((macro.name, key), None, macro, *arguments)

    def same(
        self, name: Hashable, what: Any, make: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Return what is made of these arguments.

        Args:
            name: what else is kept has another one.
            what: not equal to the one before if something else would be made.
        """
        kept = self._now.get(name) or self._before.get(name)
        if kept is None or kept[0] != what:
            kept = what, make(*arguments)
        self._now[name] = kept
        return kept[1]


class KeptOfPages:
    """What is kept of each page, of those that were rendered last."""

    def __init__(self) -> None:
        self._pages = OrderedDict[Hashable, Kept]()

    def of(self, page: Hashable) -> Kept:
        """Return what is kept of this one, which is about to be rendered."""
        kept = self._pages.setdefault(page, Kept())
        self._pages.move_to_end(page)
        if len(self._pages) > MOST_PAGES:
            self._pages.popitem(last=False)
        kept.begin()
        return kept
