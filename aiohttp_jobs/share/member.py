"""A part of this process that answers the other workers.

All dashboards and metrics of a process are one worker: they share its number and its
socket, and each has a path of its own there. The path is the same in every worker, as all
begin with the same parts in the same order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from .folder import check_share
from .place import Place
from .worker import Handler, Worker

__all__ = ("Member",)


@dataclass(eq=False)
class _Joint:
    """The worker that members share, and their handlers."""

    worker: Worker
    handlers: dict[str, Handler]
    members: int = 0
    # Members open and close it one at a time.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


# The open ones, by directory and loop: a loop in another thread has its own worker.
_joints: Final = dict[tuple[str, asyncio.AbstractEventLoop], _Joint]()


class Member:
    """A part of this process, among the workers of its application.

    Args:
        share: the path of the directory that they share.
        name: its path, such as "/metrics". If that is taken when it opens, it becomes
            "/metrics~2".
        handlers: what answers the others, by the path below its own; GET and POST
            requests, as for :class:`.worker.Worker`.

    Raises:
        TypeError, ValueError, RuntimeError: as :class:`.worker.Worker`.
    """

    def __init__(
        self, share: str | os.PathLike[str], name: str, handlers: Mapping[str, Handler]
    ) -> None:
        self.share = check_share(share)
        self._name = name
        self._own = dict(handlers)
        self._joint: _Joint | None = None
        #: Its own path, at which this part of the other workers is asked, too.
        self.path = name

    @property
    def place(self) -> Place | None:
        """Where the others find it; see :attr:`.worker.Worker.place`."""
        return None if self._joint is None else self._joint.worker.place

    @property
    def number(self) -> int:
        """The worker's number; while it has none, the last one."""
        return 0 if self._joint is None else self._joint.worker.number

    async def open(self) -> None:
        """Join this process's worker; the first member opens it.

        Raises:
            RuntimeError, OSError: as :meth:`.worker.Worker.open`.

        Cancellation:
            It has not joined.
        """
        key = self.share, asyncio.get_running_loop()
        joint = _joints.get(key)
        if joint is None:
            handlers: dict[str, Handler] = {}
            joint = _joints[key] = _Joint(Worker(self.share, handlers), handlers)
        async with joint.lock:
            try:
                if not joint.members:
                    await joint.worker.open()
                    # The last one may have left while this one waited.
                    _joints[key] = joint
            except BaseException:
                if _joints.get(key) is joint:
                    del _joints[key]
                raise
            joint.members += 1
        self._joint = joint
        for number in count(1):
            self.path = self._name if number == 1 else f"{self._name}~{number}"
            if not any(path.startswith(f"{self.path}/") for path in joint.handlers):
                break
        for below, handler in self._own.items():
            joint.handlers[f"{self.path}/{below}"] = handler

    async def close(self) -> None:
        """Leave the worker; the last member closes it. May be called twice.

        Cancellation:
            It has left all the same; requests are broken off.
        """
        joint, self._joint = self._joint, None
        if joint is None:
            return
        for below in self._own:
            del joint.handlers[f"{self.path}/{below}"]
        key = self.share, asyncio.get_running_loop()
        # Counted under the lock, so that whoever waits for it is not left out.
        async with joint.lock:
            joint.members -= 1
            if not joint.members:
                if _joints.get(key) is joint:
                    del _joints[key]
                await joint.worker.close()
