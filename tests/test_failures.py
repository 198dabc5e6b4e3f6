"""How exceptions are described, whatever the exception is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiohttp_jobs.core.failures import before, line_of, texts_of, type_name_of
from tests.work import Boom


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Boom("no text")


class Cancelling(Exception):
    """Its str() raises something that is not even an Exception."""

    def __str__(self) -> str:
        raise asyncio.CancelledError


class BrokenGroup(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise Boom("no parts")


class BrokenCause(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise Boom("no cause")


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
            "tests.test_failures.Unprintable: (its text cannot be shown)",
        ),
        (
            Cancelling(),
            "tests.test_failures.Cancelling: (its text cannot be shown)",
        ),
        (
            BrokenGroup("broken", [Boom()]),
            "tests.test_failures.BrokenGroup: broken (1 sub-exception)",
        ),
        (Boom("x" * 10**8 + "\n"), "tests.work.Boom: " + "x" * 1000),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_failure_is_told_in_one_line(error: BaseException, line: str) -> None:
    """The class as in tracebacks, and the first line of the message."""
    assert line_of(error) == line
    assert line.startswith(type_name_of(error))


def group(*errors: Exception, name: str = "unhandled") -> ExceptionGroup[Exception]:
    return ExceptionGroup(name, errors)


def test_line_of_a_group_tells_what_is_inside() -> None:
    """The first one that is not itself a group; the group says how many there are."""
    error = group(group(Boom("boom\nmore"), KeyError(1), name="inner"), Boom())
    assert line_of(error) == (
        "ExceptionGroup: unhandled (2 sub-exceptions), first: tests.work.Boom: boom"
    )


def test_texts_are_the_message_and_the_notes() -> None:
    """Complete, even with many lines; of many notes only the first ones."""
    error = Boom("a\nb")
    assert texts_of(error) == ["a\nb"]
    error.add_note("order 3")
    assert texts_of(error) == ["a\nb", "order 3"]
    for number in range(100):
        error.add_note(str(number))
    assert texts_of(error) == ["a\nb", "order 3", "0", "1", "2", "3"]


def test_what_it_came_from_is_its_cause_or_else_its_context() -> None:
    """As in a traceback, whatever the attributes are."""
    first, second = Boom(1), Boom(2)
    assert before(first) == (None, False)
    first.__context__ = second
    assert before(first) == (second, False)
    first.__suppress_context__ = True
    assert before(first) == (None, False)
    first.__cause__ = second
    assert before(first) == (second, True)
    assert before(BrokenCause()) == (None, False)


class BrokenNotes(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise Boom


def test_notes_that_are_none_are_borne() -> None:
    """Any code may set this attribute to anything."""
    error: Any = Boom("boom")
    error.__notes__ = [3, Unprintable()]
    assert texts_of(error) == ["boom", "3", "(its text cannot be shown)"]
    for wrong in (None, 3, "text"):
        error.__notes__ = wrong
        assert texts_of(error) == ["boom"]
    assert texts_of(BrokenNotes("boom")) == ["boom"]
