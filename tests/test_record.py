"""The record that the dashboard keeps of an exception, whatever the exception is."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp_jobs import Scheduler
from aiohttp_jobs.dashboard.history import History
from aiohttp_jobs.dashboard.record import raised_by
from tests.work import Boom, Reports, fail, nothing


class Empty(Exception):
    """Like an exception that counts refused items, and has none."""

    def __len__(self) -> int:
        return 0


class NoBool(Exception):
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


def test_exception_that_is_false_is_told_of() -> None:
    """Only None means no exception; the same goes for causes."""
    for error in (Empty("empty"), NoBool("no bool")):
        error.__cause__ = Empty("cause")
        assert [(raised.message, raised.link) for raised in raised_by(error)] == [
            ("cause", ""),
            (str(error), "This was the cause of:"),
        ]


def story(error: BaseException) -> list[str]:
    """Return the messages and the links between them, as on the page."""
    told = [text for raised in raised_by(error) for text in (raised.link, raised.message)]
    assert told[0] == ""
    assert all(told[1:])
    return told[1:]


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


async def test_failure_in_a_task_group_is_told_with_its_traceback() -> None:
    """The table row has the group and what failed in it; the page has everything."""

    async def job() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(nothing())

    async with Scheduler(exception_handler=Reports()) as scheduler:
        past = History(scheduler)
        scheduler.add_observer(past)
        await scheduler.spawn(job())
        await scheduler.drain()
    (record,) = past.records()
    assert record.error == (
        "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception), "
        "first: tests.work.Boom: boom"
    )
    boom, group = record.raised
    assert (boom.type_name, boom.message, boom.link) == ("tests.work.Boom", "boom", "")
    assert [function for _, _, function in boom.frames] == ["fail"]
    assert group.type_name == "ExceptionGroup"
    assert group.link == "This was in the group:"


def test_story_of_a_group_is_told_in_order() -> None:
    """Its causes, then the inner exceptions with their own causes, then the group."""
    inner = ExceptionGroup("inner", [Boom("c"), Boom("d")])
    parts = [Boom("a"), caused(Boom("b"), Boom("before b")), inner]
    group: Any = ExceptionGroup("outer", parts)
    group.__context__ = Boom("before the group")
    assert story(caused(Boom("last"), group)) == [
        "before the group",
        "While this was handled, came a group with:",
        "a",
        "In the same group was:",
        "before b",
        "This was the cause of:",
        "b",
        "In the same group was:",
        "c",
        "In the same group was:",
        "d",
        "This was in the group:",
        "inner (2 sub-exceptions)",
        "This was in the group:",
        "outer (3 sub-exceptions)",
        "This was the cause of:",
        "last",
    ]


def test_story_of_groups_is_bounded() -> None:
    """In number and depth; the outermost and the first inner one are always there."""
    many = ExceptionGroup("many", [Boom(str(number)) for number in range(100)])
    assert [raised.message for raised in raised_by(many)] == [
        *map(str, range(9)),
        "many (100 sub-exceptions)",
    ]
    deep: Exception = Boom("deep")
    for _ in range(100):
        deep = ExceptionGroup("deep", [deep])
    assert story(deep) == [
        *["deep (1 sub-exception)", "This was in the group:"] * 4,
        "deep (1 sub-exception)",
    ]
    around: Any = ExceptionGroup("around", [Boom("x")])
    around.exceptions[0].__context__ = around
    assert story(around) == ["x", "This was in the group:", "around (1 sub-exception)"]


def test_notes_are_told_after_the_message() -> None:
    """Each cut, if it is long."""
    error = Boom("boom")
    error.add_note("order 3")
    error.add_note("x" * 10**6)
    (raised,) = raised_by(error)
    assert raised.message.startswith("boom\norder 3\nxxx")
    assert len(raised.message) < 2000
