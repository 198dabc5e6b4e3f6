"""Places: lines of code, and which of them are the application's own."""

from __future__ import annotations

import functools
import linecache
import os
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from . import data
from .record import Frame

__all__ = ("is_own", "where", "with_code")

_PATHS: Final = sysconfig.get_paths()
_STDLIB: Final = (_PATHS["stdlib"], _PATHS["platstdlib"], "<frozen ")
_PACKAGES: Final = (
    _PATHS["purelib"],
    _PATHS["platlib"],
    "site-packages",
    "dist-packages",
    # This package itself, wherever it is.
    str(Path(__file__).parent.parent) + "/",
)


@functools.lru_cache(maxsize=1000)
def is_own(path: str) -> bool:
    """Return whether a file is the application's, not a package's or Python's own."""
    return not (_is_of_package(path) or path.startswith(_STDLIB))


def _is_of_package(path: str) -> bool:
    return any(part in path for part in _PACKAGES)


def where(frames: Sequence[Frame]) -> str:
    """Return the innermost frame in the application's own code, in a few words.

    If there is none, that of a package: the application may be installed as one.
    """
    return _where(tuple(frames)) if frames else ""


@functools.lru_cache(maxsize=1000)  # most jobs stand where others have stood
def _where(frames: tuple[Frame, ...]) -> str:
    inwards = frames[::-1]
    path, line, function = next(
        (frame for frame in inwards if is_own(frame[0])),
        next((frame for frame in inwards if _is_of_package(frame[0])), inwards[0]),
    )
    return f"{function}, {os.path.basename(path)}:{line}"


def with_code(frames: Iterable[Frame]) -> list[data.Frame]:
    """Return each frame with its line of code, as in a traceback."""
    return [
        {
            "file": path,
            "line": line,
            "function": function,
            "code": linecache.getline(path, line).strip(),
            "own": is_own(path),
        }
        for path, line, function in frames
    ]
