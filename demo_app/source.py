"""Source: the code of the demo, as its pages show it."""

from __future__ import annotations

import inspect
import io
import keyword
import textwrap
import tokenize
from itertools import accumulate
from typing import Final

from markupsafe import Markup, escape

__all__ = ("highlight", "source_of")

_STRINGS: Final = frozenset(
    getattr(tokenize, name)
    for name in ("STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END")
    if hasattr(tokenize, name)  # since Python 3.12
)


def source_of(*functions: object, after: str = "") -> Markup:
    """Return the code of functions, highlighted, without their docstrings.

    Args:
        functions: functions, methods or tasks.
        after: return only what follows the line that ends with this.
    """
    return highlight("\n\n\n".join(_source(each, after) for each in functions))


def _source(function: object, after: str) -> str:
    function = getattr(function, "function", function)  # of a task
    assert callable(function)
    function = inspect.unwrap(function)
    assert inspect.isfunction(function)
    code = inspect.getsource(function)
    if after:
        code = code.partition(after + "\n")[2]
    elif function.__doc__ is not None:
        head, _, rest = code.partition('"""')
        code = head.rstrip() + "\n" + rest.partition('"""\n')[2]
    return textwrap.dedent(code).strip()


def highlight(code: str) -> Markup:
    """Return Python code as HTML, highlighted by CSS classes."""
    starts = [0, *accumulate(map(len, code.splitlines(keepends=True)))]
    found = Markup("")
    shown = 0
    in_decorator = False
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.string == "@" and not token.line[: token.start[1]].strip():
            in_decorator = True
        elif token.string == "(" or token.type == tokenize.NEWLINE:
            in_decorator = False
        kind = "decorator" if in_decorator else _kind_of(token)
        if kind is None:
            continue
        begin, end = (
            starts[row - 1] + column for row, column in (token.start, token.end)
        )
        found += escape(code[shown:begin])
        found += Markup('<span class="{}">{}</span>').format(kind, code[begin:end])
        shown = end
    return found + escape(code[shown:])


def _kind_of(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type in _STRINGS:
        return "string"
    if token.type == tokenize.NAME and keyword.iskeyword(token.string):
        return "keyword"
    return None
