"""Failures: how an exception is told of in logs, spans and pages.

It is anybody's code, which may raise where it is asked for its message. Nothing of that
gets out of here: whoever tells of a failure must not be the next one to fail.
"""

from __future__ import annotations

from typing import Any, Final, cast

__all__ = ("before", "inside_of", "line_of", "texts_of", "type_name_of")

MOST_NOTES: Final = 5
# Letters that are looked at for one line.
MOST_OF_LINE: Final = 1000


def line_of(error: BaseException) -> str:
    """Return its class and message in one line; of a group, with the first one inside."""
    line, group = _line(error), error
    while inside := inside_of(error):
        error = inside[0]
    return line if error is group else f"{line}, first: {_line(error)}"


def _line(error: BaseException) -> str:
    name, message = type_name_of(error), _text(error)[:MOST_OF_LINE].strip()
    return f"{name}: {message.splitlines()[0]}" if message else name


def inside_of(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions in a group, as a TaskGroup raises; of others, nothing."""
    is_group = issubclass(type(error), BaseExceptionGroup)
    return _attribute(error, "exceptions") or () if is_group else ()


def before(error: BaseException) -> tuple[BaseException | None, bool]:
    """Return the exception that it came from, if any, and whether that was its cause.

    If not its cause, it was what was being handled when this one was raised.
    """
    cause = _attribute(error, "__cause__")
    if isinstance(cause, BaseException):
        return cause, True
    if _attribute(error, "__suppress_context__"):
        return None, False
    context = _attribute(error, "__context__")
    return (context if isinstance(context, BaseException) else None), False


def type_name_of(error: BaseException) -> str:
    """Return its class as tracebacks have it: with the module, unless that is obvious."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def texts_of(error: BaseException) -> list[str]:
    """Return its message, and the first of the notes that were added to it."""
    notes = _attribute(error, "__notes__")
    texts = [_text(error)]
    if isinstance(notes, list):
        texts += map(_text, cast(list[object], notes)[:MOST_NOTES])
    return texts


def _attribute(error: BaseException, name: str) -> Any:
    """Read an attribute that a subclass may have made its own, and that may raise."""
    try:
        return getattr(error, name, None)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return None


def _text(value: object) -> str:
    try:
        return str(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "(its text cannot be shown)"
