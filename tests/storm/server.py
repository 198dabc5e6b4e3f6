"""The storm's server, a process of its own: ``python -m tests.storm.server``.

It gets its `Settings` from an environment variable, so that gunicorn can start it too, by
`make_runner`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from aiohttp_jobs import SCHEDULER, Job, Scheduler, setup

from .handlers import LEDGER, SEED, add_routes
from .jobs import CURRENT, STUBBORN_FOR
from .ledger import Ledger

__all__ = ("CLOSE_TIMEOUT", "DEADLINE", "Settings", "make_runner")

VARIABLE: Final = "STORM_SETTINGS"

# Few, so that jobs often wait for a slot, and callers for room.
LIMIT: Final = 40
PENDING_LIMIT: Final = 20
# Seconds. The longest handlers take 0.6, see plan.py.
SHUTDOWN_TIMEOUT: Final = 1.0
WAIT_TIMEOUT: Final = 2.0
CLOSE_TIMEOUT: Final = 0.2
# How they add up, see docs/cancellation.rst. A job that swallows its cancellation delays
# the end of the process a little, but not the clean-up.
DEADLINE: Final = 2 * SHUTDOWN_TIMEOUT + WAIT_TIMEOUT + CLOSE_TIMEOUT + STUBBORN_FOR

logger: Final = logging.getLogger("storm.server")


@dataclass(frozen=True)
class Settings:
    """The settings of the process.

    Args:
        database: the path of the ledger.
        seed: the seed of the plans.
        socket: the file descriptor of a listening socket.
        handler_cancellation: as for `web.run_app`.
        uvloop: run on uvloop (without gunicorn).
    """

    database: str
    seed: int
    socket: int
    handler_cancellation: bool
    uvloop: bool

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings from the environment."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def to_environment(self) -> dict[str, str]:
        """Return the environment for a process with these settings."""
        return {**os.environ, VARIABLE: json.dumps(dataclasses.asdict(self))}


def make_app(settings: Settings) -> web.Application:
    """Make the application; setup() comes before the ledger, which the jobs need."""
    app = web.Application()
    app[SEED] = settings.seed
    setup(
        app,
        limit=LIMIT,
        pending_limit=PENDING_LIMIT,
        wait_timeout=WAIT_TIMEOUT,
        close_timeout=CLOSE_TIMEOUT,
        exception_handler=report,
        atomic_methods={"PUT"},
    )

    async def keep_ledger(app: web.Application) -> AsyncIterator[None]:
        app[LEDGER] = ledger = Ledger(Path(settings.database))
        yield
        ledger.close()

    app.cleanup_ctx.append(keep_ledger)
    app.on_cleanup.append(say_what_is_left)
    add_routes(app)
    return app


def report(scheduler: Scheduler, context: dict[str, Any]) -> None:
    """Log a failure that the exception handler is called with, for the verdict."""
    error: BaseException = context["exception"]
    job: Job[Any] | None = context.get("job")
    subject = getattr(error, "subject", None)
    if subject is None and job is not None:
        # An atomic handler's job has no name of its own, but reports come in its context.
        subject = job.name or f"request {CURRENT.get()}"
    logger.error(context["message"], extra={"subject": subject}, exc_info=error)


async def say_what_is_left(app: web.Application) -> None:
    """Log the counts, after all other clean-up."""
    scheduler = app[SCHEDULER]
    counts = scheduler.active_count, scheduler.pending_count
    state = "closed" if scheduler.closed else "open"
    logger.info("At the end: %d active, %d pending, %s", *counts, state)


class AsJson(logging.Formatter):
    """Formats each record as one line of JSON, unlike anything else on stderr."""

    EXTRA = ("subject", "event", "jobs_cancelled", "jobs_never_started")

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "logger": record.name,
            "message": record.getMessage(),
            "subject": None,
            **{key: getattr(record, key) for key in self.EXTRA if hasattr(record, key)},
        }
        if record.exc_info:
            entry["subject"] = entry["subject"] or getattr(
                record.exc_info[1], "subject", None
            )
            entry["error"] = repr(record.exc_info[1])
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def start_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(AsJson())
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)
    for name in ("aiohttp_jobs", "storm"):
        logging.getLogger(name).setLevel(logging.INFO)


async def make_runner() -> web.AppRunner:
    """Return the runner; gunicorn calls this."""
    start_logging()
    settings = Settings.from_environment()
    return web.AppRunner(
        make_app(settings),
        handler_cancellation=settings.handler_cancellation,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        access_log=None,
    )


def main() -> None:
    start_logging()
    settings = Settings.from_environment()
    loop: asyncio.AbstractEventLoop | None = None
    if settings.uvloop:
        import uvloop

        loop = uvloop.new_event_loop()
    web.run_app(
        make_app(settings),
        sock=socket.socket(fileno=settings.socket),
        handler_cancellation=settings.handler_cancellation,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        access_log=None,
        print=None,
        loop=loop,
    )


if __name__ == "__main__":
    main()
