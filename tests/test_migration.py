"""Migrating from aiojobs: its names, and the one line that the page begins with."""

from __future__ import annotations

import inspect
import re
import runpy
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import aiohttp_jobs
import aiohttp_jobs.aiohttp as from_aiojobs
from aiohttp_jobs import SCHEDULER, Job, Scheduler, _job, _scheduler, create_scheduler

ROOT = Path(__file__).parent.parent

# The parameters of aiojobs 1.4.0; all additional ones are keyword-only.
PARAMETERS = {
    "setup": ["app"],
    "spawn": ["request", "coro"],
    "shield": ["request", "arg"],
    "get_scheduler": ["request"],
    "get_scheduler_from_app": ["app"],
    "get_scheduler_from_request": ["request"],
}
# The options of its Scheduler, which setup() passes on.
OPTIONS: dict[str, Any] = {
    "close_timeout": 0.1,
    "wait_timeout": 60,
    "limit": 100,
    "pending_limit": 10000,
    "exception_handler": None,
}


def positional(function: Callable[..., object]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]


# -- names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PARAMETERS, "atomic"])
def test_module_has_the_functions_of_the_package(name: str) -> None:
    """They are the same objects, so it does not matter where they are imported from."""
    assert getattr(from_aiojobs, name) is getattr(aiohttp_jobs, name)
    assert name in from_aiojobs.__all__


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_functions_take_the_same_parameters(name: str, expected: list[str]) -> None:
    """By position and by name; more of them may have defaults."""
    parameters = positional(getattr(from_aiojobs, name))
    assert [each.name for each in parameters][: len(expected)] == expected
    needed = [each.name for each in parameters if each.default is each.empty]
    assert needed == expected


@pytest.mark.parametrize("function", [Scheduler, from_aiojobs.setup, create_scheduler])
def test_options_are_the_same(function: Callable[..., object]) -> None:
    """With the same defaults."""
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in OPTIONS} == OPTIONS


async def test_app_key_finds_the_scheduler() -> None:
    """The key is the same object under both names."""
    app = web.Application()
    scheduler = from_aiojobs.setup(app)
    assert from_aiojobs.AIOJOBS_SCHEDULER is SCHEDULER
    assert app[from_aiojobs.AIOJOBS_SCHEDULER] is scheduler
    request = make_mocked_request("GET", "/", app=app)
    assert request.config_dict[from_aiojobs.AIOJOBS_SCHEDULER] is scheduler


def test_private_modules_have_the_classes() -> None:
    """For years, Job could not be imported from anywhere else, so many import it here."""
    assert _job.Job is _scheduler.Job is Job
    assert _scheduler.Scheduler is Scheduler
    assert _scheduler.ExceptionHandler is aiohttp_jobs.ExceptionHandler


def test_star_import_of_the_module_brings_what_it_names() -> None:
    """Nothing is missing, and no helper comes along."""
    names: dict[str, object] = {}
    exec("from aiohttp_jobs.aiohttp import *", names)
    names.pop("__builtins__")
    assert sorted(names) == sorted([*PARAMETERS, "atomic", "AIOJOBS_SCHEDULER"])


# -- create_scheduler -------------------------------------------------------------------


async def test_create_scheduler_warns_where_it_is_called() -> None:
    """The warning says what to do, and points at the line to change."""
    with pytest.warns(DeprecationWarning, match=r"call Scheduler\(\) instead") as told:
        scheduler = await create_scheduler()
    assert [warning.filename for warning in told] == [__file__]
    assert type(scheduler) is Scheduler
    await scheduler.close()


@pytest.mark.filterwarnings("ignore:create_scheduler:DeprecationWarning")
async def test_create_scheduler_passes_the_options_on() -> None:
    """And leaves the defaults to Scheduler."""

    def report(scheduler: Scheduler, context: dict[str, Any]) -> None:
        pass

    chosen = await create_scheduler(
        close_timeout=1,
        wait_timeout=2,
        limit=3,
        pending_limit=4,
        exception_handler=report,
    )
    assert (chosen.close_timeout, chosen.wait_timeout) == (1, 2)
    assert (chosen.limit, chosen.pending_limit) == (3, 4)
    assert chosen.exception_handler is report
    plain = await create_scheduler()
    assert {name: getattr(plain, name) for name in OPTIONS} == OPTIONS


@pytest.mark.filterwarnings("ignore:create_scheduler:DeprecationWarning")
async def test_create_scheduler_refuses_what_scheduler_refuses() -> None:
    """A7: with the same sentences."""
    with pytest.raises(ValueError, match="limit"):
        await create_scheduler(limit=0)
    with pytest.raises(TypeError, match="exception_handler"):
        await create_scheduler(exception_handler=1)  # type: ignore[arg-type]


def test_create_scheduler_is_a_coroutine_function() -> None:
    """Frameworks that are given it as a factory await what it returns."""
    assert inspect.iscoroutinefunction(create_scheduler)


# -- the line ---------------------------------------------------------------------------

# An application with every kind of import that was found in public applications.
APPLICATION = """
import asyncio

import aiojobs
import aiojobs.aiohttp
from aiohttp import web
from aiojobs import Scheduler, create_scheduler
from aiojobs import aiohttp as aiojobs_aiohttp
from aiojobs._job import Job
from aiojobs.aiohttp import AIOJOBS_SCHEDULER, atomic, get_scheduler, shield
from aiojobs.aiohttp import setup as setup_aiojobs

aiojobs_limit = 10
said = []


class Mailer:
    scheduler: aiojobs._scheduler.Scheduler | None = None
    jobs: set[aiojobs.Job[None]] = set()
    last: Job[None] | None = None


async def say(word: str) -> str:
    await asyncio.sleep(0)
    said.append(word)
    return word


async def spawning(request: web.Request) -> web.Response:
    job = await aiojobs.aiohttp.spawn(request, say("spawned"))
    assert isinstance(job, aiojobs.Job)
    assert job in get_scheduler(request)
    return web.Response(text=await shield(request, say("shielded")))


@aiojobs_aiohttp.atomic
async def saving(request: web.Request) -> web.Response:
    return web.Response(text=await say("saved"))


class View(web.View):
    @atomic
    async def get(self) -> web.Response:
        return web.Response(text=await say("viewed"))


async def start(app: web.Application) -> None:
    Mailer.scheduler = await create_scheduler(limit=aiojobs_limit)
    Mailer.last = await Mailer.scheduler.spawn(say("started"))
    assert isinstance(app[AIOJOBS_SCHEDULER], Scheduler)


async def stop(app: web.Application) -> None:
    await Mailer.scheduler.wait_and_close()


app = web.Application()
app.add_routes(
    [web.get("/spawn", spawning), web.get("/save", saving), web.view("/view", View)]
)
app.on_startup.append(start)
app.on_cleanup.append(stop)
setup_aiojobs(app, limit=aiojobs_limit)
"""


def line_of_the_page() -> str:
    page = (ROOT / "docs/migration.rst").read_text()
    (line, *_) = re.findall(r"(?m)^   \$ (.+)$", page)
    return str(line)


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A repository in which the line of the page was run."""
    if missing := [tool for tool in ("git", "perl") if shutil.which(tool) is None]:
        pytest.skip(f"needs {' and '.join(missing)}")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/app.py").write_text(APPLICATION)
    (tmp_path / "shop/other.py").write_text("import aiojobs_extra, my_aiojobs\n")
    (tmp_path / "uv.lock").write_text('name = "aiojobs"\n')
    for command in ("git init --quiet", "git add ."):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    # Created afterwards, and not part of the project.
    (tmp_path / "aiojobs.py").write_text("import aiojobs\n")
    subprocess.run(["sh", "-c", line_of_the_page()], cwd=tmp_path, check=True)
    return tmp_path


def test_line_replaces_the_word_in_python_files_of_the_project(moved: Path) -> None:
    """Longer names that contain the word stay as they are, and so do other files."""
    expected = re.sub(r"(?<!\w)aiojobs(?!\w)", "aiohttp_jobs", APPLICATION)
    assert (moved / "shop/app.py").read_text() == expected
    assert (moved / "shop/other.py").read_text() == "import aiojobs_extra, my_aiojobs\n"
    assert (moved / "uv.lock").read_text() == 'name = "aiojobs"\n'
    assert (moved / "aiojobs.py").read_text() == "import aiojobs\n"


@pytest.mark.filterwarnings("ignore:create_scheduler:DeprecationWarning")
async def test_application_runs_after_the_line(
    moved: Path, aiohttp_client: Callable[..., Awaitable[Any]]
) -> None:
    """No other change is needed."""
    names = runpy.run_path(str(moved / "shop/app.py"))
    client = await aiohttp_client(names["app"])
    answers = [("/spawn", "shielded"), ("/save", "saved"), ("/view", "viewed")]
    for path, answer in answers:
        response = await client.get(path)
        assert (response.status, await response.text()) == (200, answer)
    await client.close()
    words = ["started", "spawned", "shielded", "saved", "viewed"]
    assert sorted(names["said"]) == sorted(words)
