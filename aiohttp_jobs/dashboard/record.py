"""Record: what is kept of a job that is over.

It is plain text and numbers of bounded size. The job itself, its result, its exception
and the frames of its traceback are not kept: they may hold anything.
"""

from __future__ import annotations

import re
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from aiohttp_jobs.core.failures import (
    before,
    inside_of,
    line_of,
    texts_of,
    traceback_of,
    type_name_of,
)
from aiohttp_jobs.core.states import JobState

__all__ = ("MOST_LETTERS", "Frame", "Raised", "Record", "cut", "error_line", "raised_by")

MOST_LETTERS: Final = 200  # of a name
MOST_OF_TEXT: Final = 1000  # characters of an exception's message, or of a note
MOST_FRAMES: Final = 30  # of one traceback: the innermost ones
MOST_CAUSES: Final = 5  # each of which came from the next, or is inside it
MOST_RAISED: Final = 10  # with all that is inside of groups

Frame: TypeAlias = tuple[str, int, str]  # file, line number, function


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception, without the values around the place where it was raised."""

    type_name: str
    #: With its notes.
    message: str
    frames: tuple[Frame, ...]
    #: How it came from the one before; empty for the first one.
    link: str


class Record(NamedTuple):
    """A job that is over. A tuple, since each look at the page makes a thousand."""

    id: int
    state: JobState
    name: str | None
    coro_name: str
    origin: str | None
    spawned_at: float
    started_at: float | None
    closed_at: float
    #: The exception in one line, or where it was when it was let go; else empty.
    error: str = ""
    #: The exception that it failed with, last, and before it what that came from.
    raised: tuple[Raised, ...] = ()
    #: Where it was suspended when it was let go, the innermost frame last.
    stack: tuple[Frame, ...] = ()

    @property
    def label(self) -> str:
        return self.name or self.coro_name


# Characters that would overwrite a line or change the direction of text; line ends may
# stay.
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def cut(text: str, most: int = MOST_LETTERS) -> str:
    """Shorten text that is too long to keep or show.

    What steers a terminal or the direction of text is escaped: it is seen, and does
    nothing.
    """
    text = text if len(text) <= most else text[: most - 1] + "…"
    # A short cut for nearly all texts: none of these characters is printable.
    return text if text.isprintable() else _UNSEEN.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def error_line(exception: BaseException | None) -> str:
    """Write an exception in one line; empty if there is none."""
    return "" if exception is None else cut(line_of(exception), MOST_OF_TEXT)


def raised_by(exception: BaseException | None) -> tuple[Raised, ...]:
    """Describe an exception, what it came from and what is inside of a group, in the
    order of a traceback.

    Only names and line numbers are taken; the lines themselves are read when somebody
    looks at them.
    """
    story = _Story()
    # Compared with None, as an exception that has a length may be false.
    if exception is not None:
        story.add(exception, "", 1)
    return tuple(story.told)


class _Story:
    """The exceptions, in the order in which they are told."""

    def __init__(self) -> None:
        self.told: list[Raised] = []
        self._seen: set[int] = set()

    def add(self, exception: BaseException, link: str, depth: int) -> bool:
        """Add an exception, after what led to it; return whether there was room for it.

        Args:
            link: how the first one that is added came about.
            depth: how many exceptions lead from the one described to this one.
        """
        if id(exception) in self._seen or len(self._seen) == MOST_RAISED:
            return False
        if depth > MOST_CAUSES:
            return False
        self._seen.add(id(exception))
        inside = inside_of(exception)
        earlier, is_cause = before(exception)
        if earlier is not None and self.add(earlier, link, depth + 1):
            link = "This was the cause of" if is_cause else "While this was handled, came"
            link += " a group with:" if inside else ":"
        told = len(self.told)
        for part in inside:
            if self.add(part, link, depth + 1):
                link = "In the same group was:"
        if len(self.told) > told:
            link = "This was in the group:"
        text = "\n".join(cut(text, MOST_OF_TEXT) for text in texts_of(exception))
        frames = tuple(_frames(exception))
        self.told.append(Raised(cut(type_name_of(exception)), text, frames, link))
        return True


def _frames(exception: BaseException) -> Iterator[Frame]:
    innermost = deque(traceback.walk_tb(traceback_of(exception)), maxlen=MOST_FRAMES)
    for frame, line in innermost:
        code = frame.f_code
        yield code.co_filename, line, code.co_qualname
