"""The tests and the examples of aiojobs, run against this package.

``python -m tests.peer``, or ``make peer``, fetches the source distribution of aiojobs
into a temporary folder and replaces the word ``aiojobs`` by ``aiohttp_jobs`` there. Then
it runs the test suite, with and without asyncio's debug mode, and the examples of the
pages. Nothing of the peer is kept.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import aiohttp_jobs.aiohttp

ROOT: Final = Path(__file__).parent.parent
PEER: Final = "aiojobs==1.4.0"

# The tests that are left out, and why.
LEFT_OUT: Final = {
    "tests/test_scheduler.py::test_spawn_non_bound_loop": (
        "is about a private attribute that has nothing in its place"
    ),
    "tests/test_scheduler.py::test_spawn_with_different_loop": (
        "awaits a coroutine that was refused, which is closed here"
    ),
    "tests/test_scheduler.py::test_run_after_close": (
        "wants the warning that a refused coroutine was never awaited"
    ),
}
# What the other tests use instead of a private attribute; or nothing.
INSTEAD: Final = {
    r"\bjob\._closed\b": "job.closed",
    r"\blen\(scheduler\._jobs\)": "len(scheduler)",
    r"\blen\(scheduler\._shields\)": "scheduler.statistics().shielded",
    r"\bjob\._task\.get_name\(\)": "job.get_name()",
    r"(?m)^ *assert job\._task(\.done\(\)| is not None).*\n": "",
}
# The peer's distribution does not contain its own settings.
SETTINGS: Final = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

# A block below a directive, or below a paragraph that ends with "::".
BLOCK: Final = re.compile(
    r"^(?P<margin> *)(?:\.\. code-block:: python|(?!\.\. )\S.*::)\n\n"
    r"(?P<code>(?:(?P=margin) +\S.*\n|\s*\n)+)",
    re.MULTILINE,
)
# Seconds that one run may take: some of the tests and examples sleep for ten.
PATIENCE: Final = 120


def main() -> int:
    with TemporaryDirectory() as folder:
        source = fetch(Path(folder))
        programs, parts = read_examples(source)
        prepare_tests(source / "tests")
        # All of them sleep most of their time.
        with ThreadPoolExecutor(2 + len(programs)) as pool:
            suites = [pool.submit(run_tests, source, debug) for debug in (False, True)]
            examples = pool.map(run_program, programs)
            asyncio.run(run_parts(parts))
            results = [suite.result() for suite in suites] + list(examples)
    print(f"Examples: {len(programs)} programs and {len(parts)} parts of programs ran")
    return 0 if all(results) else 1


def fetch(folder: Path) -> Path:
    """Unpack the peer's tests and pages, but not its code; replace its name."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    only_source = ["--no-binary", PEER.partition("==")[0]]
    subprocess.run([*download, *only_source, "--dest", folder, PEER], check=True)
    (archive,) = folder.glob("*.tar.gz")
    wanted = re.compile(r"[^/]+/(tests/\w+\.py|docs/\w+\.rst|README\.rst)")
    with tarfile.open(archive) as tar:
        members = [each for each in tar.getmembers() if wanted.fullmatch(each.name)]
        tar.extractall(folder, members, filter="data")
    for member in members:
        path = folder / member.name
        path.write_text(re.sub(r"\baiojobs\b", "aiohttp_jobs", path.read_text()))
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def environment(**variables: str) -> dict[str, str]:
    """Return the environment with this package, and without our own suite's settings."""
    kept = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


# -- its tests --------------------------------------------------------------------------


def prepare_tests(tests: Path) -> None:
    (tests.parent / "pytest.ini").write_text(SETTINGS)
    texts = {path: path.read_text() for path in tests.glob("*.py")}
    for pattern, words in INSTEAD.items():
        asked = {path: re.sub(pattern, words, text) for path, text in texts.items()}
        assert asked != texts, f"No test asks for this any more: {pattern}"
        texts = asked
    for path, text in texts.items():
        path.write_text(text)
    for test, why in LEFT_OUT.items():
        name = test.rpartition("::")[2]
        assert any(f"def {name}(" in text for text in texts.values()), name
        print(f"Left out: {name} {why}", flush=True)


def run_tests(source: Path, debug: bool) -> bool:
    left_out = [f"--deselect={test}" for test in LEFT_OUT]
    ended = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"), *left_out],
        cwd=source,
        env=environment(PYTHONASYNCIODEBUG="1" if debug else ""),
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    how = " in debug mode" if debug else ""
    print(f"\nThe tests of {PEER}{how}:\n{ended.stdout}{ended.stderr}", flush=True)
    return ended.returncode == 0


# -- its examples -----------------------------------------------------------------------


def read_examples(source: Path) -> tuple[list[str], list[str]]:
    """Return the examples of all pages: whole programs, and parts of programs."""
    pages = sorted([source / "README.rst", *source.glob("docs/*.rst")])
    texts = dict.fromkeys(code for page in pages for code in blocks_of(page.read_text()))
    programs = [code for code in texts if "asyncio.run(" in code]
    parts = [code for code in texts if code not in programs]
    assert programs
    assert parts
    return programs, parts


def blocks_of(page: str) -> Iterator[str]:
    for match in BLOCK.finditer(page):
        yield textwrap.dedent(match["code"]).strip() + "\n"


def run_program(code: str) -> bool:
    """Run an example as a program, and check that it prints what it says, or nothing."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment(),
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    printed = "".join(re.findall(r'print\("(.*)"\)', code))
    if (ended.returncode, ended.stderr) == (0, "") and (
        ended.stdout.replace("\n", "") == printed
    ):
        return True
    print(f"\nThis example fails:\n\n{code}\n{ended.stdout}{ended.stderr}", flush=True)
    return False


async def run_parts(parts: list[str]) -> None:
    for code in parts:
        await run_part(code)


async def run_part(code: str) -> None:
    """Run a part of a program, and serve the handler that it shows."""
    called: list[object] = []

    async def call() -> None:
        called.append(call)

    scheduler = aiohttp_jobs.Scheduler()
    names: dict[str, Any] = {
        **vars(aiohttp_jobs.aiohttp),
        "aiohttp_jobs": aiohttp_jobs,
        "asyncio": asyncio,
        "web": web,
        "scheduler": scheduler,
        "job": await scheduler.spawn(call()),
        "coro": call,
        "f": call,
    }
    compiled = compile(code, "<example>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(compiled, names)
    if inspect.iscoroutine(running):
        await running
    await scheduler.wait_and_close()
    if "handler" not in names:
        return
    app = names.get("app")
    if app is None:
        app = web.Application()
        aiohttp_jobs.aiohttp.setup(app)
        app.router.add_get("/", names["handler"])
    called.clear()
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/")
        assert response.status == 200, code
    assert len(called) == code.count("coro()"), code


if __name__ == "__main__":
    sys.exit(main())
