"""Event loops for the tests of the core, on which no real time passes.

The clock stands still while anything is ready to run, and otherwise jumps to the next
timer. So ``await later(3600)`` takes no time, and ``await settle()`` returns when
everything that can run has run. A test that waits for an event that will never come fails
instead of hanging.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import gc
import heapq
import inspect
import math
import os
import random
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests import factories

try:
    import uvloop
except ImportError:  # pragma: no branch
    uvloop = None  # type: ignore[assignment]

__all__ = (
    "ALWAYS",
    "IN_TURN",
    "KINDS",
    "Deadlock",
    "is_missing",
    "later",
    "make_loop",
    "run",
    "settle",
)

TESTS = str(Path(__file__).parent)

# Real seconds that an idle loop waits for another thread, and seconds of CPU that a test
# may take in all. If the machine stops for a minute, that is not the test's fault: so
# nothing here waits for more than a small part of these at once.
PATIENCE, LONGEST = 5.0, 60.0
PARTS = 10


class Deadlock(BaseException):
    """The test waits for something that will never come: nothing is ready and no timer
    is set, or something spins."""

    def __init__(self, why: str = "nothing will ever happen") -> None:
        super().__init__(f"deadlock: {why}")


async def later(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)


async def settle() -> None:
    """Let everything run that can run now.

    The clock moves only when nothing is ready, so even the shortest sleep is long enough.
    """
    await asyncio.sleep(1e-6)


class _JumpingSelector(selectors.DefaultSelector):
    now = 0.0
    # When to give up, by the CPU time of the process.
    end = math.inf
    # Real seconds to give the kernel and other threads before the clock jumps, and how
    # many threads are at work.
    grace = 0.0
    threads = 0

    def has_events(self) -> bool:
        return bool(super().select(0))

    def select(self, timeout: float | None = None) -> Any:
        if time.process_time() > self.end:
            self.end += PATIENCE  # for the clean-up
            raise Deadlock("it goes on for ever")
        events = super().select(0)
        if events or timeout == 0:
            return events
        if self.threads:
            events = self._wait()
            if not events:
                self.end -= PATIENCE
            return events
        if self.grace and timeout is not None:
            events = super().select(self.grace)
            if events:
                return events
        if timeout is None:
            events = self._wait()
            if not events:
                raise Deadlock
            return events
        self.now += timeout
        return events

    def _wait(self) -> Any:
        for _ in range(PARTS):
            events = super().select(PATIENCE / PARTS)
            if events:
                return events
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    # -- for a test that turns the loop by hand instead of running in it -----------------

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Run the block as if between two callbacks: it finds the loop running."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self) -> None:
        """Run what is ready, once. The clock does not move."""
        self.call_soon(self.stop)
        self.run_forever()

    def is_settled(self) -> bool:
        """Whether nothing is ready and no timer is due."""
        return not self._ready and not self._is_due()

    def move_clock(self, seconds: float) -> None:
        """Let time pass in which the loop does nothing."""
        self._jumping.now += seconds

    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def _is_due(self) -> bool:
        return bool(self._scheduled) and self._scheduled[0].when() <= self.time()


class ServingLoop(VirtualLoop):
    """A loop for servers and clients with real sockets: data on its way between them
    arrives before the clock jumps, and so does the work of threads."""

    def __init__(self) -> None:
        super().__init__()
        self._jumping.grace = 0.01

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._has_ended)
        return future

    def _has_ended(self, future: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


class ShuffledLoop(VirtualLoop):
    """Runs what is ready in one turn in any order, as no program may rely on the order.

    Only timers that are set for exactly the same time have no order.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def _run_once(self) -> None:
        if self._is_idle():
            self._jumping.now = max(self.time(), self._scheduled[0].when())
        timers = list[asyncio.TimerHandle]()
        while self._is_due():
            timers.append(heapq.heappop(self._scheduled))
            timers[-1]._scheduled = False  # type: ignore[attr-defined]
        timers.sort(key=lambda timer: (timer.when(), self._random.random()))
        ready: list[asyncio.Handle | None] = [*self._ready, *(None for _ in timers)]
        self._random.shuffle(ready)
        next_timer = iter(timers)
        self._ready.clear()
        self._ready.extend(handle or next(next_timer) for handle in ready)
        del timers, ready, next_timer  # they refer to objects that have to be freed soon
        super()._run_once()  # type: ignore[misc]

    def _is_idle(self) -> bool:
        """Whether the loop would now wait for its first timer."""
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False  # type: ignore[attr-defined]
        nothing_ready = not self._ready and not self._jumping.has_events()
        return nothing_ready and bool(self._scheduled)


if uvloop is not None:

    class VirtualUvloop(uvloop.Loop):  # type: ignore[misc,unused-ignore]
        """Counts what each turn schedules, as uvloop does not say when it is idle."""

        def __init__(self) -> None:
            super().__init__()
            self._now = 0.0
            self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
            self._numbers = 0
            self._scheduled = 0
            self._quiet = 0
            self._pumping = False

        def time(self) -> float:
            return self._now

        def call_soon(  # type: ignore[override,unused-ignore]
            self, callback: Any, *args: Any, context: Any = None
        ) -> Any:
            self._scheduled += 1
            return super().call_soon(callback, *args, context=context)

        def call_later(  # type: ignore[override,unused-ignore]
            self, delay: float, callback: Any, *args: Any, context: Any = None
        ) -> Any:
            return self.call_at(self._now + delay, callback, *args, context=context)

        def call_at(  # type: ignore[override,unused-ignore]
            self, when: float, callback: Any, *args: Any, context: Any = None
        ) -> Any:
            if context is None:
                context = contextvars.copy_context()
            handle = asyncio.TimerHandle(when, callback, args, self, context)
            self._numbers += 1
            heapq.heappush(self._timers, (when, self._numbers, handle))
            if not self._pumping:
                self._pumping = True
                super().call_soon(self._pump)
            return handle

        def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
            pass

        def _pump(self) -> None:
            while self._timers and self._timers[0][2].cancelled():
                heapq.heappop(self._timers)
            self._quiet = 0 if self._scheduled else self._quiet + 1
            self._scheduled = 0
            if self._timers and self._quiet > 2:
                self._now = max(self._now, self._timers[0][0])
                while self._timers and self._timers[0][0] <= self._now + 1e-9:
                    handle = heapq.heappop(self._timers)[2]
                    if not handle.cancelled():
                        self.call_soon(handle._run)
            self._pumping = bool(self._timers)
            if self._pumping:
                super().call_soon(self._pump)


# The task factory of each kind of loop that has one of its own.
_FACTORIES: dict[str, Any] = {
    "eager": getattr(asyncio, "eager_task_factory", None),
    "wrapping": factories.wrapping,
    "eager wrapping": factories.eager_wrapping,
    "uvloop wrapping": factories.wrapping,
    "naming": factories.strangely_named,
    "generating": factories.generating,
    "delegating": factories.delegating,
    "contextless": factories.contextless,
}


def _tidy(factory: Any) -> Any:
    """Close coroutines of tests that the tasks of a factory have never started.

    If a factory wraps a coroutine in another one that is cancelled before its first step,
    the inner one is left behind, and Python warns of that. The core closes those of jobs.
    """

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        task = factory(loop, coro, **options)
        if inspect.iscoroutine(coro) and coro.cr_code.co_filename.startswith(TESTS):
            task.add_done_callback(partial(_close_unless_begun, coro))
        return task

    return make


def _close_unless_begun(coro: Any, task: asyncio.Future[Any]) -> None:
    if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        coro.close()


def make_loop(kind: str, seed: int = 0) -> asyncio.AbstractEventLoop:
    """Make a loop of one of `KINDS`, a ``"shuffled"`` or a ``"serving"`` one."""
    loop: asyncio.AbstractEventLoop
    if kind.startswith("uvloop"):
        loop = VirtualUvloop()
    elif kind == "shuffled":
        loop = ShuffledLoop(seed)
    elif kind == "serving":
        loop = ServingLoop()
    else:
        loop = VirtualLoop()
    if kind == "debug":
        loop.set_debug(True)
        loop.slow_callback_duration = 3600
    if (factory := _FACTORIES.get(kind)) is not None:
        loop.set_task_factory(factory if kind == "eager" else _tidy(factory))
    return loop


def is_missing(kind: str) -> str:
    """Return why this kind of loop is not available here; "" if it is."""
    if kind.startswith("eager") and sys.version_info < (3, 12):
        return "eager task factories came with Python 3.12"
    if kind == "generating" and sys.version_info >= (3, 12):
        return "tasks run no generators since Python 3.12"
    if kind.startswith("uvloop") and "VirtualUvloop" not in globals():
        assert "CI" not in os.environ, "CI has to install uvloop"
        return "uvloop is not installed"
    return ""


def _at_hand(*kinds: str) -> tuple[str, ...]:
    return tuple(kind for kind in kinds if not is_missing(kind))


# Each test of the core runs on all of the first, and on one of the second, which changes
# from run to run of the suite.
ALWAYS = _at_hand("asyncio", "uvloop", "eager")
IN_TURN = _at_hand(
    "debug",
    "wrapping",
    "eager wrapping",
    "uvloop wrapping",
    "naming",
    "generating",
    "delegating",
    "contextless",
)
KINDS = (*ALWAYS, *IN_TURN)


def run(
    loop: asyncio.AbstractEventLoop,
    test: Callable[[], Coroutine[Any, Any, None]],
    errors: list[dict[str, Any]],
    expects_errors: bool = False,
) -> None:
    """Run a test to its end; fail it if it leaves anything behind.

    Args:
        errors: filled with what the loop's exception handler is called with.
        expects_errors: the test checks `errors` itself.
    """
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    # In real time, as uvloop cannot tell that it is idle, and no loop that it spins.
    alarm = None
    if isinstance(loop, VirtualLoop):
        loop._jumping.end = time.process_time() + LONGEST
    elif isinstance(loop, uvloop.Loop):
        alarm = _Alarm(partial(uvloop.Loop.call_later, loop))
    left: set[asyncio.Task[Any]] = set()
    try:
        loop.run_until_complete(test())
        loop.run_until_complete(settle())
    finally:
        if alarm is not None:
            alarm.cancel()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1))
        loop.run_until_complete(loop.shutdown_asyncgens())
        gc.collect()
        loop.close()
    assert not left, f"the test leaked tasks: {left}"
    if not expects_errors:
        assert not errors, f"the loop's exception handler was called: {errors}"


class _Alarm:
    """Raises in the loop after `LONGEST` seconds, not counting pauses of the machine."""

    def __init__(self, call_later: Callable[..., asyncio.TimerHandle]) -> None:
        self._call_later = call_later
        self._left = PARTS
        self._timer = call_later(LONGEST / PARTS, self._ring)

    def _ring(self) -> None:
        self._left -= 1
        if not self._left:
            raise Deadlock("it goes on for ever")
        self._timer = self._call_later(LONGEST / PARTS, self._ring)

    def cancel(self) -> None:
        self._timer.cancel()
