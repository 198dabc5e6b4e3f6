"""setup_dashboard: puts the dashboard into an application."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.web.request import SCHEDULER

from .access import Authorize, check_authorize, make_guard
from .history import PERIOD, History
from .stream import Streams
from .views import Views, add_security_headers
from .words import breakable, duration

__all__ = ("setup_dashboard",)

_HERE: Final = Path(__file__).parent
_ENVIRONMENT: Final = web.AppKey("aiohttp_jobs.dashboard.environment", jinja2.Environment)


def setup_dashboard(
    app: web.Application,
    prefix: str = "/jobs",
    *,
    authorize: Authorize,
    scheduler: Scheduler | None = None,
) -> web.Application:
    """Show a scheduler's jobs to those who may see them, below ``prefix``.

    Call it after :func:`~aiohttp_jobs.setup` and before the application runs. It adds a
    sub-application, and an observer to the scheduler, until the application's clean-up.

    Args:
        app: the application, or sub-application, that the pages become a part of.
        prefix: the path below which they are.
        authorize: a coroutine function that is called for every request to them, and
            returns the :class:`Access` that it has. It may raise an
            :class:`~aiohttp.web.HTTPException` instead, to ask for a login.
        scheduler: whose jobs to show; None for the application's own.

    Returns:
        The sub-application.

    Raises:
        RuntimeError: the application was not set up, or runs already.
        TypeError, ValueError: an argument cannot be right; the sentence names it.
    """
    if not isinstance(app, web.Application):
        raise TypeError(
            f"setup_dashboard() takes an aiohttp.web.Application, not {app!r}"
        )
    check_authorize(authorize)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix takes a str, not {prefix!r}")
    if not re.fullmatch(r"(/[\w.~-]+)+/?", prefix, re.ASCII):
        raise ValueError(
            f"prefix takes a path as '/jobs', of letters, digits and '-', not {prefix!r}"
        )
    if app.frozen or app.pre_frozen:
        raise RuntimeError(
            "setup_dashboard() was called for an application that runs already: call it "
            "before run_app() or AppRunner.setup()"
        )
    if scheduler is None:
        scheduler = app.get(SCHEDULER)
    if scheduler is None:
        raise RuntimeError(
            "setup_dashboard() was called for an application without a scheduler: call "
            "aiohttp_jobs.setup(app) before, or tell whose jobs to show by scheduler="
        )
    if not isinstance(scheduler, Scheduler):
        raise TypeError(f"scheduler takes a Scheduler or None, not {scheduler!r}")
    dashboard = _make(scheduler, authorize)
    app.add_subapp(prefix, dashboard)
    return dashboard


def _make(scheduler: Scheduler, authorize: Authorize) -> web.Application:
    dashboard = web.Application(middlewares=[make_guard(authorize)])
    environment = aiohttp_jinja2.setup(
        dashboard,
        # A key of its own: the application around it may use this library, too.
        app_key=_ENVIRONMENT,
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        default_helpers=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    environment.filters["duration"] = duration
    history = History(scheduler.statistics())
    streams = Streams()
    views = Views(dashboard, scheduler, history, streams, environment)
    views.add_routes()
    dashboard.router.add_static("/static", _HERE / "static", name="static")
    dashboard.on_response_prepare.append(add_security_headers)
    life = _Life(scheduler, history, streams)
    dashboard.on_startup.append(life.start)
    dashboard.on_shutdown.append(life.shut_down)
    dashboard.on_cleanup.append(life.clean_up)
    scheduler.add_observer(history)
    return dashboard


class _Life:
    """When the history is measured and forgotten, and the streams end."""

    def __init__(self, scheduler: Scheduler, history: History, streams: Streams) -> None:
        self._scheduler = scheduler
        self._history = history
        self._streams = streams
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, app: web.Application) -> None:
        self._wait()

    async def shut_down(self, app: web.Application) -> None:
        # The server waits for all handlers after this, and a stream would never end.
        self._streams.end()

    async def clean_up(self, app: web.Application) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._scheduler.remove_observer(self._history)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._measure)

    def _measure(self) -> None:
        self._history.measure(self._scheduler.statistics())
        self._wait()
