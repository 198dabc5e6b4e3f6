"""A worker's place among the others: its number, and the socket that has its name.

The calls block, but all are short, and the directory is not on a network.
"""

from __future__ import annotations

import os
import socket
from itertools import count

from .folder import Folder
from .forks import give_up_in_children
from .names import SocketName, lock_name, process_name

__all__ = ("Place",)

# How many connections may wait to be accepted while this worker's event loop is busy.
_BACKLOG = 128


class Place:
    """A number that no other worker of the application has, and a listening socket.

    Args:
        path: the directory, as ``check_share()`` returns it.
        application: as ``application_id()`` returns it.
        wish: the number to take if it is free; otherwise the lowest free one is taken.

    Raises:
        RuntimeError: the directory is refused.
        OSError: a file in there cannot be made.
    """

    def __init__(self, path: str, application: str, wish: int | None = None) -> None:
        # Set before anything that may fail, so that give_up() finds them all.
        self._lock = -1
        self.socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self.folder = Folder(path)
        # Before the rest, as a thread of this process may fork in between.
        give_up_in_children(self)
        try:
            number, self._lock = self._take_number(application, wish)
            self.name = SocketName(
                number, os.getpid(), application, called=process_name()
            )
            self._lock_name = lock_name(application, number)
            self._remove_predecessors()
            self.socket = self._listen()
        except BaseException:
            self.give_up()
            raise

    @property
    def number(self) -> int:
        return self.name.number

    def _take_number(self, application: str, wish: int | None) -> tuple[int, int]:
        if wish is not None:
            lock = self.folder.lock(lock_name(application, wish))
            if lock is not None:
                return wish, lock
        for number in count():
            lock = self.folder.lock(lock_name(application, number))
            if lock is not None:
                return number, lock
        raise AssertionError("count() does not end")

    def _remove_predecessors(self) -> None:
        # This worker has the lock, so they are dead, whatever their version.
        for name in self.folder.sockets():
            is_same = name.application == self.name.application
            if is_same and name.number == self.number:
                self.folder.remove(str(name))

    def _listen(self) -> socket.socket:
        # Under another name until it listens: until then it looks like a dead worker's.
        early = f"{self.name}.new"
        self.folder.remove(early)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            bound.bind(self.folder.address(early))
            self._identity = self.folder.identity(early)
            bound.listen(_BACKLOG)
            self.folder.rename(early, str(self.name))
        except BaseException:
            bound.close()
            self.folder.remove(early)
            raise
        return bound

    def is_whole(self) -> bool:
        """Return whether other workers find this one, and leave its number to it."""
        if self.socket is None:
            return False
        try:
            lock = os.fstat(self._lock)
            return (
                self.folder.is_in_place()
                and self.folder.identity(self._lock_name) == (lock.st_dev, lock.st_ino)
                and self._identity is not None
                and self.folder.identity(str(self.name)) == self._identity
            )
        except OSError:
            return False

    def leave(self) -> None:
        """Let nobody find this worker any more; those connected may still be answered."""
        name = str(self.name)
        # But not another socket that has been put there since.
        if self.socket is not None and self.folder.identity(name) == self._identity:
            self.folder.remove(name)

    def close(self) -> None:
        """Leave the directory; the number is free. May be called twice.

        A server that uses the socket has to be closed before.
        """
        if self.socket is not None:
            self.leave()
            self.socket.close()
            self.socket = None
        self.give_up()

    def give_up(self) -> None:
        """Close the descriptors of this process, and touch nothing in the directory."""
        if self.socket is not None:
            # Not by its close(): in a child, that waits for the parent's event loop.
            descriptor = self.socket.detach()
            self.socket = None
            if descriptor >= 0:
                os.close(descriptor)
        if self._lock >= 0:
            # Closed, not unlocked: in a child, that would unlock it for the parent, too.
            lock, self._lock = self._lock, -1
            os.close(lock)
        self.folder.close()
