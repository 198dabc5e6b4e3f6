"""Every rule of the contract has a test of its own, whose docstring names it.

A rule is named by letter and number: A for accepting a job, L for limits and progress, R
for results and failures, E for ending, W for aiohttp applications.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

RULES = (
    "A1 A2 A3 A4 A5 A6 A7 A8 A9",
    "L1 L2 L3 L4 L5",
    "R1 R2 R3 R4 R5 R6 R7 R8 R9 R10",
    "E0 E1 E2 E3 E4 E5 E6 E7",
    "W1 W2 W3 W4 W5 W6 W7 W8",
)
ALL = [rule for line in RULES for rule in line.split()]


@functools.cache
def docstrings() -> dict[str, str]:
    """Return the docstrings of all tests, by pytest's names of the tests."""
    return {
        f"{path.name}::{node.name}": ast.get_docstring(node) or ""
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_")
    }


@pytest.mark.parametrize("rule", ALL)
def test_rule_has_a_test_whose_docstring_begins_with_it(rule: str) -> None:
    """Each rule has a test that is first of all about this rule."""
    begins = re.compile(rf"{rule}\b")
    assert [name for name, text in docstrings().items() if begins.match(text)]


def test_docstrings_name_no_rule_that_there_is_not() -> None:
    """A rule may have been renumbered, or mistyped."""
    text = "\n".join(docstrings().values())
    assert set(re.findall(r"\b[A-Z]\d+\b", text)) <= set(ALL)


def test_every_test_has_its_sentence() -> None:
    """The docstring says what the test demands of the package."""
    assert [name for name, text in docstrings().items() if not text] == []
