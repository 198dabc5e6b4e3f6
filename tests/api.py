"""The public interface, as text: ``python -m tests.api`` writes it into tests/api.txt.

A test compares the two, so that the interface does not change by accident. After changing
it on purpose, run this and look at the diff.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import aiohttp_jobs

__all__ = ("FILE", "describe")

FILE: Final = Path(__file__).with_suffix(".txt")

# Where the package's own names come from; users need not know.
INSIDE: Final = ("aiohttp_jobs.core", "aiohttp_jobs.share", "aiohttp_jobs.web")
# Attributes of a job that only the core uses.
OF_THE_CORE: Final = {
    *("failure", "grace", "keeper", "name", "owns_context", "timeout", "timer"),
    "waiters",
}


def describe() -> str:
    """Describe every public name of every public module."""
    return "".join(f"{line}\n" for module in modules() for line in of_module(module))


def modules() -> Iterator[ModuleType]:
    """Yield the package, and the modules that users import from it."""
    yield aiohttp_jobs
    for found in pkgutil.iter_modules(aiohttp_jobs.__path__, "aiohttp_jobs."):
        is_public = not found.name.rpartition(".")[2].startswith("_")
        if is_public and found.name not in INSIDE:
            yield importlib.import_module(found.name)


def of_module(module: ModuleType) -> Iterator[str]:
    yield f"[{module.__name__}]"
    for name in sorted(module.__all__):
        yield from of_object(name, getattr(module, name))
    yield ""


def of_object(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        yield from of_class(name, thing)
    elif inspect.isroutine(thing):
        yield of_function(name, thing)
    else:
        yield f"{name}: {type(thing).__name__}"


def of_class(name: str, kind: type[Any]) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"class {name}({bases})"
    if issubclass(kind, enum.Enum):
        for one in kind:
            yield f"    {one.name} = {one.value!r}"
        return
    members = dict[str, Any]()
    for each in reversed(kind.__mro__):
        if each.__module__.partition(".")[0] == "aiohttp_jobs":
            members |= vars(each)
    for member, thing in sorted(members.items()):
        is_public = not member.startswith("_") or member == "__init__"
        if not is_public or (kind is aiohttp_jobs.Job and member in OF_THE_CORE):
            continue
        if isinstance(thing, staticmethod | classmethod):
            yield f"    {type(thing).__name__} {of_function(member, thing.__func__)}"
        elif inspect.isfunction(thing):
            yield f"    {of_function(member, thing)}"
        elif isinstance(thing, property):
            yield f"    {member}: property{'' if thing.fset is None else ', settable'}"
        elif inspect.ismemberdescriptor(thing) or not callable(thing):
            yield f"    {member}"
    fields = inspect.get_annotations(kind)
    for member in sorted(fields.keys() - members.keys()):
        if not member.startswith("_"):
            yield f"    {member}"


def of_function(name: str, function: Any) -> str:
    is_coroutine = inspect.iscoroutinefunction(function)
    # A default that is a function would show its address in memory.
    signature = re.sub(" at 0x[0-9a-f]+", "", str(inspect.signature(function)))
    return f"{'async ' if is_coroutine else ''}def {name}{signature}"


def main() -> None:
    """Write the file."""
    FILE.write_text(describe(), encoding="utf-8")
    sys.stdout.write(f"Wrote {FILE.name}\n")


if __name__ == "__main__":
    main()
