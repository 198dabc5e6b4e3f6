"""stack_of: where a suspended coroutine stands, through everything that it awaits."""

from __future__ import annotations

import gc
import traceback
import types
from collections.abc import Coroutine, Iterator
from typing import Any, Final

__all__ = ("stack_of",)

# Between two coroutines that await each other may stand a helper of the interpreter, or
# two, that do not tell what they await; the garbage collector knows.
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
# How the three kinds call their frame, and what they await.
_ATTRIBUTES: Final = (
    ("cr_frame", "cr_await"),
    ("gi_frame", "gi_yieldfrom"),
    ("ag_frame", "ag_await"),
)


def stack_of(coro: Coroutine[Any, Any, Any]) -> traceback.StackSummary:
    """Return the frames of a coroutine and of what it awaits, the innermost one last.

    A coroutine that is running, and not suspended, shows its own frame only.
    """
    return traceback.StackSummary.extract(_frames(coro))


def _frames(awaitable: Any) -> Iterator[tuple[types.FrameType, int]]:
    while awaitable is not None:
        if _is_helper(awaitable):
            known: list[Any] = gc.get_referents(awaitable)
            awaitable = next((x for x in known if _awaits(x)), None)
            continue
        for frame_name, await_name in _ATTRIBUTES:
            if hasattr(awaitable, frame_name):
                frame = getattr(awaitable, frame_name)
                if frame is not None:
                    yield frame, frame.f_lineno
                awaitable = getattr(awaitable, await_name, None)
                break
        else:
            return


def _awaits(known: object) -> bool:
    return type(known) in _AWAITING or _is_helper(known)


def _is_helper(awaitable: object) -> bool:
    return type(awaitable).__name__ in _HELPERS
