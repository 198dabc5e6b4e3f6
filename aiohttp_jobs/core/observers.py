"""Observers: what is called when a job is spawned, started, running and closed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from .guests import LEAVES, call_guest, leave
from .job import Job
from .logs import job_fields, logger

__all__ = ("EVENTS", "Observers")

# The methods that an observer may have, in the order in which a job calls them.
EVENTS: Final = ("job_spawned", "job_started", "job_running", "job_closed")

_Call: TypeAlias = "tuple[object, Callable[[Job[Any]], object]]"


class Observers:
    """Calls the methods that its observers have; one that raises is dropped.

    An observer is an object with any of the methods in `EVENTS`, which take the job. One
    of our own that reads no context variables says so: ``needs_context = False``.
    """

    __slots__ = ("_observers", "need_context", *EVENTS)

    # What to call for each event; None for nothing. A job looks here first: four calls
    # that tell nobody would cost it as much as one observer does.
    job_spawned: tuple[_Call, ...] | None
    job_started: tuple[_Call, ...] | None
    job_running: tuple[_Call, ...] | None
    job_closed: tuple[_Call, ...] | None

    def __init__(self) -> None:
        self._observers: list[object] = []
        # Whether one of them needs the job's context: entering it costs as much as all
        # the rest.
        self.need_context = False
        for event in EVENTS:
            setattr(self, event, None)

    def add(self, observer: object) -> None:
        """Tell this observer too, from now on; once, however often it is added."""
        methods = {event: _method(observer, event) for event in EVENTS}
        if not any(methods.values()):
            raise TypeError(
                f"observer takes an object with one of the methods {', '.join(EVENTS)}, "
                f"and {observer!r} has none"
            )
        if any(other is observer for other in self._observers):
            return
        self._observers.append(observer)
        self._look_at_needs()
        for event, method in methods.items():
            if method is not None:
                calls: tuple[_Call, ...] = getattr(self, event) or ()
                setattr(self, event, (*calls, (observer, method)))

    def remove(self, observer: object) -> None:
        """Stop telling this observer; one not added, or dropped, is ignored."""
        self._observers = [other for other in self._observers if other is not observer]
        self._look_at_needs()
        for event in EVENTS:
            calls: tuple[_Call, ...] = getattr(self, event) or ()
            left = tuple(call for call in calls if call[0] is not observer)
            setattr(self, event, left or None)

    def _look_at_needs(self) -> None:
        self.need_context = any(
            getattr(observer, "needs_context", True) for observer in self._observers
        )

    def tell(self, event: str, job: Job[Any]) -> None:
        """Call the methods for this event. Nothing that they raise gets out."""
        calls: tuple[_Call, ...] = getattr(self, event) or ()
        for observer, method in calls:
            # What call_guest() does, without the extra call: every job comes here.
            try:
                method(job)
            except LEAVES as error:
                leave(error)
            except BaseException as error:
                self._drop(observer, event, job, error)

    def _drop(
        self, observer: object, event: str, job: Job[Any], error: BaseException
    ) -> None:
        self.remove(observer)
        if call_guest(_log, observer, event, job, error) is not None:
            call_guest(_log_in_short, event)


def _log(observer: object, event: str, job: Job[Any], error: BaseException) -> None:
    logger.error(
        "The observer %r failed in %s() and is disabled",
        observer,
        event,
        exc_info=error,
        extra={"observer_method": event, **job_fields(job)},
    )


def _log_in_short(event: str) -> None:
    """Log it when the observer's repr has raised, which is not the job's fault."""
    logger.error("An observer failed in %s() and is disabled", event)


def _method(observer: object, event: str) -> Callable[[Job[Any]], object] | None:
    method: Any = getattr(observer, event, None)
    if method is None:
        return None
    if not callable(method) or inspect.iscoroutinefunction(method):
        raise TypeError(
            f"observer takes plain methods, and {event} of {observer!r} is not one: "
            "spawn a job in it for what has to be awaited"
        )
    return method  # type: ignore[no-any-return]
