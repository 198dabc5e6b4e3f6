"""How the tests run: the core's tests on every kind of loop, with guards around them."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from aiohttp_jobs.core.parts import WHEN_MADE
from tests.loops import ALWAYS, IN_TURN, KINDS, is_missing, make_loop, run

pytest_plugins = ("pytester",)


# Test modules of the core: they run on the loops of tests/loops.py, not pytest-asyncio's.
CORE = {
    "test_cancellation",
    "test_closing",
    "test_durable_inspection",
    "test_factories",
    "test_job",
    "test_keys",
    "test_logs",
    "test_observers",
    "test_odd_exceptions",
    "test_drainers",
    "test_repeats",
    "test_scheduler",
    "test_slots",
    "test_stack",
    "test_shield",
    "test_threads",
}


# The suite tries the same examples each time, however slow the machine is; `make fuzz`
# looks for new ones. A failure is printed with the blob that reproduces it.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=12,
    print_blob=True,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",
    settings.get_profile("suite"),
    derandomize=False,
    max_examples=5000,
    stateful_step_count=100,
)
settings.load_profile("suite")

# On how many shuffled loops a run of the whole suite runs each test of the core, and on
# how many of the kinds that take turns.
SHUFFLED, TURNS = 1, 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffled",
        type=int,
        default=0,
        metavar="N",
        help="run each test of the core on N loops that shuffle what is ready, only",
    )
    parser.addoption(
        "--loops",
        choices=("all", *KINDS),
        help="run each test of the core on this kind of loop, or on all of them, only",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=1,
        help="what is left to chance: the seeds of shuffled loops, which the names of "
        "tests tell; which kind of loop has its turn",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"chance: --seed={config.getoption('seed')}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "core_loop" in metafunc.fixturenames:
        loops = _loops_of(metafunc.definition, metafunc.config)
        metafunc.parametrize("core_loop", loops, indirect=True)


def _loops_of(test: pytest.Item, config: pytest.Config) -> list[Any]:
    """Return the loops that a test of the core runs on."""
    rounds, first = config.getoption("shuffled"), config.getoption("seed")
    # Depends on the test's name, so that one run has a test for each kind.
    chance = random.Random(f"{first} {test.nodeid}")
    chosen = config.getoption("loops")
    kinds: tuple[str, ...] = ()
    if chosen is not None and chosen != "all":
        kinds = (chosen,)
    elif test.get_closest_marker("one_loop") is not None:
        kinds, rounds = (chance.choice(KINDS),), 0
    elif chosen == "all":
        kinds = KINDS
    elif rounds:
        pass
    elif test.get_closest_marker("big") is not None:
        kinds = tuple(kind for kind in ALWAYS if kind != "uvloop")
    else:
        kinds = (*ALWAYS, *chance.sample(IN_TURN, TURNS))
        rounds = SHUFFLED
    not_on = test.get_closest_marker("not_on")
    without = () if not_on is None else not_on.args
    in_order = test.get_closest_marker("in_order") is not None
    seeds = () if in_order else range(first, first + rounds)
    return [pytest.param((kind, 0), id=kind) for kind in kinds if kind not in without] + [
        pytest.param(("shuffled", seed), id=f"shuffled-seed{seed}") for seed in seeds
    ]


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out tests that cannot run here: skips would bury the skips that matter.

    If loops were chosen, run only the tests that run on them.
    """
    if is_missing("eager"):
        items[:] = [item for item in items if not item.get_closest_marker("eager")]
    if not config.getoption("shuffled") and config.getoption("loops") is None:
        return
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        # Not a tuple if no loop is left to choose from, as for tests that need its order.
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        is_kept = isinstance(parameters.get("core_loop"), tuple)
        (kept if is_kept else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Replace the coroutine functions before pytest-asyncio sees them."""
    if not isinstance(collector, pytest.Module) or collector.path.stem not in CORE:
        return
    try:
        module = collector.obj
    except collector.CollectError:
        return  # pytest will meet the same error and report it
    for name, test in list(vars(module).items()):
        if name.startswith("test_") and inspect.iscoroutinefunction(test):
            setattr(module, name, _on_core_loop(test))


def _on_core_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a coroutine function in a plain one that runs it on `core_loop`."""

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
    """An event loop whose clock jumps; each kind in turn."""
    kind, seed = request.param
    loop = make_loop(kind, seed)
    yield loop
    if not loop.is_closed():
        loop.close()


@pytest.fixture
def loop_errors() -> list[dict[str, Any]]:
    """What the loop's exception handler was called with. Tests that use this fixture
    check it; other tests fail if the handler is called."""
    return []


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays() -> None:
    """Freeze the objects that exist already. Every test of the core runs the garbage
    collector; visiting them each time would take longer than all these tests."""
    gc.collect()
    gc.freeze()


# The modules that use aiohttp_jobs.testing, which records the failures of all schedulers.
RECORDED = {"test_docs", "test_durable_memory", "test_pytest_plugin", "test_testing"}


@pytest.fixture(scope="module", autouse=True)
def nobody_records(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep recorders off a test's schedulers, whichever other modules are collected."""
    kept = WHEN_MADE[:]
    if request.path.stem not in RECORDED:
        WHEN_MADE.clear()
    yield
    WHEN_MADE[:] = kept
