"""stack_of: where a suspended coroutine stands, through everything that it awaits."""

from __future__ import annotations

import gc
import traceback
import types
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, TypeAlias

__all__ = ("Place", "places_of", "stack_of")

# File, line number, function.
Place: TypeAlias = tuple[str, int, str]

# Between two coroutines there may be one or two helpers of the interpreter, which do not
# tell what they await; the garbage collector knows.
_HELPERS: Final = frozenset(
    {
        "anext_awaitable",
        "async_generator_asend",
        "async_generator_athrow",
        "coroutine_wrapper",
    }
)
_AWAITING: Final = (
    types.AsyncGeneratorType,
    types.CoroutineType,
    types.GeneratorType,
)
# The attributes of the three kinds for their frame, and for what they await.
_ATTRIBUTES: Final = (
    ("cr_frame", "cr_await"),
    ("gi_frame", "gi_yieldfrom"),
    ("ag_frame", "ag_await"),
)


def stack_of(
    coro: Coroutine[Any, Any, Any], limit: int | None = None
) -> traceback.StackSummary:
    """Return the frames of a coroutine and of what it awaits, the innermost one last.

    A coroutine that is running, not suspended, shows only its own frame.

    Args:
        limit: how many frames at most, the innermost ones; None for all.
    """
    frames = map(_frame_of, _awaited(coro, limit))
    walked = ((frame, frame.f_lineno) for frame in frames if frame is not None)
    return traceback.StackSummary.extract(walked)


def places_of(coro: Coroutine[Any, Any, Any], limit: int) -> list[Place]:
    """Return the places of these frames, without the lines of code.

    This is cheap enough to be called for many jobs each second: no file is read.
    """
    places: list[Place] = []
    for awaitable in _awaited(coro, limit):
        is_coroutine = type(awaitable) is types.CoroutineType
        frame = awaitable.cr_frame if is_coroutine else _frame_of(awaitable)
        if frame is not None:
            code = frame.f_code
            places.append((code.co_filename, frame.f_lineno or 0, code.co_name))
    return places


def _awaited(awaitable: Any, limit: int | None) -> list[Any]:
    """Go inwards over whatever has, or had, a frame; return the innermost ones.

    Frames, which are what costs, are fetched later, for the few that are wanted.
    """
    awaited: list[Any] = []
    while awaitable is not None:
        if type(awaitable) is types.CoroutineType:  # nearly always, and quick to check
            awaited.append(awaitable)
            awaitable = awaitable.cr_await
        elif _is_helper(awaitable):
            known: list[Any] = gc.get_referents(awaitable)
            awaitable = next((x for x in known if _awaits(x)), None)
        else:
            for frame_name, await_name in _ATTRIBUTES:
                if hasattr(awaitable, frame_name):
                    awaited.append(awaitable)
                    awaitable = getattr(awaitable, await_name, None)
                    break
            else:
                break
    return [*deque(awaited, limit)]


def _frame_of(awaitable: Any) -> types.FrameType | None:
    for frame_name, _ in _ATTRIBUTES:
        frame: types.FrameType | None = getattr(awaitable, frame_name, None)
        if frame is not None:
            return frame
    return None


def _awaits(known: object) -> bool:
    return type(known) in _AWAITING or _is_helper(known)


def _is_helper(awaitable: object) -> bool:
    return type(awaitable).__name__ in _HELPERS
