"""A process that claims durable jobs, for the tests of what happens when it dies.

``python -m tests.claimer FILE COUNT`` says when it has claimed that many, and stops
cleanly when a line comes on stdin. ``python -m tests.claimer FILE`` puts one job.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.envelopes import envelope, started


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


async def claim(path: Path, count: int) -> None:
    async with started(path) as store:
        claimed = 0
        while claimed < count:
            claimed += len(await store.fetch(count - claimed))
        say("claimed")
        await asyncio.to_thread(sys.stdin.readline)


async def put(path: Path) -> None:
    async with started(path, worker=False) as store:
        say(await store.put(envelope()))


if __name__ == "__main__":
    path, *counts = sys.argv[1:]
    asyncio.run(claim(Path(path), int(counts[0])) if counts else put(Path(path)))
