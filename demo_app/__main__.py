"""The command line: ``python -m demo_app`` serves, ``… experiment`` measures."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from yarl import URL

from .app import make_app
from .experiment import Experiment
from .mail import jobs_file
from .serving import CannotServe, check_database, listen, serving
from .shop import Route, Tally, open_shop
from .supervisor import CAN_SUPERVISE, join_supervisor, supervise, watch_supervisor

# Orders and mail; durable jobs are in a file beside it. They outlive the process, and
# `make clean` removes them.
DATABASE = Path(__file__).parent.parent / ".demo" / "shop.sqlite3"
# The exit status that a shell reports for a program ended by Ctrl-C.
INTERRUPTED = 130
BAR_WIDTH = 30


async def serve(
    args: argparse.Namespace, database: Path, listener: socket.socket, token: str | None
) -> int:
    """Serve the pages until Ctrl-C.

    Args:
        args: the command line.
        database: the SQLite file.
        listener: the socket to accept connections from.
        token: allows visitors to kill this process, which is then started again; None if
            nothing would restart it.
    """
    if token is not None:
        watch_supervisor()
    await check_database(database)
    broker_url = os.environ.get("BROKER_URL")
    app = make_app(
        database, mail_takes=args.mail_takes, broker_url=broker_url, token=token
    )
    async with serving(app, listener) as server:
        print(f"Process {os.getpid()} serves the shop at")
        address = URL.build(scheme="http", host=args.host, port=server.port, path="/")
        print(address, flush=True)
        await asyncio.Event().wait()
    async with open_shop(database) as shop:
        tallies = await shop.tally()
    print(f"Stopped. {verdict(tallies[Route.ATOMIC])}", flush=True)
    return 0


async def experiment(clients: int, seed: int | None, database: Path) -> int:
    """Run the experiment against a server of its own, and print its table."""
    trial = Experiment(clients, seed, progress=show_progress)
    print(
        f"{trial.clients} clients order by both routes and hang up half-way "
        f"(--seed {trial.seed}).",
        flush=True,
    )
    await check_database(database)
    async with serving(make_app(database), listen("127.0.0.1", 0)) as server:
        await trial.run(server.host, server.port)
    # The server has stopped and every job is over, so these counts are final.
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
    """Return a sentence on whether all atomic orders are complete."""
    if not atomic.half_done:
        return "No atomic order is half-done."
    return (
        f"Atomic orders that are half-done: {atomic.half_done}. "
        "They were cancelled by a second Ctrl-C, or their process was killed."
    )


def show_progress(trial: Experiment) -> None:
    """Draw the progress bar, or print a line per tenth if this is no terminal."""
    done, total = trial.done, trial.total
    if sys.stdout.isatty():
        filled = BAR_WIDTH * done // total
        bar = "=" * filled + " " * (BAR_WIDTH - filled)
        end = "\n" if done == total else ""
        print(f"\r[{bar}] {done} of {total}", end=end, flush=True)
    elif 10 * done // total > 10 * (done - 1) // total:
        print(f"{done} of {total}", flush=True)


def print_table(trial: Experiment) -> None:
    """Print the outcome of the orders."""
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
        help="the SQLite database; default: $DEMO_DATABASE, or .demo/shop.sqlite3 beside "
        "the sources; for an experiment, a temporary one",
    )
    parser.add_argument(
        "--mail-takes",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="how long the SMTP server takes for each mail; default: %(default)s",
    )
    # The file descriptor of the socket; the supervisor passes it.
    parser.add_argument("--listener", type=int, help=argparse.SUPPRESS)
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
    """Return the number, which must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return the exit status."""
    args = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    # At INFO level, the scheduler reports the progress of a long drain.
    logging.getLogger("aiohttp_jobs").setLevel(logging.INFO)
    try:
        if args.command == "experiment":
            return run_experiment(args)
        if args.listener is not None:
            listener, token = join_supervisor(args.listener)
            return asyncio.run(serve(args, args.database, listener, token))
        return start(args)
    except CannotServe as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        # This came before there was anything to drain.
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def run_experiment(args: argparse.Namespace) -> int:
    """Run the experiment, by default with a temporary database."""
    with contextlib.ExitStack() as stack:
        database: Path | None = args.database
        if database is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="demo_app-"))
            database = Path(folder) / "shop.sqlite3"
        return asyncio.run(experiment(args.clients, args.seed, database))


def start(args: argparse.Namespace) -> int:
    """Serve, under a supervisor where possible, and print where everything is."""
    database = args.database or Path(os.environ.get("DEMO_DATABASE") or DATABASE)
    if database == DATABASE:
        try:
            database.parent.mkdir(exist_ok=True)
        except OSError as error:
            why = f"{database.parent} cannot be made: {error.strerror}."
            raise CannotServe(f"{why} Choose a file with DEMO_DATABASE=FILE.") from error
    broker = URL(os.environ.get("BROKER_URL", ""))
    if str(broker) and (broker.scheme not in ("amqp", "amqps") or not broker.host):
        raise CannotServe(
            "BROKER_URL takes an address such as amqp://guest:guest@localhost/."
        )
    jobs = broker.with_password(None) if str(broker) else jobs_file(database)
    listener = listen(args.host, args.port)
    print("The demo shop of aiohttp_jobs; Ctrl-C ends it.")
    print(f"Database: {database} (DEMO_DATABASE=FILE chooses another file)")
    print(f"Durable jobs: {jobs} (BROKER_URL=amqp://... keeps them in RabbitMQ)")
    sys.stdout.flush()  # the server is another process
    if not CAN_SUPERVISE:
        return asyncio.run(serve(args, database, listener, None))
    with listener:
        options = {
            "--host": args.host,
            "--database": str(database),
            "--mail-takes": str(args.mail_takes),
        }
        return supervise([*chain.from_iterable(options.items())], listener)


if __name__ == "__main__":
    sys.exit(main())
