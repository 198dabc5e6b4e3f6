"""Failures: how an exception is told of in logs, spans and pages.

It is anybody's code, which may raise where it is asked for its message. Nothing of that
gets out of here: whoever tells of a failure must not be the next one to fail.
"""

from __future__ import annotations

__all__ = ("line_of", "message_of", "type_name_of")


def line_of(error: BaseException) -> str:
    """Return its class and message in one line."""
    name, message = type_name_of(error), message_of(error).strip()
    return f"{name}: {message.splitlines()[0]}" if message else name


def type_name_of(error: BaseException) -> str:
    """Return its class as tracebacks have it: with the module, unless that is obvious."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """Return its message, or that it has none to show."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"
