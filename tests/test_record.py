"""What the dashboard keeps of an exception, whatever the exception is."""

from __future__ import annotations

from aiohttp_jobs.dashboard.record import raised_by


class Empty(Exception):
    """As one that counts the items that were refused, and knows of none."""

    def __len__(self) -> int:
        return 0


class NoBool(Exception):
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


def test_exception_that_is_false_is_told_of() -> None:
    """None is the only one that is no exception; causes likewise."""
    for error in (Empty("empty"), NoBool("no bool")):
        error.__cause__ = Empty("cause")
        assert [(raised.message, raised.link) for raised in raised_by(error)] == [
            ("cause", ""),
            (str(error), "This was the cause of:"),
        ]
