"""The command line: ``python -m demo_app`` serves, ``… experiment`` measures."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from yarl import URL

from .experiment import Experiment
from .serving import CannotServe, serving
from .shop import Route, Tally, open_shop

# What a shell reports for a program that Ctrl-C has ended.
INTERRUPTED = 130
BAR_WIDTH = 30


async def serve(host: str, port: int, database: Path) -> int:
    """Serve the pages until Ctrl-C."""
    async with serving(database, host, port) as server:
        print(URL.build(scheme="http", host=host, port=server.port, path="/"), flush=True)
        await asyncio.Event().wait()
    async with open_shop(database) as shop:
        tallies = await shop.tally()
    print(f"Stopped. {verdict(tallies[Route.ATOMIC])}", flush=True)
    return 0


async def experiment(clients: int, seed: int | None, database: Path) -> int:
    """Run the experiment at a server of its own, and print its table."""
    trial = Experiment(clients, seed, progress=show_progress)
    print(
        f"{trial.clients} clients order by both routes and hang up half-way "
        f"(--seed {trial.seed}).",
        flush=True,
    )
    async with serving(database, "127.0.0.1", 0) as server:
        await trial.run(server.host, server.port)
    # The server has ended, and with it every job: this is what is in the database.
    async with open_shop(database) as shop:
        await trial.count(shop)
    print_table(trial)
    _, atomic = trial.rows()
    sentence = verdict(atomic.tally)
    if server.interrupted:
        print(f"Interrupted after {trial.done} of {trial.total} orders. {sentence}")
        return INTERRUPTED
    print(sentence)
    return 1 if atomic.tally.half_done else 0


def verdict(atomic: Tally) -> str:
    """Say whether the atomic orders are whole."""
    if not atomic.half_done:
        return "No atomic order is half-done."
    return (
        f"Atomic orders that are half-done: {atomic.half_done}. "
        "They were cancelled by a second Ctrl-C, or their process was killed."
    )


def show_progress(trial: Experiment) -> None:
    """Draw the bar; or print a line now and then where lines cannot be overwritten."""
    done, total = trial.done, trial.total
    if sys.stdout.isatty():
        filled = BAR_WIDTH * done // total
        bar = "=" * filled + " " * (BAR_WIDTH - filled)
        end = "\n" if done == total else ""
        print(f"\r[{bar}] {done} of {total}", end=end, flush=True)
    elif 10 * done // total > 10 * (done - 1) // total:
        print(f"{done} of {total}", flush=True)


def print_table(trial: Experiment) -> None:
    """Print what came of the orders."""
    heads = ("Clients", "Answered", "Hung up", "Charged", "Recorded", "Half-done")
    print("\nRoute   " + "".join(f"{head:>11}" for head in heads))
    for row in trial.rows():
        numbers = (
            row.clients,
            row.answered,
            row.hung_up,
            row.tally.charged,
            row.tally.recorded,
            row.tally.half_done,
        )
        print(f"{row.route:8}" + "".join(f"{number:>11}" for number in numbers))
    failed = sum(row.failed for row in trial.rows())
    if failed:
        print(f"Orders that were refused or failed: {failed}.")
    print()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo_app",
        description="A small shop that shows what aiohttp_jobs is for.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    parser.add_argument(
        "--database",
        type=Path,
        metavar="FILE",
        help="the SQLite database; default: a temporary one, removed at the end",
    )
    commands = parser.add_subparsers(dest="command", title="instead of serving pages")
    command = commands.add_parser(
        "experiment", help="run the experiment here and print its table"
    )
    command.add_argument(
        "--clients", type=positive, default=200, help="default: %(default)s"
    )
    command.add_argument("--seed", type=int, help="decides how patient the clients are")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """Read a number that is at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    args = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    # The scheduler tells on INFO how far a drain is that takes long.
    logging.getLogger("aiohttp_jobs").setLevel(logging.INFO)
    with contextlib.ExitStack() as stack:
        database: Path | None = args.database
        if database is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="demo_app-"))
            database = Path(folder) / "shop.sqlite3"
        try:
            if args.command == "experiment":
                return asyncio.run(experiment(args.clients, args.seed, database))
            kept = args.database or "a temporary file, removed at the end"
            print(f"The demo shop of aiohttp_jobs; Ctrl-C ends it.\nDatabase: {kept}")
            return asyncio.run(serve(args.host, args.port, database))
        except CannotServe as error:
            print(error, file=sys.stderr)
            return 1
        except (KeyboardInterrupt, asyncio.CancelledError):
            # Before there was anything to be drained.
            print("Interrupted.", file=sys.stderr)
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
