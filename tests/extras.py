"""Each extra by itself, as a user installs it: ``make extras``.

``python -m tests.extras PYTHON...`` makes, for each of these interpreters or for the one
that runs it, an environment with the wheel alone, and one for each extra. In the first,
modules that need an extra have to say which; in each of the others a small program uses
what the extra is for. The wheel is the one in ``dist/``, where ``make dist`` puts it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Final

__all__ = ("EXTRAS", "MISSING")

ROOT: Final = Path(__file__).parent.parent
# Seconds that an installation may take.
PATIENCE: Final = 300.0

# The program to run with each extra; with no extra, for "".
EXTRAS: Final = {
    "": """
        import asyncio
        import aiohttp_jobs.aiohttp, aiohttp_jobs.durable, aiohttp_jobs.testing
        from aiohttp_jobs import Scheduler
        async def main():
            async with Scheduler() as scheduler:
                assert await (await scheduler.spawn(asyncio.sleep(0, "done"))) == "done"
        asyncio.run(main())
        """,
    "cron": """
        from aiohttp_jobs import cron
        assert cron("0 7 * * *").next_after(0.0) == 7 * 3600
        """,
    "dashboard": """
        import asyncio
        from aiohttp import web
        from aiohttp.test_utils import TestClient, TestServer
        from aiohttp_jobs import setup
        from aiohttp_jobs.dashboard import Access, setup_dashboard
        async def authorize(request):
            return Access.MANAGE
        async def main():
            app = web.Application()
            setup(app)
            setup_dashboard(app, authorize=authorize)
            async with TestClient(TestServer(app)) as client:
                page = await client.get("/jobs/")
                assert "<h1" in await page.text(), page.status
                for name in ("dashboard.js", "dashboard.css"):
                    assert (await client.get(f"/jobs/static/{name}")).status == 200, name
        asyncio.run(main())
        """,
    "opentelemetry": """
        import asyncio
        from aiohttp_jobs import Scheduler
        from aiohttp_jobs.opentelemetry import JobTracer
        async def main():
            async with Scheduler(observers=[JobTracer()]) as scheduler:
                await (await scheduler.spawn(asyncio.sleep(0)))
        asyncio.run(main())
        """,
    "prometheus": """
        import asyncio
        from aiohttp import web
        from aiohttp.test_utils import TestClient, TestServer
        from aiohttp_jobs import setup
        from aiohttp_jobs.prometheus import setup_metrics
        async def main():
            app = web.Application()
            setup(app)
            setup_metrics(app)
            async with TestClient(TestServer(app)) as client:
                page = await client.get("/metrics")
                assert "aiohttp_jobs_active" in await page.text(), page.status
        asyncio.run(main())
        """,
    "sentry": """
        import asyncio
        import sentry_sdk
        from aiohttp_jobs import Scheduler
        from aiohttp_jobs.sentry import JobSentry
        events = []
        sentry_sdk.init(
            dsn="http://key@localhost/1",
            before_send=lambda event, hint: events.append(event),
        )
        async def fail():
            raise ValueError
        async def main():
            async with Scheduler(observers=[JobSentry()]) as scheduler:
                await scheduler.spawn(fail())
        asyncio.run(main())
        assert len(events) == 1, events
        """,
    "taskiq": """
        from taskiq import InMemoryBroker
        from aiohttp_jobs.taskiq import BrokerStore
        try:
            BrokerStore(InMemoryBroker())
        except TypeError as error:
            assert "InMemoryBroker keeps none" in str(error)
        """,
}
# A program that fails without each extra.
MISSING: Final = {
    "cron": "import aiohttp_jobs; aiohttp_jobs.cron('* * * * *')",
    "dashboard": "import aiohttp_jobs.dashboard",
    "opentelemetry": "import aiohttp_jobs.opentelemetry",
    "prometheus": "import aiohttp_jobs.prometheus",
    "sentry": "import aiohttp_jobs.sentry",
    "taskiq": "import aiohttp_jobs.taskiq",
}


def check(python: str, extra: str, wheel: Path) -> Iterator[str]:
    """Install the wheel with an extra, and use it; yield each fault as a line."""
    with TemporaryDirectory() as folder:
        made = Path(folder, "environment")
        # The pip of this environment installs there, as installing one each time is slow.
        run(python, "-m", "venv", "--without-pip", str(made))
        there = str(made / "bin" / "python")
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        run(*pip, "--python", there, "install", wanted)
        used = run(there, "-W", "error", "-c", dedent(EXTRAS[extra]), folder=folder)
        if used.returncode:
            yield used.stderr
        for other, program in MISSING.items() if not extra else ():
            error = run(there, "-c", program, folder=folder).stderr
            if f"install aiohttp-jobs[{other}]" not in error:
                yield f"{program} does not say that [{other}] is missing: {error}"


def run(*command: str, folder: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; in `folder`, if given, and so outside the tree."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if done.returncode and folder is None:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done


def main() -> None:
    """Check all extras; exit with 1 if anything is wrong."""
    wheels = list(ROOT.glob("dist/*.whl"))
    if len(wheels) != 1:
        sys.exit("dist/ has no wheel, or several: run make dist first")
    pythons = sys.argv[1:] or [sys.executable]
    cases = [(python, extra) for python in pythons for extra in EXTRAS]
    is_wrong = False
    with ThreadPoolExecutor(2) as executor:
        results = executor.map(
            lambda case: list(check(case[0], case[1], wheels[0])), cases
        )
        for (python, extra), wrong in zip(cases, results, strict=True):
            is_wrong |= bool(wrong)
            print(
                f"{python}: {extra or 'no extra'}: {'wrong' if wrong else 'as promised'}"
            )
            print(*wrong, sep="\n", end="")
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
