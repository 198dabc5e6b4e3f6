"""Task factories like those that other people's tools install on an application's loop.

The honest ones run the coroutine in their own way: :func:`wrapping` as error trackers and
monitors do, :func:`contextless` as tracers that do not know ``context``.
:class:`Dropping` is not: its tasks end without running the coroutine.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = (
    "Dropping",
    "contextless",
    "delegating",
    "eager_wrapping",
    "generating",
    "strangely_named",
    "wrapping",
)

_Coro = Coroutine[Any, Any, Any]
_Task = asyncio.Task[Any]


def wrapping(loop: asyncio.AbstractEventLoop, coro: _Coro, **options: Any) -> _Task:
    """Await the coroutine inside another one."""
    return asyncio.Task(_traced(coro), loop=loop, **options)


def eager_wrapping(loop: asyncio.AbstractEventLoop, coro: _Coro, **options: Any) -> _Task:
    """Do so in an eager task, which takes its first step before it is returned."""
    options["eager_start"] = True
    return asyncio.Task(_traced(coro), loop=loop, **options)


def strangely_named(
    loop: asyncio.AbstractEventLoop, coro: _Coro, **options: Any
) -> _Task:
    """Await the coroutine inside another one, and name the task after both."""
    task = asyncio.Task(_traced(coro), loop=loop, **options)
    task.set_name(f"{getattr(coro, '__qualname__', 'coroutine')} (traced)")
    return task


def generating(loop: asyncio.AbstractEventLoop, coro: _Coro, **options: Any) -> _Task:
    """Run the coroutine in a generator, which Python up to 3.11 allows."""
    return asyncio.Task(_generator(coro), loop=loop, **options)  # type: ignore[arg-type,unused-ignore]


def delegating(loop: asyncio.AbstractEventLoop, coro: _Coro, **options: Any) -> _Task:
    """Run the coroutine in an object with a coroutine's methods, like compiled code."""
    return asyncio.Task(_Delegate(coro), loop=loop, **options)


def contextless(loop: asyncio.AbstractEventLoop, coro: _Coro) -> _Task:
    """Take neither a name nor a context, like factories written before they existed."""
    return asyncio.Task(coro, loop=loop)


async def _traced(coro: _Coro) -> Any:
    return await coro


@types.coroutine
def _generator(coro: _Coro) -> Generator[Any, Any, Any]:
    return (yield from coro)


class _Delegate(_Coro):
    def __init__(self, coro: _Coro) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()

    def send(self, value: Any) -> Any:
        return self._coro.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coro.throw(*error)

    def close(self) -> None:
        self._coro.close()


class Dropping:
    """Makes tasks that end without the coroutine ever having run.

    Args:
        end: awaited instead; its outcome is that of the task.
        cancels: cancel the task as soon as it is made.
    """

    def __init__(self, end: Any = None, *, cancels: bool = False) -> None:
        self._end = end
        self._cancels = cancels
        # The coroutines that were dropped.
        self.dropped: list[_Coro] = []

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: _Coro, **options: Any
    ) -> _Task:
        self.dropped.append(coro)
        task = asyncio.Task(self._run(), loop=loop, **options)
        if self._cancels:
            task.cancel()
        return task

    async def _run(self) -> Any:
        if isinstance(self._end, BaseException):
            raise self._end
        return self._end
