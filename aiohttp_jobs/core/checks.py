"""Checks of arguments: each error names the argument and says what it takes."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import sys
from collections.abc import Coroutine, Iterable
from numbers import Real
from typing import TypeVar

__all__ = (
    "check_collection",
    "check_count",
    "check_flag",
    "check_future",
    "check_handler",
    "check_name",
    "check_schedule",
    "check_seconds",
    "check_spawn",
    "check_tick",
)


T = TypeVar("T")


def check_collection(argument: str, value: Iterable[T]) -> Iterable[T]:
    """Return the value; refuse anything but a collection."""
    try:
        iter(value)
    except TypeError:
        raise TypeError(f"{argument} takes a list or the like, not {value!r}") from None
    return value


def check_flag(argument: str, value: object) -> None:
    """Refuse anything but True or False, even if it could count as one of them."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} takes True or False, not {value!r}")


def check_schedule(argument: str, value: object) -> None:
    """Refuse anything but a schedule."""
    if not callable(getattr(value, "next_after", None)):
        raise TypeError(f"{argument} takes every(…) or cron(…), not {value!r}")


def check_tick(schedule: object, moment: float, tick: object) -> float:
    """Return the next tick that a schedule has returned, as a float.

    Refuse one that is not later than `moment`: a loop over the ticks would never end.
    """
    if not isinstance(tick, Real):
        raise TypeError(f"{schedule!r} has returned {tick!r} as its next tick, no number")
    found = float(tick)
    if not found > moment:
        raise ValueError(
            f"{schedule!r} has returned {tick!r} as the next tick after {moment!r}: that "
            "is not later"
        )
    return found


def check_seconds(argument: str, value: object) -> None:
    """Refuse anything but None or a number of seconds."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} takes a number of seconds or None, not {value!r}")
    if isinstance(value, int) and value > sys.float_info.max:
        raise ValueError(f"{argument} takes at most {sys.float_info.max} seconds or None")
    if value < 0 or math.isnan(value):
        raise ValueError(f"{argument} takes at least 0 seconds or None, not {value!r}")


def check_count(argument: str, value: object, *, least: int) -> None:
    """Refuse anything but None or a whole number of jobs."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} takes a number of jobs or None, not {value!r}")
    if value < least:
        raise ValueError(f"{argument} takes at least {least} or None, not {value!r}")


def check_handler(handler: object) -> None:
    """Refuse anything but None or a plain callable."""
    if handler is None:
        return
    if not callable(handler):
        raise TypeError(f"exception_handler takes a callable or None, not {handler!r}")
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004
    ):
        raise TypeError(
            f"exception_handler takes a plain function, and {handler!r} is a coroutine "
            "function, which nobody would await: let it spawn a job instead"
        )


def check_name(argument: str, value: object) -> None:
    """Refuse anything but None or a string."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{argument} takes a str or None, not {value!r}")


def check_spawn(
    coro: object,
    name: object = None,
    timeout: object = None,
    context: object = None,
    origin: object = None,
) -> None:
    """Refuse arguments that no job can be made of."""
    if not isinstance(coro, Coroutine):
        raise TypeError(_no_coroutine(coro))
    check_name("name", name)
    check_seconds("timeout", timeout)
    check_name("origin", origin)
    if context is not None and not isinstance(context, contextvars.Context):
        raise TypeError(f"context takes a contextvars.Context or None, not {context!r}")


def check_future(argument: str, value: object, loop: asyncio.AbstractEventLoop) -> None:
    """Refuse anything but a future of this event loop."""
    if not asyncio.isfuture(value):
        raise TypeError(f"{argument} takes a future, for example a task, not {value!r}")
    if value.get_loop() is not loop:
        raise RuntimeError(
            f"{argument}, {value!r}, belongs to a different event loop than the "
            "scheduler: use a scheduler of its own loop"
        )


def _no_coroutine(what: object) -> str:
    """Say that something is not a coroutine, and what was probably meant."""
    hint = ""
    if inspect.iscoroutinefunction(what):
        hint = ": call the coroutine function, spawn(f(...)) and not spawn(f)"
    elif isinstance(what, asyncio.Future):
        hint = ": a task or future is running already, wait for it with shield()"
    elif inspect.isawaitable(what):
        hint = ": await it inside a coroutine function of your own"
    return f"A coroutine is expected, not {what!r}{hint}"
