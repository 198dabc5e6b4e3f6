"""Locks: how the processes know which of them are alive.

Every owner of jobs has a number, and holds a lock on the byte of that number in a small
file beside the database. The operating system releases the lock when the process ends,
however it ends: so there is no lease to renew, and no clock to trust.

The locks are those of :func:`fcntl.lockf`, which belong to the process. Those of
:func:`fcntl.flock` would live on in its children. But they have two traps: closing any
other descriptor of the file would give up all of them, and to the process itself a lock
always seems free. That is why all locks of a process on one file go through one
descriptor, which is kept here.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

__all__ = ("Locks",)

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, number: int) -> bool:
        os.lseek(descriptor, number, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int, number: int) -> None:
        os.lseek(descriptor, number, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, number: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True

    def _unlock(descriptor: int, number: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)


class _File:
    """A file of locks that this process has open."""

    __slots__ = ("descriptor", "held", "identity", "users")

    def __init__(self, descriptor: int, identity: tuple[int, int]) -> None:
        self.descriptor = descriptor
        self.identity = identity
        # The numbers that this process has locked.
        self.held = set[int]()
        self.users = 0


# The files that the process has open. A forked child has none of the locks.
_files: Final = dict[tuple[int, int], _File]()
_guard: Final = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_files.clear)


class Locks:
    """The locks on one file, which is made if it is not there. Close it after use.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with _guard:
            try:
                status = os.stat(path)
                file = _files.get((status.st_dev, status.st_ino))
            except FileNotFoundError:
                file = None
            if file is None:
                file = _open(path)
            file.users += 1
            self._file: _File | None = file

    def is_in_place(self) -> bool:
        """Return whether the file is still the one at the path, where the others look."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        file = self._file
        return file is not None and file.identity == (status.st_dev, status.st_ino)

    def take(self, number: int) -> bool:
        """Lock this number; return False if any process, even this one, has it locked."""
        file = self._file
        with _guard:
            if file is None or number in file.held or not _lock(file.descriptor, number):
                return False
            file.held.add(number)
            return True

    def free(self, number: int) -> None:
        """Give up the lock on this number."""
        file = self._file
        with _guard:
            if file is not None and number in file.held:
                file.held.discard(number)
                _unlock(file.descriptor, number)

    def close(self) -> None:
        """Close the file, if nobody else in this process has it open."""
        with _guard:
            file, self._file = self._file, None
            if file is None:
                return
            file.users -= 1
            if file.users == 0 and _files.get(file.identity) is file:
                del _files[file.identity]
                os.close(file.descriptor)


def _open(path: str) -> _File:
    # Whoever may write to the database may lock: the umask decides, as it does there.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    status = os.fstat(descriptor)
    file = _File(descriptor, (status.st_dev, status.st_ino))
    return _files.setdefault(file.identity, file)
