"""The layers of the package: arrows point down, and the core knows nothing of aiohttp.

The imports are read, not run. Imports only for type checkers count like all others.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

import aiohttp_jobs

PACKAGE = Path(aiohttp_jobs.__file__).parent

# From the bottom to the top; a module imports from lower lines only.
CORE = (
    "core.errors",
    "core.checks",
    "core.states",
    "core.names",
    "core.guests",
    "core.failures",
    "core.stack",
    "core.statistics",
    "core.mark",
    "core.keeper",
    "core.job",
    "core.logs",
    "core.enqueued",
    "core.observers",
    "core.binding",
    "core.reports",
    "core.telling",
    "core.drainers",
    "core.pending",
    "core.slots",
    "core.running",
    "core.gate",
    "core.intake",
    "core.keys",
    "core.shield",
    "core.ending",
    "core.parts",
    "core.scheduler",
)
AIOHTTP_LAYER = (
    "web.application",
    "web.attempt",
    "web.hangup",
    "web.giveup",
    "web.request",
    "web.atomic",
    "web.middleware",
    "web.setup",
)
# The modules that applications which come from aiojobs import.
FROM_AIOJOBS = (
    "_job",
    "_scheduler",
    "aiohttp",
)
# Helpers for code in jobs: based on the standard library, beside the core.
BESIDE = ("threads",)
# When periodic jobs are due: based on the standard library, except for cron().
SCHEDULE = ("schedule",)
# Above all these, and based on nothing else.
ABOVE = ("repeats",)
# For modules that cannot import the whole package.
VERSION = ("_version",)
# How the processes of one application communicate: below the parts that show them.
SHARE = (
    "share.forks",
    "share.names",
    "share.peer",
    "share.folder",
    "share.place",
    "share.deadlines",
    "share.worker",
    "share.member",
    "share.asking",
    "share.patience",
    "share.others",
    "share",
)
# On top, imported by nothing else: each needs the package of its extra.
EXTRAS = {
    "prometheus_lines": "prometheus_client",
    "prometheus_workers": "prometheus_client",
    "prometheus_times": "prometheus_client",
    "prometheus_durable": "prometheus_client",
    "prometheus": "prometheus_client",
    "opentelemetry": "opentelemetry",
    "sentry": "sentry_sdk",
    "taskiq_message": "taskiq",
    "taskiq": "taskiq",
}
# An extra that is a package: its own modules, from the bottom to the top.
DASHBOARD = (
    "dashboard.data",
    "dashboard.record",
    "dashboard.words",
    "dashboard.places",
    "dashboard.process",
    "dashboard.kinds",
    "dashboard.tallies",
    "dashboard.history",
    "dashboard.query",
    "dashboard.sites",
    "dashboard.access",
    "dashboard.rows",
    "dashboard.part",
    "dashboard.pieces",
    "dashboard.overview",
    "dashboard.details",
    "dashboard.steering",
    "dashboard.source",
    "dashboard.durable_data",
    "dashboard.durable_source",
    "dashboard.answering",
    "dashboard.workers",
    "dashboard.charts",
    "dashboard.sections",
    "dashboard.stream",
    "dashboard.pages",
    "dashboard.text",
    "dashboard.views",
    "dashboard.actions",
    "dashboard.api",
    "dashboard.durable_views",
    "dashboard.durable_actions",
    "dashboard.app",
    "dashboard",
)
# The packages that come with its extra, and with aiohttp.
DASHBOARD_NEEDS = {"aiohttp", "aiohttp_jinja2", "jinja2", "markupsafe", "multidict"}
# Jobs that survive the process: based on the standard library and the layers below.
DURABLE = (
    "durable.envelope",
    "durable.store",
    "durable.memory",
    "durable.kept",
    "durable.inspection",
    "durable.arguments",
    "durable.task",
    "durable.attempt",
    "durable.upkeep",
    "durable.worker",
    "durable.periodic",
    "durable.sqlite.faults",
    "durable.sqlite.disk",
    "durable.sqlite.locks",
    "durable.sqlite.turn",
    "durable.sqlite.schema",
    "durable.sqlite.rows",
    "durable.sqlite.batch",
    "durable.sqlite.joined",
    "durable.sqlite.look",
    "durable.sqlite.dead",
    "durable.sqlite.owner",
    "durable.sqlite.writer",
    "durable.sqlite.store",
    "durable.sqlite",
    "durable.setup",
    "durable.alone",
    "durable.__main__",
    "durable",
)
# Where the layers on top find an application's durable jobs.
DURABLE_OF = ("_durable_of",)
# For tests of applications, and so above everything that those use.
FOR_TESTS = ("testing",)
LAYERS = (
    *("core", *CORE),
    *("web", *AIOHTTP_LAYER),
    *FROM_AIOJOBS,
    *BESIDE,
    *SCHEDULE,
    *ABOVE,
    *VERSION,
    *SHARE,
    *DURABLE,
    *DURABLE_OF,
    *FOR_TESTS,
    *EXTRAS,
    *DASHBOARD,
    "",
)

# The public modules of aiohttp.
PUBLIC_MODULES = {
    "aiohttp",
    "aiohttp.abc",
    "aiohttp.hdrs",
    "aiohttp.test_utils",
    "aiohttp.typedefs",
    "aiohttp.web",
}

modules = pytest.mark.parametrize("module", LAYERS)


@dataclass(frozen=True)
class Import:
    """One imported module; modules of the package have their own name, after a dot."""

    module: str
    names: tuple[str, ...]
    for_types_only: bool


def path_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text())


def imports(module: str) -> list[Import]:
    path = path_of(module).relative_to(PACKAGE)
    return list(_imports(tree_of(module), path.parent.parts, False))


def _imports(
    node: ast.AST, folder: tuple[str, ...], for_types_only: bool
) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, (), for_types_only)
    elif isinstance(node, ast.ImportFrom):
        names = tuple(alias.name for alias in node.names)
        module = node.module or ""
        if node.level:
            base = folder[: len(folder) - node.level + 1]
            module = ".".join(["", *base, *([module] if module else [])])
        elif module.partition(".")[0] == "aiohttp_jobs":
            module = module.removeprefix("aiohttp_jobs") or "."
        is_ours = module.startswith(".") and module[1:] in LAYERS
        if is_ours and path_of(module[1:]).stem == "__init__":
            inside = [name for name in names if f"{module}.{name}"[1:] in LAYERS]
            for name in inside:
                yield Import(f"{module}.{name}", (), for_types_only)
            names = tuple(name for name in names if name not in inside)
            if inside and not names:
                return
        yield Import(module, names, for_types_only)
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for statement in node.body:
            yield from _imports(statement, folder, True)
        for statement in node.orelse:
            yield from _imports(statement, folder, for_types_only)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, folder, for_types_only)


def test_every_module_has_its_layer() -> None:
    """A new module has to be added to the table above, and a removed one has to go."""
    assert set(PACKAGE.rglob("*.py")) == {path_of(module) for module in LAYERS}


def test_no_module_is_longer_than_one_reads_at_once() -> None:
    """A longer module contains a second idea, which wants a module of its own."""
    lines = {
        path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {path: count for path, count in lines.items() if count > 450} == {}


def test_map_of_the_package_names_the_modules_in_this_order() -> None:
    """The comment at the top of the package is the map for newcomers."""
    text = (PACKAGE / "__init__.py").read_text()
    named = re.findall(r"(?m)^#   ([\w/]+)\.py  ", text)
    durable = [name for name in DURABLE if path_of(name).stem != "__init__"]
    order = (
        *(*CORE, *AIOHTTP_LAYER, *FROM_AIOJOBS, *BESIDE, *SCHEDULE, *ABOVE),
        *(*VERSION, *SHARE[:-1], *durable, *DURABLE_OF, *FOR_TESTS, *EXTRAS),
    )
    assert named == [name.replace(".", "/") for name in order]


@modules
def test_imports_from_the_package_point_down(module: str) -> None:
    """No module imports one above it, not even for type checkers: no import cycles."""
    lower = {f".{name}" for name in LAYERS[: LAYERS.index(module)]}
    inside = {each for each in imports(module) if each.module.startswith(".")}
    assert {each.module for each in inside} <= lower


def names_defined_in(module: str) -> set[str]:
    """Return methods, fields and slots of its classes, and attributes set on `self`."""
    names = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # in __slots__
    return names


@pytest.mark.parametrize("module", CORE)
def test_private_attributes_stay_in_their_module(module: str) -> None:
    """A name that another module of the core uses has no leading underscore."""
    reached = {
        node.attr
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and is_private(node.attr)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert reached <= names_defined_in(module)


@pytest.mark.parametrize("module", CORE)
def test_classes_of_the_core_inherit_from_no_other_module(module: str) -> None:
    """They are composed instead."""
    imported = {
        name
        for each in imports(module)
        if each.module.startswith(".")
        for name in each.names
    }
    bases = {
        ast.unparse(base).partition("[")[0]
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert bases & imported == set()


@pytest.mark.parametrize("module", CORE)
def test_core_imports_the_standard_library_and_itself(module: str) -> None:
    """The core knows nothing of aiohttp, not even for type checkers."""
    allowed = {f".{name}" for name in CORE} | sys.stdlib_module_names
    needed = {each.module for each in imports(module)}
    assert {name if name[0] == "." else name.partition(".")[0] for name in needed} <= (
        allowed
    )


@pytest.mark.parametrize(
    "module", [*AIOHTTP_LAYER, *FROM_AIOJOBS, *ABOVE, *DURABLE, *DURABLE_OF, *FOR_TESTS]
)
def test_aiohttp_layer_imports_aiohttp_and_the_standard_library(module: str) -> None:
    """The package needs aiohttp and nothing else."""
    outside = {each.module for each in imports(module) if each.module[0] != "."}
    top_level = {name.partition(".")[0] for name in outside}
    assert top_level <= {"aiohttp"} | sys.stdlib_module_names
    assert {name for name in outside if name.startswith("aiohttp")} <= PUBLIC_MODULES


@pytest.mark.parametrize("module", BESIDE)
def test_what_is_beside_the_core_needs_the_standard_library(module: str) -> None:
    """And nothing of the package."""
    assert {each.module.partition(".")[0] for each in imports(module)} <= (
        sys.stdlib_module_names
    )


@pytest.mark.parametrize("module", SCHEDULE)
def test_schedule_needs_the_standard_library_and_cronsim(module: str) -> None:
    """And nothing of the package."""
    needed = {each.module for each in imports(module)}
    assert needed <= {"cronsim"} | sys.stdlib_module_names
    at_import = {
        name
        for node in tree_of(module).body
        for each in _imports(node, (), False)
        if not each.for_types_only
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [each.module]
    }
    assert "cronsim" not in at_import


@pytest.mark.parametrize(("module", "package"), EXTRAS.items())
def test_extra_needs_one_package_more(module: str, package: str) -> None:
    """The one that the extra is for."""
    outside = {each.module for each in imports(module) if each.module[0] != "."}
    top_level = {name.partition(".")[0] for name in outside}
    assert package in top_level
    assert top_level <= {"aiohttp", package} | sys.stdlib_module_names


@pytest.mark.parametrize("module", SHARE)
def test_share_needs_aiohttp_and_the_standard_library(module: str) -> None:
    """It knows nothing of the parts that show the workers, and needs no extra."""
    outside = {each.module for each in imports(module) if each.module[0] != "."}
    top_level = {name.partition(".")[0] for name in outside}
    assert top_level <= {"aiohttp"} | sys.stdlib_module_names
    assert {name for name in outside if name.startswith("aiohttp")} <= PUBLIC_MODULES
    inside = {each.module for each in imports(module)} - outside
    assert inside <= {f".{name}" for name in (*CORE, *VERSION, *SHARE)}


@pytest.mark.parametrize("module", DASHBOARD)
def test_dashboard_needs_what_comes_with_its_extra(module: str) -> None:
    """And the core and the aiohttp layer of the package."""
    outside = {each.module for each in imports(module) if each.module[0] != "."}
    top_level = {name.partition(".")[0] for name in outside}
    assert top_level <= DASHBOARD_NEEDS | sys.stdlib_module_names


# -- nothing private of aiohttp ---------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(module: str) -> set[str]:
    """Return the private attributes that a module uses, by getattr() and so on too."""
    names = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return {name for name in names if is_private(name) and name.isidentifier()}


@functools.cache
def words_of_aiohttp() -> set[str]:
    root = Path(aiohttp.__file__).parent
    code = "\n".join(path.read_text() for path in sorted(root.rglob("*.py")))
    return set(re.findall(r"\w+", code))


@modules
def test_nothing_private_of_aiohttp_is_imported(module: str) -> None:
    """Neither a private module nor a private name."""
    for each in imports(module):
        if each.module.startswith("aiohttp"):
            private = [n for n in (*each.module.split("."), *each.names) if is_private(n)]
            assert private == []


@pytest.mark.parametrize("module", AIOHTTP_LAYER)
def test_no_private_attribute_of_aiohttp_is_used(module: str) -> None:
    """Modules that handle aiohttp's objects use no private attribute with a name that
    aiohttp has too; so all of them are the package's own."""
    assert words_of_aiohttp() >= {"_state", "_task_handler", "_match_info"}
    assert private_names(module) & words_of_aiohttp() == set()
