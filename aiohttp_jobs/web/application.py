"""Application: whether something is one, even if a tool has replaced the class."""

from __future__ import annotations

from typing import TypeGuard

from aiohttp import web

__all__ = ("check_application", "is_application")


def is_application(what: object) -> TypeGuard[web.Application]:
    """Return whether it is one, even if a tool has since replaced the class."""
    return any(
        kind.__name__ == "Application" and kind.__module__.partition(".")[0] == "aiohttp"
        for kind in type(what).__mro__
    )


def check_application(function: str, what: object) -> None:
    """Refuse anything but an application.

    Raises:
        TypeError: it is not one; the message names the function that takes one.
    """
    if not is_application(what):
        raise TypeError(f"{function}() takes an aiohttp.web.Application, not {what!r}")
