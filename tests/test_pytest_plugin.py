"""The plugin for pytest, run by pytester as a user would (rules R2, W8)."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "testing-applications.rst"

AUTO = """
    [pytest]
    asyncio_mode = auto
    asyncio_default_fixture_loop_scope = function
    addopts = --strict-markers --strict-config
"""
STRICT = AUTO.replace("asyncio_mode = auto", "asyncio_mode = strict")
FAILING = f"{AUTO}    aiohttp_jobs_strict = true\n"

APPLICATION = """
    import asyncio

    import pytest
    from aiohttp import web
    from aiohttp_jobs import SCHEDULER, Scheduler, setup, spawn
    from aiohttp_jobs.testing import drain_jobs

    DONE = web.AppKey("DONE", list)

    async def work(done):
        done.append(1)

    async def fail():
        raise ZeroDivisionError

    async def handler(request):
        await spawn(request, work(request.app[DONE]), after_response=True)
        return web.Response()

    async def failing(request):
        await spawn(request, fail(), "failing", after_response="late" in request.query)
        return web.Response()

    @pytest.fixture
    def app():
        app = web.Application()
        app[DONE] = []
        setup(app)
        app.router.add_get("/", handler)
        app.router.add_get("/fail", failing)
        return app
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(APPLICATION)
    return pytester


def run(pytester: pytest.Pytester, ini: str, test: str) -> pytest.RunResult:
    """Run this module of tests."""
    pytester.makeini(ini)
    pytester.makepyfile("from conftest import *\n" + textwrap.dedent(test))
    return pytester.runpytest_inprocess("-p", "no:cacheprovider")


# -- waiting -----------------------------------------------------------------------------


WAITING = """
    async def test_wait(aiohttp_client, app):
        client = await aiohttp_client(app)
        await client.get("/")
        await drain_jobs(client)
        assert app[DONE] == [1]

    async def test_failure(aiohttp_client, app):
        client = await aiohttp_client(app)
        await client.get("/fail")
        with pytest.raises(ExceptionGroup, match="failing"):
            await drain_jobs(client)
"""


def test_jobs_are_waited_for_in_the_auto_mode(pytester: pytest.Pytester) -> None:
    """The auto mode of pytest-asyncio, with the client of pytest-aiohttp."""
    run(pytester, AUTO, WAITING).assert_outcomes(passed=2)


def test_jobs_are_waited_for_in_the_strict_mode(pytester: pytest.Pytester) -> None:
    """In this mode the tests are marked."""
    mark = "\n    pytestmark = pytest.mark.asyncio\n"
    run(pytester, STRICT, mark + WAITING).assert_outcomes(passed=2)


# -- the option --------------------------------------------------------------------------


def test_option_fails_the_test_in_which_a_job_has_failed(
    pytester: pytest.Pytester,
) -> None:
    """R2: and shows where, unless somebody has waited for the job."""
    result = run(
        pytester,
        FAILING,
        """
        async def test_fails(aiohttp_client, app):
            client = await aiohttp_client(app)
            await client.get("/fail")
            await app[SCHEDULER].drain()

        async def test_passes(aiohttp_client, app):
            client = await aiohttp_client(app)
            await client.get("/")

        async def test_waits():
            async with Scheduler() as scheduler:
                job = await scheduler.spawn(fail())
                await scheduler.drain()
                with pytest.raises(ZeroDivisionError):
                    await job

        async def test_waits_for_all(aiohttp_client, app):
            client = await aiohttp_client(app)
            await client.get("/fail")
            with pytest.raises(ExceptionGroup):
                await drain_jobs(client)

        @pytest.mark.jobs_may_fail
        async def test_may_fail(aiohttp_client, app):
            client = await aiohttp_client(app)
            await client.get("/fail")
        """,
    )
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        ["*A job has failed: failing*", "*ZeroDivisionError*", "FAILED *::test_fails*"]
    )


def test_option_fails_the_teardown_in_which_a_job_has_failed(
    pytester: pytest.Pytester,
) -> None:
    """R2: if it fails when the application is shut down."""
    result = run(
        pytester,
        FAILING,
        """
        async def test_ends_early(aiohttp_client, app):
            go = asyncio.Event()

            async def end(app):
                go.set()

            async def fail_late():
                await go.wait()
                raise ZeroDivisionError

            app.on_shutdown.append(end)
            client = await aiohttp_client(app)
            await app[SCHEDULER].spawn(fail_late(), "late")

        async def test_next_one_is_not_concerned(aiohttp_client, app):
            await aiohttp_client(app)
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*A job has failed: late*", "ERROR *::test_ends_early*"])


def test_option_does_not_hide_the_failure_of_the_test(pytester: pytest.Pytester) -> None:
    """The failure of the test comes first."""
    result = run(
        pytester,
        FAILING,
        """
        async def test_fails(aiohttp_client, app):
            client = await aiohttp_client(app)
            await client.get("/fail")
            await app[SCHEDULER].drain()
            assert 1 == 2
        """,
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "FAILED *::test_fails*"])


def test_without_the_option_no_test_fails_for_a_job(pytester: pytest.Pytester) -> None:
    """It has to be asked for."""
    run(
        pytester,
        AUTO,
        """
        async def test_passes(aiohttp_client, app, spawned_jobs):
            client = await aiohttp_client(app)
            await client.get("/fail")
            await app[SCHEDULER].drain()
        """,
    ).assert_outcomes(passed=1)


# -- the fixture -------------------------------------------------------------------------


def test_fixture_has_the_jobs_of_its_test(pytester: pytest.Pytester) -> None:
    """Wherever the application is made; no jobs of other tests; and it can hold them."""
    run(
        pytester,
        FAILING,
        """
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def client(aiohttp_client, app):
            client = await aiohttp_client(app)
            await app[SCHEDULER].spawn(asyncio.sleep(0), "of the fixture")
            return client

        @pytest.mark.parametrize("time", [1, 2])
        async def test_names(client, spawned_jobs, time):
            await client.get("/")
            await drain_jobs(client)
            assert spawned_jobs.names == ["of the fixture", "work"]

        async def test_holds(client, spawned_jobs):
            with spawned_jobs.held():
                await client.get("/fail")
                await client.get("/fail?late")
                assert spawned_jobs.names[1:] == ["failing", "failing"]
            assert all(job.closed for job in spawned_jobs[1:])

        async def test_is_asked_for_late(request, client):
            jobs = request.getfixturevalue("spawned_jobs")
            await client.get("/")
            assert jobs.names[-1] == "work"

        def test_needs_no_loop(spawned_jobs):
            assert not spawned_jobs
        """,
    ).assert_outcomes(passed=5)


def test_fixture_stays_up_to_the_end_of_a_test_that_holds(
    pytester: pytest.Pytester,
) -> None:
    """The application shuts down at once, and not after a minute."""
    result = run(
        pytester,
        AUTO,
        """
        async def test_raises_inside(aiohttp_client, app, spawned_jobs):
            client = await aiohttp_client(app)
            with spawned_jobs.held():
                await client.get("/")
                raise RuntimeError
        """,
    )
    result.assert_outcomes(failed=1)
    assert result.duration < 30


# -- durable jobs ----------------------------------------------------------------------


DURABLE = """
    from aiohttp_jobs.durable import durable, setup_durable, spawn_durable
    from aiohttp_jobs.durable import DURABLE, current_durable
    from aiohttp_jobs.testing import MemoryStore

    @durable("note")
    async def note(app, value, fails=0):
        if current_durable().attempt <= fails:
            raise ZeroDivisionError
        app[DONE].append(value)

    async def spawning(request):
        await spawn_durable(request, note, 1, fails=int(request.query["fails"]))
        return web.Response()

    @pytest.fixture
    def durable_app(app, tmp_path):
        setup_durable(app, tmp_path / "jobs.sqlite", tasks=[note])
        app.router.add_get("/durable", spawning)
        return app
"""


def test_durable_jobs_run_in_memory(pytester: pytest.Pytester) -> None:
    """Whichever fixture comes first; without the fixture, the file is used."""
    pytester.makeconftest(APPLICATION + DURABLE)
    run(
        pytester,
        FAILING,
        """
        async def test_runs(aiohttp_client, durable_app, durable_in_memory, tmp_path):
            client = await aiohttp_client(durable_app)
            await client.get("/durable?fails=1")
            await drain_jobs(client)
            assert durable_app[DONE] == [1]
            [store] = durable_in_memory
            [job] = store.spawned
            assert job.task == "note"
            assert job.unpack() == ([1], {"fails": 1})
            assert list(tmp_path.iterdir()) == []

        @pytest.mark.usefixtures("durable_in_memory")
        async def test_marked(aiohttp_client, durable_app):
            assert type(durable_app[DURABLE].store) is MemoryStore

        async def test_is_asked_for_in_time(request, aiohttp_client):
            stores = request.getfixturevalue("durable_in_memory")
            request.getfixturevalue("durable_app")
            assert len(stores) == 1

        async def test_file(aiohttp_client, durable_app, tmp_path):
            client = await aiohttp_client(durable_app)
            await client.get("/durable?fails=0")
            await drain_jobs(client)
            assert durable_app[DONE] == [1]
            assert (tmp_path / "jobs.sqlite").exists()
        """,
    ).assert_outcomes(passed=4)


def test_option_fails_the_test_in_which_a_durable_job_is_buried(
    pytester: pytest.Pytester,
) -> None:
    """R2: but not for an attempt that is followed by another one."""
    pytester.makeconftest(APPLICATION + DURABLE)
    result = run(
        pytester,
        FAILING,
        """
        async def spawn_and_wait(client, fails):
            await client.get(f"/durable?fails={fails}")
            store = client.app[DURABLE].store
            while store.waiting or client.app[DURABLE].running_count:
                await asyncio.sleep(0)

        async def test_is_tried_again(aiohttp_client, durable_app, durable_in_memory):
            await spawn_and_wait(await aiohttp_client(durable_app), fails=4)
            assert durable_app[DONE] == [1]

        async def test_is_buried(aiohttp_client, durable_app, durable_in_memory):
            await spawn_and_wait(await aiohttp_client(durable_app), fails=5)
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*A job has failed: note (attempt 5)*", "FAILED *::test_is_buried*"]
    )


# -- its cost ----------------------------------------------------------------------------


def test_plugin_imports_nothing_until_it_is_used(pytester: pytest.Pytester) -> None:
    """Not even for `--help`, or for the lists of markers and fixtures."""
    pytester.path.joinpath("conftest.py").unlink()
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_there():
            assert "pytest_aiohttp_jobs" in sys.modules
            assert "aiohttp_jobs" not in sys.modules
            assert "aiohttp" not in sys.modules
        """
    )
    without = ("-p", "no:aiohttp", "-p", "no:asyncio")
    pytester.runpytest_subprocess(*without, timeout=120).assert_outcomes(passed=1)
    told = pytester.runpytest_subprocess("--help", "-p", "no:aiohttp", timeout=120)
    told.stdout.fnmatch_lines(["*aiohttp_jobs_strict (bool)*"])


# -- the page ----------------------------------------------------------------------------

BLOCK = re.compile(
    r"^\.\. code-block:: \w+\n   :caption: (?P<name>\S+)\n\n(?P<text>(?:(?:   .*)?\n)+)",
    re.MULTILINE,
)


def copy_page(pytester: pytest.Pytester) -> list[str]:
    """Write the files that the page shows into an empty directory."""
    pytester.path.joinpath("conftest.py").unlink()
    names = []
    for match in BLOCK.finditer(PAGE.read_text()):
        names.append(match["name"])
        pytester.path.joinpath(match["name"]).write_text(textwrap.dedent(match["text"]))
    return names


def test_page_is_followed_to_the_letter(pytester: pytest.Pytester) -> None:
    """In an empty directory; the tests that it shows pass, as many as it says."""
    assert copy_page(pytester) == [
        "pytest.ini",
        "application.py",
        "test_application.py",
        "test_spawned.py",
        "reminders.py",
        "test_reminders.py",
    ]
    result = pytester.run(
        sys.executable, "-W", "error", "-m", "pytest", "-q", timeout=120
    )
    result.assert_outcomes(passed=7)
    assert re.search(r"(\d+) passed in", PAGE.read_text())[1] == "7"  # type: ignore[index]


def test_page_says_what_is_true_of_the_strict_mode(pytester: pytest.Pytester) -> None:
    """Without the option the tests are left alone, and fail; with the mark they pass."""
    copy_page(pytester)
    pytester.path.joinpath("pytest.ini").write_text("[pytest]\n")
    run = pytester.run(sys.executable, "-m", "pytest", "-q", timeout=120)
    run.assert_outcomes(failed=7)
    for name in ("test_application.py", "test_spawned.py", "test_reminders.py"):
        path = pytester.path / name
        mark = "\nimport pytest\npytestmark = pytest.mark.asyncio\n"
        path.write_text(path.read_text() + mark)
    run = pytester.run(sys.executable, "-m", "pytest", "-q", timeout=120)
    run.assert_outcomes(passed=7)
