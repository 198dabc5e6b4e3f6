"""Words: durations, states and times, as people read them."""

from __future__ import annotations

import datetime
import functools
import re
from typing import Final

from markupsafe import Markup, escape

from aiohttp_jobs.core.states import SUCCEEDED, JobState

from . import data

__all__ = (
    "OUTCOMES",
    "STATES",
    "ago",
    "breakable",
    "clock_time",
    "count_of",
    "duration",
    "encode",
    "minute",
    "number",
    "since",
    "state_word",
    "without",
)

STATES: Final = {
    "pending": "waiting",
    "active": "running",
    "stopping": "being cancelled",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "let_go": "let go",
    "hung_up": "hung up on",
}
OUTCOMES: Final = {
    name: STATES[name]
    for name in (state.name.lower() for state in JobState if state >= SUCCEEDED)
}


@functools.lru_cache(maxsize=2000)  # much the same is shown each second
def breakable(text: str) -> Markup:
    """Let a long name in code be broken at its punctuation, if need be."""
    return Markup(re.sub("([_.@/]+)", r"\1<wbr>", str(escape(text))))


def encode(text: str) -> bytes:
    """Encode a page. It may have a file's name that is not text in it (PEP 383)."""
    return text.encode(errors="backslashreplace")


def state_word(job: data.Job) -> str:
    """Return the state in words; for a cancelled job, also whether it never began."""
    word = STATES[job["state"]]
    never_started = job["state"] == "cancelled" and job["started"] is None
    return f"{word}, never started" if never_started else word


def number(value: float) -> str:
    """Return a number with separators between thousands."""
    return f"{value:,}"


def without(text: str, prefix: str) -> str:
    """Return a line of an exception without its class, which is already shown."""
    return text.removeprefix(prefix).removeprefix(": ")


def count_of(count: int, one: str, many: str = "") -> str:
    """Return how many there are of something, as in "1 job" and "2 jobs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """Return a duration in words, with as many digits as matter."""
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


def roughly(seconds: float) -> str:
    """Return a long time in whole minutes: keeping live what rarely changes is cheap."""
    if seconds < 60:
        return "less than a minute"
    minutes = int(seconds) // 60
    return f"{minutes} min" if minutes < 60 else duration(minutes * 60)


def ago(seconds: float) -> str:
    """Return how long ago it was, in whole seconds, or minutes."""
    if seconds < 1:
        return "just now"
    return f"{seconds:.0f} s ago" if seconds < 59.5 else f"{roughly(seconds + 0.5)} ago"


def since(moment: float, at: float, words: str) -> Markup:
    """Return the time from `moment` to `at`, in an element that the page's script keeps
    up to date: static/words.js has the same words.

    Args:
        words: "ago", "duration" or "roughly".
    """
    # By another worker's clock it may be a little later.
    seconds = max(0.0, at - moment)
    says = {"ago": ago, "duration": duration, "roughly": roughly}[words](seconds)
    return Markup(f'<span data-since="{moment}" data-as="{words}">{says}</span>')


def clock_time(moment: float) -> str:
    """Return the date and time of day in UTC."""
    when = _utc(moment)
    return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03} UTC"


def minute(moment: float) -> str:
    """Return the date and time of day in UTC, to the minute."""
    return f"{_utc(moment):%Y-%m-%d %H:%M} UTC"


def _utc(moment: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC)
