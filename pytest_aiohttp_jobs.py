"""The plugin for pytest: tests of applications that spawn jobs.

It is not in the package, so that pytest, which loads it wherever it is installed, does
not import aiohttp for people who test something else.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiohttp_jobs.testing import FailedJobs, MemoryStore, Recording, SpawnedJobs

OPTION = "aiohttp_jobs_strict"
MARKER = "jobs_may_fail"


class _Watch:
    """What is recorded of one test."""

    def __init__(self, *, is_strict: bool) -> None:
        from aiohttp_jobs.testing import FailedJobs, Recording, SpawnedJobs

        self.spawned: SpawnedJobs = SpawnedJobs()
        self._failed: FailedJobs = FailedJobs()
        self._is_strict = is_strict
        self._recording: Recording = Recording(self.spawned, self._failed)
        self._recording.start()

    def check(self) -> None:
        """Fail the test if jobs have failed that nobody has waited for."""
        from aiohttp_jobs.testing import raise_failures

        if self._is_strict:
            raise_failures(self._failed.take())

    def stop(self) -> None:
        self._recording.stop()


_WATCH = pytest.StashKey[_Watch]()


class _InMemory:
    """Keeps durable jobs in memory until it is stopped."""

    def __init__(self) -> None:
        from aiohttp_jobs.testing import durable_in_memory

        self._stack = ExitStack()
        self.stores: list[MemoryStore] = self._stack.enter_context(durable_in_memory())

    def stop(self) -> None:
        self._stack.close()


_IN_MEMORY = pytest.StashKey[_InMemory]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        OPTION,
        type="bool",
        default=False,
        help="fail a test if a job of aiohttp-jobs fails in it that nobody waits for",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}: a job may fail in this test, although {OPTION} is set.",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    # Before any fixture, which may make the application.
    is_strict = bool(item.config.getini(OPTION)) and not item.get_closest_marker(MARKER)
    fixtures = getattr(item, "fixturenames", ())
    if is_strict or "spawned_jobs" in fixtures:
        item.stash[_WATCH] = _Watch(is_strict=is_strict)
    if "durable_in_memory" in fixtures:
        item.stash[_IN_MEMORY] = _InMemory()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    if (watch := item.stash.get(_WATCH, None)) is not None:
        watch.check()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    watch = item.stash.get(_WATCH, None)
    try:
        result = yield
    finally:
        if watch is not None:
            watch.stop()
            del item.stash[_WATCH]
        if (in_memory := item.stash.get(_IN_MEMORY, None)) is not None:
            in_memory.stop()
            del item.stash[_IN_MEMORY]
    if watch is not None:
        watch.check()  # what has failed while the application was shut down
    return result


@pytest.fixture
def spawned_jobs(request: pytest.FixtureRequest) -> SpawnedJobs:
    """The jobs that this test has spawned so far, in order.

    See :class:`aiohttp_jobs.testing.SpawnedJobs`.
    """
    node: pytest.Item = request.node
    if _WATCH not in node.stash:  # asked for by getfixturevalue()
        node.stash[_WATCH] = _Watch(is_strict=False)
    return node.stash[_WATCH].spawned


@pytest.fixture
def durable_in_memory(request: pytest.FixtureRequest) -> list[MemoryStore]:
    """Durable jobs run at once, in memory, wherever the application keeps them.

    The stores, one for each `setup_durable()` of this test. See
    :class:`aiohttp_jobs.testing.MemoryStore`.
    """
    node: pytest.Item = request.node
    if _IN_MEMORY not in node.stash:  # asked for by getfixturevalue()
        node.stash[_IN_MEMORY] = _InMemory()
    return node.stash[_IN_MEMORY].stores
