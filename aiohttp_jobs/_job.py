"""Job, where applications that come from aiojobs look for it."""

from .core.job import Job

__all__ = ("Job",)
