"""Application: whether something is one, also where a tool has replaced the class."""

from __future__ import annotations

from typing import TypeGuard

from aiohttp import web

__all__ = ("check_application", "is_application")


def is_application(what: object) -> TypeGuard[web.Application]:
    """Is it one, also if a tool has put a subclass in the place of the class since?"""
    return any(
        kind.__name__ == "Application" and kind.__module__.partition(".")[0] == "aiohttp"
        for kind in type(what).__mro__
    )


def check_application(function: str, what: object) -> None:
    """Refuse what is no application.

    Raises:
        TypeError: the function of this name takes one.
    """
    if not is_application(what):
        raise TypeError(f"{function}() takes an aiohttp.web.Application, not {what!r}")
