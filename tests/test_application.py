"""Which arguments count as an application, in every function that takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry

from aiohttp_jobs import Scheduler, every, repeat, setup
from aiohttp_jobs.dashboard import Access, setup_dashboard
from aiohttp_jobs.durable import durable, run_worker, setup_durable, spawn_durable
from aiohttp_jobs.prometheus import setup_metrics
from aiohttp_jobs.testing import drain_jobs
from aiohttp_jobs.web.application import is_application


@durable("nothing")
async def nothing(app: web.Application) -> None:
    pass


async def authorize(request: web.Request) -> Access:
    return Access.READ


async def work() -> None:
    pass


def set_up_durable(app: Any) -> object:
    return setup_durable(app, "jobs.sqlite", tasks=[nothing])


def set_up_dashboard(app: Any) -> object:
    return setup_dashboard(app, authorize=authorize)


def set_up_metrics(app: Any) -> None:
    setup_metrics(app, registry=CollectorRegistry())


def repeat_work(app: Any) -> object:
    return repeat(app, every(60), work)


ADDITIONS = [set_up_durable, set_up_dashboard, set_up_metrics, repeat_work]
SOMETHING = [None, "app", web.Application, object(), make_mocked_request("GET", "/")]


@pytest.mark.parametrize("something", SOMETHING, ids=lambda what: type(what).__name__)
@pytest.mark.parametrize("function", [setup, *ADDITIONS, run_worker])
def test_something_else_is_refused(
    function: Callable[[Any], object], something: Any
) -> None:
    """A7: with a clear message, by every function that takes an application."""
    with pytest.raises(TypeError, match=r"^\w+\(\) takes an .*[aA]pplication.*, not "):
        function(something)


@pytest.mark.parametrize(
    "something", SOMETHING[:-1], ids=lambda what: type(what).__name__
)
async def test_something_else_is_refused_by_coroutine_functions(something: Any) -> None:
    """A7: these take other things as well, and the message says which."""
    with pytest.raises(TypeError, match=r"spawn_durable\(\) takes a request or an appl"):
        await spawn_durable(something, nothing)
    with pytest.raises(TypeError, match=r"drain_jobs\(\) takes a test client, an appl"):
        await drain_jobs(something)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_tool_puts_a_subclass_in_the_place_of_the_class_both_are_taken(
    when: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A9: by every function that takes an application."""
    original = web.Application
    instrumented = type("_Instrumented", (original,), {})
    app = original() if when == "before" else instrumented()
    monkeypatch.setattr(web, "Application", instrumented)
    monkeypatch.chdir(tmp_path)
    assert is_application(app)
    scheduler = setup(app)
    for addition in ADDITIONS:
        addition(app)
    await drain_jobs(app)
    await scheduler.close()


@pytest.mark.parametrize("something", [None, 5, object()], ids=repr)
def test_collection_of_observers_is_none_it_is_named(something: Any) -> None:
    """A7: for example, a single observer is not a collection of observers."""
    with pytest.raises(TypeError, match="observers takes a list or the like, not "):
        Scheduler(observers=something)
