"""A worker in a process of its own, which test_share_others.py stops and kills.

Its argument is the shared directory. It ends when a line comes on its stdin.
"""

from __future__ import annotations

import asyncio
import os
import sys

from aiohttp import web

from aiohttp_jobs.share.worker import Worker


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


async def main(share: str) -> None:
    done: list[object] = []

    async def figures(request: web.BaseRequest) -> web.Response:
        return web.json_response({"process": os.getpid(), "done": done})

    async def act(request: web.BaseRequest) -> web.Response:
        done.append(await request.json())
        return web.json_response("done")

    worker = Worker(share, {"/figures": figures, "/act": act}, application="shop")
    await worker.open()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    await worker.close()
    say("closed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
