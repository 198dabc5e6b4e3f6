"""The command line: ``python -m tests.storm``."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from pathlib import Path

from .run import Server, Storm


def main() -> int:
    """Run a storm over each server; return 1 if one of them found a fault."""
    args = parse_arguments()
    failed = False
    for server in args.server or list(Server):
        storm = Storm(server, args.seed, args.requests, args.connections)
        print(f"\n{storm.command}", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="storm-") as folder:
            verdict = asyncio.run(storm.run(Path(folder)))
        for name, number in verdict.figures.items():
            print(f"    {number:>8,} {name}")
        print(f"    {time.monotonic() - start:>8.1f} seconds in all")
        print(f"    {len(verdict.faults):>8} faults", flush=True)
        for fault in verdict.faults[:50]:
            print(f"FAULT: {fault}", flush=True)
        failed = failed or bool(verdict.faults)
    return int(failed)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm")
    parser.add_argument(
        "--requests", type=int, default=20_000, help="default: %(default)s"
    )
    parser.add_argument(
        "--connections", type=int, default=300, help="default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1_000_000), help="default: any"
    )
    parser.add_argument(
        "--server", type=Server, choices=Server, nargs="*", help="which; default: all"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
