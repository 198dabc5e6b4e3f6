"""CPU time of the server per request; the requests come from this process."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Self

from .jobs import OURS, RAW, THEIRS
from .measure import take
from .report import Table, spread
from .server import HOST, TEXT, VARIANTS

__all__ = ("CONNECTIONS", "connections", "per_request", "receive", "send")

# All of them send a request, then all read their responses, so that the server finds
# several requests at a time.
CONNECTIONS = 10
REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
# Seconds without a response after which the benchmark fails.
TIMEOUT = 60


class Server:
    """A context manager that runs the server's process."""

    def __init__(self, uvloop: bool) -> None:
        self._options = ["--uvloop"] if uvloop else []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        *ports, control = map(int, self._process.stdout.readline().split())
        self._ports = dict(zip(VARIANTS, ports, strict=True))
        self._control = http.client.HTTPConnection(HOST, control, timeout=TIMEOUT)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._control.close()
        self._process.communicate()

    def cpu_time(self, collect: bool = False) -> float:
        """Return the CPU seconds that the server has used since it started."""
        self._control.request("GET", "/?collect" if collect else "/")
        return float(json.load(self._control.getresponse()))

    def collect(self) -> None:
        self.cpu_time(collect=True)

    def sample(self, variant: tuple[str, str], requests: int) -> float:
        """Return the CPU seconds that the server uses for this many requests."""
        with connections(self._ports[variant], CONNECTIONS) as opened:
            exchange(opened, CONNECTIONS)
            start = self.cpu_time()
            exchange(opened, requests)
            return self.cpu_time() - start


@contextlib.contextmanager
def connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((HOST, port), TIMEOUT))
            for _ in range(number)
        ]


def exchange(opened: list[socket.socket], requests: int) -> None:
    for _ in range(requests // len(opened)):
        send(opened)
        receive(opened)


def send(opened: list[socket.socket]) -> None:
    for connection in opened:
        connection.sendall(REQUEST)


def receive(opened: list[socket.socket]) -> None:
    for connection in opened:
        response = b""
        while not response.endswith(b"\r\n\r\n" + TEXT.encode()):
            received = connection.recv(4096)
            response += received
            if not received or not response.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"The server answered {response!r}")


def per_request(uvloop: bool, requests: int, rounds: int) -> Table:
    """Compare all applications of the server."""
    table = Table(
        "Server's CPU time per request",
        f"{requests:,} requests over {CONNECTIONS} connections that are kept alive. "
        "asyncio's handlers stand under an empty middleware, but for the first; "
        f"medians of {rounds} rounds, in brackets the quartiles.",
        ("A handler that", "Variant", "µs per request", "of asyncio", "of aiojobs"),
    )
    with Server(uvloop) as server:
        samples = take(
            {
                _name(*variant): partial(server.sample, variant, requests)
                for variant in VARIANTS
            },
            rounds,
            server.collect,
        )
    for what, who in VARIANTS:
        name = _name(what, who)
        to_raw = samples.ratio(name, _name(what, RAW))
        table.add(
            what,
            who,
            f"{samples.median(name) / requests * 1e6:.1f}",
            spread(to_raw),
            spread(samples.ratio(name, _name(what, THEIRS))) if who == OURS else "",
        )
    return table


def _name(what: str, who: str) -> str:
    return f"{what}, {who}"
