"""How the tests run: those of the core on every kind of loop, with guards around them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.loops import KINDS, is_missing, make_loop, run

pytest_plugins = ("pytester",)

# Their coroutine functions run on the loops of tests/loops.py, not on pytest-asyncio's.
CORE = {
    "test_cancellation",
    "test_closing",
    "test_job",
    "test_logs",
    "test_observers",
    "test_drainers",
    "test_scheduler",
    "test_slots",
    "test_stack",
    "test_shield",
}


# Of test_model.py. The blob that reproduces a failure is printed with it.
settings.register_profile("suite", deadline=None, print_blob=True, max_examples=60)
settings.register_profile(
    "fuzz", settings.get_profile("suite"), max_examples=5000, stateful_step_count=100
)
settings.load_profile("suite")

# On how many shuffled loops each test of the core runs in a run of the whole suite.
SHUFFLED = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffled",
        type=int,
        default=0,
        metavar="N",
        help="run each test of the core on N loops that shuffle what is ready, only",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(10**6),
        help="the first seed of shuffled loops; the name of a test tells its own",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "core_loop" in metafunc.fixturenames:
        rounds = metafunc.config.getoption("shuffled")
        first = metafunc.config.getoption("seed")
        kinds = [] if rounds else [pytest.param((kind, 0), id=kind) for kind in KINDS]
        if not metafunc.definition.get_closest_marker("in_order"):
            kinds += [
                pytest.param(("shuffled", seed), id=f"shuffled-seed{seed}")
                for seed in range(first, first + (rounds or SHUFFLED))
            ]
        metafunc.parametrize("core_loop", kinds, indirect=True)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Replace the coroutine functions before pytest-asyncio sees them."""
    if not isinstance(collector, pytest.Module) or collector.path.stem not in CORE:
        return
    try:
        module = collector.obj
    except collector.CollectError:
        return  # pytest comes upon it again, and says so
    for name, test in list(vars(module).items()):
        if name.startswith("test_") and inspect.iscoroutinefunction(test):
            setattr(module, name, _on_core_loop(test))


def _on_core_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Make a plain function of a coroutine function, which runs it on `core_loop`."""

    @functools.wraps(test)
    def call(
        core_loop: asyncio.AbstractEventLoop, loop_errors: list[Any], **arguments: Any
    ) -> None:
        expects_errors = "loop_errors" in parameters
        if expects_errors:
            arguments["loop_errors"] = loop_errors
        run(core_loop, lambda: test(**arguments), loop_errors, expects_errors)

    signature = inspect.signature(test)
    parameters = dict(signature.parameters)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        for name in ("core_loop", "loop_errors")
        if name not in parameters
    ]
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*parameters.values(), *extra]
    )
    return call


@pytest.fixture
def core_loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop whose clock jumps; every kind in turn."""
    kind, seed = request.param
    if why := is_missing(kind):
        pytest.skip(why)
    loop = make_loop(kind, seed)
    yield loop
    if not loop.is_closed():
        loop.close()


@pytest.fixture
def loop_errors() -> list[dict[str, Any]]:
    """What the loop's exception handler was called with. Who asks for it answers for it:
    other tests fail when it is called."""
    return []
