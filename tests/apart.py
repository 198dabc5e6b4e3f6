"""Applications that act as separate workers, though they are in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

from aiohttp_jobs.share import member

__all__ = ("apart",)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Keep applications set up in this block out of any existing worker."""
    with mock.patch.object(member, "_joints", {}):
        yield
