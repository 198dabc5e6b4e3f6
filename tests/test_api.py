"""The public interface stays as it is, unless somebody changes it on purpose."""

from __future__ import annotations

from tests.api import FILE, describe


def test_public_names_and_signatures_are_those_that_were_agreed_on() -> None:
    """The diff of tests/api.txt shows what is new, gone or different."""
    assert describe() == FILE.read_text(encoding="utf-8"), (
        "The public interface has changed. If that was meant, run "
        "'python -m tests.api', look at the difference, and write it into CHANGES.rst"
    )
