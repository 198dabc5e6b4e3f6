"""A client's hang-up: how its ConnectionError is told from, say, a database's."""

from __future__ import annotations

from types import FrameType, TracebackType
from typing import Final, cast

from aiohttp.web import PayloadAccessError, Request

__all__ = ("SIGNS", "is_hang_up")

# What may be a hang-up. The second is what reading a request raises once its response has
# been sent because a middleware outside gave the request up.
SIGNS: Final = (ConnectionError, PayloadAccessError, BaseExceptionGroup)

# The packages whose frames may be between the request's connection and the error.
_BETWEEN: Final = ("aiohttp", "aiohttp_jobs", "asyncio")


def is_hang_up(request: Request, error: BaseException) -> bool:
    """Return whether this request's own connection has raised it, because it is gone.

    Reading from or writing to another connection may raise the same error, even when the
    client has gone, and that is a failure. So what counts is where the error comes from.
    For a group, as a TaskGroup raises, all its errors have to come from there.
    """
    if isinstance(error, BaseExceptionGroup):
        inside = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(is_hang_up(request, each) for each in inside)
    if not isinstance(error, SIGNS):
        return False
    if error is request.content.exception():
        return True
    return _comes_from_connection(request, error.__traceback__)


def _comes_from_connection(request: Request, traceback: TracebackType | None) -> bool:
    """Return whether the connection's own objects raised it, or asyncio for them."""
    is_own = False
    while traceback is not None:
        frame = traceback.tb_frame
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if _is_of_connection(request, frame, package):
            is_own = True
        elif package not in _BETWEEN:
            is_own = False
        traceback = traceback.tb_next
    return is_own


def _is_of_connection(request: Request, frame: FrameType, package: str) -> bool:
    variables = frame.f_locals
    this = variables.get("self")
    if this is request.writer or this is request.content or this is request.protocol:
        return True
    # A response that sends a file has the writer as a variable; what writes the frames of
    # a web socket is not the request's writer, but refers to its protocol.
    return package == "aiohttp" and (
        variables.get("writer") is request.writer
        or getattr(this, "protocol", None) is request.protocol
    )
