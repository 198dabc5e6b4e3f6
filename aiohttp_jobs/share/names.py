"""The names of sockets: by them a worker is known before it is asked anything."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from typing import Final

__all__ = ("VERSION", "SocketName", "application_id", "lock_name")

# Of what the workers say to each other. Those of another one are told, never asked.
VERSION: Final = 1

_NAME: Final = re.compile(r"v(\d{1,6})-([0-9a-f]{12})-(\d{1,6})-(\d{1,10})\.sock", re.A)


@dataclass(frozen=True, order=True)
class SocketName:
    """Which worker listens there: its number, and what may speak with it."""

    number: int
    process: int
    application: str
    version: int = VERSION

    def __str__(self) -> str:
        return f"v{self.version}-{self.application}-{self.number}-{self.process}.sock"

    @classmethod
    def parse(cls, text: str) -> SocketName | None:
        """Return what a name in the directory means, or None if it is no worker's."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        version, application, number, process = found.groups()
        return cls(int(number), int(process), application, int(version))


def lock_name(application: str, number: int) -> str:
    """Return the name of the file whose lock is this number.

    Without the version: while versions change, no two workers have the same number.
    """
    return f"{application}-{number}.lock"


def application_id(name: str | None = None) -> str:
    """Return what tells the workers of one application from those of another one.

    Args:
        name: the application's own name; None for the program that runs and the
            directory that it runs in, which are the same for all workers of a server.
    """
    if name is None:
        name = f"{os.path.realpath(sys.argv[0])}\n{os.getcwd()}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
