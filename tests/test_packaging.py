"""The distribution: built once, and inspected."""

import email.message
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent
PACKAGE = "aiohttp_jobs"
# Beside the package, as pytest loads it wherever it is installed.
PLUGIN = "pytest_aiohttp_jobs.py"


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds one wheel and one sdist of this tree."""
    if made_before := os.environ.get("DIST_DIR"):
        return ROOT / made_before
    made_here = tmp_path_factory.mktemp("dist")
    # Built from a copy: files that earlier builds left in the tree would get into a
    # wheel.
    tree = made_here / "tree"
    leftovers = shutil.ignore_patterns(
        ".*", "__pycache__", "_build", "build", "dist", "*.egg-info"
    )
    shutil.copytree(ROOT, tree, ignore=leftovers)
    build = [sys.executable, "-m", "build", "--no-isolation"]
    subprocess.run([*build, "--outdir", made_here, tree], check=True)
    return made_here


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def read_metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every file of the package, typed marker included; no tests, demo or docs. Beside
    it only the plugin for pytest."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {PLUGIN}
    assert f"{PACKAGE}/py.typed" in expected
    assert f"{PACKAGE}/dashboard/static/dashboard.js" in expected
    assert f"{PACKAGE}/dashboard/templates/overview.html" in expected
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {n for n in held if ".dist-info/" not in n} == expected
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_asks_for_aiohttp_only(wheel: Path) -> None:
    """Everything beyond aiohttp is in an extra."""
    metadata = read_metadata(wheel)
    assert "dashboard" in metadata.get_all("Provides-Extra", [])
    required = metadata.get_all("Requires-Dist", [])
    assert [r for r in required if "extra ==" not in r] == ["aiohttp>=3.9"]
    assert metadata["Requires-Python"] == ">=3.11"


def test_readme_of_the_wheel_links_to_nothing_that_an_index_lacks(wheel: Path) -> None:
    """Links that work only in the repository appear there as file names."""
    readme = read_metadata(wheel).get_payload()
    assert isinstance(readme, str)
    assert "Tutorial (``docs/tutorial.rst``)" in readme
    assert "image::" not in readme
    links = re.findall(r"<([^\s<>]+)>`_", readme)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_wheel_brings_its_license(wheel: Path) -> None:
    """The licence is named, and its text is in the wheel."""
    assert read_metadata(wheel)["License-Expression"] == "Apache-2.0"
    names = zipfile.ZipFile(wheel).namelist()
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)


def test_sdist_brings_what_a_contributor_needs(dist: Path) -> None:
    """Tests, docs and demo can be run from the sdist."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held >= {"CHANGES.rst", "LICENSE", "Makefile", "README.rst", "docs/conf.py"}
    assert "tests/test_packaging.py" in held
    assert not any("__pycache__" in name for name in held)
