"""What becomes of a request that was given up while something still answers it.

Somebody else has answered, or nobody will: the client has gone, a deadline outside has
passed, or the handler has not waited for what it shields. Code that goes on must not
write into that answer, nor into the next one on the connection, and must not wait for a
body that perhaps nobody sends any more.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from .attempt import Attempt, within

__all__ = ("guard", "has_begun", "leave")

# What an older aiohttp counts as output though it is not part of the response. Every
# response is longer.
_CONTINUE: Final = len(b"HTTP/1.1 100 Continue\r\n\r\n")

# How many turns of the loop it takes code that sends a file to notice that the connection
# has ended.
_TURNS: Final = 3


def has_begun(request: web.Request) -> bool:
    """Return whether any part of a response was sent, or made ready to be sent."""
    writer = request.writer
    return writer.output_size > _CONTINUE or bool(getattr(writer, "chunked", False))


async def leave(attempt: Attempt, request: web.Request, response: object) -> None:
    """Deal with what an attempt leaves behind; give the request up if that goes on.

    Args:
        attempt: the attempt, which is over by now.
        request: the request that it answers.
        response: what it has returned; None if it has raised.
    """
    known, attempt.transport = attempt.transport, None  # the attempt may live long
    if not attempt.leave(request):
        return
    attempt.given_up = request.writer
    _end_reading(request)
    transport = request.transport
    if transport is None or transport.is_closing():
        # As at shutdown. Closing waits for the client to read, and the writer for that.
        if (
            known is not None
            and isinstance(request.protocol, web.RequestHandler)
            and _is_stuck(request, known)
        ):
            known.abort()
        return
    is_answer = isinstance(response, web.StreamResponse) and response.prepared
    if (has_begun(request) and not is_answer) or not guard(request.writer):
        await _break_off(request, transport)


def _end_reading(request: web.Request) -> None:
    """Raise an error in whoever reads the body, and accept no more from the client."""
    request.protocol.close()  # when the answer has been sent
    content = request.content
    if content.exception() is None:
        content.set_exception(_given_up())
        # Otherwise the server would itself read the rest before it closes the connection,
        # and log that error.
        content.feed_eof()


async def _break_off(request: web.Request, transport: asyncio.Transport) -> None:
    """End a connection in the middle of a response, which nobody can complete."""
    try:
        if _sends_file(transport):
            # asyncio never returns from that if its transport is closed meanwhile, only
            # if the connection ends at the socket below.
            transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
    except OSError:
        pass  # it has ended already
    finally:
        if _is_stuck(request, transport):
            transport.abort()
        else:
            transport.close()


def _is_stuck(request: web.Request, transport: asyncio.Transport) -> bool:
    """Return whether the writer waits for the client to read.

    Closing the transport would then leave it to the client when that ends.
    """
    is_paused = getattr(request.protocol, "writing_paused", None)
    if is_paused is not None:
        return bool(is_paused)
    low, _ = transport.get_write_buffer_limits()  # an older aiohttp does not tell
    return transport.get_write_buffer_size() > low


def _sends_file(transport: asyncio.Transport) -> bool:
    """Return whether the operating system is sending a file for asyncio's transport."""
    try:
        transport.write(b"")
    except RuntimeError:
        return True
    return False


def _given_up() -> ConnectionResetError:
    return ConnectionResetError(
        "The request was given up: its client has gone, or somebody else has "
        "responded to it, so it can no longer be read or responded to"
    )


# -- the writer of a request that was given up -------------------------------------------


def guard(writer: AbstractStreamWriter) -> bool:
    """Make the writer refuse code that was given up; return False if that cannot be."""
    kind = type(writer)
    if "refuses_given_up" not in vars(kind):
        try:
            writer.__class__ = _guarded(kind)
        except TypeError:
            return False
    return True


@functools.cache
def _guarded(kind: Any) -> Any:
    """Make a kind of writer that refuses code that was given up, and nobody else.

    The server goes on using it for the one answer that is given. Checking at every
    attribute means that no way to write is forgotten, whatever aiohttp calls it.
    """

    class Guarded(kind):  # type: ignore[misc]
        __slots__ = ()

        refuses_given_up = True

        def __getattribute__(self, name: str) -> Any:
            value: Any = kind.__getattribute__(self, name)
            if callable(value) and not name.startswith("__"):
                _refuse(self)
            return value

        def __setattr__(self, name: str, value: object) -> None:
            _refuse(self)
            kind.__setattr__(self, name, value)

        async def write_headers(self, status_line: str, headers: Any) -> None:
            # This tells the client that the answer is the last one on its connection.
            headers[hdrs.CONNECTION] = "close"
            await kind.write_headers(self, status_line, headers)

    return Guarded


def _refuse(writer: object) -> None:
    if any(attempt.given_up is writer for attempt in within()):
        raise _given_up()
