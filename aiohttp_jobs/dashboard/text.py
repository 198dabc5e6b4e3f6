"""Text: a job's stack or traceback as plain text, to be copied into a mail."""

from __future__ import annotations

from collections.abc import Iterator

from . import data
from .words import clock_time, duration, state_word

__all__ = ("as_text",)


def as_text(details: data.JobDetails) -> str:
    """Write all that is known of a job, with what it raised as Python writes it."""
    return "\n".join(_lines(details)) + "\n"


def _lines(details: data.JobDetails) -> Iterator[str]:
    job, process = details["job"], details["process"]
    yield f"Job {job['id']} ({job['label']}): {state_word(job)}"
    if job["label"] != job["coro"]:
        yield f"Coroutine: {job['coro']}"
    if job["origin"]:
        yield f"Origin: {job['origin']}"
    yield f"Process: {process['host']}, {process['pid']}"
    if details["silence"]:
        yield f"{details['silence']}."
    for word, moment in (
        ("Spawned", job["spawned"]),
        ("Started", job["started"]),
        ("Ended", job["ended"]),
        ("As of", None if job["ended"] else details["at"]),
    ):
        if moment is not None:
            yield f"{word}: {clock_time(moment)}"
    if job["started"] is not None:
        end = details["at"] if job["ended"] is None else job["ended"]
        yield f"Ran for: {duration(end - job['started'])}"
    if details["stack"]:
        yield ""
        yield "Stack (innermost frame last):"
        yield from _frames(details["stack"])
    for raised in details["raised"]:
        yield ""
        if raised["link"]:
            yield raised["link"]
            yield ""
        if raised["frames"]:
            yield "Traceback (most recent call last):"
            yield from _frames(raised["frames"])
        message = raised["message"]
        yield f"{raised['type']}: {message}" if message else raised["type"]


def _frames(frames: list[data.Frame]) -> Iterator[str]:
    for frame in frames:
        yield f'  File "{frame["file"]}", line {frame["line"]}, in {frame["function"]}'
        if frame["code"]:
            yield f"    {frame['code']}"
