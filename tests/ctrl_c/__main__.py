"""The command line: ``python -m tests.ctrl_c``."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time

from .press import ON, Undisturbed, places_of, press
from .scenarios import SCENARIOS


def main() -> int:
    """Interrupt scenarios at every place; return 1 if the books are wrong after any."""
    args = parse_arguments()
    logging.getLogger("aiohttp_jobs").addHandler(logging.NullHandler())
    gc.freeze()  # existing objects are never collected, which makes collections quick
    start = time.monotonic()
    pressed = wrong = hanging = out_of_reach = 0
    for scenario in SCENARIOS:
        name = scenario.__name__
        for kind in args.loop or ON:
            if args.scenario and name not in args.scenario:
                continue
            try:
                places = places_of(scenario, kind, args.times)
            except Undisturbed as error:
                print(f"{name} on {kind}: {error}", flush=True)
                wrong += 1
                continue
            findings = [
                found for place in places if (found := press(scenario, kind, place))
            ]
            pressed += len(places)
            hanging += sum(finding.hangs for finding in findings)
            known = sum(finding.place.is_out_of_reach for finding in findings)
            out_of_reach += known
            wrong += len(findings) - known
            print(f"{name} on {kind}: {len(findings)} of {len(places)} places are wrong")
            if not args.quiet:
                print("".join(f"{finding}\n" for finding in findings), end="", flush=True)
    print(f"{pressed:>8,} places in {time.monotonic() - start:.0f} seconds")
    print(f"{wrong:>8,} of them leave wrong books")
    print(f"{out_of_reach:>8,} more do, where no code of ours could catch anything")
    print(f"{hanging:>8,} of both make a call hang")
    return int(wrong > 0)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.ctrl_c")
    names = [scenario.__name__ for scenario in SCENARIOS]
    parser.add_argument("scenario", nargs="*", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--loop", action="append", choices=ON, help="default: all")
    parser.add_argument(
        "--times",
        type=int,
        default=3,
        help="how often at each line; default: %(default)s",
    )
    parser.add_argument("--quiet", action="store_true", help="print no places")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
