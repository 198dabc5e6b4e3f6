"""OpenTelemetry: a span for each job. Needs the extra ``opentelemetry``, the API alone.

The code that spawns a background job does not wait for it: the job may run much later,
and take long. So it begins a trace of its own that is linked to the span that spawned it,
and its kind is CONSUMER, OpenTelemetry's kind for deferred execution. But a request waits
for its atomic handler, so the handler's span is a child of the request's, and INTERNAL.

An attempt of a durable job may run in another process, days later: the span that enqueued
it travels with the job, and the attempt is linked to that one.
"""

from __future__ import annotations

import traceback
from contextvars import Token
from typing import Any, Final, TypeAlias

from .core.errors import missing_extra

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace import (
        Link,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise missing_extra(error, "opentelemetry") from error


from .core.enqueued import attempt_of, tell_spans_by
from .core.failures import line_of, texts_of, traceback_of, type_name_of
from .core.guests import call_guest
from .core.job import Job
from .core.states import LET_GO

__all__ = ("JobTracer",)

_Attributes: TypeAlias = dict[str, str | int | float]

_TRACEPARENT: Final = "traceparent"
_w3c: Final = TraceContextTextMapPropagator()


class JobTracer:
    """An observer that makes a span for each job that runs, current in the job.

    ``setup(app, observers=[JobTracer()])``. One may observe any number of schedulers.
    From the first one on, durable jobs that this process spawns keep the current span.

    Args:
        tracer_provider: None for the global one.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("aiohttp_jobs", tracer_provider=tracer_provider)
        # The span of each running job, and the token that detaches it from the context.
        self._running: dict[Job[Any], tuple[Span, Token[Context]]] = {}
        tell_spans_by(_current_traceparent)

    def job_running(self, job: Job[Any]) -> None:
        """Begin the span. The current one, of the job's context, is the spawner's."""
        attributes = _attributes(job)
        attempt = attempt_of(job.coro)
        if attempt is not None:
            attributes |= {
                "aiohttp_jobs.durable_id": attempt.id,
                "aiohttp_jobs.durable_task": attempt.task,
                "aiohttp_jobs.durable_attempt": attempt.attempt,
            }
            span = self._begin(job, attributes, _span_of(attempt.traceparent))
        elif not job.takes_slot:  # an atomic handler: in its first step no job waits
            span = self._tracer.start_span(job.coro_name, attributes=attributes)
        else:
            spawner = trace.get_current_span().get_span_context()
            span = self._begin(job, attributes, spawner)
        # It is invalid without a tracer provider. Then the spawner's, which may have come
        # with a request, stays current for what the job calls.
        if span.get_span_context().is_valid:
            self._running[job] = span, attach(trace.set_span_in_context(span))

    def _begin(
        self, job: Job[Any], attributes: _Attributes, spawner: SpanContext
    ) -> Span:
        return self._tracer.start_span(
            job.coro_name,
            context=Context(),  # a span without a parent
            kind=SpanKind.CONSUMER,
            links=[Link(spawner)] if spawner.is_valid else (),
            attributes=attributes,
        )

    def job_closed(self, job: Job[Any]) -> None:
        """End the span. A job that was cancelled before its first step has none."""
        running = self._running.pop(job, None)
        if running is None:
            return
        span, token = running
        if job.state is not LET_GO:
            detach(token)  # the context may have been given to other jobs, too
        try:
            _tell_end(span, job)
        finally:
            span.end()


def _tell_end(span: Span, job: Job[Any]) -> None:
    span.set_attribute("aiohttp_jobs.outcome", job.state.name.lower())
    error = job.exception()
    if error is not None:
        span.set_attribute("error.type", type_name_of(error))
        span.set_status(Status(StatusCode.ERROR, line_of(error)))
        _record(span, error)
    elif job.state is LET_GO:
        # Noted from outside the job's context, while the job still runs.
        span.set_status(
            Status(StatusCode.ERROR, "It did not end in time after it was cancelled")
        )


def _record(span: Span, error: BaseException) -> None:
    # This asks the exception for its text, which may raise anything.
    if call_guest(span.record_exception, error) is not None:
        span.add_event(
            "exception",
            {
                "exception.type": type_name_of(error),
                "exception.message": "\n".join(texts_of(error)),
                "exception.stacktrace": "".join(traceback.format_tb(traceback_of(error))),
            },
        )


def _current_traceparent() -> str | None:
    carrier = dict[str, str]()
    _w3c.inject(carrier)
    return carrier.get(_TRACEPARENT)


def _span_of(traceparent: str | None) -> SpanContext:
    """Return the span that W3C's form names; an invalid span if it names none."""
    carrier = {_TRACEPARENT: traceparent} if isinstance(traceparent, str) else {}
    context = _w3c.extract(carrier, Context())
    return trace.get_current_span(context).get_span_context()


def _attributes(job: Job[Any]) -> _Attributes:
    assert job.spawned_at is not None
    assert job.started_at is not None
    attributes: _Attributes = {
        "code.function.name": _function_name(job),
        "aiohttp_jobs.job_id": job.id,
        "aiohttp_jobs.job_name": job.label,
        "aiohttp_jobs.wait_seconds": job.started_at - job.spawned_at,
    }
    if job.key is not None:
        attributes["aiohttp_jobs.key"] = job.key
    if job.origin is not None:
        attributes["aiohttp_jobs.origin"] = job.origin
    return attributes


def _function_name(job: Job[Any]) -> str:
    """Return the name of the coroutine's function, with its module if that is known.

    A coroutine renamed by a decorator, for example, knows only the decorator's module.
    """
    frame = getattr(job.coro, "cr_frame", None)
    if frame is None or frame.f_code.co_qualname != job.coro_name:
        return job.coro_name
    module = frame.f_globals.get("__name__")  # exec() needs none
    return f"{module}.{job.coro_name}" if module else job.coro_name
