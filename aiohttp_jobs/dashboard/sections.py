"""Sections: what a live page is made of, each rendered only when it has changed.

From second to second, hardly anything changes on a page except how long ago things were,
and the page's script tells that. So a section that shows the same as before is not
rendered again; and in one that has changed, cells that stay the same are not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from . import data
from .durable_data import DurableSummary

__all__ = ("Kept", "in_sections")


def in_sections(
    overview: data.Overview, durable: DurableSummary | None
) -> dict[str, object]:
    """Return what each section of the first page shows, except how long ago it was."""
    now, points, workers = overview["now"], overview["points"], overview["workers"]
    several = bool(workers)
    who = [
        overview["process"],
        *((worker["number"], worker["trouble"], worker["process"]) for worker in workers),
    ]
    return {
        "process": (who, overview["strangers"]),
        "figures": (who, {**now, "longest_running": None, "longest_waiting": None}),
        "durable": durable,
        "failures": (who, overview["failures"]),
        "throughput": (points, bool(now["hung_up"])),
        "run_times": points,
        "backlog": (points, now["pending"]),
        "coroutines": (overview["coroutines"], overview["coroutines_total"]),
        "workers": (who, [_counts(worker["now"]) for worker in workers]),
        "active": (several, overview["active"]),
        "pending": (several, overview["pending"]),
        "recent": (several, overview["recent"]),
    }


def _counts(now: data.Figures | None) -> object:
    return now and (
        now["active"],
        now["pending"],
        now["slots_taken"],
        now["limit"],
        now["ended"],
        now["failed"],
    )


class Kept:
    """What was rendered for one page; what was not needed last time is forgotten."""

    def __init__(self) -> None:
        self._sections: dict[str, tuple[object, str]] = {}
        # The cells of each section, and those of the one that is being rendered: as they
        # were, and as they are.
        self._cells: dict[str, dict[Hashable, tuple[Any, Any]]] = {}
        self._before: dict[Hashable, tuple[Any, Any]] = {}
        self._now: dict[Hashable, tuple[Any, Any]] = {}

    def section(self, name: str, what: object, render: Callable[[], str]) -> str:
        """Return a section, rendered again if it shows something else than before.

        Args:
            name: the section's own name.
            what: all that it shows: not equal to the one before if that has changed.
        """
        kept = self._sections.get(name)
        if kept is None or kept[0] != what:
            self._before, self._now = self._cells.get(name, {}), {}
            kept = self._sections[name] = what, render()
            self._cells[name] = self._now
        return kept[1]

    def cell(self, macro: Any, key: Hashable, *arguments: Any) -> Any:
        """Return what a macro makes of these arguments.

        Args:
            key: a different one whenever the macro would make something else.
        """
        return self.same((macro.name, key), None, macro, *arguments)

    def same(
        self, name: Hashable, what: Any, make: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Return what is made of these arguments.

        Args:
            name: different from that of anything else kept for the section.
            what: not equal to the one before if something else would be made.
        """
        kept = self._now.get(name) or self._before.get(name)
        if kept is None or kept[0] != what:
            kept = what, make(*arguments)
        self._now[name] = kept
        return kept[1]
