"""Record: what is kept of a job that is over.

It is plain text and numbers of bounded size. The job itself, its result, its exception
and the frames of its traceback are let go: they may hold anything.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from aiohttp_jobs.failures import message_of, type_name_of
from aiohttp_jobs.job import JobState

__all__ = ("MOST_LETTERS", "Frame", "Raised", "Record", "cut", "raised_by")

MOST_LETTERS: Final = 200  # of a name
MOST_OF_MESSAGE: Final = 1000  # letters of an exception's message
MOST_FRAMES: Final = 30  # of one traceback: the innermost ones
MOST_CAUSES: Final = 5

Frame: TypeAlias = tuple[str, int, str]  # file, line number, function


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception, without the values that it was raised among."""

    type_name: str
    message: str
    frames: tuple[Frame, ...]
    #: How it came about from the one before it; empty for the first one.
    link: str

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class Record(NamedTuple):
    """A job that is over. A tuple, because it costs every job less to make one."""

    id: int
    state: JobState
    name: str | None
    coro_name: str
    origin: str | None
    spawned_at: float
    started_at: float | None
    closed_at: float
    #: The exception that it has failed with, last, and before it what that came from.
    raised: tuple[Raised, ...] = ()

    @property
    def label(self) -> str:
        return self.name or self.coro_name

    @property
    def error(self) -> str:
        """The exception in one line; empty if there was none."""
        return str(self.raised[-1]).partition("\n")[0] if self.raised else ""


def cut(text: str, most: int = MOST_LETTERS) -> str:
    """Shorten what is too long to be kept or shown."""
    return text if len(text) <= most else text[: most - 1] + "…"


def raised_by(exception: BaseException | None) -> tuple[Raised, ...]:
    """Describe an exception and what it came from, in the order of a traceback.

    Only names and line numbers are taken; the lines themselves are read when somebody
    looks at them.
    """
    chain: list[Raised] = []
    seen: set[int] = set()
    # An exception may be false, as everything that has a length.
    while exception is not None and len(chain) < MOST_CAUSES:
        if id(exception) in seen:
            break
        seen.add(id(exception))
        before, link = exception.__cause__, "This was the cause of:"
        if before is None and not exception.__suppress_context__:
            before, link = exception.__context__, "While this was handled, came:"
        chain.append(
            Raised(
                cut(type_name_of(exception)),
                cut(message_of(exception), MOST_OF_MESSAGE),
                tuple(_frames(exception)),
                link if before is not None else "",
            )
        )
        exception = before
    chain.reverse()
    return tuple(chain)


def _frames(exception: BaseException) -> Iterator[Frame]:
    innermost = deque(traceback.walk_tb(exception.__traceback__), maxlen=MOST_FRAMES)
    for frame, line in innermost:
        code = frame.f_code
        yield code.co_filename, line, code.co_qualname
