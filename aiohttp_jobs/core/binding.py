"""Binding: the one event loop that a scheduler belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ("Binding",)


class Binding:
    """Belongs to no loop at first, then to the first one in which it is used.

    Args:
        name: returns what errors call the owner.
    """

    __slots__ = ("_name", "loop")

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name
        # None before the first use. Read-only for others.
        self.loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, and bind to it if this is the first use.

        Raises:
            RuntimeError: no loop is running, or another one.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{self._name()} was used where no event loop is running: call it in its "
                "own loop, or from another thread by asyncio.run_coroutine_threadsafe()"
            ) from None
        if loop is not self.loop:
            if self.loop is not None:
                raise RuntimeError(
                    f"{self._name()} is bound to a different event loop: use it in the "
                    "one that used it first, or make another scheduler"
                )
            self.loop = loop
        return loop

    def in_use(self) -> asyncio.AbstractEventLoop:
        """Return the loop; only for use after the first check()."""
        assert self.loop is not None
        return self.loop

    def check_if_bound(self) -> None:
        """Do what check() does, but only if there is a loop already."""
        if self.loop is not None:
            self.check()
