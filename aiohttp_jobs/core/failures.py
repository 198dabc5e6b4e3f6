"""Failures: an exception that somebody has to receive, and how to report one.

An exception is somebody else's code: it may raise whenever it is asked for anything, and
may refuse to be changed. None of that gets out of here: whoever reports a failure must
not be the next to fail.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, NoReturn, cast

__all__ = (
    "Failure",
    "before",
    "context_of",
    "inside_of",
    "line_of",
    "set_cause",
    "set_context",
    "set_traceback",
    "texts_of",
    "traceback_of",
    "type_name_of",
)

# BaseException's own descriptors: a frozen dataclass, say, refuses to have these set.
_OWN: Final[Any] = vars(BaseException)
traceback_of: Final = _OWN["__traceback__"].__get__
set_traceback: Final = _OWN["__traceback__"].__set__
context_of: Final = _OWN["__context__"].__get__
set_context: Final = _OWN["__context__"].__set__
set_cause: Final = _OWN["__cause__"].__set__


MOST_NOTES: Final = 5
# How many characters of a message are looked at for one line.
MOST_OF_LINE: Final = 1000


class Failure:
    """An exception that has not been raised to anybody yet.

    Args:
        error: the exception.
    """

    __slots__ = ("_when_raised", "error", "is_raised", "is_received")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        # Whether nobody has to be told any more: it was raised to somebody, or the
        # exception handler was told.
        self.is_received = False
        # Whether it was raised to somebody, before or after that.
        self.is_raised = False
        self._when_raised: TracebackType | None = traceback_of(error)

    def exception(self) -> BaseException:
        """Return it as first raised, without what was added to its traceback since."""
        return BaseException.with_traceback(self.error, self._when_raised)

    def take(self) -> None:
        """Note that the caller has it, and raises it in some form."""
        self.is_received = self.is_raised = True

    def receive(self) -> NoReturn:
        """Raise it to the caller, and note that the caller has it."""
        self.take()
        try:
            # As asyncio.Future does; otherwise each waiter would add to one traceback.
            raise self.exception()
        finally:
            del self  # the exception's traceback shows this frame: break the cycle


def line_of(error: BaseException) -> str:
    """Return its class and message in one line; for a group, also the first inside."""
    line, group = _line(error), error
    while inside := inside_of(error):
        error = inside[0]
    return line if error is group else f"{line}, first: {_line(error)}"


def _line(error: BaseException) -> str:
    name, message = type_name_of(error), _text(error)[:MOST_OF_LINE].strip()
    return f"{name}: {message.splitlines()[0]}" if message else name


def inside_of(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions in a group, as a TaskGroup raises; for others, nothing."""
    is_group = issubclass(type(error), BaseExceptionGroup)
    return _attribute(error, "exceptions") or () if is_group else ()


def before(error: BaseException) -> tuple[BaseException | None, bool]:
    """Return the exception that it came from, if any, and whether that was its cause.

    If not, that exception was being handled when this one was raised.
    """
    cause = _attribute(error, "__cause__")
    if isinstance(cause, BaseException):
        return cause, True
    if _attribute(error, "__suppress_context__"):
        return None, False
    context = _attribute(error, "__context__")
    return (context if isinstance(context, BaseException) else None), False


def type_name_of(error: BaseException) -> str:
    """Return its class as tracebacks show it: with the module, unless that is obvious."""
    kind = type(error)
    name, module = _name_of(kind), _attribute(kind, "__module__")
    if not isinstance(module, str) or module in ("builtins", "__main__"):
        return name
    return f"{module}.{name}"


_qualname_of: Final = vars(type)["__qualname__"].__get__


def _name_of(kind: type) -> str:
    """Use the descriptor of `type`: a metaclass may have its own, which raises."""
    name: str = _qualname_of(kind)
    return name


def texts_of(error: BaseException) -> list[str]:
    """Return its message and the first notes that were added to it."""
    notes = _attribute(error, "__notes__")
    texts = [_text(error)]
    if isinstance(notes, list):
        texts += map(_text, cast(list[object], notes)[:MOST_NOTES])
    return texts


def _attribute(error: object, name: str) -> Any:
    """Read an attribute that a subclass may have overridden, and that may raise."""
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
