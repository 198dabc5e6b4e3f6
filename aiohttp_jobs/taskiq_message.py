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
    """The message that a job came in: the receipt of its delivery."""

    data: bytes
    # Several if the broker has sent it again, for example after a lost connection. Empty
    # if the broker takes no acknowledgements.
    acks: list[Acknowledge]

    @classmethod
    def of(cls, message: AckableMessage | bytes) -> Self:
        """Make one from what the broker's listen() has yielded."""
        if isinstance(message, AckableMessage):
            return cls(message.data, [message.ack])
        return cls(message, [])

    async def acknowledge(self, seconds: float) -> Exception | None:
        """Acknowledge it, each time that it came, within `seconds` each.

        Returns:
            Why none of them could be acknowledged; None if one was.
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
