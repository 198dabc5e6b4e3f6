"""run_worker: an application with durable jobs in a process without a server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from aiohttp import web

from aiohttp_jobs.web.application import check_application
from aiohttp_jobs.web.setup import applications_below

from .setup import DURABLE

__all__ = ("run_worker",)

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


def run_worker(app: web.Application) -> None:
    """Run an application without a server, in a process that only runs jobs.

    Start-up, drain and clean-up are those of a server. SIGTERM and SIGINT (Ctrl-C) end
    it; a second one ends it at once.

    Args:
        app: an application with durable jobs, see :func:`setup_durable`; or with a
            sub-application that has some.

    Raises:
        RuntimeError: the application has none; or it would do nothing, because of
            ``worker=False``.
    """
    check_application("run_worker", app)
    apps = (app, *applications_below(app))
    durables = [each[DURABLE] for each in apps if DURABLE in each]
    if not durables:
        raise RuntimeError(
            "run_worker() was called for an application that has no durable jobs: call "
            "setup_durable(app, ...) first"
        )
    if not any(each.has_work for each in durables):
        raise RuntimeError(
            "run_worker() was called for an application that runs no jobs, and spawns "
            "no periodic ones: leave out worker=False in setup_durable()"
        )
    asyncio.run(_work(app))


async def _work(app: web.Application) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app)
    undo = list[Callable[[], object]]()

    def stop_handling() -> None:
        while undo:
            undo.pop()()

    def tell() -> None:
        told.set()
        stop_handling()  # so that a second signal ends even a start-up that hangs

    # Before the start-up: a signal that comes during it lets it finish first.
    undo += [_on_signal(loop, number, tell) for number in _ENDING]
    try:
        await runner.setup()
        await told.wait()
    finally:
        stop_handling()
        await runner.cleanup()


def _on_signal(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, call: Callable[[], None]
) -> Callable[[], object]:
    """Call `call` when the signal comes; return a function that undoes this."""
    try:
        loop.add_signal_handler(number, call)
    except NotImplementedError:  # on Windows

        def handle(number: int, frame: object) -> None:
            loop.call_soon_threadsafe(call)

        before = signal.signal(number, handle)
        return lambda: signal.signal(number, before)
    return lambda: loop.remove_signal_handler(number)
