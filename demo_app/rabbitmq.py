"""RabbitMQ as the store of the durable jobs, as docs/brokers.rst describes it."""

from __future__ import annotations

from typing import Final

from taskiq_aio_pika import AioPikaBroker, Queue

from aiohttp_jobs.taskiq import BrokerStore

__all__ = ("rabbitmq_store",)

QUEUE: Final = "aiohttp-jobs-demo"
# How often a message is redelivered before it is given up; visitors like to kill servers.
MOST_DELIVERIES: Final = 100
# A message that moves to another queue stays in the first until it is in the second.
SAFELY: Final = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


def rabbitmq_store(url: str, limit: int) -> BrokerStore:
    """Make a store that keeps jobs in queues of a RabbitMQ server.

    Args:
        url: the address of the server.
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
