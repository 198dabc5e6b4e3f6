"""A store in one SQLite file: :class:`SQLiteStore`."""

from .store import SQLiteStore

__all__ = ("SQLiteStore",)
