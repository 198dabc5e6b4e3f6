"""``python -m aiohttp_jobs.durable FILE``: what waits in a file and why, and the dead."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from time import monotonic, sleep, time

from aiohttp_jobs.core.errors import StoreUnavailable
from aiohttp_jobs.core.names import shown

from .kept import KeptJob, Place
from .sqlite import look
from .sqlite.dead import DROP, RETRY, Change, pause_after
from .sqlite.faults import fault_of
from .sqlite.schema import check_version, connect

# The most rows to show for each place.
MOST: int = 20


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m aiohttp_jobs.durable",
        description="Show the durable jobs in a file, without their arguments; retry "
        "or drop dead ones.",
    )
    parser.add_argument("file", help="the file of the store")
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=("list", "dead", "retry", "drop"),
        help="list what waits and runs (the default); show the dead with the ends of "
        "their tracebacks; let dead jobs run again; drop them",
    )
    parser.add_argument("ids", nargs="*", help="which dead jobs to retry or drop")
    parser.add_argument("--all", action="store_true", help="retry or drop all dead jobs")
    options = parser.parse_args(arguments)
    changes = options.action in ("retry", "drop")
    if changes and bool(options.ids) is options.all:
        parser.error(f"{options.action} takes the ids of dead jobs, or --all")
    if not changes and (options.ids or options.all):
        parser.error(f"{options.action} takes no ids and no --all")
    try:
        lines = _do(os.path.abspath(options.file), options.action, options.ids or None)
        for line in lines:
            print(line)  # noqa: T201
    except (OSError, sqlite3.Error, StoreUnavailable) as error:
        fault = fault_of(error, options.file)
        print(fault.args[0] if fault else error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _do(path: str, action: str, ids: list[str] | None) -> Iterator[str]:
    if not os.path.exists(path):
        raise StoreUnavailable(f"there is no file {path}")
    with closing(connect(path)) as connection:
        check_version(connection, path)
        if action in ("retry", "drop"):
            change = Change(RETRY if action == "retry" else DROP, ids, None)
            done = "waiting again" if action == "retry" else "dropped"
            try:
                _make(change, connection)
            finally:
                yield f"Dead jobs {done}: {change.done}"
            return
    if action == "dead":
        yield from _show_dead(path)
    else:
        yield from _show_all(path)


def _make(change: Change, connection: sqlite3.Connection) -> None:
    """Make the change a part at a time, so that the application can go on in between."""
    while not change.is_over:
        begun = monotonic()
        connection.execute("BEGIN IMMEDIATE")
        part = change.do_part(connection)
        connection.execute("COMMIT")
        change.note(part)
        if not change.is_over:
            sleep(pause_after(monotonic() - begun))


def _show_all(path: str) -> Iterator[str]:
    numbers = look.statistics(path)
    yield (
        f"waiting {numbers.waiting} (the first for {numbers.oldest_waiting:.0f} s), "
        f"delayed {numbers.delayed}, running {numbers.running}, dead {numbers.dead}"
    )
    known = look.known_tasks(path)
    for place in (Place.RUNNING, Place.WAITING, Place.DELAYED):
        for job in look.jobs(path, place, MOST):
            yield f"{place:8} {job.id}  {shown(job.task)}: {_why(job, known)}"
    if numbers.dead:
        yield f"Show the dead: python -m aiohttp_jobs.durable {path} dead"


def _why(job: KeptJob, known: set[str]) -> str:
    """Say where it runs, or what it waits for."""
    past = ""
    if job.attempt > 1:
        past += f", attempt {job.attempt}"
    if job.crashes:
        past += f", its process died {job.crashes} times"
    if job.place is Place.RUNNING:
        return f"in process {job.process or '(which has died)'}{past}"
    if job.place is Place.DELAYED and job.due is not None:
        return f"due in {max(0, job.due - time()):.0f} s{past}"
    age = f"since {max(0, time() - job.accepted_at):.0f} s{past}"
    if not known:
        return f"{age}, no worker uses this file"
    if job.task not in known:
        return f"{age}, no worker that uses this file has this task"
    return f"{age}, for a free slot"


def _show_dead(path: str) -> Iterator[str]:
    for job in look.jobs(path, Place.DEAD, -1):
        age = max(0, time() - (job.buried_at or 0))
        yield f"{job.id}  {shown(job.task)}: {age:.0f} s ago, attempt {job.attempt}"
        lines = (job.reason or "").strip().splitlines()
        for line in lines[-3:]:
            yield f"    {shown(line)}"


if __name__ == "__main__":
    sys.exit(main())
