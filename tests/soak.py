"""A soak: minutes of the storm's load in one process, in which nothing may grow.

``python -m tests.soak`` runs it and prints what it measured; ``--help`` lists the
options.

The load comes in rounds. After each one the clients go and everything ends. Then it
measures what must not grow: the memory that Python has allocated, and the CPU time of a
handler that does not use the scheduler. It compares the first third of the rounds after
the warm-up with the last third, by medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import secrets
import statistics
import sys
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from aiohttp_jobs import Job, Scheduler, setup
from tests.clients import turns
from tests.storm.crowd import Crowd, Fate, Outcome
from tests.storm.handlers import LEDGER, SEED, add_routes
from tests.storm.ledger import ENDS, Event, Ledger
from tests.storm.plan import Plan
from tests.storm.verdict import expected_statuses

__all__ = ("Soak",)

CONNECTIONS: Final = 100
# How many requests to the bare handler make one sample; the quickest of several counts.
BARE_REQUESTS, BARE_SAMPLES = 100, 5
# The share of the rounds after which everything that fills only once is full.
WARM_UP: Final = 0.25
# The least number of rounds, however slow the machine is.
LEAST_ROUNDS: Final = 9
# Bytes that may be added in all, and per request. Anything that a request could leave
# behind takes more.
ONCE, PER_REQUEST = 50_000, 1.0
# By which factor the bare handler may get slower. On a busy machine the factor is lower;
# if its time depended on the requests before, the factor would be higher.
SLOWER: Final = 1.5
# Seconds within which everything that a round has begun has to end.
PATIENCE: Final = 20.0


class Tally(Ledger):
    """A ledger that counts, and keeps no entries."""

    def __init__(self) -> None:
        self.events: Counter[Event] = Counter()

    def close(self) -> None:
        pass

    def note(self, subject: str, event: Event, detail: str = "") -> None:
        self.events[event] += 1

    @property
    def under_way(self) -> int:
        """How many handlers and jobs have begun and not ended."""
        return self.events[Event.BEGAN] - sum(self.events[end] for end in ENDS)


@dataclass(frozen=True)
class Sample:
    """What was measured after one round."""

    requests: int  # so far
    allocated: int  # bytes
    bare: float  # seconds of CPU time for one request to the bare handler
    reference: float  # seconds of CPU time for something that is always the same

    @property
    def relative(self) -> float:
        """The time of the bare handler, in units that grow when the machine is slow."""
        return self.bare / self.reference


@dataclass(frozen=True)
class Growth:
    """What has changed between two points in time."""

    requests: int  # between them
    added: float  # bytes
    slower: float  # times

    def faults(self) -> Iterator[str]:
        """Say what has changed that should not have."""
        if self.added > ONCE + PER_REQUEST * self.requests:
            yield f"{self.added:,.0f} bytes were added in {self.requests:,} requests"
        if self.slower > SLOWER:
            yield f"The bare handler is {self.slower:.2f} times as slow as it was"


class Soak:
    """One soak.

    Args:
        seed: determines each request.
        seconds: how long the load goes on.
        in_round: how many requests make a round.
        progress: called with each sample.
    """

    def __init__(
        self,
        seed: int,
        seconds: float,
        in_round: int,
        progress: Callable[[Sample], object] = lambda sample: None,
    ) -> None:
        self.seed = seed
        self._seconds = seconds
        self._in_round = in_round
        self._progress = progress
        self._tally = Tally()
        # Of other tests in this process: aiohttp keeps their applications for a while.
        self._jobs_before = weakref.WeakSet(_jobs())
        self.reported: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.faults: list[str] = []
        self.hung_up = 0

    @property
    def command(self) -> str:
        """The command that repeats this soak."""
        return (
            f"make soak ARGS='--seed {self.seed} --seconds {self._seconds} "
            f"--in-round {self._in_round}'"
        )

    @property
    def events(self) -> Counter[Event]:
        """What happened to handlers and jobs."""
        return self._tally.events

    async def run(self) -> None:
        """Run the soak; `samples` and `faults` are its results."""
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: self.faults.append(f"The loop was told: {context}")
        )
        tracemalloc.start()
        try:
            async with (
                asyncio.timeout(self._seconds + LEAST_ROUNDS * PATIENCE),
                self._server() as (port, scheduler),
            ):
                end = time.monotonic() + self._seconds
                while time.monotonic() < end or len(self.samples) < LEAST_ROUNDS:
                    await self._round(port, scheduler)
        except BaseException as error:
            error.add_note(f"To repeat it: {self.command}")
            raise
        finally:
            tracemalloc.stop()
        self.faults += self.growth().faults()

    @contextlib.asynccontextmanager
    async def _server(self) -> AsyncIterator[tuple[int, Scheduler]]:
        app = web.Application()
        app[SEED] = self.seed
        app[LEDGER] = self._tally
        scheduler = setup(
            app,
            limit=40,
            pending_limit=20,
            wait_timeout=5,
            close_timeout=0.2,
            exception_handler=self._report,
            atomic_methods={"PUT"},
        )
        add_routes(app)
        # Failures of plain handlers are of no interest here, and pytest keeps log
        # records, with their tracebacks and everything those refer to.
        log = logging.getLogger("tests.soak")
        log.addHandler(logging.NullHandler())
        log.propagate = False
        runner = web.AppRunner(
            app, handler_cancellation=True, logger=log, access_log=None
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield runner.addresses[0][1], scheduler
        finally:
            await runner.cleanup()

    def _report(self, scheduler: Scheduler, context: dict[str, Any]) -> None:
        self.reported[context["message"]] += 1

    async def _round(self, port: int, scheduler: Scheduler) -> None:
        done = self.samples[-1].requests if self.samples else 0
        numbers = range(done, done + self._in_round)
        crowd = Crowd(
            port,
            self.seed,
            CONNECTIONS,
            (number for number in numbers if Plan.of(self.seed, number).ends),
        )
        await crowd.run()
        async with asyncio.timeout(PATIENCE):
            # Poll, as nothing notifies of the end of the server's own tasks.
            while self._tally.under_way or len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await turns()  # and what is called at their ends
        self._judge(crowd.outcomes)
        self.hung_up += sum(outcome.fate is Fate.HUNG_UP for outcome in crowd.outcomes)
        del crowd
        gc.collect()
        self._count(scheduler)
        sample = Sample(
            done + self._in_round,
            tracemalloc.get_traced_memory()[0],
            await self._time_bare_handler(port),
            min(_time_reference() for _ in range(BARE_SAMPLES)),
        )
        self.samples.append(sample)
        self._progress(sample)

    def _judge(self, outcomes: Sequence[Outcome]) -> None:
        """Check that each client got what its handler meant to send."""
        for outcome in outcomes:
            answered = outcome.fate is Fate.ANSWERED
            if answered and outcome.status in expected_statuses(outcome.plan):
                continue
            if outcome.fate is not Fate.HUNG_UP:
                self.faults.append(f"{outcome}")

    def _count(self, scheduler: Scheduler) -> None:
        """Check that no jobs are left, now that everything has ended."""
        counts = scheduler.active_count, scheduler.pending_count, len(scheduler)
        if any(counts):
            self.faults.append(f"Active, pending, all jobs after a round: {counts}")
        if jobs := [job for job in _jobs() if job not in self._jobs_before]:
            self.faults.append(f"{len(jobs)} jobs are kept after a round, as {jobs[0]}")

    async def _time_bare_handler(self, port: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        times = []
        for _ in range(BARE_SAMPLES):
            start = time.process_time()
            for _ in range(BARE_REQUESTS):
                writer.write(b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
            times.append(time.process_time() - start)
        writer.transport.abort()
        return min(times) / BARE_REQUESTS

    def growth(self) -> Growth:
        """Compare the first third of the samples after the warm-up with the last."""
        samples = self.samples[int(len(self.samples) * WARM_UP) :]
        third = len(samples) // 3
        first, last = samples[:third], samples[-third:]
        return Growth(
            last[0].requests - first[0].requests,
            _median(last, "allocated") - _median(first, "allocated"),
            _median(last, "relative") / _median(first, "relative"),
        )


def _median(samples: Sequence[Sample], field: str) -> float:
    values: list[float] = [getattr(sample, field) for sample in samples]
    return statistics.median(values)


def _jobs() -> Iterator[Job[Any]]:
    """Return all jobs in the process."""
    return (found for found in gc.get_objects() if isinstance(found, Job))


def _time_reference() -> float:
    start = time.process_time()
    sum(number * number for number in range(10_000))
    return time.process_time() - start


def main() -> int:
    """Run a soak and print what it measured; return 1 if it has found a fault."""
    import resource  # not on Windows

    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600, help="default: %(default)s")
    parser.add_argument(
        "--in-round", type=int, default=2_000, help="default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1_000_000), help="default: any"
    )
    args = parser.parse_args()

    def show(sample: Sample) -> None:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{sample.requests:>9,} {sample.allocated:>11,} {resident:>12,} "
            f"{sample.bare * 1e6:>8.1f} {sample.relative:>8.3f}",
            flush=True,
        )

    soak = Soak(args.seed, args.seconds, args.in_round, show)
    print(soak.command)
    print(" requests   allocated     resident  bare, µs relative", flush=True)
    asyncio.run(soak.run())
    growth = soak.growth()
    print(f"{soak.samples[-1].requests:>11,} requests")
    print(f"{soak.hung_up:>11,} clients that hung up")
    print("Of handlers, jobs and shielded awaitables:")
    for event, times in soak.events.items():
        print(f"{times:>11,} {event}")
    for message, times in soak.reported.items():
        print(f"{times:>11,} {message}")
    print(f"{growth.added:>11,.0f} bytes added in {growth.requests:,} requests")
    print(f"{growth.slower:>11.2f} times as slow")
    print(f"{len(soak.faults):>11} faults")
    for fault in soak.faults[:50]:
        print(f"FAULT: {fault}")
    return int(bool(soak.faults))


if __name__ == "__main__":
    sys.exit(main())
