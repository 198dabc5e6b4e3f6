"""For tests of applications: wait for jobs, see what was spawned, keep no file.

With pytest, use the plugin `pytest_aiohttp_jobs`, which builds on this module. The module
itself does not need pytest.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, overload
from weakref import WeakKeyDictionary

from aiohttp import web

from .core.checks import check_seconds
from .core.failures import Failure
from .core.guests import LEAVES
from .core.job import Job, stop
from .core.names import listed
from .core.parts import WHEN_MADE
from .core.scheduler import Scheduler
from .core.states import FAILED, LET_GO
from .durable.kept import Inspectable, Place
from .durable.memory import MemoryStore
from .durable.setup import DURABLE, STORES_INSTEAD, Durable
from .web.application import is_application
from .web.setup import applications_below, schedulers_of

if TYPE_CHECKING:
    from aiohttp.test_utils import BaseTestServer, TestClient

__all__ = ("MemoryStore", "SpawnedJobs", "drain_jobs", "durable_in_memory")


async def drain_jobs(
    where: TestClient[Any, Any] | BaseTestServer | web.Application | Scheduler,
    *,
    timeout: float | None = 10,
) -> None:
    """Wait until all jobs have ended, and raise the exceptions of those that failed.

    This waits for all jobs spawned so far and for the jobs that they spawn, including
    those with ``after_response=True``, but not for atomic handlers.

    It waits for durable jobs that the application runs and that are due; with a
    :class:`MemoryStore`, for all of them. An attempt that has failed and is followed by
    another one does not count as a failure.

    Args:
        where: the test client, the test server or the application, with the
            sub-applications below it; or a scheduler.
        timeout: seconds to wait; None for no limit.

    Raises:
        ExceptionGroup: jobs have failed, and nobody received their exceptions by waiting
            for them. It has all such exceptions since the last call, or since this module
            was imported; the exception handler was called with them as well.
        TimeoutError: jobs have not ended in time; the message names them.
        RuntimeError: the application was not set up, or another event loop is running.

    Cancellation:
        The jobs are left alone.
    """
    check_seconds("timeout", timeout)
    schedulers, durables = _find(where)
    for scheduler in schedulers:
        _watch(scheduler)
    try:
        async with asyncio.timeout(timeout):
            await _drain(schedulers, durables)
    except TimeoutError:
        left = [job.label for scheduler in schedulers for job in scheduler]
        for durable in durables:
            left += await _left_in(durable)
        raise TimeoutError(
            f"After {timeout} s these jobs have not ended: {listed(left)}"
        ) from None
    raise_failures([job for each in schedulers for job in _failed[each].take()])


def raise_failures(jobs: Iterable[Job[Any]]) -> None:
    """Raise the exceptions that these jobs have failed with, if any.

    Raises:
        ExceptionGroup: at least one has failed; it has all their exceptions.
    """
    failed = [job for job in jobs if job.failure is not None]
    failures: list[Failure] = [job.failure for job in failed if job.failure is not None]
    errors: list[BaseException] = []
    for failure in failures:
        failure.take()
        errors.append(failure.exception())
    if errors:
        number = "A job has" if len(errors) == 1 else f"{len(errors)} jobs have"
        names = listed(job.label for job in failed)
        raise BaseExceptionGroup(f"{number} failed: {names}", errors)


class FailedJobs:
    """An observer that keeps the jobs that fail until they are taken."""

    def __init__(self) -> None:
        self._jobs: list[Job[Any]] = []

    def job_closed(self, job: Job[Any]) -> None:
        """Keep the job if it has failed or was let go."""
        if (
            job.failure is not None
            and job.state in (FAILED, LET_GO)
            and not issubclass(type(job.failure.error), LEAVES)
        ):
            self._jobs.append(job)

    def take(self) -> list[Job[Any]]:
        """Return the jobs whose failure nobody has received, and forget all jobs."""
        jobs, self._jobs = self._jobs, []
        return [job for job in jobs if job.failure and not job.failure.is_raised]


class SpawnedJobs(Sequence[Job[Any]]):
    """A sequence of the jobs that were spawned, in order, without atomic handlers.

    With pytest, this is the fixture `spawned_jobs`, for all schedulers of the test.
    Without pytest, use it as an observer: ``setup(app, observers=[spawned_jobs])``.
    """

    def __init__(self) -> None:
        self._jobs: list[Job[Any]] = []
        self._arguments: dict[Job[Any], dict[str, Any]] = {}
        # The schedulers that this holds; None outside `held()`.
        self._held: list[Scheduler] | None = None

    def __repr__(self) -> str:
        return f"<SpawnedJobs {self.names}>"

    def __len__(self) -> int:
        return len(self._jobs)

    @overload
    def __getitem__(self, index: int) -> Job[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Job[Any]]: ...

    def __getitem__(self, index: int | slice) -> Job[Any] | list[Job[Any]]:
        return self._jobs[index]

    @property
    def names(self) -> list[str]:
        """The names of the jobs, or else of their coroutines."""
        return [job.label for job in self._jobs]

    def arguments_of(self, job: Job[Any]) -> dict[str, Any]:
        """Return what the coroutine function of the job was called with, by name.

        Empty for coroutines that are not Python's own, which do not tell.
        """
        return dict(self._arguments[job])

    @contextmanager
    def held(self) -> Generator[None]:
        """Start no job inside the block; at its end, cancel those spawned in it.

        For tests that check what is spawned without running it. All schedulers of the
        running event loop are held; atomic handlers run.
        """
        if self._held is not None:
            raise RuntimeError("The jobs are already held: leave that block first")
        first = len(self._jobs)
        self._held = []
        for scheduler in list(_failed):
            self._hold(scheduler)
        try:
            yield
        finally:
            held, self._held = self._held, None
            for job in self._jobs[first:]:
                if job.pending:
                    stop(job, None)
            for scheduler in held:
                scheduler.release()

    def _hold(self, scheduler: Scheduler) -> None:
        """Hold this scheduler too, if jobs are held just now."""
        if self._held is None or scheduler.held or scheduler.closed:
            return
        try:
            scheduler.hold()
        except RuntimeError:
            return  # it belongs to another loop, whose tests are over
        self._held.append(scheduler)

    def job_spawned(self, job: Job[Any]) -> None:
        """Keep the job."""
        if job.pending or job.takes_slot:  # not an atomic handler
            self._jobs.append(job)
            self._arguments[job] = _arguments_of(job.coro)


@contextmanager
def durable_in_memory() -> Generator[list[MemoryStore]]:
    """Inside the block, let each `setup_durable()` use a store of its own in memory.

    The store that the call is given is left alone: no file is made, no broker is asked.
    With pytest, this is the fixture `durable_in_memory`.

    Yields:
        The stores, in the order of the calls.
    """
    stores = list[MemoryStore]()

    def make() -> MemoryStore:
        stores.append(MemoryStore())
        return stores[-1]

    STORES_INSTEAD.append(make)
    try:
        yield stores
    finally:
        STORES_INSTEAD.remove(make)


class Recording:
    """Adds observers to all schedulers, present and future ones.

    Args:
        observers: the observers to add.
    """

    def __init__(self, *observers: object) -> None:
        self._observers = observers

    def start(self) -> None:
        """Begin to observe."""
        _recordings.append(self)
        for scheduler in list(_failed):
            self.watch(scheduler)

    def stop(self) -> None:
        """Stop observing."""
        _recordings.remove(self)
        for scheduler in list(_failed):
            for observer in self._observers:
                scheduler.remove_observer(observer)

    def watch(self, scheduler: Scheduler) -> None:
        """Observe this scheduler too."""
        for observer in self._observers:
            scheduler.add_observer(observer)
            if isinstance(observer, SpawnedJobs):
                observer._hold(scheduler)


# All schedulers made since this module was imported, each with what has failed there.
_failed: Final = WeakKeyDictionary[Scheduler, FailedJobs]()
# The recordings that go on.
_recordings: Final[list[Recording]] = []


def _watch(scheduler: Scheduler) -> None:
    if scheduler not in _failed:
        failed = _failed[scheduler] = FailedJobs()
        scheduler.add_observer(failed)
        for recording in _recordings:
            recording.watch(scheduler)


WHEN_MADE.append(_watch)


async def _drain(schedulers: list[Scheduler], durables: list[Durable]) -> None:
    """Drain in rounds: a job of one may have spawned into another that had none left."""
    is_done = False
    while not is_done:
        for scheduler in schedulers:
            await _drain_one(scheduler)
        for durable in durables:
            while await _is_busy(durable):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(_PAUSE)
        is_done = all(
            [await each.drain(0) and not each.pending_count for each in schedulers]
        ) and not any([await _is_busy(each) for each in durables])


# Seconds between two looks at durable jobs: stores do not tell when they move them.
_PAUSE: Final = 0.005


async def _is_busy(durable: Durable) -> bool:
    # In this order, because jobs move on meanwhile.
    return bool(await _left_in(durable)) or durable.running_count > 0


async def _left_in(durable: Durable) -> list[str]:
    """Return the tasks of the jobs that wait and are due, if this process runs them.

    Including those on their way from the store or back to it. The others are in the
    scheduler too.
    """
    store = durable.store
    if not durable.is_working:
        return []
    if isinstance(store, MemoryStore):
        return [envelope.task for envelope in store.waiting]
    if isinstance(store, Inspectable):
        # Jobs on their way are running, as far as the store knows.
        waiting = await store.jobs(Place.WAITING)
        running = await store.jobs(Place.RUNNING)
        return [job.task for job in (*waiting, *running[durable.running_count :])]
    return []


async def _drain_one(scheduler: Scheduler) -> None:
    stir = _Stir()
    scheduler.add_observer(stir)
    try:
        while True:
            stir.clear()
            await scheduler.drain(math.inf)
            if not scheduler.pending_count:
                return
            # The jobs that are left are held back until their requests end.
            await stir.wait()
    finally:
        scheduler.remove_observer(stir)


class _Stir(asyncio.Event):
    """Is set when a job has started or ended."""

    def job_started(self, job: Job[Any]) -> None:
        self.set()

    def job_closed(self, job: Job[Any]) -> None:
        self.set()


def _find(where: object) -> tuple[list[Scheduler], list[Durable]]:
    if isinstance(where, Scheduler):
        return [where], []
    app = where if is_application(where) else getattr(where, "app", None)
    if not is_application(app):
        raise TypeError(
            "drain_jobs() takes a test client, an application or a scheduler, "
            f"not {where!r}"
        )
    schedulers = schedulers_of(app)
    if not schedulers:
        raise RuntimeError(
            "The application has no scheduler: call aiohttp_jobs.setup(app) where the "
            "application is made"
        )
    apps = [app, *applications_below(app)]
    return schedulers, [each[DURABLE] for each in apps if DURABLE in each]


def _arguments_of(coro: Any) -> dict[str, Any]:
    if not inspect.iscoroutine(coro):
        return {}
    code = coro.cr_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS)
    count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    values = inspect.getcoroutinelocals(coro)
    return {name: values[name] for name in code.co_varnames[:count] if name in values}
