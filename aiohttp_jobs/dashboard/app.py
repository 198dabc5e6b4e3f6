"""setup_dashboard: puts the dashboard into an application."""

from __future__ import annotations

import asyncio
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from aiohttp_jobs.core.scheduler import Scheduler
from aiohttp_jobs.share.folder import share_of_environment
from aiohttp_jobs.web.application import check_application
from aiohttp_jobs.web.request import SCHEDULER

from .access import Authorize, check_authorize, make_guard
from .actions import Actions
from .api import Api
from .durable_actions import DurableActions
from .durable_source import summary
from .durable_views import DurableViews
from .history import History, until_next
from .pages import Pages
from .record import cut
from .sites import add_security_headers
from .source import Source, ThisProcess
from .stream import Streams
from .views import Views
from .workers import Workers

__all__ = ("setup_dashboard",)

_HERE: Final = Path(__file__).parent


def setup_dashboard(
    app: web.Application,
    prefix: str = "/jobs",
    *,
    authorize: Authorize,
    scheduler: Scheduler | None = None,
    title: str = "Jobs",
    home: str | None = None,
    share: str | os.PathLike[str] | None = None,
) -> web.Application:
    """Show a scheduler's jobs, below ``prefix``, to those who may see them.

    Call it after :func:`~aiohttp_jobs.setup` and before the application runs. It adds a
    sub-application, and an observer to the scheduler, until the application's clean-up.

    Args:
        app: the application, or sub-application, that the pages become a part of.
        prefix: the path below which they are.
        authorize: a coroutine function that is called with every request for them, and
            returns the :class:`Access` that the request has, or a tuple of that and the
            visitor's name, for the log. It may raise an
            :class:`~aiohttp.web.HTTPException` instead, to ask for a login. An open live
            page asks again every half minute.
        scheduler: whose jobs to show; None for the application's own.
        title: the heading of the pages, and the title of the browser's tab.
        home: the path or the address of the application's own pages, to link to.
        share: a directory of the processes of this application on this machine: each of
            them then shows the jobs of all. None for the environment variable
            ``AIOHTTP_JOBS_SHARE``; if that is not set, only the jobs of the process that
            answers are shown.

    Returns:
        The sub-application.

    Raises:
        RuntimeError: the application was not set up, or is already running; ``share`` was
            given on a platform other than Linux. The application's start fails with one,
            too, if the directory belongs to another user, or others may use it.
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    check_application("setup_dashboard", app)
    check_authorize(authorize)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix takes a str, not {prefix!r}")
    if not re.fullmatch(r"(/[\w.~-]+)+/?", prefix, re.ASCII):
        raise ValueError(
            "prefix takes a path such as '/jobs', of letters, digits and '-', not "
            f"{prefix!r}"
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
    _check_title(title)
    _check_home(home)
    if share is None:
        share = share_of_environment()
    history = History(scheduler)
    here = ThisProcess(scheduler, history)
    workers = None if share is None else Workers(share, prefix.rstrip("/"), here)
    life = _Life(scheduler, history)
    dashboard = _make(authorize, cut(title), home, scheduler, workers or here, life)
    if workers is not None:
        dashboard.cleanup_ctx.append(workers.context)
    app.add_subapp(prefix, dashboard)
    scheduler.add_observer(history)
    return dashboard


def _check_title(title: object) -> None:
    if not isinstance(title, str):
        raise TypeError(f"title takes a str, not {title!r}")
    if not title.strip():
        raise ValueError("title takes a text that can be read, not an empty one")


def _check_home(home: object) -> None:
    if home is None:
        return
    if not isinstance(home, str):
        raise TypeError(f"home takes a str or None, not {home!r}")
    # Nothing else is allowed: "javascript:" is an address, too.
    if not re.match(r"/(?![/\\])|https?://", home):
        raise ValueError(
            f"home takes a path such as '/', or an address that begins with https://, "
            f"not {home!r}"
        )


def _make(
    authorize: Authorize,
    title: str,
    home: str | None,
    scheduler: Scheduler,
    source: Source,
    life: _Life,
) -> web.Application:
    dashboard = web.Application(middlewares=[make_guard(authorize)])
    pages = Pages(dashboard, title, home)
    streams = life.streams
    durable = partial(summary, scheduler=scheduler)
    views = Views(source, pages, streams, authorize, durable)
    views.add_routes(dashboard)
    Actions(source, pages).add_routes(dashboard)
    Api(source).add_routes(dashboard)
    DurableViews(scheduler, pages, views.follow).add_routes(dashboard)
    DurableActions(scheduler, pages).add_routes(dashboard)
    dashboard.router.add_static("/static", _HERE / "static", name="static")
    dashboard.on_response_prepare.append(add_security_headers)
    dashboard.on_startup.append(life.start)
    dashboard.on_shutdown.append(life.shut_down)
    dashboard.on_cleanup.append(life.clean_up)
    return dashboard


class _Life:
    """Measures the history while the application runs, and ends the streams."""

    def __init__(self, scheduler: Scheduler, history: History) -> None:
        self._scheduler = scheduler
        self._history = history
        self.streams = Streams()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, app: web.Application) -> None:
        self._history.up_since = time.monotonic()
        self._wait()

    async def shut_down(self, app: web.Application) -> None:
        # The server waits for all handlers after this, and a stream would never end.
        self.streams.end()

    async def clean_up(self, app: web.Application) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._scheduler.remove_observer(self._history)

    def _wait(self) -> None:
        # At the same time in all processes, or their points could not be put together.
        delay = until_next(time.time())
        self._timer = asyncio.get_running_loop().call_later(delay, self._measure)

    def _measure(self) -> None:
        self._history.measure(self._scheduler.statistics())
        self._wait()
