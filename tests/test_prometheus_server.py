"""A real Prometheus server scrapes an application, and is then queried."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, generate_latest

from aiohttp_jobs import SCHEDULER, setup
from aiohttp_jobs.prometheus import jobs_collector, setup_metrics
from tests.test_prometheus import TYPES
from tests.work import Reports, fail, nothing

CONFIG = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: shop
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


def find_program(name: str) -> str:
    """Return the program's path; if missing, skip the test, or with CI=true fail."""
    path = shutil.which(name)
    if path is None:
        why = f"needs {name}, from Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def test_prometheus_scrapes_an_application(tmp_path: Path) -> None:
    """It knows the type of every metric, and computes with it."""
    program = find_program("prometheus")
    scraped = asyncio.Semaphore(0)

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        scraped.release()
        return response

    app = web.Application(middlewares=[note])
    scheduler = setup(app, limit=5, exception_handler=Reports())
    setup_metrics(app, registry=CollectorRegistry())

    async def run_jobs(app: web.Application) -> None:
        for coro in (nothing(), nothing(), fail()):
            await app[SCHEDULER].spawn(coro)
        await scheduler.drain()

    app.on_startup.append(run_jobs)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config, port = tmp_path / "prometheus.yml", free_port()
    config.write_text(CONFIG.format(port=runner.addresses[0][1]))
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    async with asyncio.timeout(60), running(*command), ClientSession() as session:
        # One loop scrapes the target: at the second scrape, the first one is stored.
        await scraped.acquire()
        await scraped.acquire()

        async def ask(query: str) -> list[dict[str, Any]]:
            url = f"http://127.0.0.1:{port}/api/v1/query"
            async with session.get(url, params={"query": query}) as response:
                answer = await response.json()
            assert answer["status"] == "success", answer
            return [
                {"is": float(found["value"][1]), **found["metric"]}
                for found in answer["data"]["result"]
            ]

        (up,) = await ask("up")
        assert up["is"] == 1
        (used,) = await ask("aiohttp_jobs_slots_taken / aiohttp_jobs_limit")
        assert (used["is"], used["scheduler"]) == (0, "default")
        # In Prometheus the label job belongs to the target, so the other one is renamed.
        ended = await ask("sum by (exported_job, outcome) (aiohttp_jobs_jobs_total) > 0")
        assert sorted((e["exported_job"], e["outcome"], e["is"]) for e in ended) == [
            ("fail", "failed", 1),
            ("nothing", "succeeded", 2),
        ]
        quantile = "histogram_quantile(0.5, aiohttp_jobs_run_seconds_bucket)"
        assert all(0 < found["is"] <= 0.005 for found in await ask(quantile))
        url = f"http://127.0.0.1:{port}/api/v1/targets/metadata"
        async with session.get(url) as response:
            known = (await response.json())["data"]
        assert {
            m["metric"]: m["type"]
            for m in known
            if m["metric"].startswith("aiohttp_jobs")
        } == TYPES
    await runner.cleanup()


async def test_promtool_finds_nothing_to_mend() -> None:
    """The names, units and types follow Prometheus's recommendations."""
    program, registry = find_program("promtool"), CollectorRegistry()
    scheduler = setup(web.Application())
    jobs_collector(registry).add(scheduler)
    await scheduler.spawn(nothing())
    await scheduler.drain()
    async with asyncio.timeout(60), running(program, "check", "metrics") as process:
        output, _ = await process.communicate(generate_latest(registry))
        assert (process.returncode, output.decode()) == (0, "")
