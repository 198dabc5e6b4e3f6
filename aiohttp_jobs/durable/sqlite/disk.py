"""Disk: whether a file may be where it is, and whether it is still the same file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from aiohttp_jobs.core.errors import StoreUnavailable

__all__ = ("check_place", "file_system_of", "identity_of")

# File systems that other machines may write to, too. SQLite's write-ahead log shares
# memory between processes, and owners are known by locks: neither works across machines.
_SHARED: Final = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "ocfs2", "prl_fs", "smb2", "smb3", "smbfs", "vboxsf", "vmhgfs"),
        *("fuse.ceph", "fuse.cephfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs"),
        *("fuse.sshfs", "fuse.vmhgfs-fuse"),
    }
)
_MOUNTS: Final = Path("/proc/self/mountinfo")


def check_place(path: str) -> None:
    """Refuse a file on a disk that machines share. Only Linux can tell.

    Raises:
        StoreUnavailable: the file is on one.
    """
    try:
        mounts = _MOUNTS.read_text(errors="replace")
    except OSError:
        return
    kind = file_system_of(os.path.realpath(path), mounts)
    if kind in _SHARED:
        raise StoreUnavailable(
            f"the file {path} is on a file system that machines share ({kind}), where "
            "neither its log nor its locks work: put it on a local disk, or use a broker"
        )


def file_system_of(path: str, mounts: str) -> str | None:
    """Return the kind of file system that a path lies on.

    Args:
        path: an absolute path without symbolic links.
        mounts: the text of ``/proc/self/mountinfo``.
    """
    found, longest = None, -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5:
            continue
        # Spaces and the like are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two mounts at one place, the later one hides the other.
        if is_above and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def identity_of(path: str) -> tuple[int, int]:
    """Return what distinguishes the file at a path from every other one.

    Raises:
        OSError: there is no file.
    """
    status = os.stat(path)
    return status.st_dev, status.st_ino
