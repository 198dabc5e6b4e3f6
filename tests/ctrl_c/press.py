"""Presses Ctrl-C at each line of the core in turn, and checks the books afterwards.

A scenario is a coroutine function that is given a :class:`Stage`. It is run once to
learn which lines of the core it runs, then once for each of them: KeyboardInterrupt is
raised there, and leaves in whatever way it does. Then all work may go on, and every call
has to return, no job may be left, no slot lost, and the scheduler has to close.

Nothing here waits in real time: a hang is found by the clock that jumps, a busy loop by
the number of turns, and code that never returns to the loop by its CPU time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import linecache
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias, TypeVar

import aiohttp_jobs.core
from aiohttp_jobs import Job, JobsError, Scheduler, SchedulerFull
from tests.loops import KINDS, Deadlock, make_loop

__all__ = (
    "ON",
    "Finding",
    "Place",
    "Scenario",
    "Stage",
    "Undisturbed",
    "places_of",
    "press",
)

T = TypeVar("T")

# uvloop's turns cannot be counted.
ON = tuple(kind for kind in KINDS if not kind.startswith("uvloop"))

CORE = str(Path(aiohttp_jobs.core.__file__).parent)

# Virtual seconds: longer than anything in a scenario takes, and than any timeout in it.
LONG = 100.0
# More turns of the loop than anything takes, and more seconds of CPU time.
TURNS, SECONDS = 20_000, 10.0
# How often a KeyboardInterrupt may leave: everyone who waits for its job raises it too.
TIMES = 20
# The exceptions that calls may end with.
ENDS = (JobsError, OSError, asyncio.CancelledError, ZeroDivisionError)


@dataclass(frozen=True)
class Place:
    """A line of the core, at the first or a later time that it runs in a scenario."""

    file: str
    line: int
    time: int = 1

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        times = f" (time {self.time})" if self.time > 1 else ""
        return f"{self.file.removeprefix(CORE + '/')}:{self.line}{times}: {text}"

    @property
    def is_out_of_reach(self) -> bool:
        """Whether an exception here leaves the function, whatever its code does.

        On the line of a ``try`` its block has not begun. Where the event loop itself
        calls the function, no code of ours is above it.
        """
        return linecache.getline(self.file, self.line).strip() == "try:"


@dataclass(frozen=True)
class Finding:
    """What was wrong after an interrupt."""

    place: Place
    wrong: list[str]

    def __str__(self) -> str:
        return "\n    - ".join((str(self.place), *self.wrong))

    @property
    def hangs(self) -> bool:
        """Whether a call never ends."""
        return any("never ends" in what for what in self.wrong)


class Undisturbed(AssertionError):
    """Something is wrong in a scenario that nothing has interrupted."""


class Stuck(BaseException):
    """Raised out of code that would go on for ever."""


class Stage:
    """What a scenario is given; it remembers everything that has to end.

    Args:
        loop: the loop that the scenario runs on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # All work that does not end by itself waits for this.
        self.go = asyncio.Event()
        self.schedulers: list[Scheduler] = []
        self.jobs: dict[Job[Any], None] = {}
        self.works: list[Coroutine[Any, Any, Any]] = []
        # The ids of the coroutines whose jobs were returned to a caller.
        self.accepted: set[int] = set()
        self.tasks: list[asyncio.Task[Any]] = []
        self.told: list[dict[str, Any]] = []

    def scheduler(self, **options: Any) -> Scheduler:
        """Make a scheduler whose failures are kept here."""
        options.setdefault("exception_handler", self._tell)
        scheduler = Scheduler(**options)
        self.schedulers.append(scheduler)
        return scheduler

    def _tell(self, scheduler: Scheduler, context: dict[str, Any]) -> None:
        self.told.append(context)

    def work(self, coro: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Remember a coroutine: if it is accepted, it has to end or to be closed."""
        self.works.append(coro)
        return coro

    async def spawn(
        self, scheduler: Scheduler, coro: Coroutine[Any, Any, T], **options: Any
    ) -> Job[T]:
        """Spawn, and remember the job."""
        return self.keep(await scheduler.spawn(self.work(coro), **options), coro)

    def keep(self, job: Job[T], coro: Coroutine[Any, Any, T]) -> Job[T]:
        """Remember a job."""
        self.jobs[job] = None
        self.accepted.add(id(coro))
        return job

    def start(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run this in another task meanwhile."""
        task = self.loop.create_task(coro)
        self.tasks.append(task)
        return task

    # -- what its jobs do ----------------------------------------------------------------

    async def wait(self) -> str:
        await self.go.wait()
        return "done"

    async def fail(self) -> None:
        raise ZeroDivisionError

    async def stubborn(self) -> None:
        while not self.go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.go.wait()


Scenario: TypeAlias = Callable[[Stage], Coroutine[Any, Any, None]]


def places_of(scenario: Scenario, kind: str, times: int = 1) -> list[Place]:
    """Run a scenario undisturbed; return the places in the order they are reached.

    Args:
        kind: the kind of loop.
        times: how many runs of the same line to include at most.

    Raises:
        Undisturbed: the scenario does not end as it should.
    """
    wrong, tracer = _run(scenario, kind, None)
    if wrong:
        raise Undisturbed("wrong without any interrupt: " + "; ".join(wrong))
    return [
        Place(file, line, time + 1)
        for (file, line), most in tracer.seen.items()
        for time in range(min(most, times))
    ]


def press(scenario: Scenario, kind: str, place: Place) -> Finding | None:
    """Run a scenario with a KeyboardInterrupt at one place; return what went wrong."""
    wrong, _ = _run(scenario, kind, place)
    return Finding(place, wrong) if wrong else None


class _Tracer:
    """Counts the lines of the core that run, and raises at one of them."""

    def __init__(self, place: Place | None) -> None:
        self.seen = Counter[tuple[str, int]]()
        self._place = place

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._ran if frame.f_code.co_filename.startswith(CORE) else None

    def _ran(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            self.seen[line] += 1
            if self._place == Place(*line, self.seen[line]):
                raise KeyboardInterrupt  # and Python traces no further
        return self._ran


def _run(scenario: Scenario, kind: str, place: Place | None) -> tuple[list[str], _Tracer]:
    loop = make_loop(kind)
    tracer = _Tracer(place)
    wrong: list[str] = []
    loop.set_exception_handler(lambda _, context: _complain(context, wrong))
    with _bounded(loop), _throwing_away():
        stage = Stage(loop)
        try:
            with contextlib.suppress(KeyboardInterrupt, *ENDS), tracer.tracing():
                loop.run_until_complete(stage.start(scenario(stage)))
        except (Deadlock, Stuck) as error:
            wrong.append(f"the scenario never ends: {error!r}")
        except Exception as error:
            wrong.append(f"the scenario ends in {error!r}")
        else:
            _run_on(loop, _check(stage, wrong), wrong)
        _clear_up(loop, stage)
        del stage
    return wrong, tracer


@contextlib.contextmanager
def _throwing_away() -> Iterator[None]:
    """Collect garbage here and not later, and silence its warnings.

    A coroutine of the core that was created and never awaited warns of that.
    """
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        gc.enable()
        sys.unraisablehook = before


def _complain(context: dict[str, Any], wrong: list[str]) -> None:
    error = context.get("exception")
    if error is not None and not isinstance(error, KeyboardInterrupt):
        wrong.append(f"the loop was told: {context['message']}: {error!r}")


@contextlib.contextmanager
def _bounded(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Raise `Stuck` out of a loop that spins."""
    turns = 0
    run_once = loop._run_once  # type: ignore[attr-defined]

    def count() -> None:
        nonlocal turns
        turns += 1
        if turns > TURNS:
            turns = 0
            raise Stuck("it spins")
        run_once()

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Stuck("it computes without end")

    loop._run_once = count  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        del loop._run_once  # type: ignore[attr-defined]


def _run_on(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, None], wrong: list[str]
) -> None:
    """Run a coroutine to its end, however often a KeyboardInterrupt leaves meanwhile."""
    task = loop.create_task(coro)
    for _ in range(TIMES):
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            continue
        except Exception as error:
            if not task.done():
                continue  # the end of an earlier coroutine has stopped the loop
            wrong.append(f"what is checked ends in {error!r}")
        except (Deadlock, Stuck) as error:
            wrong.append(f"what is checked never ends: {error!r}")
        return
    wrong.append(f"KeyboardInterrupt leaves more than {TIMES} times")


async def _check(stage: Stage, wrong: list[str]) -> None:
    """Let everything end, and check that it does."""
    for scheduler in stage.schedulers:
        stage.jobs.update(dict.fromkeys(scheduler))
    stage.go.set()
    # The tasks whose calls were not interrupted themselves.
    ended, waiting = await asyncio.wait(stage.tasks, timeout=LONG)
    for task in ended:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, (KeyboardInterrupt, *ENDS)):
            wrong.append(f"a call ends in {error!r}: {_name_of(task.get_coro())}")
    for task in waiting:
        wrong.append(f"a call never ends: {_name_of(task.get_coro())}")
        task.cancel()
    for scheduler in stage.schedulers:
        stage.jobs.update(dict.fromkeys(scheduler))
        if not scheduler.closed:
            await _check_open(scheduler, stage, wrong)
        for call in (scheduler.close, scheduler.wait_and_close, scheduler.close):
            await _ends(call(), f"{call.__name__}()", wrong)
        counts = (scheduler.active_count, scheduler.pending_count, len(scheduler))
        if any(counts):
            wrong.append(f"after the close {counts} are active, pending, listed")
        if scheduler.state.name != "CLOSED":
            wrong.append(f"after the close it is {scheduler.state.name}")
        if shielded := scheduler.statistics().shielded:
            wrong.append(f"after the close {shielded} are shielded")
    for job in stage.jobs:
        if not job.closed:
            wrong.append(f"after the close {job.label} is {job.state.name}")
        else:
            await _ends(job.wait(), f"wait() for {job.label}", wrong, failing=True)
    for work in stage.works:
        state = inspect.getcoroutinestate(work)
        # A coroutine that has not begun may never have been accepted, and has no owner.
        if state == inspect.CORO_SUSPENDED or (
            state == inspect.CORO_CREATED and id(work) in stage.accepted
        ):
            wrong.append(f"after the close the coroutine {_name_of(work)} is {state}")


async def _check_open(scheduler: Scheduler, stage: Stage, wrong: list[str]) -> None:
    """Check that all jobs now end by themselves, and that all slots are free again."""
    if not await _ends(scheduler.drain(LONG), "drain()", wrong):
        wrong.append(f"it cannot be drained: {[_told(job) for job in scheduler]} left")
        return
    figures = scheduler.statistics()
    taken = figures.slots_taken, figures.callers_waiting, figures.shielded
    if any(taken):
        wrong.append(f"when drained, slots, callers, shielded left: {taken}")
    if scheduler.limit is None:
        return
    # What counts is how many may run.
    stage.go.clear()
    jobs = []
    for _ in range(scheduler.limit + 1):
        with contextlib.suppress(KeyboardInterrupt, SchedulerFull):
            jobs.append(scheduler.spawn_nowait(stage.work(stage.wait())))
    running = [job.active for job in jobs]
    if running != [True] * scheduler.limit + [False]:
        wrong.append(f"when drained, of {scheduler.limit} jobs {sum(running)} start")
    stage.go.set()
    if not await _ends(scheduler.drain(LONG), "the second drain()", wrong):
        wrong.append(f"the second time {[_told(job) for job in scheduler]} are left")


def _told(job: Job[Any]) -> str:
    return f"{job.label} ({job.state.name})"


async def _ends(
    coro: Coroutine[Any, Any, Any], name: str, wrong: list[str], failing: bool = False
) -> Any:
    """Return its result, or False; note in `wrong` if it hangs or fails."""
    try:
        task = asyncio.create_task(coro)
    except KeyboardInterrupt:
        return False  # an eager task raised it in its first step
    await asyncio.wait([task], timeout=2 * LONG)
    if not task.done():
        wrong.append(f"{name} never ends")
        task.cancel()
        return False
    if task.cancelled():
        error: BaseException | None = asyncio.CancelledError()
    else:
        error = task.exception()
    if error is not None:
        if not isinstance(error, (KeyboardInterrupt, *(ENDS if failing else ()))):
            wrong.append(f"{name} ends in {error!r}")
        return False
    return task.result()


def _name_of(coro: Any) -> str:
    return getattr(coro, "__qualname__", repr(coro)).removeprefix("Stage.")


def _clear_up(loop: asyncio.AbstractEventLoop, stage: Stage) -> None:
    """Leave nothing behind for the next run."""
    loop.set_exception_handler(lambda *told: None)
    for _ in range(TIMES):
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with contextlib.suppress(KeyboardInterrupt, Deadlock, Stuck, Exception):
            loop.run_until_complete(asyncio.sleep(LONG))
            break
    for work in stage.works:
        with contextlib.suppress(RuntimeError, ZeroDivisionError):
            work.close()
    loop.close()
