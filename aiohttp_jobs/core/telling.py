"""Telling: what is told of a job, to observers and of failures, in the job's context."""

from __future__ import annotations

import asyncio
import traceback
from functools import partial
from typing import Any

from .binding import Binding
from .failures import Failure
from .guests import in_context
from .job import Job, forget
from .observers import Observers
from .reports import Reports

__all__ = ("Telling",)


class Telling:
    """Tells of jobs, whoever or whatever timer has made it happen.

    Args:
        binding: where.
        reports: who is told of failures.
    """

    __slots__ = ("_binding", "_reports", "observers")

    def __init__(self, binding: Binding, reports: Reports) -> None:
        self._binding = binding
        self._reports = reports
        # None unless somebody observes, which then costs nothing.
        self.observers: Observers | None = None

    def add(self, observer: object) -> None:
        """Tell this observer, too, from now on."""
        observers = Observers() if self.observers is None else self.observers
        observers.add(observer)
        self.observers = observers

    def remove(self, observer: object) -> None:
        """Tell this observer no more."""
        if self.observers is not None:
            self.observers.remove(observer)
            if not self.observers:
                self.observers = None

    def tell(self, event: str, job: Job[Any]) -> None:
        """Tell the observers."""
        observers = self.observers
        if observers is not None and observers.listen_to(event):
            # Its own task is in its context already.
            is_there = job.task is not None and job.task is asyncio.current_task()
            context = None if is_there else job.context
            in_context(context, partial(observers.tell, event, job))

    def failed(self, job: Job[Any], failure: Failure | None, *, is_let_go: bool) -> None:
        """Tell of a failure, unless somebody receives it."""
        assert failure is not None
        message = "Job closing timed out" if is_let_go else "Job processing failed"
        make = partial(self._context_of, job, message, failure)
        after = bool if is_let_go else partial(forget, job)
        assert self._binding.loop is not None
        self._reports.later(self._binding.loop, failure, make, job.context, after)

    def _context_of(
        self, job: Job[Any], message: str, failure: Failure
    ) -> dict[str, Any]:
        """Make what the exception handler is called with."""
        context: dict[str, Any] = {
            "message": message,
            "job": job,
            "exception": failure.exception(),
        }
        if self._reports.handler is None:
            # The loop's own writes down what is there, and a job's repr tells no name.
            context |= {"job_id": job.id, "job_name": job.label, "job_origin": job.origin}
        # In debug mode Python notes where a coroutine is made, and that is where a job is
        # spawned.
        if made := getattr(job.coro, "cr_origin", None):
            context["source_traceback"] = traceback.StackSummary.from_list(
                (file, line, name, None) for file, line, name in reversed(made)
            )
        return context
