"""The welcome mail: sent over SMTP by a durable job, kept in a file or by RabbitMQ."""

from __future__ import annotations

from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from aiohttp import web

from aiohttp_jobs.durable import (
    SQLiteStore,
    Store,
    current_durable,
    durable,
    setup_durable,
)

from .outbox import OUTBOX

__all__ = ("AT_ONCE", "SENDER", "compose", "jobs_file", "send_welcome", "setup_mail")

SENDER: Final = "shop@demo.example"
# How many mails are sent at once.
AT_ONCE: Final = 50


@durable("mail.welcome", timeout=30)
async def send_welcome(app: web.Application, name: str, address: str) -> None:
    job = current_durable()
    assert job is not None
    # After a kill the job runs again with the same id, so whoever receives the mail
    # twice can recognize it.
    await app[OUTBOX].send(compose(job.id, name, address))


def setup_mail(app: web.Application, database: Path, broker_url: str | None) -> None:
    """Give the application durable jobs, and the task that sends the mail.

    Args:
        app: the application; it has a scheduler.
        database: the SQLite file of the shop; the file that keeps the jobs is beside it.
        broker_url: the address of a RabbitMQ server that keeps the jobs instead; or None.
    """
    store = _rabbitmq(broker_url) if broker_url else _file(database)
    setup_durable(app, store, tasks=[send_welcome], limit=AT_ONCE)


def jobs_file(database: Path) -> Path:
    """Return the file that keeps the durable jobs of the shop in `database`."""
    return database.with_suffix(".jobs.sqlite3")


def compose(job_id: str, name: str, address: str) -> EmailMessage:
    """Write the mail that greets a new customer."""
    message = EmailMessage()
    message["From"] = Address("The demo shop", addr_spec=SENDER)
    message["To"] = Address(addr_spec=address)
    message["Message-ID"] = f"<{job_id}@demo.example>"
    message["Subject"] = f"Welcome, {name}"
    message.set_content(
        f"Hello {name},\n\n"
        "thank you for signing up. Your browser did not wait for this mail:\n"
        "a durable job has sent it.\n\n"
        "The demo shop\n"
    )
    return message


def _file(database: Path) -> Store:
    # A job that was running in this many processes when they died is taken for the cause.
    # Here they die because visitors kill them, hence the high limit.
    return SQLiteStore(jobs_file(database), max_crashes=100)


def _rabbitmq(url: str) -> Store:
    # Imported only now: this takes a while, and most users never need it.
    from .rabbitmq import rabbitmq_store

    return rabbitmq_store(url, AT_ONCE)
