"""``python -m benchmarks``: prints the tables; ``--rst`` writes them for the docs too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from . import (
    client,
    dashboard,
    durable,
    instructions,
    jobs,
    many,
    memory,
    observers,
    workers,
)
from .measure import make_runner
from .report import Table, as_rst, as_text, environment, summary


def main() -> None:
    options = parse()
    quick: bool = options.quick
    rounds: int = options.rounds or (3 if quick else 31)
    tables: list[Table] = []
    with make_runner(uvloop=options.uvloop) as runner:
        run: dict[str, Callable[[], Table]] = {
            "instructions": lambda: (
                instructions.instructions((110, 160), (10, 20))
                if quick
                else instructions.instructions()
            ),
            "jobs": lambda: jobs.per_job(runner, 1_000 if quick else 10_000, rounds),
            "observers": lambda: observers.observed(
                runner, 1_000 if quick else 10_000, rounds
            ),
            "dashboard": lambda: dashboard.looked_at(
                runner, 1.5 if quick else 3.0, min(rounds, 11)
            ),
            "workers": lambda: workers.shared(
                2 if quick else 8, 2.0 if quick else 5.0, min(rounds, 5)
            ),
            "many": lambda: many.many(
                runner, (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
            ),
            "memory": lambda: memory.bytes_per_job(runner, 1_000 if quick else 10_000),
            "enqueued": lambda: durable.enqueued(
                runner, 200 if quick else 1_000, min(rounds, 7)
            ),
            "worked off": lambda: durable.worked_off(
                runner, 1_000 if quick else 20_000, min(rounds, 7)
            ),
            "many kept": lambda: durable.many_kept(
                runner, 10_000 if quick else 1_000_000
            ),
            "server": lambda: client.per_request(
                options.uvloop, 200 if quick else 2_000, rounds
            ),
        }
        for name in options.only:
            tables.append(run[name]())
            print(as_text(tables[-1]), flush=True)
    tables.insert(0, summary(tables))
    print(as_text(tables[0]))
    about = environment(
        " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "uvloop" if options.uvloop else "asyncio",
    )
    print(about)
    if options.rst is not None:
        options.rst.write_text(as_rst(tables, about), encoding="utf-8")


TABLES = (
    "instructions",
    "jobs",
    "observers",
    "dashboard",
    "workers",
    "many",
    "memory",
    "enqueued",
    "worked off",
    "many kept",
    "server",
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=TABLES, help="which tables"
    )
    parser.add_argument("--rounds", type=int, help="how many samples of each variant")
    parser.add_argument(
        "--quick", action="store_true", help="does it run at all? The figures are rough"
    )
    parser.add_argument("--uvloop", action="store_true", help="in uvloop's event loop")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="write the tables there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
