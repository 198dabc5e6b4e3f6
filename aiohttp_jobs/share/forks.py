"""What a forked child gives up: its parent's place among the workers.

A child has copies of all descriptors. The child of a killed worker would keep the
worker's number locked and its socket open, though nobody accepts there.
"""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ("give_up_in_children",)


class Held(Protocol):
    """An object with descriptors that belong to one process only."""

    def give_up(self) -> None:
        """Close the descriptors of this process, and touch nothing else."""


_held: Final = WeakSet[Held]()


def give_up_in_children(held: Held) -> None:
    """Call ``held.give_up()`` in each child that is forked while this object lives."""
    _held.add(held)


def _after_fork() -> None:
    for held in list(_held):
        held.give_up()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
