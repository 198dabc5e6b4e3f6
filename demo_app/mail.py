"""Mail: sent over SMTP, to a server that the demo runs itself on loopback."""

from __future__ import annotations

import asyncio
import email
import email.message
import email.policy
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from typing import Final
from weakref import WeakSet

import aiosmtplib
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

__all__ = ("OUTBOX", "Mail", "Outbox", "mail_context")

# How many mails the outbox shows; it forgets older ones.
KEPT: Final = 50
SENDER: Final = "shop@demo.example"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as the SMTP server received it."""

    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    received_at: datetime


class Outbox:
    """Sends mail to its own SMTP server, which keeps what it receives.

    Args:
        takes: seconds that the server takes for each mail, as real ones do.
    """

    def __init__(self, takes: float) -> None:
        self._takes = takes
        self._port = 0
        # Newest first.
        self.mails: deque[Mail] = deque(maxlen=KEPT)

    async def send_welcome(self, name: str, address: str) -> None:
        """Send the mail that greets a new customer."""
        message = email.message.EmailMessage()
        message["From"] = Address("The demo shop", addr_spec=SENDER)
        message["To"] = Address(addr_spec=address)
        message["Subject"] = f"Welcome, {name}"
        message.set_content(
            f"Hello {name},\n\n"
            "thank you for signing up. Your browser did not wait for this mail:\n"
            "a background job has sent it.\n\n"
            "The demo shop\n"
        )
        await aiosmtplib.send(
            message, hostname="127.0.0.1", port=self._port, start_tls=False
        )

    async def handle_DATA(
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Take a mail in; aiosmtpd calls this."""
        await asyncio.sleep(self._takes)
        content = envelope.original_content or b""
        message = email.message_from_bytes(content, policy=email.policy.default)
        body = message.get_body(("plain",))
        self.mails.appendleft(
            Mail(
                sender=envelope.mail_from or "",
                recipients=tuple(envelope.rcpt_tos),
                subject=str(message["Subject"] or ""),
                text=str(body.get_content()) if body is not None else "",
                received_at=datetime.now(UTC),
            )
        )
        return "250 OK"

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """Run the SMTP server on a port of loopback that is free."""
        sessions: WeakSet[SMTP] = WeakSet()

        def make_session() -> SMTP:
            session = SMTP(self, hostname="localhost", loop=loop)
            sessions.add(session)
            return session

        loop = asyncio.get_running_loop()
        server = await loop.create_server(make_session, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        app[OUTBOX] = self
        try:
            yield
        finally:
            server.close()
            # Since Python 3.12 the server also waits for those who are still connected.
            for session in sessions:
                if session.transport is not None:
                    session.transport.close()
            await server.wait_closed()


#: Where :func:`mail_context` puts the outbox: ``app[OUTBOX]``.
OUTBOX: Final = web.AppKey("OUTBOX", Outbox)


def mail_context(takes: float) -> Callable[[web.Application], AsyncIterator[None]]:
    """Make the clean-up context that runs the SMTP server.

    Args:
        takes: seconds that the server takes for each mail.
    """
    return Outbox(takes).context
