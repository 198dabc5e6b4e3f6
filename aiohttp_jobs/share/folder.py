"""The directory that the workers share, reached through one descriptor only.

Anyone who may write there could put a socket of their own in a worker's place. So it has
to belong to this user and nobody else, and what was checked is what is used: a path may
lead somewhere else a moment later, but the descriptor does not.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress

from .names import SocketName

__all__ = ("Folder", "check_share", "share_of_environment")


def share_of_environment() -> str | None:
    """Return what ``AIOHTTP_JOBS_SHARE`` says; None if it is empty or not set."""
    return os.environ.get("AIOHTTP_JOBS_SHARE") or None


def check_share(share: str | os.PathLike[str]) -> str:
    """Return the absolute path that ``share`` means, without a slash at its end.

    Raises:
        TypeError: it is not a path.
        ValueError: it is empty, or has a null character.
        RuntimeError: workers cannot find each other on this platform.
    """
    path = os.fspath(share) if isinstance(share, str | os.PathLike) else None
    if not isinstance(path, str):
        raise TypeError(f"share takes the path of a directory, as a str, not {share!r}")
    if not path or "\0" in path:
        raise ValueError(f"share takes the path of a directory, not {path!r}")
    if sys.platform != "linux":
        raise RuntimeError(
            f"share={path!r} was given on {sys.platform}: workers find each other on "
            "Linux only, leave share out on other platforms"
        )
    # A last slash would make the kernel follow a link in spite of O_NOFOLLOW.
    return os.path.join(os.getcwd(), path).rstrip("/") or "/"


class Folder:
    """The directory, open. :meth:`close` closes it, and may be called twice.

    Args:
        path: as :func:`check_share` returns it. The directory is made, with mode 0700,
            if it is not there; the one above it has to be.

    Raises:
        RuntimeError: it cannot be made or opened, is no real directory, or does not
            belong to this user alone; the sentence tells which, and what to do.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(path, flags)
        except NotADirectoryError:
            # The kernel says this of a link, too: it looks at O_DIRECTORY first.
            raise RuntimeError(
                f"share={path!r} is not a directory, or is a link to one: give the path "
                "of a directory itself"
            ) from None
        except OSError as exc:
            raise RuntimeError(
                f"share={path!r} cannot be opened ({exc.strerror}): give a directory "
                "that the workers may write to, or may make in an existing one"
            ) from exc
        try:
            _check(path, os.fstat(self.descriptor))
        except BaseException:
            self.close()
            raise

    def is_in_place(self) -> bool:
        """Return whether the path still leads to this directory."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))

    def address(self, name: str) -> str:
        """Return the path to bind or connect a socket by.

        It goes through the descriptor: so it is short, however long the directory's path
        is, and leads there even if that path no longer does.
        """
        return f"/proc/self/fd/{self.descriptor}/{name}"

    def sockets(self) -> list[SocketName]:
        """Return the names of all workers' sockets, of whatever application, sorted."""
        found = (SocketName.parse(name) for name in os.listdir(self.descriptor))
        return sorted(name for name in found if name is not None)

    def identity(self, name: str) -> tuple[int, int] | None:
        """Return what identifies a file, whatever its name; None if it is not there."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, unless it is already gone."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def lock(self, name: str) -> int | None:
        """Lock a file, which is made if need be.

        Returns:
            the descriptor that holds the lock until it is closed; None if another process
            has the lock. It is given back whenever the process dies, but a forked child
            has a copy.
        """
        import fcntl  # not there on Windows, where share is refused with a sentence

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


def _check(path: str, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeError(f"share={path!r} is not a directory: give the path of one")
    user = os.geteuid()
    if found.st_uid != user:
        raise RuntimeError(
            f"share={path!r} belongs to the user with the number {found.st_uid}, and the "
            f"application runs as {user}: give it a directory of its own user"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise RuntimeError(
            f"share={path!r} has the mode {mode:04o}, which lets in others than its "
            "user: give it the mode 0700 (chmod 700), or give the path of a directory in "
            "it that is not there yet, which is then made with that mode"
        )
