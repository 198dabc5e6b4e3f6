"""Tables, as text for the terminal and as RST for the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version

from .measure import Spread

__all__ = ("Table", "as_rst", "as_text", "environment", "spread", "summary")


def spread(value: Spread) -> str:
    """Write a ratio with its quartiles, if it has any."""
    if value.low == value.high:
        return f"{value.median:.3f}"
    return f"{value.median:.3f} ({value.low:.3f} to {value.high:.3f})"


@dataclass
class Table:
    """A title, a text below it, and rows with one cell per column."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    # The targets, as rows of `summary`.
    targets: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)

    def target(self, what: str, most: float, ratio: Spread) -> None:
        """Note a ratio that should be `most` or less."""
        self._note(what, f"{most:.2f}", spread(ratio), ratio.median <= most)

    def target_bytes(self, what: str, most: int, size: float) -> None:
        """Note a size that should be `most` or less."""
        self._note(what, f"{most:,} bytes", f"{size:,.0f} bytes", size <= most)

    def target_microseconds(self, what: str, most: float, value: float) -> None:
        """Note a time that should be `most` or less, both in microseconds."""
        self._note(what, f"{most:,.0f} µs", f"{value:,.0f} µs", value <= most)

    def target_at_least(self, what: str, least: float, ratio: Spread) -> None:
        """Note a ratio that should be `least` or more."""
        met = "met" if ratio.median >= least else "missed"
        self.targets.append((what, f"at least {least:g}", spread(ratio), met))

    def _note(self, what: str, most: str, measured: str, met: bool) -> None:
        self.targets.append(
            (what, f"at most {most}", measured, "met" if met else "missed")
        )


def summary(tables: Iterable[Table]) -> Table:
    """Return the table of all targets."""
    return Table(
        "Targets",
        "Ratios: medians, in brackets the quartiles. The median decides.",
        ("What", "Target", "Measured", "Verdict"),
        [row for table in tables for row in table.targets],
    )


def environment(command: str, loop: str) -> str:
    """Say what was run, and on which versions, without naming the machine."""
    names = ["aiohttp", "aiojobs"] + (["uvloop"] if loop == "uvloop" else [])
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{command}: {platform.python_implementation()} {platform.python_version()}, "
        f"{versions}, {os.cpu_count()} CPUs"
    )


def as_text(table: Table) -> str:
    """Return the table for a terminal, with its columns aligned."""
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    written = [aligned[0], rule, *aligned[1:]]
    return "\n".join(
        [table.title, table.text, "", *(line.rstrip() for line in written), ""]
    )


def as_rst(tables: Iterable[Table], about: str) -> str:
    """Return all tables as a fragment for a page to include."""
    command, environment = about.split(": ", 1)
    lines = [f"``{command}``: {environment}."]
    for table in tables:
        lines += ["", table.title, "~" * len(table.title), "", table.text, ""]
        lines += [".. list-table::", "   :header-rows: 1", ""]
        for row in (table.columns, *table.rows):
            for first, cell in zip("*" + " " * (len(row) - 1), row, strict=True):
                lines.append(f"   {first} - {cell}".rstrip())
    return "\n".join(lines) + "\n"
