"""aiomonitor, with its task factory: what it lists, and a job that it cancels."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import Any

import aiomonitor  # type: ignore[import-untyped]

from aiohttp_jobs import JobCancelled, Scheduler
from tests.work import give, wait_for


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listed(monitor: aiomonitor.Monitor) -> list[list[str]]:
    """Return the names and coroutines that it shows for the tasks of jobs."""
    tasks = monitor.format_running_task_list("wait_for", persistent=False)
    return [[task.name, task.coro] for task in tasks]


async def main() -> None:
    loop = asyncio.get_running_loop()
    monitor = aiomonitor.start_monitor(
        loop,
        port=free_port(),
        webui_port=free_port(),
        console_enabled=False,
        hook_task_factory=True,
    )
    found: dict[str, Any] = {}
    with monitor:
        go = asyncio.Event()
        async with Scheduler(limit=1) as scheduler:
            first = await scheduler.spawn(wait_for(go), "invoice 7")
            jobs = [await scheduler.spawn(give(n)) for n in range(3)]
            await asyncio.sleep(0)
            found["listed"] = listed(monitor)
            go.set()
            found["results"] = [await first] + [await job for job in jobs]

            victim = await scheduler.spawn(wait_for(asyncio.Event()), "victim")
            after = await scheduler.spawn(give("after"))
            await asyncio.sleep(0)
            (shown,) = monitor.format_running_task_list("victim", persistent=False)
            found["cancelled by hand"] = await monitor.cancel_monitored_task(
                shown.task_id
            )
            with contextlib.suppress(JobCancelled):
                await victim
            found["then"] = [victim.state.name, await after]
        found["left"] = listed(monitor)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
