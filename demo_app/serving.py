"""Serving: runs the application until Ctrl-C, then says how many jobs are left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from aiohttp_jobs import SCHEDULER

from .shop import open_shop

__all__ = ("CannotServe", "Server", "check_database", "listen", "serving")


class CannotServe(Exception):
    """The shop cannot open; the message is a sentence for whoever started it."""


@dataclass
class Server:
    """The running server; `interrupted` once Ctrl-C or SIGTERM has come."""

    host: str
    port: int
    interrupted: bool = False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address; clients wait until a server accepts.

    Raises:
        CannotServe: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OverflowError as error:
        raise CannotServe(f"There is no port {port}: the last one is 65535.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = (
                f"Port {port} of {host} is taken: choose another one with --port, "
                "or with 'make demo PORT=9000'."
            )
        else:
            why = f"Port {port} of {host} cannot be used: {error.strerror or error}."
        raise CannotServe(why) from error


async def check_database(path: Path) -> None:
    """Open the database once, creating it if need be.

    Raises:
        CannotServe: the database cannot be opened.
    """
    try:
        async with open_shop(path):
            pass
    except sqlite3.Error as error:
        raise CannotServe(f"The database {path} cannot be used: {error}.") from error


@contextlib.asynccontextmanager
async def serving(app: web.Application, listener: socket.socket) -> AsyncIterator[Server]:
    """Run the application while the ``async with`` block runs.

    Ctrl-C or SIGTERM ends the block, and no exception leaves it. However the block ends,
    the jobs that are left are then drained; another Ctrl-C cancels them.

    Args:
        app: the application.
        listener: the socket to accept connections from; closed at the end.
    """
    scheduler = app[SCHEDULER]
    # By default aiohttp lets a handler run on when its client has gone. With this option,
    # it cancels the handler, even in the middle of an order. Some older releases always
    # did so. A proxy in between helps little: most hang up on the server when their
    # client hangs up. And without the option the same happens to orders that a shutdown
    # or a timeout cancels, only less often.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=15)

    server = Server(*listener.getsockname()[:2])
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
            await runner.setup()
            await web.SockSite(runner, listener).start()
            try:
                yield server
            except asyncio.CancelledError:
                if not server.interrupted:
                    raise
                task.uncancel()  # the clean-up must not be cancelled
        finally:
            ending = True
            await runner.cleanup()
            listener.close()


def _last_words(left: int) -> str:
    # In a terminal the cursor is after "^C" or a progress bar.
    new_line = "\n" if sys.stdout.isatty() else ""
    if not left:
        return f"{new_line}Stopping: no jobs are left."
    jobs = "1 job is" if left == 1 else f"{left} jobs are"
    return f"{new_line}Stopping: {jobs} left, and may finish. Ctrl-C again cancels them."


@contextlib.contextmanager
def _on_signals(callback: Callable[[], object]) -> Iterator[None]:
    """Call `callback` on Ctrl-C and SIGTERM.

    asyncio.run() handles only Ctrl-C, and not if the process was started with SIGINT
    ignored.
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
