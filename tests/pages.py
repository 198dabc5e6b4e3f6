"""The examples of a page: its Python blocks, and the terminal sessions that follow them.

A block runs like a file of its own, in a namespace of its own, on a loop whose clock
jumps: a job that takes five seconds takes no time. aiohttp's client stands in for `curl`.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import textwrap
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientTimeout, web
from aiohttp.test_utils import TestClient, TestServer

ROOT = Path(__file__).parent.parent

# A directive with its options and its indented content.
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n(?P<options>(?:   :.*\n)*)\n"
    r"(?P<text>(?:(?:   .*)?\n)+)",
    re.MULTILINE,
)
PORT = "http://127.0.0.1:8080"


@dataclass
class Block:
    """A block of Python, and what its page says about it."""

    name: str
    # Padded so that its line numbers are those of the page.
    code: str
    # The commands typed in another terminal, with their output.
    session: list[tuple[str, str]] = field(default_factory=list)
    # What the program prints meanwhile; None if the page does not say.
    prints: str | None = None


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of Python, each with the sessions up to the next block."""
    text = (ROOT / page).read_text()
    block: Block | None = None
    for match in BLOCK.finditer(text):
        shown = textwrap.dedent(match["text"]).strip("\n") + "\n"
        named = re.search(r":name: (\S+)", match["options"])
        if match["language"] == "python":
            assert named, f"{page}: a Python block without a name: {match[0]}"
            if block is not None:
                yield block
            above = text.count("\n", 0, match.start("text"))
            block = Block(named[1], "\n" * above + textwrap.dedent(match["text"]))
        elif block is not None and match["language"] == "console" and "curl " in shown:
            block.session += commands(shown)
        elif named and named[1].endswith("-prints"):
            assert block is not None, named[1]
            assert named[1] == f"{block.name}-prints", named[1]
            block.prints = shown
    if block is not None:
        yield block


def commands(session: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a session, each with its output."""
    for part in re.split(r"(?m)^\$ ", session)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


class Server(TestServer):
    """A test server that cancels handlers only if the page lets `run_app` do so."""

    __test__ = False

    def __init__(self, app: web.Application, options: dict[str, Any]) -> None:
        super().__init__(app)
        self.cancels = options.get("handler_cancellation", False)

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        options["handler_cancellation"] = self.cancels
        return await super()._make_runner(**options)


class Page:
    """Runs one block of a page."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        # The block runs as the main program.
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.clients: list[TestClient[Any, Any]] = []
        # The arguments of run_app() and asyncio.run().
        self.served: web.Application | None = None
        self.options: dict[str, Any] = {}
        self.main: Coroutine[Any, Any, Any] | None = None

    def run(self, code: str, page: str) -> None:
        """Run a block up to the call that would go on for ever."""

        def run_app(app: web.Application, **options: Any) -> None:
            self.served, self.options = app, options

        def run(main: Coroutine[Any, Any, Any]) -> None:
            self.main = main

        # Without the future statements of this module.
        compiled = compile(code, str(ROOT / page), "exec", dont_inherit=True)
        with (
            mock.patch.object(web, "run_app", run_app),
            mock.patch.object(asyncio, "run", run),
        ):
            exec(compiled, self.names)

    async def serve(self) -> Any:
        """Serve the application that the block has made; return a client."""
        return await self.start(self.served or self.names["app"])

    async def start(self, app: web.Application, *, cancels: bool | None = None) -> Any:
        options = self.options if cancels is None else {"handler_cancellation": cancels}
        client = TestClient(Server(app, options))
        self.clients.append(client)
        await client.start_server()
        return client

    async def run_main(self) -> None:
        """Run the coroutine that `asyncio.run` was called with."""
        assert self.main is not None
        main, self.main = self.main, None
        await main

    async def end(self) -> None:
        """Stop the servers, and with them their jobs."""
        for client in self.clients:
            await client.close()
        if self.main is not None:
            self.main.close()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def printed(self) -> str:
        return self.capsys.readouterr().out


async def type_in(client: Any, command: str) -> str:
    """Return what a terminal shows for a command; only a few are supported."""
    if loop := re.fullmatch(r"for \w+ in ([\d ]+); do (.*); done", command):
        answers = [await type_in(client, loop[2]) for _ in loop[1].split()]
        return "".join(answers)
    command, _, wanted = command.partition(" | grep ")
    name, *words = shlex.split(command)
    assert name == "curl", command
    answer = await curl(client, words)
    lines = answer.splitlines(keepends=True)
    return "".join(line for line in lines if wanted in line) if wanted else answer


async def curl(client: Any, words: list[str]) -> str:
    method, data, headers = None, None, dict[str, str]()
    shown, include, seconds, url = None, False, None, ""
    rest = iter(words)
    for word in rest:
        match word:
            case "--request" | "-X":
                method = next(rest)
            case "--data" | "--data-binary" | "-d":
                data = next(rest)
            case "--header" | "-H":
                key, _, value = next(rest).partition(": ")
                headers[key] = value
            case "--write-out" | "-w":
                shown = next(rest)
            case "--output" | "-o":
                assert next(rest) == "/dev/null"
            case "--max-time" | "-m":
                seconds = float(next(rest))
            case "--include" | "-i":
                include = True
            case "--silent" | "-s":
                pass
            case _:
                assert word.startswith(f"{PORT}/"), word
                url = word.removeprefix(PORT)
    if data is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    method = method or ("GET" if data is None else "POST")
    # aiohttp 3.9 with a recent yarl does not route a Host with a port to
    # sub-applications.
    headers["Host"] = "test"
    try:
        response = await client.request(
            method,
            url,
            data=data,
            headers=headers,
            allow_redirects=False,
            timeout=ClientTimeout(total=seconds),
        )
        text = str(await response.text())
    except TimeoutError:
        assert seconds is not None
        return (
            f"curl: (28) Operation timed out after {seconds * 1000 + 1:.0f} milliseconds "
            "with 0 bytes received\n"
        )
    if shown is not None:
        return shown.replace("%{http_code}", str(response.status)).replace("\\n", "\n")
    if include:
        kept = {"Retry-After", "Location"}
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{k}: {v}" for k, v in response.headers.items() if k in kept]
        text = "\n".join([*lines, "...", "", text])
    return text
