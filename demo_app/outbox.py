"""The outbox: an SMTP server on loopback that keeps one copy of each mail it receives."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.message
import email.policy
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from weakref import WeakSet

import aiosmtplib
import aiosqlite
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

__all__ = ("OUTBOX", "Batch", "Mail", "Outbox", "outbox_context")

# A mail that arrives again is recognized by its id, and only counted.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS sign_ups (
    id TEXT PRIMARY KEY,
    batch TEXT
);
CREATE TABLE IF NOT EXISTS mails (
    id TEXT PRIMARY KEY,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    received_at TEXT NOT NULL,
    process INTEGER NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS sign_ups_by_batch ON sign_ups (batch);
"""
RECEIVE: Final = """
INSERT INTO mails (id, sender, recipient, subject, text, received_at, process)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET deliveries = deliveries + 1
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as the SMTP server received it, `deliveries` times."""

    sender: str
    recipient: str
    subject: str
    text: str
    received_at: datetime
    deliveries: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """People who signed up together, and what has become of their mails."""

    signed_up: int
    #: How many mails each server process has received, oldest process first.
    received_by: dict[int, int]
    #: How many mails arrived again after a kill; each is kept once.
    repeated: int

    @property
    def received(self) -> int:
        """How many mails have arrived."""
        return sum(self.received_by.values())

    @property
    def on_their_way(self) -> int:
        """How many mails have not arrived yet."""
        return self.signed_up - self.received


class Outbox:
    """Sends mail to its own SMTP server, which keeps it in the database.

    Args:
        database: an open connection in autocommit mode.
        takes: seconds that the server takes for each mail, as a real one would.
    """

    def __init__(self, database: aiosqlite.Connection, takes: float) -> None:
        self._database = database
        self._takes = takes
        self._port = 0

    async def send(self, message: email.message.EmailMessage) -> None:
        """Send a mail; when this returns, the server has it."""
        await aiosmtplib.send(
            message, hostname="127.0.0.1", port=self._port, start_tls=False
        )

    async def expect(self, ids: Iterable[str], batch: str | None = None) -> None:
        """Note that these people will be sent a mail.

        Args:
            ids: the ids of the jobs that send the mails.
            batch: a name for the people who signed up together.
        """
        # One statement, so that all of them are noted or none.
        async with self._database.execute(
            "INSERT OR IGNORE INTO sign_ups SELECT value, ? FROM json_each(?)",
            [batch, json.dumps([*ids])],
        ):
            pass

    async def mails(self, limit: int = 50) -> list[Mail]:
        """Return the latest mails, newest first."""
        async with self._database.execute(
            "SELECT sender, recipient, subject, text, received_at, deliveries"
            " FROM mails ORDER BY rowid DESC LIMIT ?",
            [limit],
        ) as rows:
            return [
                Mail(sender, to, subject, text, datetime.fromisoformat(at), times)
                async for sender, to, subject, text, at, times in rows
            ]

    async def on_their_way(self) -> int:
        """Count the mails that were promised to somebody and have not arrived."""
        async with self._database.execute(
            "SELECT count(*) FROM sign_ups WHERE id NOT IN (SELECT id FROM mails)"
        ) as rows:
            async for (count,) in rows:
                return int(count)
        return 0

    async def latest_batch(self) -> Batch | None:
        """Return the latest batch; None if there was none."""
        async with self._database.execute(
            "SELECT process, count(*), sum(deliveries > 1) FROM sign_ups"
            " LEFT JOIN mails USING (id) WHERE batch = (SELECT batch FROM sign_ups"
            " WHERE batch IS NOT NULL ORDER BY rowid DESC LIMIT 1)"
            " GROUP BY process ORDER BY min(mails.rowid)"
        ) as rows:
            found = [row async for row in rows]
        if not found:
            return None
        return Batch(
            signed_up=sum(count for _, count, _ in found),
            received_by={process: count for process, count, _ in found if process},
            repeated=sum(repeated or 0 for _, _, repeated in found),
        )

    async def handle_DATA(
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Receive a mail; aiosmtpd calls this."""
        await asyncio.sleep(self._takes)
        content = envelope.original_content or b""
        message = email.message_from_bytes(content, policy=email.policy.default)
        body = message.get_body(("plain",))
        # The part before the "@" is the id of the job.
        job_id = str(message["Message-ID"] or "").strip("<>").partition("@")[0]
        values = (
            job_id or secrets.token_hex(8),
            envelope.mail_from or "",
            ", ".join(envelope.rcpt_tos),
            str(message["Subject"] or ""),
            str(body.get_content()) if body is not None else "",
            datetime.now(UTC).isoformat(),
            os.getpid(),
        )
        async with self._database.execute(RECEIVE, values):
            return "250 OK"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the SMTP server on a free port of the loopback interface."""
        sessions: WeakSet[SMTP] = WeakSet()

        def make_session() -> SMTP:
            session = SMTP(self, hostname="localhost", loop=loop)
            sessions.add(session)
            return session

        loop = asyncio.get_running_loop()
        server = await loop.create_server(make_session, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            # Since Python 3.12 the server also waits until its clients have disconnected.
            for session in sessions:
                if session.transport is not None:
                    session.transport.close()
            await server.wait_closed()


#: Where :func:`outbox_context` puts the outbox: ``app[OUTBOX]``.
OUTBOX: Final = web.AppKey("OUTBOX", Outbox)


def outbox_context(
    path: Path, takes: float
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Make the clean-up context that runs the SMTP server.

    Args:
        path: the SQLite file, which is known to open.
        takes: seconds that the server takes for each mail.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with aiosqlite.connect(path, isolation_level=None) as database:
            await database.executescript(SCHEMA)
            app[OUTBOX] = outbox = Outbox(database, takes)
            async with outbox.serving():
                yield

    return context
