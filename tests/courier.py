"""A process that runs durable jobs from RabbitMQ, for tests that kill it.

``python -m tests.courier URL QUEUE LEDGER SECONDS`` writes into the ledger which jobs
begin and end, and on SIGTERM drains for that many seconds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import monotonic

from aiohttp import web
from taskiq_aio_pika import AioPikaBroker, Queue

from aiohttp_jobs import setup
from aiohttp_jobs.durable import current_durable, durable, run_worker, setup_durable
from aiohttp_jobs.taskiq import BrokerStore
from tests.processes import until

__all__ = ("LIMIT", "TASKS", "broker", "poison", "quick", "slow")

# How many jobs run at once in a process, and how many messages the server gives it.
LIMIT = 5

# How often RabbitMQ redelivers a message that is not acknowledged.
DELIVERIES = 3

LEDGER = web.AppKey("LEDGER", Path)

# A message that moves from one queue to another is in one of them at every moment.
SAFELY = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def broker(url: str, name: str) -> AioPikaBroker:
    """Return a broker configured as docs/brokers.rst says."""
    return AioPikaBroker(
        url,
        qos=LIMIT,
        task_queues=[
            Queue(name=name, arguments={"x-delivery-limit": DELIVERIES, **SAFELY})
        ],
        dead_letter_queue=Queue(name=f"{name}.dead"),
        delay_queue=Queue(name=f"{name}.delay", arguments={**SAFELY}),
    )


def note(app: web.Application, what: str, number: int) -> None:
    """Append a line in one write, which survives a kill of this process."""
    job = current_durable()
    attempt = 0 if job is None else job.attempt
    descriptor = os.open(app[LEDGER], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{os.getpid()} {what} {number} {attempt}\n".encode())
    os.close(descriptor)


@durable("quick")
async def quick(app: web.Application, number: int) -> None:
    note(app, "begin", number)
    # Takes a moment, so that a process is killed while some of these run.
    end = monotonic() + 0.01
    await until(lambda: monotonic() > end)
    note(app, "end", number)


@durable("slow")
async def slow(app: web.Application, number: int) -> None:
    """Wait for a file beside the ledger."""
    note(app, "begin", number)
    await until(app[LEDGER].with_suffix(".go").exists)
    note(app, "end", number)


@durable("poison")
async def poison(app: web.Application, number: int) -> None:
    note(app, "begin", number)
    os._exit(1)


TASKS = [quick, slow, poison]

if __name__ == "__main__":
    url, queue, ledger, seconds = sys.argv[1:]
    app = web.Application()
    app[LEDGER] = Path(ledger)
    setup(app, wait_timeout=float(seconds))
    store = BrokerStore(broker(url, queue), delays=True)
    setup_durable(app, store, tasks=TASKS, limit=LIMIT)
    run_worker(app)
