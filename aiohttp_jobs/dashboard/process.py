"""Process: the name of this process, and the addresses of its jobs.

Each process numbers its jobs from 1. Their addresses have the process's name next to the
number: a page may have come from one worker, and its button lead to another.
"""

from __future__ import annotations

from aiohttp_jobs.share.names import process_name

__all__ = ("address_of", "process_name")


def address_of(job_id: int) -> str:
    """Return an address that no other job has, in any process."""
    return f"{process_name()}-{job_id}"
