"""Streams: live pages by server-sent events.

A live page is made of sections. A stream sends all of them first, and then, once a
second, those that have changed, with the moment that they are about: from that, the
page's script counts how long ago things were. A client that reconnects gets all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from aiohttp import web

from .words import encode

__all__ = ("MOST", "Live", "Render", "Streams")

# Seconds between two snapshots of a stream, and so the most by which news is late.
PERIOD: Final = 1.0
# Seconds that a client is given to take what it was sent.
PATIENCE: Final = 15.0
# Seconds until the next check whether the visitor may still see this.
CHECK: Final = 30.0
# Seconds after which a stream ends, and the browser connects again.
LIFE: Final = 300.0
# How many streams may be open at a time.
MOST: Final = 20
# Seconds that the browser waits before it connects again.
RETRY: Final = 3


class Live(NamedTuple):
    """A live page, at one moment."""

    #: Seconds since 1970.
    at: float
    #: HTML by name; each is one element, whose id is the name. What a later one of the
    #: same page leaves out stays as it was.
    sections: Mapping[str, str]


Render: TypeAlias = Callable[[], Awaitable[Live]]


@dataclass(eq=False, slots=True)
class _Place:
    """One of the places that open streams take."""

    party: str
    request: web.Request
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """End the stream soon."""
        self.ending.set()
        _cut_off(self.request)


@dataclass(eq=False, slots=True)
class _Shown:
    """What was rendered last of a page that several visitors may look at."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: When it was rendered, by the event loop's time, and which snapshot it is.
    rendered_at: float = 0.0
    number: int = 0
    #: The moment that the snapshot is about.
    at: float = 0.0
    #: Each section with the number of the snapshot that it changed in.
    sections: dict[str, tuple[int, str]] = field(
        default_factory=dict[str, tuple[int, str]]
    )
    #: What is sent to all clients that have the same snapshot; by its number and theirs.
    event: tuple[tuple[int, int], bytes] = ((0, 0), b"")
    watchers: int = 0

    def take(self, live: Live, number: int, now: float) -> None:
        """Take what was rendered just now."""
        for name, html in live.sections.items():
            if self.sections.get(name, (0, ""))[1] != html:
                self.sections[name] = number, html
        self.at, self.number, self.rendered_at = live.at, number, now

    def since(self, sent: int) -> bytes:
        """Return the event for a client that has this snapshot; 0 if it has none."""
        if self.event[0] != (self.number, sent):
            new = [html for number, html in self.sections.values() if number > sent]
            event = _event(self.number, self.at, "".join(new))
            self.event = (self.number, sent), event
        return self.event[1]


class Streams:
    """The open streams of one dashboard; equal pages are rendered once for all."""

    def __init__(self) -> None:
        self._is_ending = False
        # In the order in which the streams were opened.
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
        """Send snapshots until the client has gone, or the stream's time is up.

        Args:
            request: the request that asks for them.
            key: equal for streams that show the same.
            render: called for each snapshot, to return its HTML.
            party: who takes the place. If all places are taken, the party with the most
                gives one up to a party that has fewer.
            may_go_on: asked every half minute whether the visitor may still see this.

        Raises:
            HTTPServiceUnavailable: as many streams as allowed are open, or the
                application shuts down.
        """
        if self._is_ending or not self._make_room(party):
            raise web.HTTPServiceUnavailable(
                text="503: Too many live pages are open", headers={"Retry-After": "10"}
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                # nginx would buffer what is sent.
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
        """Return whether there is a place, if need be from a party with two more."""
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
        sent, request = 0, place.request
        # That a client has gone only shows when something is sent.
        while (
            request.transport is not None
            and not place.ending.is_set()
            and loop.time() < end
        ):
            if may_go_on is not None and loop.time() - checked_at >= CHECK:
                if not await _in_time(may_go_on):
                    return
                checked_at = loop.time()
            await self._render(shown, render)
            number, event = shown.number, shown.since(sent)
            await _write(request, response, event)
            sent = number
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await place.ending.wait()

    async def _render(self, shown: _Shown, render: Render) -> None:
        # Anyone who arrives during a render waits for it and shares the result.
        async with shown.lock:
            loop = asyncio.get_running_loop()
            # A stream's own last snapshot is a period old; a newer one can be shared.
            if not shown.number or loop.time() - shown.rendered_at > PERIOD / 2:
                live = await render()
                self._number += 1
                shown.take(live, self._number, loop.time())


def _event(number: int, at: float, html: str) -> bytes:
    # Either character would end a line of the event.
    html = html.replace("\r", "\n").replace("\n", "\ndata: ")
    opening = f'<div data-at="{at}">'
    return encode(f"event: snapshot\nid: {number}\ndata: {opening}{html}</div>\n\n")


async def _in_time(may_go_on: Callable[[], Awaitable[bool]]) -> bool:
    """Ask; no answer in time means no."""
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
    """Break the connection off if the client does not take what it was sent.

    Waiting for it would hold up the shutdown for as long as the server allows.
    """
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
