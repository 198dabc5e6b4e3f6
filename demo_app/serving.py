"""Serving: runs the application until Ctrl-C, and says what is left to be done then."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from aiohttp_jobs import SCHEDULER

from .app import make_app

__all__ = ("CannotServe", "Server", "serving")


class CannotServe(Exception):
    """The shop cannot open; the message is a sentence for whoever started it."""


@dataclass
class Server:
    """The running server; `interrupted` once Ctrl-C or SIGTERM has come."""

    host: str
    port: int
    interrupted: bool = False


@contextlib.asynccontextmanager
async def serving(database: Path, host: str, port: int) -> AsyncIterator[Server]:
    """Run the application for as long as the ``async with`` block goes on.

    Ctrl-C or SIGTERM ends the block, and is no error after it. However it ends, the jobs
    that are left are drained then; or cancelled, by Ctrl-C again.

    Raises:
        CannotServe: the address or the database cannot be used.
    """
    app = make_app(database)
    scheduler = app[SCHEDULER]
    # aiohttp lets a handler run on when its client has gone, unless it is told to stop
    # what works for nobody; then it stops an order in the middle, too. Some older
    # releases always did so. A proxy in between helps little: most hang up on the server
    # when their client hangs up. And without the option the same befalls orders that a
    # shutdown or a time-out cancels, only less often.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=15)

    server = Server(host, port)
    ending = False
    task = asyncio.current_task()
    assert task is not None
    closing: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if server.interrupted:
            closing.append(asyncio.create_task(scheduler.close()))
            return
        server.interrupted = True
        print(_last_words(len(scheduler)), flush=True)
        if not ending:
            task.cancel()

    with _on_signals(interrupt):
        try:
            with _explained(database, host, port):
                await runner.setup()
                await web.TCPSite(runner, host, port).start()
            server.host, server.port = runner.addresses[0][:2]
            try:
                yield server
            except asyncio.CancelledError:
                if not server.interrupted:
                    raise
                task.uncancel()  # what follows is not to be cancelled
        finally:
            ending = True
            await runner.cleanup()


def _last_words(left: int) -> str:
    # In a terminal the cursor stands behind "^C", or behind a progress bar.
    new_line = "\n" if sys.stdout.isatty() else ""
    if not left:
        return f"{new_line}Stopping: no jobs are left."
    jobs = "1 job is" if left == 1 else f"{left} jobs are"
    return f"{new_line}Stopping: {jobs} left, and may end. Ctrl-C again cancels them."


@contextlib.contextmanager
def _explained(database: Path, host: str, port: int) -> Iterator[None]:
    """Turn what keeps a server from starting into one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise CannotServe(f"The database {database} cannot be used: {error}.") from error
    except OverflowError as error:
        raise CannotServe(f"There is no port {port}: the last one is 65535.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = (
                f"Port {port} of {host} is taken: choose another one by --port, "
                "or by 'make demo PORT=9000'."
            )
        else:
            why = f"Port {port} of {host} cannot be used: {error.strerror or error}."
        raise CannotServe(why) from error


@contextlib.contextmanager
def _on_signals(callback: Callable[[], object]) -> Iterator[None]:
    """Call this at Ctrl-C and SIGTERM.

    asyncio.run() sees to Ctrl-C only, and not if whoever started this ignores it.
    """
    loop = asyncio.get_running_loop()
    added = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.add_signal_handler(number, callback)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
