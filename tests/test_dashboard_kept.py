"""What stays the same on a live page is rendered once."""

from __future__ import annotations

from aiohttp_jobs.dashboard import kept as module
from aiohttp_jobs.dashboard.kept import Kept, KeptOfPages


class Macro:
    """Counts what it makes."""

    name = "cell"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str) -> str:
        self.calls += 1
        return f"<{text}>"


def test_cell_is_made_once_for_each_key() -> None:
    """And again when it was left out for a while."""
    kept, macro = Kept(), Macro()
    for key, calls in (("a", 1), ("a", 1), ("b", 2)):
        kept.begin()
        assert kept.cell(macro, key, key) == f"<{key}>"
        assert macro.calls == calls
    kept.begin()
    assert kept.cell(macro, "a", "a") == "<a>"
    assert macro.calls == 3


def test_what_is_another_is_made_anew() -> None:
    """Though it has the name of what was there."""
    kept, macro = Kept(), Macro()
    for what, calls in (([1], 1), ([1], 1), ([2], 2)):
        kept.begin()
        kept.same("chart", what, macro, "x")
        kept.same("chart", what, macro, "x")
        assert macro.calls == calls


def test_few_pages_are_remembered() -> None:
    """Those that were rendered last."""
    pages = KeptOfPages()
    first = pages.of("first")
    for number in range(module.MOST_PAGES - 1):
        pages.of(number)
    assert pages.of("first") is first
    pages.of("one more")
    assert pages.of("first") is first
    assert len(pages._pages) == module.MOST_PAGES
