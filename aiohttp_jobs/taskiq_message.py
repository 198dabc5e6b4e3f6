"""Message: what a broker of taskiq delivers, until it is acknowledged."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from taskiq import AckableMessage

__all__ = ("Message",)

Acknowledge = Callable[[], Awaitable[None] | None]


@dataclass(slots=True, eq=False)
class Message:
    """What a job came in: the receipt of its delivery."""

    data: bytes
    # Several, if the broker has sent it again, after a connection was lost for example.
    # None of a broker that takes no acknowledgement.
    acks: list[Acknowledge]

    @classmethod
    def of(cls, message: AckableMessage | bytes) -> Self:
        """Make it of what the broker's listen() has given."""
        if isinstance(message, AckableMessage):
            return cls(message.data, [message.ack])
        return cls(message, [])

    async def acknowledge(self, seconds: float) -> Exception | None:
        """Acknowledge it, in each way that it came, within so many seconds each.

        Returns:
            Why that was not possible in any of them; None if it is acknowledged.
        """
        fault, is_gone = None, not self.acks
        while self.acks:
            ack = self.acks.pop()
            try:
                async with asyncio.timeout(seconds):
                    answer = ack()
                    if inspect.isawaitable(answer):
                        await answer
                is_gone = True
            except Exception as error:
                fault = error
        return None if is_gone else fault
