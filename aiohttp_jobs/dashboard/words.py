"""Words: durations, states and stacks, as people read them."""

from __future__ import annotations

import datetime
import linecache
import re
import sysconfig
import time
import traceback
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from markupsafe import Markup, escape

from aiohttp_jobs.core.states import JobState

from .record import Frame

__all__ = (
    "STATES",
    "breakable",
    "clock_time",
    "duration",
    "encode",
    "frames_of",
    "state_word",
    "where",
    "with_code",
)

STATES: Final = {
    JobState.PENDING: "pending",
    JobState.ACTIVE: "active",
    JobState.STOPPING: "being cancelled",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.LET_GO: "let go",
    JobState.HUNG_UP: "hung up on",
}

_PATHS: Final = sysconfig.get_paths()
_STDLIB: Final = (_PATHS["stdlib"], _PATHS["platstdlib"])
_PACKAGES: Final = (
    _PATHS["purelib"],
    _PATHS["platlib"],
    "site-packages",
    "dist-packages",
)


def breakable(text: str) -> Markup:
    """Let a long name of code be broken at its signs, if it has to be."""
    return Markup(re.sub("([_.@/]+)", r"\1<wbr>", str(escape(text))))


def encode(text: str) -> bytes:
    """What is sent of a page. A name may be that of a file which is no text (PEP 383)."""
    return text.encode(errors="backslashreplace")


def state_word(state: JobState, started_at: float | None) -> str:
    """The state in words; of a cancelled job also, whether it had begun."""
    word = STATES[state]
    return f"{word}, never started" if word == "cancelled" and not started_at else word


def duration(seconds: float | None) -> str:
    """Seconds with as many digits as matter."""
    if seconds is None:
        return "–"  # noqa: RUF001 (a dash)
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return (
            f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
        )
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {whole:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24:02} h"


def ago(seconds: float) -> str:
    """How long it is since, in whole seconds."""
    if seconds < 1:
        return "just now"
    return f"{seconds:.0f} s ago" if seconds < 59.5 else f"{duration(seconds)} ago"


def clock_time(monotonic: float) -> str:
    """The time of day, in UTC, of a moment in :func:`time.monotonic`'s seconds."""
    moment = time.time() - time.monotonic() + monotonic
    when = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03} UTC"


def frames_of(stack: traceback.StackSummary) -> list[Frame]:
    """A stack as it is kept and shown: without code, and without values."""
    return [(frame.filename, frame.lineno or 0, frame.name) for frame in stack]


def where(frames: list[Frame]) -> str:
    """The innermost frame that is not the standard library's, in a few words."""
    frame = next((f for f in reversed(frames) if not _is_stdlib(f[0])), None)
    if frame is None:
        if not frames:
            return ""
        frame = frames[-1]
    path, line, function = frame
    return f"{function}, {PurePath(path).name}:{line}"


def with_code(frames: Iterable[Frame]) -> list[tuple[str, int, str, str]]:
    """Add to each frame its line of code, as a traceback does."""
    return [(*frame, linecache.getline(frame[0], frame[1]).strip()) for frame in frames]


def _is_stdlib(path: str) -> bool:
    return path.startswith(_STDLIB) and not any(part in path for part in _PACKAGES)
