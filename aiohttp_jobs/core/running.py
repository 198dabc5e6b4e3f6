"""Running: a job's task, whatever makes the tasks, and what the task runs.

asyncio lets anybody replace what makes tasks, and error trackers, monitors and tracers
do: the coroutine may be wrapped, begun at once, run in another context, or not at all. So
a job's end is noticed in two ways: inside the coroutine that the task runs, and by a
safety net below, which catches whatever else ends the task.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Coroutine
from typing import Any, Final

from .binding import Binding
from .errors import HungUp, JobCancelled
from .failures import Failure, set_cause, set_traceback, traceback_of
from .guests import LEAVES, call_guest, close_coroutine, has_begun
from .job import Job
from .keeper import Keeper
from .mark import Marked, mark
from .names import shown
from .states import (
    ACTIVE,
    CANCELLED,
    FAILED,
    HUNG_UP,
    LET_GO,
    STOPPING,
    SUCCEEDED,
    JobState,
)

__all__ = ("JobTask", "Launcher", "give_up", "watch")

Runner = Coroutine[Any, Any, None]


class JobTask(asyncio.Task[None]):
    """The task of a job, where asyncio itself makes the tasks."""

    __slots__ = ("job",)

    job: Job[Any]

    def __repr__(self) -> str:
        self.get_coro()
        return super().__repr__()

    def get_coro(self) -> Any:
        """Return what the task runs, which shows itself as the coroutine of its job.

        It is named only when somebody looks, which few do: at each start it costs 3 %.
        """
        runner: Any = super().get_coro()
        # The task has no job yet if a KeyboardInterrupt came right after it was made.
        if getattr(runner, "__name__", None) == _run.__name__ and hasattr(self, "job"):
            _name(runner, self.job)
        return runner

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the task; one that has not begun never runs `_run`, so it is watched."""
        coro: Any = super().get_coro()
        if not has_begun(coro) and (keeper := self.job.keeper) is not None:
            watch(keeper, self.job)
        return super().cancel(msg)


class Launcher:
    """Gives active jobs their tasks, using whatever the event loop makes tasks with.

    Args:
        binding: the event loop.
    """

    __slots__ = ("_binding", "_is_plain", "_later")

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        # Whether the loop's tasks are asyncio's own, its factory aside; None until known.
        self._is_plain: bool | None = None
        # The jobs whose task will be made in a turn of its own, in order.
        self._later: dict[Job[Any], None] = {}

    def is_about_to(self, job: Job[Any]) -> bool:
        """Return whether the job will get its task in a turn of its own."""
        return job in self._later

    def launch(self, keeper: Keeper, job: Job[Any], is_new: bool) -> None:
        """Give a job its task, and tell the observers that it has started.

        Args:
            keeper, job: the job, and what keeps it.
            is_new: whether its spawn starts it, and it does not come from the queue.
        """
        loop = self._binding.loop
        assert loop is not None
        if self._is_plain is None:
            self._is_plain = _makes_plain_tasks(loop)
        if self._is_plain and loop.get_task_factory() is None:
            runner = _run(keeper, job, True)
            if job.name is None:
                task = JobTask(runner, loop=loop, context=job.context)
            else:
                task = JobTask(runner, loop=loop, context=job.context, name=job.name)
            task.job = job
            job.task = task
            if keeper.observers.job_started is not None or (
                is_new and keeper.observers.job_spawned is not None
            ):
                _tell_start(keeper, job, is_new)
            return
        # A factory may begin the job at once. So observers are told first; a job that an
        # observer spawns then does not come before this one; and it begins inside
        # nobody's step except that of its own spawner.
        comes_first = not self._later
        try:
            self._later[job] = None
            _tell_start(keeper, job, is_new)
            if is_new and comes_first and _can_enter(job):
                self._make_foreign_task(keeper, job)
            else:
                later = self._make_foreign_task
                loop.call_soon(later, keeper, job, context=contextvars.Context())
        except BaseException:
            self._later.pop(job, None)
            raise

    def _make_foreign_task(
        self, keeper: Keeper, job: Job[Any], runner: Any = None
    ) -> None:
        try:
            self._later.pop(job, None)
            if job.closed:
                return
            if job.state is not ACTIVE:  # cancelled before it got its task
                close_coroutine(job.coro)
                keeper.over(job, CANCELLED)
                return
            assert self._binding.loop is not None
            assert job.context is not None
            runner = _make_runner(keeper, job, False)
            task = _make_task(self._binding.loop, runner, job.name, job.context)
            if not keeper.has_ended(job):
                job.task = task
                _watch(keeper, job, task, runner)
        except BaseException as error:
            if not keeper.has_ended(job):
                close_coroutine(job.coro)
                end_with(keeper, job, error)
                if runner is not None:
                    call_guest(runner.close)  # nobody will run it
            if issubclass(type(error), LEAVES):
                raise


def end_with(keeper: Keeper, job: Job[Any], error: BaseException) -> None:
    """Close the books of a job whose coroutine or task has raised."""
    kind = type(error)  # its __class__ may say anything
    cancelled = issubclass(kind, asyncio.CancelledError)
    if job.state >= SUCCEEDED:
        keeper.stray_over(job, None if cancelled else Failure(error))
        return
    state = FAILED
    if cancelled and (not issubclass(kind, JobCancelled) or _was_cancelled(job)):
        state = CANCELLED
    elif job.failure is not None:
        set_cause(job.failure.error, error)
    elif issubclass(kind, HungUp):
        state = HUNG_UP
        job.failure = Failure(error.error)  # type: ignore[attr-defined]
    else:
        job.failure = Failure(error)
    keeper.over(job, state)


def _was_cancelled(job: Job[Any]) -> bool:
    """Return whether its scheduler, or whoever has its task, has cancelled it."""
    cancelling = getattr(job.task, "cancelling", None)
    return job.state is STOPPING or bool(cancelling and cancelling())


def give_up(job: Job[Any]) -> JobState:
    """Note why the job is let go; return the state that it ends in."""
    if job.failure is not None:
        return FAILED  # its timeout had passed
    job.failure = Failure(
        TimeoutError(f"Job {shown(job.label)} did not end in time when it was closed")
    )
    return LET_GO


def _makes_plain_tasks(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether create_task() is that of asyncio or uvloop, and nobody else's."""
    if "create_task" in getattr(loop, "__dict__", ()):
        return False  # replaced in this very loop
    owner = next(kind for kind in type(loop).__mro__ if "create_task" in vars(kind))
    return owner is asyncio.BaseEventLoop or owner.__module__ == "uvloop.loop"


def _tell_start(keeper: Keeper, job: Job[Any], is_new: bool) -> None:
    if is_new and keeper.observers.job_spawned is not None:
        keeper.telling.tell("job_spawned", job)
    if keeper.observers.job_started is not None:
        keeper.telling.tell("job_started", job)


def _can_enter(job: Job[Any]) -> bool:
    """Return whether the job's context is free to be entered, as an eager task does."""
    if job.owns_context or job.context is None:
        return True
    try:
        job.context.run(bool)
    except RuntimeError:
        return False
    return True


def _make_runner(keeper: Keeper, job: Job[Any], is_plain: bool) -> Any:
    """Make what the task runs, which shows itself as the job's coroutine."""
    runner: Any = _run(keeper, job, is_plain)
    _name(runner, job)
    return runner


def _name(runner: Any, job: Job[Any]) -> None:
    coro: Any = job.coro
    try:
        runner.__name__ = coro.__name__
        runner.__qualname__ = coro.__qualname__
    except Exception:  # not one of Python's own coroutines
        runner.__name__ = runner.__qualname__ = job.coro_name


def _make_task(
    loop: asyncio.AbstractEventLoop,
    runner: Runner,
    name: str | None,
    context: contextvars.Context,
) -> asyncio.Future[Any]:
    """Let the loop make a task, with whatever factory it has."""
    options: dict[str, Any] = {"context": context}
    if name is not None:
        options["name"] = name
    try:
        task = loop.create_task(runner, **options)
    except TypeError:
        if has_begun(runner):
            raise
        # A factory of two arguments, whose task copies the context it is made in.
        factory: Any = loop.get_task_factory()
        make = loop.create_task if factory is None else functools.partial(factory, loop)
        task = context.copy().run(make, runner)
        if name is not None and hasattr(task, "set_name"):
            task.set_name(name)
    if not asyncio.isfuture(task):
        raise TypeError(f"The event loop's task factory returned {task!r}, not a task")
    return task


async def _run(keeper: Keeper, job: Job[Any], is_plain: bool) -> None:
    """Run the coroutine, and close the job's books when it has ended.

    A wrapper costs less than a done callback, and the end is known in the same turn.
    """
    try:
        try:
            if not is_plain:  # the factory may not have returned the task yet
                job.task = asyncio.current_task()
            if job.owns_context:
                mark.set(job.id)
                if keeper.observers.job_running is not None:
                    keeper.telling.tell("job_running", job)
                result = await job.coro
            else:
                if keeper.observers.job_running is not None:
                    keeper.telling.tell("job_running", job)
                result = await Marked(job.coro, job.id)
        except BaseException as error:
            _raised(keeper, job, error)
            if issubclass(type(error), LEAVES):
                _forget_exception()
                raise
        else:
            keeper.over(job, SUCCEEDED, result)
    except BaseException as error:
        # A KeyboardInterrupt, or whatever leaves like one, in the middle of our books.
        close_coroutine(job.coro)
        if not keeper.has_ended(job):
            end_with(keeper, job, error)
        keeper.mend()
        raise
    finally:
        # An exception's traceback refers to its coroutine's frame, and that to this one,
        # its caller. Without this, a failure that is kept would keep all of it alive.
        del job, keeper


def _raised(keeper: Keeper, job: Job[Any], error: BaseException) -> None:
    """End a job whose coroutine has raised."""
    if issubclass(type(error), GeneratorExit) and not _is_running(job):
        # Thrown away, not run: its loop is gone, and nobody can be told.
        keeper.abandon(job)
        return
    close_coroutine(job.coro)  # if it was kept from its first step
    # Our own frames do not belong in the traceback.
    frames = traceback_of(error)
    while frames is not None and frames.tb_frame.f_code in _OURS:
        frames = frames.tb_next
    set_traceback(error, frames)
    end_with(keeper, job, error)


_OURS: Final = (_run.__code__, Marked.__await__.__code__)


def _is_running(job: Job[Any]) -> bool:
    """Return whether the current task is the job's own."""
    try:
        return job.task is not None and job.task is asyncio.current_task()
    except RuntimeError:
        return False


def _forget_exception() -> None:
    """Keep asyncio from logging what leaves through the loop as never retrieved."""
    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())


def watch(keeper: Keeper, job: Job[Any]) -> None:
    """End the job when its task is over, whatever ends the task."""
    task: Any = job.task
    _watch(keeper, job, task, task.get_coro() if type(task) is JobTask else None)


def _watch(keeper: Keeper, job: Job[Any], task: asyncio.Future[Any], runner: Any) -> None:
    task.add_done_callback(functools.partial(_catch, keeper, job, runner))


def _catch(keeper: Keeper, job: Job[Any], runner: Any, task: asyncio.Future[Any]) -> None:
    """End the job if its task is over and the job is not: the safety net."""
    try:
        if runner is not None and not has_begun(runner):
            runner.close()
        close_coroutine(job.coro)
        if keeper.has_ended(job):
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            error = RuntimeError(
                f"The task of job {shown(job.label)} has ended without running it to "
                "completion: the event loop's task factory has caused that"
            )
        end_with(keeper, job, error)
    except LEAVES:
        task.get_loop().call_soon(_catch, keeper, job, runner, task)
        raise
