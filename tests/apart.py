"""Applications of one process that are workers of their own, as if each had one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

from aiohttp_jobs.share import member

__all__ = ("apart",)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What begins in this block is no part of a worker that is there already."""
    with mock.patch.object(member, "_joints", {}):
        yield
