"""Envelope: what every store keeps of a durable job, in the same form."""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple

__all__ = ("Envelope", "new_id")

# The first version. A form that older releases cannot read gets a higher one.
_VERSION: Final = 1

_decode: Final = json.JSONDecoder().raw_decode
_UNREADABLE: Final = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


def new_id() -> str:
    """Return an id that no other job has, in any store."""
    return os.urandom(16).hex()


# One is made for each job that is kept, and again when it is fetched: a tuple takes a
# fifth of the time that a frozen dataclass does.
class Envelope(NamedTuple):
    """One durable job, as it waits: what to run, when, and what is known about it.

    Times are seconds since the epoch, like those of :func:`time.time`.
    """

    #: The same for all attempts, and different from any other job's.
    id: str
    #: The name of its task.
    task: str
    #: Its arguments without the application, ``[args, kwargs]`` as JSON.
    arguments: str
    #: When it was accepted.
    accepted_at: float
    #: The number of the attempt that comes next, or is under way, from 1.
    attempt: int = 1
    #: The job does not begin before this; None for at once.
    due: float | None = None
    #: Of the jobs that are due, those with a higher number begin first.
    priority: int = 0
    #: At most one job with the same task and key waits.
    key: str | None = None
    #: Where it comes from, for example the method and route of a request.
    origin: str | None = None
    #: The span that was current when it was accepted, in W3C's form.
    traceparent: str | None = None

    def unpack(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments.

        Raises:
            ValueError: they were not written by :class:`Task`.
        """
        args: object
        kwargs: object
        try:
            # json.loads() would skip whitespace around it, and there is none.
            (args, kwargs), end = _decode(self.arguments)
            if end != len(self.arguments):
                args = None
        except (TypeError, ValueError):
            args = kwargs = None
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise ValueError(f"The arguments of job {self.id} cannot be read")
        return args, kwargs  # pyright: ignore[reportUnknownVariableType]

    def again(self, due: float) -> Envelope:
        """Return the envelope of the next attempt."""
        return self._replace(attempt=self.attempt + 1, due=due)

    def to_json(self) -> str:
        """Return all of it as one string, for a store that keeps messages."""
        return json.dumps({"version": _VERSION, **self._asdict()})

    @classmethod
    def from_json(cls, text: str | bytes) -> Envelope:
        """Read what :meth:`to_json` wrote, even in a somewhat newer release.

        Raises:
            ValueError: it is something else.
        """
        try:
            found: Any = json.loads(text)
            if found.pop("version") > _VERSION:
                raise ValueError("it was written by a newer release")
            names = cls._fields
            envelope = cls(**{name: found[name] for name in found if name in names})
            if not isinstance(envelope.id, str) or not isinstance(envelope.task, str):
                raise ValueError("its id or task is not a string")
            if not isinstance(envelope.attempt, int):
                raise ValueError("its attempt is not a number")
            if not isinstance(envelope.due, float | int | None):
                raise ValueError("its due is not a number")
        except _UNREADABLE as error:
            raise ValueError(f"This is not a readable durable job: {error}") from None
        return envelope
