"""What the docs say about gunicorn's own timeouts, with a real gunicorn."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.processes import PATIENCE, ROOT, needs_signals

pytest.importorskip("gunicorn")
pytestmark = [pytest.mark.heavy, needs_signals]

MODULE = """
import asyncio

from aiohttp import web

from aiohttp_jobs import setup, spawn


async def import_rows():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise


async def handler(request):
    await spawn(request, import_rows())
    return web.Response()


async def make_runner():
    app = web.Application()
    app.router.add_get("/", handler)
    setup(app, wait_timeout={wait_timeout})
    return web.AppRunner(app, shutdown_timeout=0.1)
"""


@pytest.mark.parametrize(
    ("wait_timeout", "timeout", "is_cut_off"), [(60, 4, True), (1, 30, False)]
)
def test_max_requests_drain_is_cut_off_by_timeout(
    tmp_path: Path, wait_timeout: int, timeout: int, is_cut_off: bool
) -> None:
    """A worker that has served --max-requests has --timeout seconds to drain: if the
    drain takes longer, it is killed, and no job is cancelled."""
    (tmp_path / "module.py").write_text(MODULE.format(wait_timeout=wait_timeout))
    process = subprocess.Popen(
        [
            *(sys.executable, "-u", "-m", "gunicorn", "module:make_runner"),
            *("--worker-class", "aiohttp.GunicornWebWorker", "--bind", "127.0.0.1:0"),
            *("--max-requests", "1", "--timeout", str(timeout)),
            *("--pythonpath", str(ROOT), "--no-control-socket"),
        ],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    lines: list[str] = []
    try:
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if at := re.search(r"Listening at: (http://\S+)", line):
                    for _ in range(2):
                        urllib.request.urlopen(at[1], timeout=PATIENCE).close()
                if "Worker exiting" in line:
                    break
            process.terminate()
            process.communicate()
    finally:
        watchdog.cancel()
        watchdog.join()
    log = "".join(lines)
    assert "Max requests, shutting down" in log
    assert ("WORKER TIMEOUT" in log) is is_cut_off, log
    assert ("cancelled\n" in lines) is not is_cut_off, log
    assert ("The scheduler was closed before" in log) is not is_cut_off, log
