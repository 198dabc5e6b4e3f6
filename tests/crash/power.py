"""Power cuts: what is left if only synced writes have reached the disk."""

from __future__ import annotations

import asyncio
import random
import subprocess
from pathlib import Path
from time import time

from aiohttp_jobs.durable import SQLiteStore
from tests.envelopes import envelope, look

__all__ = ("cut_power",)


def copy(file: Path, image: Path) -> None:
    subprocess.run(["cp", file, image], check=True)


async def cut_power(folder: Path, cuts: int, seed: int) -> tuple[int, list[str]]:
    """Work on a file; after each synced transaction, check what a power cut would leave.

    SQLite writes only to its log, except in a checkpoint, which syncs by itself. So after
    a power cut there is the log up to the last sync, and beyond that anything: here
    nothing, a part, or garbage.

    Returns:
        How many jobs were accepted in all, and the ids of those lost in a cut.
    """
    chance, file = random.Random(seed), folder / "jobs.sqlite"
    log, image = Path(f"{file}-wal"), folder / "image.sqlite"
    store = SQLiteStore(file)
    await store.start(["mail"], worker=True)
    accepted, done, lost = set[str](), set[str](), list[str]()
    try:
        for _ in range(cuts):
            puts = [store.put(envelope()) for _ in range(chance.randint(1, 5))]
            accepted.update(await asyncio.gather(*puts))
            reached = log.stat().st_size
            for delivery in await store.fetch(chance.randint(1, 4)):
                match chance.randrange(4):
                    case 0:
                        store.ack(delivery)
                        done.add(delivery.envelope.id)
                    case 1:
                        store.give_back(delivery)
                    case 2:
                        store.retry(delivery, time())
                    case _:
                        store.bury(delivery, "boom")
            await store.statistics()
            # Copied by another process: closing a descriptor of the file in this one
            # would drop SQLite's locks, and with them the log.
            await asyncio.to_thread(copy, file, image)
            left = log.read_bytes()
            beyond = chance.choice([b"", left[reached:][:2000], b"\xff" * 5000])
            Path(f"{image}-wal").write_bytes(left[:reached] + beyond)
            Path(f"{image}-shm").unlink(missing_ok=True)
            kept = {row[0] for row in look(image, "SELECT id FROM aiohttp_jobs")}
            lost += accepted - done - kept
    finally:
        await store.stop()
    return len(accepted), lost
