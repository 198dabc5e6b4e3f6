"""Streams: live pages by server-sent events.

A stream sends snapshots, each whole in itself: whoever connects again gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from typing import Final

from aiohttp import web

from .words import encode

__all__ = ("Streams",)

# Seconds between two snapshots of a stream, so what is newer may be that late.
PERIOD: Final = 1.0
# Seconds of silence after which a stream gives a sign of life, for proxies.
HEARTBEAT: Final = 15.0
# Seconds that a client is given to take what it was sent.
PATIENCE: Final = 15.0
# Seconds after which a stream ends. The browser connects again, and is authorised again.
LIFE: Final = 300.0
# How many streams there may be at a time.
MOST: Final = 20
# Seconds after which the browser connects again.
RETRY: Final = 3


class Streams:
    """The open streams of one dashboard; pages of the same content are rendered once."""

    def __init__(self) -> None:
        self._ending = asyncio.Event()
        self._open: list[web.Request] = []
        self._number = 0
        # What was rendered last, by what was asked for, with the time.
        self._rendered: dict[Hashable, tuple[float, int, str]] = {}

    def end(self) -> None:
        """End all streams, now and for good."""
        self._ending.set()
        for request in self._open:
            _cut_off(request)

    async def serve(
        self, request: web.Request, key: Hashable, render: Callable[[], str]
    ) -> web.StreamResponse:
        """Send snapshots until the client has gone, or the stream's time is over.

        Args:
            request: the request that asks for them.
            key: equal for streams that show the same.
            render: called for each snapshot, to return its HTML.

        Raises:
            HTTPServiceUnavailable: there are as many streams as may be, or the
                application shuts down.
        """
        if self._ending.is_set() or len(self._open) >= MOST:
            raise web.HTTPServiceUnavailable(
                text="503: Too many live pages are open", headers={"Retry-After": "10"}
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                # nginx would collect what is sent.
                "X-Accel-Buffering": "no",
            }
        )
        self._open.append(request)
        try:
            with contextlib.suppress(ConnectionError):  # the client has gone
                await response.prepare(request)
                await response.write(f"retry: {RETRY * 1000}\n\n".encode())
                await self._send(request, response, key, render)
        finally:
            self._open.remove(request)
            self._rendered.pop(key, None)
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        key: Hashable,
        render: Callable[[], str],
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + LIFE
        sent, sent_at = "", loop.time()
        # A client that has gone shows when something is sent, and that may take long.
        while (
            request.transport is not None
            and not self._ending.is_set()
            and loop.time() < end
        ):
            number, html = self._snapshot(key, render)
            if html != sent:
                lines = "".join(f"data: {line}\n" for line in html.splitlines())
                event = f"event: snapshot\nid: {number}\n{lines}\n"
                await _write(request, response, encode(event))
                sent, sent_at = html, loop.time()
            elif loop.time() - sent_at >= HEARTBEAT:
                await _write(request, response, b": still here\n\n")
                sent_at = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._ending.wait()

    def _snapshot(self, key: Hashable, render: Callable[[], str]) -> tuple[int, str]:
        now = asyncio.get_running_loop().time()
        when, number, html = self._rendered.get(key, (-PERIOD, 0, ""))
        # A stream's own last snapshot is a period old, another's may be shared.
        if now - when > PERIOD / 2:
            self._number += 1
            number, html = self._number, render()
            self._rendered[key] = now, number, html
        return number, html


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            await response.write(data)
    except TimeoutError:
        _cut_off(request)


def _cut_off(request: web.Request) -> None:
    """Break the connection off if its client does not take what it was sent.

    To wait for it would hold up the shutdown as long as the server lets it.
    """
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
