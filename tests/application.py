"""An application in a process of its own, that test_process.py sends signals to.

It reports on stdout what happens, line by line. A handler or job that waits goes on when
its name is written to stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

from aiohttp import web

from aiohttp_jobs import SCHEDULER, atomic, setup, spawn


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


class Shop:
    """The handlers and jobs, and what they wait for."""

    def __init__(self) -> None:
        self._gates = defaultdict[str, asyncio.Event](asyncio.Event)
        self._shut_down_at = 0.0

    def read(self) -> None:
        for name in os.read(sys.stdin.fileno(), 4096).decode().split():
            self._gates[name].set()
            if name == "speak":
                say("still here")

    async def wait(self, name: str) -> None:
        say(f"{name} begins")
        try:
            await self._gates[name].wait()
        except asyncio.CancelledError:
            say(f"{name} cancelled")
            raise
        say(f"{name} ends")

    async def plain(self, request: web.Request) -> web.Response:
        await self.wait("plain")
        return web.Response()

    @atomic
    async def atomic(self, request: web.Request) -> web.Response:
        await self.wait("atomic")
        return web.Response()

    async def job(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await spawn(request, self.wait(name), name)
        return web.Response()

    async def stubborn(self, request: web.Request) -> web.Response:
        times = int(request.match_info["times"])
        await spawn(request, self.swallow(times), "stubborn")
        return web.Response()

    async def swallow(self, times: int) -> None:
        """Go on until cancelled more often than this."""
        for time in range(1, times + 2):
            with contextlib.suppress(asyncio.CancelledError):
                say("stubborn goes on")
                await self._gates["stubborn"].wait()
            say(f"stubborn cancelled {time}")

    async def database(self, app: web.Application) -> AsyncIterator[None]:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self.read)
        try:
            yield
            say("database saved")
        finally:
            say("database closed")

    async def shut_down(self, app: web.Application) -> None:
        say("shutting down")
        self._shut_down_at = asyncio.get_running_loop().time()

    async def clean_up(self, app: web.Application) -> None:
        seconds = asyncio.get_running_loop().time() - self._shut_down_at
        say(f"cleaned up after {seconds:.3f} s")

    async def fail_to_start(self, app: web.Application) -> None:
        await app[SCHEDULER].spawn(self.wait("import"), "import")
        await asyncio.sleep(0)
        raise OSError("the start-up fails")


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--handler-cancellation", action="store_true")
    parser.add_argument("--shutdown-timeout", type=float, default=60)
    parser.add_argument("--wait-timeout", type=float, default=60)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--fail-to-start", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

    shop = Shop()
    app = web.Application()
    app.router.add_get("/plain", shop.plain)
    app.router.add_get("/atomic", shop.atomic)
    app.router.add_get("/job/{name}", shop.job)
    app.router.add_get("/stubborn/{times}", shop.stubborn)
    setup(app, limit=options.limit, wait_timeout=options.wait_timeout)
    app.cleanup_ctx.append(shop.database)
    app.on_shutdown.append(shop.shut_down)
    app.on_cleanup.append(shop.clean_up)
    if options.fail_to_start:
        app.on_startup.append(shop.fail_to_start)

    loop = None
    if options.uvloop:
        import uvloop

        loop = uvloop.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        web.run_app(
            app,
            sock=server,
            loop=loop,
            handler_cancellation=options.handler_cancellation,
            shutdown_timeout=options.shutdown_timeout,
            access_log=None,
            print=lambda _: say(f"port {server.getsockname()[1]}"),
        )
    say("ended")


if __name__ == "__main__":
    main()
