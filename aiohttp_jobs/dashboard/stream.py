"""Streams: live pages by server-sent events.

A stream sends snapshots, each whole in itself: whoever connects again gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from aiohttp import web

from .words import encode

__all__ = ("Streams",)

# Seconds between two snapshots of a stream, so what is newer may be that late.
PERIOD: Final = 1.0
# Seconds of silence after which a stream gives a sign of life, for proxies.
HEARTBEAT: Final = 15.0
# Seconds that a client is given to take what it was sent.
PATIENCE: Final = 15.0
# Seconds after which it is asked again whether the visitor may see this.
CHECK: Final = 30.0
# Seconds after which a stream ends, and the browser connects again.
LIFE: Final = 300.0
# How many streams there may be at a time.
MOST: Final = 20
# Seconds after which the browser connects again.
RETRY: Final = 3

Render: TypeAlias = Callable[[], Awaitable[str]]


@dataclass(eq=False, slots=True)
class _Place:
    """What a stream takes of those that there may be."""

    party: str
    request: web.Request
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """End the stream soon."""
        self.ending.set()
        _cut_off(self.request)


@dataclass(eq=False, slots=True)
class _Shown:
    """What was rendered last of one thing that several may look at."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = 0.0
    number: int = 0
    html: str = ""
    #: The same as it is sent to all, with its number.
    event: tuple[int, bytes] = (0, b"")
    watchers: int = 0


class Streams:
    """The open streams of one dashboard; pages of the same content are rendered once."""

    def __init__(self) -> None:
        self._is_ending = False
        # In the order in which they were opened.
        self._places: list[_Place] = []
        self._number = 0
        self._shown: dict[Hashable, _Shown] = {}

    def end(self) -> None:
        """End all streams, now and for good."""
        self._is_ending = True
        for place in self._places:
            place.end()

    async def serve(
        self,
        request: web.Request,
        key: Hashable,
        render: Render,
        *,
        party: str = "",
        may_go_on: Callable[[], Awaitable[bool]] | None = None,
    ) -> web.StreamResponse:
        """Send snapshots until the client has gone, or the stream's time is over.

        Args:
            request: the request that asks for them.
            key: equal for streams that show the same.
            render: called for each snapshot, to return its HTML.
            party: who takes the place. If all are taken, who has most gives one up to who
                has fewer.
            may_go_on: asked every half minute whether the visitor may still see this.

        Raises:
            HTTPServiceUnavailable: there are as many streams as may be, or the
                application shuts down.
        """
        if self._is_ending or not self._make_room(party):
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
        place = _Place(party, request)
        self._places.append(place)
        shown = self._shown.setdefault(key, _Shown())
        shown.watchers += 1
        try:
            with contextlib.suppress(ConnectionError):  # the client has gone
                await response.prepare(request)
                await response.write(f"retry: {RETRY * 1000}\n\n".encode())
                await self._send(place, response, shown, render, may_go_on)
        finally:
            if place in self._places:
                self._places.remove(place)
            shown.watchers -= 1
            if not shown.watchers:
                self._shown.pop(key, None)
        return response

    def _make_room(self, party: str) -> bool:
        """Is there a place for one more, or somebody with two more than this one has?"""
        if len(self._places) < MOST:
            return True
        taken = Counter(place.party for place in self._places)
        greediest, most = taken.most_common(1)[0]
        if most < taken[party] + 2:
            return False
        place = next(place for place in self._places if place.party == greediest)
        self._places.remove(place)
        place.end()
        return True

    async def _send(
        self,
        place: _Place,
        response: web.StreamResponse,
        shown: _Shown,
        render: Render,
        may_go_on: Callable[[], Awaitable[bool]] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        end, checked_at = loop.time() + LIFE, loop.time()
        sent, sent_at = "", loop.time()
        request = place.request
        # A client that has gone shows when something is sent, and that may take long.
        while (
            request.transport is not None
            and not place.ending.is_set()
            and loop.time() < end
        ):
            if may_go_on is not None and loop.time() - checked_at >= CHECK:
                if not await _in_time(may_go_on):
                    return
                checked_at = loop.time()
            number, html = await self._snapshot(shown, render)
            if html != sent:
                if shown.event[0] != number:
                    shown.event = number, _event(number, html)
                await _write(request, response, shown.event[1])
                sent, sent_at = html, loop.time()
            elif loop.time() - sent_at >= HEARTBEAT:
                await _write(request, response, b": still here\n\n")
                sent_at = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await place.ending.wait()

    async def _snapshot(self, shown: _Shown, render: Render) -> tuple[int, str]:
        # Who comes while it is rendered waits for it, and shares it.
        async with shown.lock:
            now = asyncio.get_running_loop().time()
            # A stream's own last snapshot is a period old, another's may be shared.
            if not shown.number or now - shown.at > PERIOD / 2:
                html = await render()
                self._number += 1
                shown.at, shown.number, shown.html = now, self._number, html
            return shown.number, shown.html


def _event(number: int, html: str) -> bytes:
    # Either sign would end a line of it.
    html = html.replace("\r", "\n").removesuffix("\n").replace("\n", "\ndata: ")
    return encode(f"event: snapshot\nid: {number}\ndata: {html}\n\n")


async def _in_time(may_go_on: Callable[[], Awaitable[bool]]) -> bool:
    """Ask, and take no answer for a no."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await may_go_on()
    except TimeoutError:
        return False


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
