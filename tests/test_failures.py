"""How an exception is told of, whatever the exception is."""

from __future__ import annotations

import pytest

from aiohttp_jobs.failures import line_of, message_of, type_name_of
from tests.work import Boom


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Boom("no text")


class Main(Exception):
    __module__ = "__main__"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Boom("boom"), "tests.work.Boom: boom"),
        (Boom(), "tests.work.Boom"),
        (Boom(" \n "), "tests.work.Boom"),
        (Boom("\nfirst\r\nsecond\n"), "tests.work.Boom: first"),
        (ValueError("wrong"), "ValueError: wrong"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (
            SyntaxError("invalid", ("s", 1, 1, "x y", 1, 2)),
            "SyntaxError: invalid (s, line 1)",
        ),
        (Main("here"), "Main: here"),
        (
            Unprintable(),
            "tests.test_failures.Unprintable: (its message cannot be shown)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_failure_is_told_in_one_line(error: BaseException, line: str) -> None:
    """The class as tracebacks have it, and the first line of the message."""
    assert line_of(error) == line
    assert line.startswith(type_name_of(error))


def test_message_is_told_whole() -> None:
    """It may have many lines."""
    assert message_of(Boom("a\nb")) == "a\nb"
