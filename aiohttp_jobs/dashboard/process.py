"""Process: what this process is called, and how its jobs are addressed.

Jobs are numbered in each process from 1 on. Their addresses have the process's name
beside the number: a page may have come from one worker, and its button lead to another.
"""

from __future__ import annotations

from aiohttp_jobs.share.names import process_name

__all__ = ("address_of", "process_name")


def address_of(job_id: int) -> str:
    """What no other job is called, of whichever process."""
    return f"{process_name()}-{job_id}"
