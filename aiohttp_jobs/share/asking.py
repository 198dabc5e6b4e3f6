"""One question to one worker, through aiohttp's client over its socket.

The answer is JSON, or bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    UnixConnector,
)

from .deadlines import DEADLINE, deadline_after
from .names import SocketName
from .peer import is_own_user, peer_of

__all__ = ("Answer", "Line", "Trouble", "ask", "order")

# Seconds within which an action has to be begun, and further ones for its answer.
_ACTION, _MORE = 1.5, 1.0


class Trouble(enum.Enum):
    """Why a worker has not answered; the value continues "Worker 3 …"."""

    SLOW = "does not answer"
    GONE = "has ended"
    FAILED = "answers with an error"
    LATE = "was too slow: nothing was done"
    VERSION = "speaks another version"
    APPLICATION = "belongs to another application"
    NOTHING = "has nothing of the kind"


@dataclass(frozen=True)
class Answer:
    """What one worker said, or why it said nothing: one of the two is None."""

    name: SocketName
    data: Any = None
    trouble: Trouble | None = None


class _Connector(UnixConnector):
    """Connects to processes of its own user only."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        # Before anything is sent: an action is none of another user's business.
        transport = connection.transport
        if transport is not None:
            found = transport.get_extra_info("socket")
            if is_own_user(peer_of(found.fileno())):
                return connection
        connection.close()
        raise ClientConnectionError("The socket is of another user")


async def ask(name: SocketName, address: str, path: str, data: object = None) -> Answer:
    """Return the worker's answer to a GET, however long that takes.

    Args:
        name: the worker, for the answer.
        address: the path of its socket.
        path: what to ask for.
        data: more about it, as JSON.

    Cancellation:
        The connection is closed.
    """
    async with _session(address, ClientTimeout(total=None)) as session:
        return await _request(name, session, "GET", path, data)


async def order(name: SocketName, address: str, path: str, data: object) -> Answer:
    """Have a worker do something, by a POST with JSON, soon or never.

    Returns:
        its answer. ``Trouble.LATE``, and ``Trouble.SLOW`` from a worker that had not
        begun, mean that nothing was done and that nothing will be.

    Cancellation:
        The connection is closed; the action may have been begun.
    """
    timeout = ClientTimeout(total=_ACTION + _MORE)
    headers = {DEADLINE: deadline_after(_ACTION)}
    # A new connection: one that was kept may be to a worker that has ended since.
    async with _session(address, timeout) as session:
        return await _request(name, session, "POST", path, data, headers)


class Line:
    """Asks one worker again and again, over a connection that is kept.

    Args:
        name: the worker.
        address: the path of its socket.
    """

    def __init__(self, name: SocketName, address: str) -> None:
        self._name = name
        self._session = _session(address, ClientTimeout(total=None), kept=True)

    async def ask(self, path: str, data: object = None) -> Answer:
        """As :func:`ask`."""
        return await _request(self._name, self._session, "GET", path, data)

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        await self._session.close()


def _session(address: str, timeout: ClientTimeout, kept: bool = False) -> ClientSession:
    return ClientSession(
        connector=_Connector(address, force_close=not kept),
        cookie_jar=DummyCookieJar(),
        timeout=timeout,
    )


async def _request(
    name: SocketName,
    session: ClientSession,
    method: str,
    path: str,
    data: object = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    try:
        async with session.request(
            method, f"http://worker{path}", json=data, headers=headers
        ) as response:
            if response.status == 410:
                return Answer(name, trouble=Trouble.LATE)
            if response.status == 404:
                return Answer(name, trouble=Trouble.NOTHING)
            if response.status != 200:
                return Answer(name, trouble=Trouble.FAILED)
            if response.content_type == "application/json":
                return Answer(name, await response.json())
            return Answer(name, await response.read())
    except TimeoutError:
        return Answer(name, trouble=Trouble.SLOW)
    except (ClientError, OSError) as exc:
        cause = exc.__cause__ or exc
        is_gone = isinstance(cause, ConnectionRefusedError | FileNotFoundError)
        return Answer(name, trouble=Trouble.GONE if is_gone else Trouble.FAILED)
    except ValueError:
        return Answer(name, trouble=Trouble.FAILED)
