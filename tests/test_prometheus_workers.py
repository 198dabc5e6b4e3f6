"""The metrics of all workers in one scrape: series side by side, told apart by number."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from aiohttp_jobs import SCHEDULER, Scheduler, setup
from aiohttp_jobs.prometheus import jobs_collector, setup_metrics
from aiohttp_jobs.prometheus_lines import acceptable, written
from aiohttp_jobs.prometheus_workers import Families, Format
from tests.apart import apart
from tests.processes import ROOT
from tests.work import nothing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

Samples = dict[tuple[str, ...], float]
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture
def share(tmp_path: Path) -> str:
    return str(tmp_path / "share")


def make(share: str | None, registry: CollectorRegistry | None = None) -> web.Application:
    app = web.Application()
    setup(app)
    setup_metrics(app, registry=registry or CollectorRegistry(), share=share)
    return app


@contextlib.asynccontextmanager
async def serving(*apps: web.Application) -> AsyncIterator[list[TestClient[Any, Any]]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for app in apps:
            with apart():
                client = TestClient(TestServer(app))
                clients.append(await stack.enter_async_context(client))
        yield clients


def read(text: str, name: str) -> dict[str, float]:
    """Return the values of one metric, by worker; each has a line of its own."""
    found = [
        (sample.labels["worker"], sample.value)
        for family in parse(text)
        for sample in family.samples
        if sample.name == name and sample.labels.get("outcome", "failed") == "failed"
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


async def scrape(client: TestClient[Any, Any], **headers: str) -> str:
    response = await client.get("/metrics", headers=headers)
    assert response.status == 200
    return await response.text()


async def test_one_scrape_of_any_has_the_series_of_each(share: str) -> None:
    """With the number of the worker; a histogram has the buckets of its own worker."""
    apps = [make(share) for _ in range(3)]
    async with serving(*apps) as clients:
        for count, app in enumerate(apps):
            for _ in range(count):
                await (await app[SCHEDULER].spawn(nothing())).wait()
        for client in clients:
            text = await scrape(client)
            up = read(text, "aiohttp_jobs_worker_up")
            assert up == {"0": 1, "1": 1, "2": 1}
            assert read(text, "aiohttp_jobs_active") == {"0": 0, "1": 0, "2": 0}
            ran = read(text, "aiohttp_jobs_run_seconds_count")
            assert ran == {"1": 1, "2": 2}
            assert text.count("# TYPE aiohttp_jobs_run_seconds histogram") == 1


async def test_openmetrics_has_the_same(share: str) -> None:
    """Its own parser accepts the stricter format."""
    apps = [make(share) for _ in range(2)]
    async with serving(*apps) as clients:
        await (await apps[1][SCHEDULER].spawn(nothing())).wait()
        response = await clients[0].get("/metrics", headers=OPENMETRICS)
        parsed: Any = parse_openmetrics(await response.text())  # type: ignore[no-untyped-call]
        families = {each.name: each for each in parsed}
        jobs = families["aiohttp_jobs_jobs"].samples
        assert {sample.labels["worker"] for sample in jobs} == {"1"}


async def test_users_own_label_is_kept_by_another_name(share: str) -> None:
    """As Prometheus itself does."""
    registry = CollectorRegistry()
    Gauge("press", "", ["worker", "exported_worker"], registry=registry).labels("a", "b")
    async with serving(make(share, registry)) as [client]:
        text = await scrape(client)
    [family] = [each for each in parse(text) if each.name == "press"]
    assert family.samples[0].labels == {
        "exported_worker": "b",
        "exported_exported_worker": "a",
        "worker": "0",
    }


async def test_worker_that_has_ended_is_in_no_scrape(share: str) -> None:
    """It has left the directory."""
    first, second = make(share), make(share)
    async with serving(first) as [client]:
        async with serving(second):
            pass
        assert read(await scrape(client), "aiohttp_jobs_worker_up") == {"0": 1}


def formats() -> list[Format]:
    headers = (
        "text/plain; version=0.0.4",
        "text/plain; version=1.0.0; escaping=allow-utf-8",
        "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
        "application/openmetrics-text; version=1.0.0; escaping=values",
        "application/openmetrics-text; version=1.0.0; escaping=Dots",
        "application/openmetrics-text; version=0.0.1",
    )
    made = [choose_encoder(acceptable(accept)) for accept in headers]
    return [Format(content_type, encode) for encode, content_type in made]


class Odd:
    """Unusual metrics."""

    def collect(self) -> Iterator[Metric]:
        late = GaugeMetricFamily("late", "With a time.", labels=["a"])
        late.add_metric(["b"], 1.5, timestamp=1700000000.5)
        yield late
        odd = GaugeMetricFamily("größe", "A name that is no plain one.", labels=["a"])
        odd.add_metric(['"b"\\\n'], float("nan"))
        yield odd
        label = CounterMetricFamily("label", "A label that is none.", labels=["a-b"])
        label.add_metric(["c"], float("inf"))
        yield label
        buckets = [("1.0", 1), ("+Inf", 3)]
        yield GaugeHistogramMetricFamily("gh", "Gauges.", buckets, 7)
        yield UnknownMetricFamily("unknown", "Of no type.", 1234567)
        yield GaugeMetricFamily("none", "No samples.", labels=["a"])


def many_kinds() -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("mails", 'Sent "mails"\\\nof all.', ["kind"], registry=registry)
    counter.labels("bill\n").inc(12345678)
    counter.labels('"\\').inc()
    Histogram("size", "Sizes.", ["kind"], registry=registry).labels("x").observe(3)
    Summary("took", "Times.", registry=registry, unit="seconds").observe(0.25)
    Info("about", "What it is.", registry=registry).info({"version": "1"})
    Enum("state", "How it is.", states=["on", "off"], registry=registry).state("off")
    Gauge("balance", "May be negative.", registry=registry).set(-1e-9)
    odd: Any = Odd()
    registry.register(odd)
    return registry


class Labelled:
    """A registry with a worker's label added, for the library to write."""

    def __init__(self, registry: CollectorRegistry, worker: str) -> None:
        self.registry = registry
        self.worker = worker

    def collect(self) -> Iterator[Metric]:
        for metric in self.registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, "worker": self.worker})
                for sample in metric.samples
            ]
            yield metric


@pytest.mark.parametrize("format", formats(), ids=lambda format: format.content_type)
async def test_lines_are_those_that_the_library_writes(format: Format) -> None:
    """Metrics of every type, odd names and numbers, and ours; in all formats."""
    registry = many_kinds()
    scheduler = Scheduler()
    jobs_collector(registry).add(scheduler)
    await (await scheduler.spawn(nothing())).wait()
    await scheduler.close()
    families = Families()
    families.add(3, written(registry, 3))
    ours = families.encoded(format).decode()
    theirs = format.encode(Labelled(registry, "3")).decode()
    assert "aiohttp_jobs_run_seconds_bucket" in theirs
    up = ours.index("# HELP aiohttp_jobs_worker_up")
    assert ours[:up] == theirs.removesuffix("# EOF\n")
    assert ours.endswith("# EOF\n") == theirs.endswith("# EOF\n")


@pytest.mark.parametrize("format", formats(), ids=lambda format: format.content_type)
async def test_series_of_several_workers_stand_below_one_head(format: Format) -> None:
    """Even those that have families of their own in the older format."""
    families = Families()
    for number in (0, 1):
        families.add(number, written(many_kinds(), number))
        families.tell(number, True)
    text = families.encoded(format).decode()
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(heads)) == len(heads)
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(set(samples)) == len(samples)
    assert text.count('worker="0"') == text.count('worker="1"') == len(samples) / 2


async def test_nonsense_of_another_worker_is_no_error() -> None:
    """Nothing of it is shown."""
    families = Families()
    empty = families.encoded(formats()[0])
    good = ["a", "", "gauge", "", 4, False, []]

    def sent(*heads: Any, number: int = 1, text: str = "a 1\n") -> bytes:
        return f"{json.dumps([number, [good, *heads]])}\n{text}".encode()

    for wrong in (
        None,
        3,
        b"",
        b"[1]",
        b"3\n",
        sent(number=2),
        sent(text="a 1\nb"),
        sent(text=""),
        sent([1, 2]),
        sent(["b", "", "odd", "", 0, False, []]),
        sent(["b", "", "gauge", "", 0, False, 3]),
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            families.add(1, wrong)
    assert families.encoded(formats()[0]) == empty
    families.add(1, sent())
    assert b"a 1\n" in families.encoded(formats()[0])


async def test_environment_says_which_directory(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing else is given; an empty variable counts as unset."""
    monkeypatch.setenv("AIOHTTP_JOBS_SHARE", share)
    async with serving(make(None)) as [client]:
        assert "worker_up" in await scrape(client)
    monkeypatch.setenv("AIOHTTP_JOBS_SHARE", "")
    async with serving(make(None)) as [client]:
        assert "worker" not in await scrape(client)


async def test_registry_that_is_shown_twice_is_refused(share: str) -> None:
    """Its samples would be counted twice."""
    registry = CollectorRegistry()
    async with serving(make(share, registry)):
        app = web.Application()
        setup(app)
        setup_metrics(app, registry=registry, share=share, name="second")
        runner = web.AppRunner(app)
        with pytest.raises(RuntimeError, match="pass share to one setup_metrics"):
            await runner.setup()
        await runner.cleanup()


# -- gunicorn ---------------------------------------------------------------------------


class Gunicorn:
    """A real gunicorn with two workers, and clients that reconnect each time."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> str | None:
        """Return the answer of one of its workers; None if that one has just ended."""
        try:
            async with (
                ClientSession() as session,
                session.get(self.url + path) as answer,
            ):
                return await answer.text()
        except ClientError:
            return None

    async def until(self, found: Callable[[dict[str, float]], bool]) -> str:
        """Scrape until ``aiohttp_jobs_worker_up`` is as expected."""
        up: dict[str, float] = {}
        end = time.monotonic() + 45
        while time.monotonic() < end:
            text = await self.get("/metrics")
            if text is not None:
                up = read(text, "aiohttp_jobs_worker_up")
                if found(up):
                    return text
        raise AssertionError(f"it stays at {up}")

    async def process_of_other(self, than: int) -> int:
        while True:
            answer = await self.get("/work")
            if answer is not None and int(answer) != than:
                return int(answer)


@contextlib.contextmanager
def gunicorn(share: str, *options: str) -> Iterator[Gunicorn]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "tests.shared_shop:app"]
    command += ["--worker-class=aiohttp.GunicornWebWorker", "--workers=2"]
    command += [f"--bind=127.0.0.1:{port}", "--no-control-socket", *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "AIOHTTP_JOBS_SHARE": share},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Gunicorn(process, port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def both(up: dict[str, float]) -> bool:
    return up == {"0": 1, "1": 1}


@pytest.mark.heavy
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
async def test_gunicorn_workers_stop_go_on_die_and_are_replaced(
    share: str, options: tuple[str, ...]
) -> None:
    """There are always two numbers, 0 and 1; scrapes are answered throughout."""
    with gunicorn(share, *options) as server:
        await server.until(both)
        first = await server.process_of_other(0)
        os.kill(first, signal.SIGSTOP)
        # The other worker answers now, for both.
        await server.until(lambda up: sorted(up.values()) == [0, 1])
        os.kill(first, signal.SIGCONT)
        await server.until(both)
        os.kill(first, signal.SIGKILL)
        await server.process_of_other(first)
        text = await server.until(both)
        assert len(re.findall(r"(?m)^aiohttp_jobs_worker_up", text)) == 2
        server.process.send_signal(signal.SIGHUP)
        await server.until(lambda up: len(up) >= 2)
        await server.until(both)
    assert [name for name in os.listdir(share) if name.endswith(".sock")] == []


@pytest.mark.heavy
async def test_gunicorn_recycles_workers_numbers_stay_few(share: str) -> None:
    """With --max-requests a process lives for a few requests; numbers are reused."""
    with gunicorn(share, "--max-requests=10", "--graceful-timeout=2") as server:
        await server.until(both)
        processes = set[str]()
        while len(processes) < 4:
            answer = await server.get("/work")
            if answer is not None:
                processes.add(answer)
        await server.until(both)
    numbers = {name for name in os.listdir(share) if name.endswith(".lock")}
    assert len(numbers) <= 3
