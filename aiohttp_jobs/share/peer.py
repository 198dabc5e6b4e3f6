"""Who is at the other end of a unix socket."""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

__all__ = ("Peer", "is_own_user", "peer_of")


class Peer(NamedTuple):
    """The process that connected, or that listens, as the kernel knows it."""

    process: int
    user: int
    group: int


def peer_of(descriptor: int) -> Peer:
    """Return who is at the other end.

    Args:
        descriptor: that of a connected unix socket. It stays open.

    Raises:
        OSError: the descriptor is no such socket, or is closed.
    """
    # Through a copy: not all sockets that event loops hand out have getsockopt().
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        size = struct.calcsize("3i")
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return Peer(*struct.unpack("3i", found))


def is_own_user(peer: Peer) -> bool:
    """Return whether it is a process of the user that this one runs as.

    Root is not: it has no part in the application, and sees everything anyway.
    """
    return peer.user == os.geteuid()
