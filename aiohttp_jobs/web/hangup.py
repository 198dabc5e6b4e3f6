"""A client's hang-up: how its ConnectionError is told from that of a database."""

from __future__ import annotations

from types import FrameType, TracebackType
from typing import Final, cast

from aiohttp.web import PayloadAccessError, Request

__all__ = ("SIGNS", "is_hang_up")

# What may be a hang-up. The second one is what reading a request raises when its response
# has been sent, because a middleware outside gave it up.
SIGNS: Final = (ConnectionError, PayloadAccessError, BaseExceptionGroup)

# Who may stand between the connection of the request and the error.
_BETWEEN: Final = ("aiohttp", "aiohttp_jobs", "asyncio")


def is_hang_up(request: Request, error: BaseException) -> bool:
    """Has the connection of this very request raised it, because it is no more?

    What a handler reads from or writes to another connection may fail in the same words,
    also when the client has gone: that is a failure. So what counts is where it comes
    from. Of a group, as a TaskGroup raises, all have to come from there.
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
    """Was it raised by the connection's own objects, or by asyncio for them?"""
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
    # A response that sends a file has it as a variable; what writes the frames of a web
    # socket is not the request's writer, and knows its protocol.
    return package == "aiohttp" and (
        variables.get("writer") is request.writer
        or getattr(this, "protocol", None) is request.protocol
    )
