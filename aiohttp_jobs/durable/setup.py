"""setup_durable: gives an application a store and a worker; spawn_durable puts jobs."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from time import monotonic, time
from typing import Any, Final, ParamSpec

from aiohttp import web
from aiohttp.web import Request  # bound now, before a tool puts another class there

from aiohttp_jobs.core.checks import (
    check_collection,
    check_count,
    check_flag,
    check_schedule,
)
from aiohttp_jobs.core.enqueued import current_traceparent
from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.guests import call_guest
from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.schedule import Schedule
from aiohttp_jobs.web.application import check_application, is_application
from aiohttp_jobs.web.request import SCHEDULER, origin_of

from .attempt import Attempt
from .envelope import Envelope, new_id
from .inspection import Inspection
from .periodic import Periodic
from .sqlite import SQLiteStore
from .store import Store
from .task import Order, Task
from .upkeep import Upkeep
from .worker import Worker

__all__ = ("DURABLE", "Durable", "setup_durable", "spawn_durable")

P = ParamSpec("P")

#: For test tools: the last of these makes the store, whatever store was given.
STORES_INSTEAD: Final[list[Callable[[], Store]]] = []


class Durable:
    """The durable jobs of one application, ``app[DURABLE]``. Made by setup_durable()."""

    def __init__(
        self,
        app: web.Application,
        scheduler: Scheduler,
        store: Store,
        tasks: Mapping[str, Task[..., Any]],
        limit: int,
        worker: bool,
        periodic: Mapping[Task[[], Any], Schedule],
        catch_up: bool,
    ) -> None:
        #: The scheduler that runs the jobs.
        self.scheduler = scheduler
        #: The store that keeps the jobs.
        self.store = store
        #: The tasks of the application, by name.
        self.tasks = tasks
        self._upkeep = Upkeep(store, tasks.keys(), worker)
        self._worker = (
            Worker(app, scheduler, store, self._upkeep, tasks, limit, self._ended)
            if worker
            else None
        )
        report = scheduler.call_exception_handler
        self._periodic = Periodic(store, self._upkeep, periodic, catch_up, report)
        self._opening: asyncio.Task[None] | None = None
        self._is_below = False
        self._is_stopped = False
        #: How many attempts have ended in this process so far, by task and outcome:
        #: succeeded, retried, buried or given_back.
        self.attempts_of: Mapping[str, Counter[str]] = {name: Counter() for name in tasks}
        #: Functions that are called with the seconds that spawn_durable() waited until
        #: its job was kept; not for jobs in a transaction of the application's own.
        self.when_kept: list[Callable[[float], object]] = []
        #: Asks the store on behalf of people and metrics.
        self.inspection = Inspection(store, self._upkeep.check)

    @property
    def fault(self) -> StoreUnavailable | None:
        """Why no job can be kept just now; None if one can, as far as is known."""
        return self._upkeep.fault

    @property
    def attempts(self) -> Counter[str]:
        """How many attempts have ended in this process so far, by outcome."""
        return sum(self.attempts_of.values(), Counter[str]())

    @property
    def running_count(self) -> int:
        """How many durable jobs this process is running."""
        return 0 if self._worker is None else self._worker.running_count

    @property
    def is_working(self) -> bool:
        """Whether this process begins the jobs that wait."""
        return self._worker is not None and self._worker.is_fetching

    @property
    def has_work(self) -> bool:
        """Whether this process has anything to do of its own accord."""
        return self._worker is not None or self._periodic.is_any

    async def put(
        self,
        order: Order[...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        origin: str | None,
    ) -> str:
        """Keep a job: :func:`spawn_durable` for code that has this object."""
        task = order.task
        if self.tasks.get(task.name) is not task:
            raise ValueError(
                f"The task {task.name!r} is not one of this application's: add it to "
                "setup_durable(tasks=...)"
            )
        if order is not task.plain:
            self._check_options(order)
        if self._is_stopped:
            raise StoreUnavailable("their store is closed: the application has ended")
        now = time()
        envelope = Envelope(
            id=new_id(),
            task=task.name,
            arguments=task.arguments.pack(args, kwargs),
            accepted_at=now,
            due=order.due(now),
            priority=order.priority,
            key=order.key,
            origin=origin,
            traceparent=current_traceparent(),
        )
        self._upkeep.check()
        self.scheduler.check_loop()  # not earlier: it would bind a scheduler too soon
        begun = monotonic()
        try:
            number = await self.store.put(envelope, connection=order.connection)
        except StoreUnavailable as error:
            self._upkeep.lost(error)
            raise
        if self._upkeep.fault is not None:
            self._upkeep.found()
        if order.connection is None:
            for tell in self.when_kept:
                call_guest(tell, monotonic() - begun)
        return number

    def _check_options(self, order: Order[...]) -> None:
        for option in order.asks_for():
            if option not in self.store.supports:
                raise ValueError(
                    f"{type(self.store).__name__} cannot keep jobs with {option}=: leave "
                    "it out, or use a store that can"
                )

    def _ended(self, attempt: Attempt) -> None:
        if attempt.outcome is not None:
            self.attempts_of[attempt.task.name][attempt.outcome] += 1

    # -- in the life of the application --------------------------------------------------

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """Open the store before anything that may put jobs; close it after all that."""
        self._is_below = app.pre_frozen
        self.scheduler.check_loop()
        self._opening = await self._upkeep.open_in_time()
        yield
        await self._stop()  # already done, unless the start-up failed

    async def begin(self, app: web.Application) -> None:
        """Begin to run jobs: everything that they may use is there."""
        if self._worker is not None:
            self._worker.start()
        self._periodic.start()

    async def shut_down(self, app: web.Application) -> None:
        """Begin no more jobs; in a sub-application, let the running ones end.

        The parent's resources are cleaned up before the sub-application's.
        """
        await self._periodic.stop()
        if self._worker is None:
            return
        await self._worker.stop_fetching()
        if self._is_below and not await self._worker.drain(self.scheduler.wait_timeout):
            await self.scheduler.close()

    async def clean_up(self, app: web.Application) -> None:
        """Close the store: after the jobs have ended, before what they use is closed."""
        # Already done, unless another callback was put before that of setup().
        await self.scheduler.wait_and_close()
        await self._stop()

    async def _stop(self) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        await self._periodic.stop()
        if self._worker is not None:
            await self._worker.stop_fetching()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await self.inspection.stop()
        if self._upkeep.is_open:  # else it may be open for another application
            await self.store.stop()


#: Where :func:`setup_durable` puts what it has made: ``app[DURABLE]``.
DURABLE: Final = web.AppKey("DURABLE", Durable)


def setup_durable(
    app: web.Application,
    store: str | os.PathLike[str] | Store,
    *,
    tasks: Iterable[Task[..., Any]],
    limit: int = 10,
    worker: bool = True,
    periodic: Mapping[Task[[], Any], Schedule] | None = None,
    catch_up: bool = True,
    put_periodic: bool | None = None,
) -> Durable:
    """Give an application jobs that survive the process. Call it after ``setup(app)``.

    Args:
        app: the application, or sub-application, with a scheduler of its own.
        store: the path of a file, which is made if it is not there, or a store.
        tasks: all tasks whose jobs the application spawns or runs; those of `periodic`
            need not be repeated.
        limit: how many of their jobs run at once in this process, in addition to the
            scheduler's ``limit``.
        worker: whether to run jobs in this process. False: only keep them, for other
            processes to run.
        periodic: tasks that take nothing but the application, and the schedule of each.
            At each tick one job is kept, however many processes share the store.
        catch_up: whether to run a job once at the start if ticks were missed while no
            process ran.
        put_periodic: whether this process spawns the periodic jobs. None: all processes
            do if the store remembers ticks, as SQLite does; with a broker none does, so
            pass True in exactly one of them.

    Returns:
        The object at ``app[DURABLE]``, to look at.

    Raises:
        RuntimeError: the application has no scheduler, has durable jobs already, or is
            frozen: it is running, or was added to its parent.
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    check_application("setup_durable", app)
    scheduler = app.get(SCHEDULER)
    if scheduler is None:
        raise RuntimeError(
            "setup_durable() was called for an application without a scheduler: call "
            "aiohttp_jobs.setup(app) first"
        )
    if DURABLE in app:
        raise RuntimeError(
            "setup_durable() has already been called for this application: call it once, "
            "with all tasks"
        )
    if app.on_startup.frozen:
        raise RuntimeError(
            "setup_durable() was called for an application that is frozen: call it "
            "before add_subapp(), run_app() or AppRunner.setup()"
        )
    periodic = {} if periodic is None else periodic
    if not isinstance(periodic, Mapping):
        raise TypeError(
            f"periodic takes tasks and the schedule of each, as a dict, not {periodic!r}"
        )
    periodic = dict(periodic)
    by_name = _check_tasks([*check_collection("tasks", tasks), *periodic])
    for task, schedule in periodic.items():
        task.arguments.pack((), {})
        check_schedule("periodic", schedule)
    check_flag("worker", worker)
    check_flag("catch_up", catch_up)
    if put_periodic is not None:
        check_flag("put_periodic", put_periodic)
    check_count("limit", limit, least=1)
    if limit is None:
        raise TypeError("limit takes a number of jobs, not None")
    if isinstance(store, str | os.PathLike):
        store = SQLiteStore(store)
    elif not callable(getattr(store, "put", None)):
        raise TypeError(f"store takes a path or a store, not {store!r}")
    if STORES_INSTEAD:
        store = STORES_INSTEAD[-1]()
    if put_periodic is None:
        put_periodic = store.remembers_ticks
    app[DURABLE] = made = Durable(
        app,
        scheduler,
        store,
        by_name,
        limit,
        worker,
        periodic if put_periodic else {},
        catch_up,
    )
    # Both go after the callbacks that setup() has put first: the scheduler is there
    # before and after the store, and has no jobs left when the store is closed.
    app.cleanup_ctx.insert(1, made.context)
    app.on_cleanup.insert(1, made.clean_up)
    app.on_startup.append(made.begin)
    app.on_shutdown.insert(0, made.shut_down)
    return made


def _check_tasks(tasks: Iterable[Task[..., Any]]) -> dict[str, Task[..., Any]]:
    by_name = dict[str, Task[..., Any]]()
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(f"tasks takes what @durable(name) has made, not {task!r}")
        if by_name.setdefault(task.name, task) is not task:
            raise ValueError(
                f"tasks has two tasks named {task.name!r}: give each a name of its own"
            )
    return by_name


async def spawn_durable(
    where: web.Request | web.Application,
    task: Task[P, Any] | Order[P],
    *args: P.args,
    **kwargs: P.kwargs,
) -> str:
    """Keep a job, to be run by this process or another one; it survives them all.

    When this returns, the job is on disk, or in the broker. It runs at least once, and
    again if a process dies in the middle or the power fails.

    Args:
        where: the request at hand, or an application that has durable jobs.
        task: a task of that application, or ``task.options(...)``.
        args, kwargs: the arguments of the task after the application. They have to be
            JSON: None, Booleans, numbers, strings, and lists and dicts of these.

    Returns:
        The job's id. With the option ``key``, the id of the job that already waits, if
        there is one.

    Raises:
        StoreUnavailable: the job is not kept. A handler may let it through: the client
            gets 503.
        RuntimeError: the application has no durable jobs; or it runs in another event
            loop than the caller's.
        TypeError: an argument is not JSON, or does not fit the task; the message names
            it.
        ValueError: the task is not one of the application's, or the store cannot keep a
            job with these options.

    Cancellation:
        The job may have been kept, or not.
    """
    durable, origin = _find(where)
    if isinstance(task, Task):
        order = task.plain
    elif isinstance(task, Order):
        order = task
    else:
        raise TypeError(
            f"spawn_durable() takes a task, made by @durable(name), not {task!r}: "
            "pass the task and its arguments, spawn_durable(request, task, ...)"
        )
    return await durable.put(order, args, kwargs, origin)


def _find(where: web.Request | web.Application) -> tuple[Durable, str | None]:
    if isinstance(where, Request):
        durable = where.app.get(DURABLE) or where.config_dict.get(DURABLE)
        origin = origin_of(where)
    elif is_application(where):
        durable, origin = where.get(DURABLE), None
    else:
        raise TypeError(
            f"spawn_durable() takes a request or an application, not {where!r}"
        )
    if durable is None:
        raise RuntimeError(
            "The application has no durable jobs: call setup_durable(app, ...) where it "
            "is made"
        )
    return durable, origin
