"""The names of sockets: they identify a worker before it is asked anything."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import sys
from dataclasses import dataclass
from typing import Final

from aiohttp_jobs._version import __version__

__all__ = ("VERSION", "SocketName", "application_id", "lock_name", "process_name")

# The version of what workers say to each other: that of the package, so nobody can forget
# to raise it. Workers of another version are shown, but never asked.
VERSION: Final = __version__

_NAME: Final = re.compile(
    r"v([\w.+!]{1,40})-([0-9a-f]{12})-(\d{1,6})-(\d{1,10})-([0-9a-f]{1,32})\.sock", re.A
)


@dataclass(frozen=True, order=True)
class SocketName:
    """Which worker listens there: its number, and who may speak with it."""

    number: int
    process: int
    application: str
    version: str = VERSION
    #: What :func:`process_name` returns there: known even if the worker does not answer.
    called: str = "0"

    def __str__(self) -> str:
        return (
            f"v{self.version}-{self.application}-{self.number}-{self.process}"
            f"-{self.called}.sock"
        )

    @classmethod
    def parse(cls, text: str) -> SocketName | None:
        """Return what a name in the directory means; None if it is no worker's."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        version, application, number, process, called = found.groups()
        return cls(int(number), int(process), application, version, called)


def lock_name(application: str, number: int) -> str:
    """Return the name of the file whose lock stands for this number.

    It has no version in it: so no two workers have the same number during an update.
    """
    return f"{application}-{number}.lock"


def application_id(name: str | None = None) -> str:
    """Return what tells the workers of one application from those of another.

    Args:
        name: the application's own name; None for the program that runs and the
            directory that it runs in, which are the same for all workers of a server.
    """
    if name is None:
        name = f"{os.path.realpath(sys.argv[0])}\n{os.getcwd()}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def process_name() -> str:
    """Return a name that no other process has, nor this one after a restart.

    Process ids are no use for that: they are reused.
    """
    return _name_of(os.getpid())  # asked for each time: workers are forks


@functools.cache
def _name_of(pid: int) -> str:
    return secrets.token_hex(4)
