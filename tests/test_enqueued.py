"""What durable jobs and tracers know about each other."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Coroutine, Generator, Iterator
from typing import Any

import pytest

from aiohttp_jobs.core import enqueued
from aiohttp_jobs.core.enqueued import (
    CurrentDurable,
    attempt_of,
    current_traceparent,
    mark_attempt,
    tell_spans_by,
)
from tests.work import nothing


class Slotted(Coroutine[Any, Any, None]):
    """A foreign coroutine without weak references, as some compilers make them."""

    __slots__ = ()

    def send(self, value: object) -> None:
        raise StopIteration

    def throw(self, *error: Any) -> None:
        raise StopIteration

    def close(self) -> None: ...

    def __await__(self) -> Generator[Any, Any, None]:
        yield


@pytest.fixture(autouse=True)
def nobody_tells() -> Iterator[None]:
    before = enqueued._tell
    tell_spans_by(None)
    yield
    tell_spans_by(before)


def test_coroutine_is_known_as_an_attempt_as_long_as_it_lives() -> None:
    """Other coroutines are not, even those without weak references."""
    before = len(enqueued._attempts)
    coro, other = nothing(), nothing()
    now = CurrentDurable("7f", 1, "mail", None)
    mark_attempt(coro, now)
    assert attempt_of(coro) is now
    assert len(enqueued._attempts) == before + 1
    assert attempt_of(other) is None
    with pytest.raises(TypeError):
        weakref.ref(Slotted())
    assert attempt_of(Slotted()) is None
    coro.close()
    other.close()
    del coro
    gc.collect()
    assert len(enqueued._attempts) <= before


def test_span_is_told_by_the_tracer_that_is_there() -> None:
    """Without a tracer, there is none."""
    assert current_traceparent() is None
    tell_spans_by(lambda: "00-1-2-01")
    assert current_traceparent() == "00-1-2-01"


def test_tracer_that_raises_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and no job is lost for it."""

    def broken() -> str:
        raise ValueError("no")

    tell_spans_by(broken)
    with caplog.at_level(logging.ERROR, "aiohttp_jobs"):
        assert current_traceparent() is None
        assert current_traceparent() is None
    [record] = caplog.records
    assert "no longer asked for" in record.getMessage()
