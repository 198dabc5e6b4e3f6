"""Process: what this process is called, and how its jobs are addressed."""

from __future__ import annotations

import functools
import os
import secrets

__all__ = ("address_of", "process_name")


def process_name() -> str:
    """What no other process is called, nor this one after a restart.

    Jobs are numbered in each process from 1 on. Their addresses have this beside the
    number: a page may have come from one worker, and its button lead to another.
    """
    return _name_of(os.getpid())  # asked for each time: workers are forks


def address_of(job_id: int) -> str:
    """What no other job is called, of whichever process."""
    return f"{process_name()}-{job_id}"


@functools.cache
def _name_of(pid: int) -> str:
    return secrets.token_hex(4)
