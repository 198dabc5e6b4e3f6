"""RabbitMQ as the store of the durable jobs, as docs/brokers.rst describes it."""

from __future__ import annotations

from typing import Final

from taskiq_aio_pika import AioPikaBroker, Queue

from aiohttp_jobs.taskiq import BrokerStore

__all__ = ("rabbitmq_store",)

QUEUE: Final = "aiohttp-jobs-demo"
# How often a message is delivered again before it is laid aside: visitors like to kill.
MOST_DELIVERIES: Final = 100
# What goes from one queue to another is kept in the first until it is in the second.
SAFELY: Final = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


def rabbitmq_store(url: str, limit: int) -> BrokerStore:
    """Make a store that keeps jobs in queues of a RabbitMQ server.

    Args:
        url: its address.
        limit: how many jobs run at once.
    """
    broker = AioPikaBroker(
        url,
        qos=limit,
        task_queues=[
            Queue(name=QUEUE, arguments={"x-delivery-limit": MOST_DELIVERIES, **SAFELY})
        ],
        dead_letter_queue=Queue(name=f"{QUEUE}.dead"),
        delay_queue=Queue(name=f"{QUEUE}.delay", arguments={**SAFELY}),
    )
    failed = AioPikaBroker(
        url,
        task_queues=[Queue(name=f"{QUEUE}.failed")],
        dead_letter_queue=Queue(name=f"{QUEUE}.dead"),
    )
    return BrokerStore(broker, delays=True, dead=failed)
