"""Schedules: when a periodic job is due, for jobs in memory and durable ones alike.

A schedule is a set of moments, its ticks, which are the same for everybody: they do not
depend on when a process was started. So processes that share a schedule agree on each
tick, and one of them can run it for all.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = ("Cron", "Every", "Schedule", "cron", "every")


class Schedule(Protocol):
    """What :func:`every` and :func:`cron` return; you may also write one of your own.

    Its :func:`repr` is shown to people.
    """

    def next_after(self, moment: float) -> float:
        """Return the first tick that is later than `moment`.

        Both are seconds since the epoch, like those of :func:`time.time`. The result
        depends on nothing else. If this raises, or returns a moment that is not later,
        the schedule is no longer followed, and the exception handler is told.
        """
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """Ticks at the whole multiples of `seconds` since the epoch; see ``every()``."""

    seconds: float

    def __repr__(self) -> str:
        return f"every({self.seconds!r})"

    def next_after(self, moment: float) -> float:
        """Return the first tick later than `moment`; both in seconds since the epoch."""
        count = math.floor(moment / self.seconds)
        # The quotient may be rounded either way: the products decide.
        while count * self.seconds > moment:
            count -= 1
        while count * self.seconds <= moment:
            count += 1
        return count * self.seconds


@dataclass(frozen=True, slots=True)
class Cron:
    """Ticks when a clock on the wall says so; see ``cron()``."""

    expression: str
    tz: str

    def __repr__(self) -> str:
        return f"cron({self.expression!r}, tz={self.tz!r})"

    def next_after(self, moment: float) -> float:
        """Return the first tick later than `moment`; both in seconds since the epoch.

        When the clocks go forward, a tick in the skipped hour comes right after it; when
        they go back, a tick at a fixed time of day comes only once.
        """
        for tick in _ticks(
            self.expression, datetime.fromtimestamp(moment, _zone(self.tz))
        ):
            # An hour that comes twice has its ticks only the first time; the second time
            # they are past.
            if tick.timestamp() > moment:
                return tick.timestamp()
        raise ValueError(_never(self.expression))


def every(seconds: float) -> Every:
    """Return a schedule with a tick every `seconds` seconds.

    The ticks are the whole multiples since the epoch: ``every(3600)`` is on the hour in
    UTC, in every process.

    Args:
        seconds: the time between two ticks; a fraction is allowed.

    Raises:
        TypeError, ValueError: it is not a number greater than 0.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"every() takes a number of seconds, not {seconds!r}")
    if not 0 < seconds <= sys.float_info.max:
        raise ValueError(
            f"every() takes more than 0 seconds, and a finite number, not {seconds!r}"
        )
    return Every(seconds)


def cron(expression: str, *, tz: str = "UTC") -> Cron:
    """Return the schedule that a line of a crontab describes. Needs the extra ``cron``.

    Args:
        expression: five fields, such as ``"0 7 * * 1-5"``: minute, hour, day of the
            month, month, day of the week. With six, the first one is the second.
        tz: the time zone whose clock counts, such as ``"Europe/Madrid"``.

    Raises:
        ModuleNotFoundError: cronsim is not installed.
        TypeError: an argument is not a string.
        ValueError: the expression cannot be read, or never comes true; or there is no
            such time zone. (A machine without time zones needs the package ``tzdata``.)
    """
    for argument, value in (("expression", expression), ("tz", tz)):
        if not isinstance(value, str):
            raise TypeError(f"cron() takes a str as {argument}, not {value!r}")
    # Read it once, so that an error is raised here, not at the first tick.
    if next(_ticks(expression, datetime.now(_zone(tz))), None) is None:
        raise ValueError(_never(expression))
    return Cron(expression, tz)


def _ticks(expression: str, start: datetime) -> CronSim:
    try:
        # Imported here: only those who use this kind of schedule need the package.
        import cronsim
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "cron() needs the package cronsim: install aiohttp-jobs[cron]",
            name=error.name,
        ) from None
    try:
        return cronsim.CronSim(expression, start)
    except cronsim.CronSimError as error:
        raise ValueError(
            f"cron() takes five fields like '0 7 * * 1-5', not {expression!r}: {error}"
        ) from None


def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (LookupError, OSError, ValueError):  # no such zone, a folder, not a name
        raise ValueError(
            f"cron() takes the name of a time zone such as 'Europe/Madrid' as tz, and "
            f"there is no {tz!r} here"
        ) from None


def _never(expression: str) -> str:
    return f"The cron expression {expression!r} never comes true"
