"""Telling: what observers and handlers are told of a job, in the job's context."""

from __future__ import annotations

import asyncio
import traceback
from functools import partial
from typing import Any

from .binding import Binding
from .failures import Failure
from .job import Job, forget
from .mark import mark
from .observers import Observers
from .reports import Reports
from .states import ACTIVE, SUCCEEDED

__all__ = ("Telling",)


class Telling:
    """Tells what happens to jobs, whoever or whatever timer has made it happen.

    Args:
        binding: the event loop.
        reports: where failures go.
    """

    __slots__ = ("_binding", "_reports", "observers")

    def __init__(self, binding: Binding, reports: Reports) -> None:
        self._binding = binding
        self._reports = reports
        #: The observers. Look there first whether there are any.
        self.observers = Observers()

    def add(self, observer: object) -> None:
        """Tell this observer too, from now on."""
        self.observers.add(observer)

    def remove(self, observer: object) -> None:
        """Stop telling this observer."""
        self.observers.remove(observer)

    def tell(self, event: str, job: Job[Any]) -> None:
        """Tell the observers of an event."""
        observers, context = self.observers, job.context
        if context is None or not observers.need_context or _is_inside(job):
            observers.tell(event, job)
        else:
            # A copy can be entered even while the context itself is in use.
            context.copy().run(observers.tell, event, job)

    def failed(self, job: Job[Any], failure: Failure | None, *, is_let_go: bool) -> None:
        """Report a failure, unless somebody receives it."""
        assert failure is not None
        message = "Job closing timed out" if is_let_go else "Job processing failed"
        make = partial(self._context_of, job, message, failure)
        after = bool if is_let_go else partial(forget, job)
        assert self._binding.loop is not None
        self._reports.later(self._binding.loop, failure, make, job.context, after)

    def _context_of(
        self, job: Job[Any], message: str, failure: Failure
    ) -> dict[str, Any]:
        """Make the context that the exception handler is called with."""
        context: dict[str, Any] = {
            "message": message,
            "job": job,
            "exception": failure.exception(),
        }
        if self._reports.handler is None:
            # The loop's own handler logs what is here, and a job's repr has no name.
            context |= {"job_id": job.id, "job_name": job.label, "job_origin": job.origin}
        # In debug mode, Python notes where a coroutine is made, which is where the job is
        # spawned.
        if made := getattr(job.coro, "cr_origin", None):
            context["source_traceback"] = traceback.StackSummary.from_list(
                (file, line, name, None) for file, line, name in reversed(made)
            )
        return context


def _is_inside(job: Job[Any]) -> bool:
    """Return whether the job's own task is running, in the job's context."""
    if job.owns_context and (job.state is ACTIVE or job.state is SUCCEEDED):
        # The mark tells the same at a tenth of the cost on Python 3.11. (A job that was
        # let go may be reported by a timer of its child task, which has the mark too.)
        return mark.get(0) == job.id
    return job.task is not None and job.task is asyncio.current_task()
