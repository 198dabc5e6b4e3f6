"""setup: gives an application its scheduler, and drains it at the right moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from typing import Final

from aiohttp import web

from aiohttp_jobs.core.reports import ExceptionHandler
from aiohttp_jobs.core.scheduler import Scheduler

from .application import check_application
from .middleware import make_middleware
from .request import SCHEDULER

__all__ = ("applications_below", "schedulers_of", "setup")


def setup(
    app: web.Application,
    *,
    close_timeout: float | None = 0.1,
    wait_timeout: float | None = 60,
    limit: int | None = 100,
    pending_limit: int | None = 10000,
    exception_handler: ExceptionHandler | None = None,
    observers: Iterable[object] = (),
    atomic_methods: Collection[str] = (),
) -> Scheduler:
    """Give the application a scheduler, ``app[SCHEDULER]``, and install the middleware.

    Call it once, before the application runs. Jobs can be spawned from then on, even by
    ``on_startup`` handlers and clean-up contexts. At shutdown the scheduler drains after
    the handlers have ended and before every other clean-up of the application.

    Args:
        app: the application, or sub-application.
        close_timeout, wait_timeout, limit, pending_limit: as for :class:`Scheduler`.
        exception_handler: as for :class:`Scheduler`, too.
        observers: objects that are called for every job, see
            :meth:`Scheduler.add_observer`.
        atomic_methods: HTTP methods whose handlers are all atomic, for example
            ``{"POST", "PUT"}``.

    Returns:
        The scheduler.

    Raises:
        RuntimeError: the application has already been set up, or is frozen: it is
            running, or was added to its parent.
        TypeError, ValueError: an option is invalid; the message names it.
    """
    check_application("setup", app)
    if SCHEDULER in app:
        raise RuntimeError(
            "setup() has already been called for this application: call it once; the "
            "scheduler is app[SCHEDULER]"
        )
    # The first thing that aiohttp freezes, at the start or when a parent takes it in.
    if app.on_startup.frozen:
        raise RuntimeError(
            "setup() was called for an application that is frozen: call it before "
            "add_subapp(), run_app() or AppRunner.setup()"
        )
    methods = _check_methods(atomic_methods)
    app[SCHEDULER] = scheduler = Scheduler(
        close_timeout=close_timeout,
        wait_timeout=wait_timeout,
        limit=limit,
        pending_limit=pending_limit,
        exception_handler=exception_handler,
        observers=observers,
    )
    app.middlewares.append(make_middleware(scheduler, methods))
    app[_LIFE] = life = _Life(scheduler)
    app.on_shutdown.append(life.shut_down)
    # Before the clean-up contexts, whenever those are added: together they are one entry
    # in this list, which is there from the start.
    app.on_cleanup.insert(0, life.clean_up)
    # If the start-up fails, aiohttp calls neither of these, and only leaves the contexts
    # that it had entered, the last one first. So there is one context before all others,
    # which is sure to be entered, and one here, to close the jobs before what they may
    # use.
    app.cleanup_ctx.insert(0, life.context)
    app.cleanup_ctx.append(life.context)
    return scheduler


def schedulers_of(app: web.Application) -> list[Scheduler]:
    """Return the application's own scheduler and those of the sub-applications below."""
    own = [app[SCHEDULER]] if SCHEDULER in app else []
    return [*own, *(life._scheduler for life in _lives_below(app))]


class _Life:
    """Drains the scheduler of one application at the right moment."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_below = False
        # Whether a parent was set up, which drains this scheduler with its own.
        self._has_parent = False

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        if self._scheduler.closed:
            raise RuntimeError(
                "The scheduler of the application is closed: an application cannot run "
                "again once it has ended, make another one"
            )
        self._scheduler.check_loop()
        # A sub-application is frozen when it is added to its parent; the application that
        # runs, only after its start-up.
        self._is_below = app.pre_frozen
        for life in _lives_below(app):
            life._has_parent = True
        yield
        # Closed long ago, unless the start-up failed.
        for scheduler in schedulers_of(app):
            await scheduler.close()

    async def shut_down(self, app: web.Application) -> None:
        """Let the jobs of a sub-application end while its parent's resources are there.

        aiohttp cleans up the parent first. Handlers may still run and spawn; atomic ones
        end by the server's own timeout, so only background jobs are waited for.
        """
        if self._is_below and not self._has_parent:
            await _drain(schedulers_of(app), background=True)

    async def clean_up(self, app: web.Application) -> None:
        schedulers = schedulers_of(app)
        try:
            await _drain(schedulers)
        finally:
            await asyncio.gather(*(scheduler.close() for scheduler in schedulers))


_LIFE: Final = web.AppKey("_LIFE", _Life)


async def _drain(schedulers: list[Scheduler], *, background: bool = False) -> None:
    """Let the jobs of all end; close each scheduler whose `wait_timeout` passes first.

    In rounds: a job of one may have spawned into another that had none left.

    Cancellation:
        All are closed at once, so no pending job starts in place of a cancelled one.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def drain(scheduler: Scheduler) -> None:
        timeout = scheduler.wait_timeout
        if timeout is not None:
            timeout = max(0, start + timeout - loop.time())
        is_drained = False
        try:
            is_drained = await scheduler.drain(timeout, background=background)
        finally:
            if not is_drained:
                await scheduler.close()

    all_are_drained = False
    while not all_are_drained:
        async with asyncio.TaskGroup() as group:
            for scheduler in schedulers:
                group.create_task(drain(scheduler))
        all_are_drained = all(
            [await each.drain(0, background=background) for each in schedulers]
        )


def _lives_below(app: web.Application) -> Iterator[_Life]:
    return (below[_LIFE] for below in applications_below(app) if _LIFE in below)


def applications_below(app: web.Application) -> Iterator[web.Application]:
    """Yield the sub-applications below this one, each before those below it."""
    for resource in app.router.resources():
        below = resource.get_info().get("app")
        if below is not None:
            yield below
            yield from applications_below(below)


def _check_methods(methods: Collection[str]) -> frozenset[str]:
    if (
        isinstance(methods, str)
        or not isinstance(methods, Collection)
        or not all(isinstance(name, str) for name in methods)
    ):
        raise TypeError(
            f"atomic_methods takes a collection of HTTP methods such as {{'POST'}}, "
            f"not {methods!r}"
        )
    for name in methods:
        if not name.replace("-", "").isalpha():
            raise ValueError(
                f"atomic_methods takes HTTP methods, each by its name, not {name!r}"
            )
    return frozenset(name.upper() for name in methods)
