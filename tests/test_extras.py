"""A module whose extra is not installed says which one to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.extras import EXTRAS, MISSING

PACKAGES = {
    "cron": "cronsim",
    "dashboard": "aiohttp_jinja2",
    "opentelemetry": "opentelemetry",
    "prometheus": "prometheus_client",
    "sentry": "sentry_sdk",
    "taskiq": "taskiq",
}


@pytest.mark.parametrize("extra", PACKAGES)
def test_missing_extra_is_named(extra: str) -> None:
    """In one sentence, by an ImportError, as for any missing package."""
    program = f"import sys; sys.modules[{PACKAGES[extra]!r}] = None; {MISSING[extra]}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(("ModuleNotFoundError: ", "ImportError: "))
    assert last.endswith(f": install aiohttp-jobs[{extra}]")


def test_every_extra_for_users_is_tried() -> None:
    """`make extras` installs each by itself."""
    assert EXTRAS.keys() == {"", *PACKAGES} == {"", *MISSING}
