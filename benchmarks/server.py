"""The applications that are compared, in one process, each on a port of its own.

``python -m benchmarks.server [--uvloop]`` writes one line: the ports in the order of
`VARIANTS`, and last the port that reports the CPU time. It serves until its input ends,
so it also stops when the process that started it dies.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import aiojobs.aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

import aiohttp_jobs

from .jobs import OURS, RAW, THEIRS
from .measure import make_runner

__all__ = ("HOST", "NO_MIDDLEWARE", "TEXT", "VARIANTS", "application")

HOST = "127.0.0.1"
TEXT = "ok"


# -- the handlers -----------------------------------------------------------------------


async def plain(request: web.Request) -> web.Response:
    return web.Response(text=TEXT)


async def work(request: web.Request) -> web.Response:
    await asyncio.sleep(0)
    return web.Response(text=TEXT)


async def work_in_asyncio_shield(request: web.Request) -> web.Response:
    return await asyncio.shield(work(request))


async def background() -> None:
    await asyncio.sleep(0)


background_tasks: set[asyncio.Task[None]] = set()


async def spawn_by_asyncio(request: web.Request) -> web.Response:
    task = asyncio.create_task(background())
    background_tasks.add(task)
    task.add_done_callback(background_tasks.discard)
    return web.Response(text=TEXT)


async def spawn_by_aiohttp_jobs(request: web.Request) -> web.Response:
    await aiohttp_jobs.spawn(request, background())
    return web.Response(text=TEXT)


async def spawn_by_aiojobs(request: web.Request) -> web.Response:
    await aiojobs.aiohttp.spawn(request, background())
    return web.Response(text=TEXT)


# -- the applications -------------------------------------------------------------------

# aiohttp takes a shortcut if an application has no middleware at all. No package that
# adds one can match that, so all other variants have one, which may do nothing.
NO_MIDDLEWARE = "asyncio, no middleware"
VARIANTS: dict[tuple[str, str], Handler] = {
    ("uses neither", NO_MIDDLEWARE): plain,
    ("uses neither", RAW): plain,
    ("uses neither", OURS): plain,
    ("uses neither", THEIRS): plain,
    ("runs to its end", RAW): work_in_asyncio_shield,
    ("runs to its end", OURS): aiohttp_jobs.atomic(work),
    ("runs to its end", THEIRS): aiojobs.aiohttp.atomic(work),
    ("spawns", RAW): spawn_by_asyncio,
    ("spawns", OURS): spawn_by_aiohttp_jobs,
    ("spawns", THEIRS): spawn_by_aiojobs,
}


def application(who: str, handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_get("/", handler)
    if who == OURS:
        aiohttp_jobs.setup(app)
    elif who == THEIRS:
        aiojobs.aiohttp.setup(app)
    elif who == RAW:
        app.middlewares.append(do_nothing)
    return app


@web.middleware
async def do_nothing(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request)


async def tell_cpu_time(request: web.Request) -> web.Response:
    if "collect" in request.query:
        gc.collect()
    return web.json_response(time.process_time())


async def serve() -> None:
    apps = [application(who, handler) for (_, who), handler in VARIANTS.items()]
    apps.append(application(NO_MIDDLEWARE, tell_cpu_time))
    ports: list[int] = []
    for app in apps:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        ports.append(runner.addresses[0][1])
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with make_runner(uvloop="--uvloop" in sys.argv[1:]) as main:
        main.run(serve())
