"""The arguments of durable jobs: JSON, and fit for the task, checked at the call."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

__all__ = ("Arguments",)

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)

# Made once: json.dumps() would make one at each call.
_encode: Final = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, check_circular=False
).encode

# What comes back as it was. Strings and numbers of other classes, such as enumeration
# members, come back as plain ones, which is as good.
_PLAIN: Final = (str, int, type(None))
# How the encoder writes these, without its set-up, which takes longer than the writing.
_WRITTEN: Final[dict[type, Callable[[Any], str]]] = {str: _encode, int: str}


class Arguments:
    """Checks and packs what is given to one function, after its first argument.

    Args:
        function: a function that takes the application first.
        name: what error messages call it.

    Raises:
        TypeError: the function cannot be called with an application.
    """

    __slots__ = ("_least", "_most", "_name", "_names", "_signature")

    def __init__(self, function: Callable[..., object], name: str) -> None:
        self._name = name
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        positional = [each for each in parameters if each.kind in _POSITIONAL]
        takes_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        if not positional and not takes_any:
            raise TypeError(
                f"A durable task takes the application as its first argument, but "
                f"{function!r} takes none: add one, `app: web.Application`"
            )
        self._names = [each.name for each in positional][1:]
        # This many positional arguments, and no others, fit without asking the signature.
        self._least = sum(each.default is each.empty for each in positional[1:])
        self._most = len(self._names)
        needed = [each for each in parameters if each.default is each.empty]
        if any(each.kind is each.KEYWORD_ONLY for each in needed):
            self._most = -1

    def pack(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> str:
        """Return them as JSON.

        Raises:
            TypeError: they do not fit the function; or one is not JSON, and is named.
        """
        if kwargs or not self._least <= len(args) <= self._most:
            try:
                self._signature.bind(None, *args, **kwargs)
            except TypeError as error:
                raise TypeError(
                    f"{self._name} cannot be called like that: {error}"
                ) from None
        elif len(args) == 1 and (write := _WRITTEN.get(type(args[0]))) is not None:
            try:
                return f"[[{write(args[0])}],{{}}]"  # the usual case
            except ValueError:
                pass  # it has too many digits, which is reported below
        for position, value in enumerate(args):
            if type(value) not in _PLAIN:
                self._check(value, position)
        for name, value in kwargs.items():
            if type(value) not in _PLAIN:
                self._check(value, name)
        try:
            return _encode([args, kwargs])
        except ValueError:  # by now only a number can be the reason
            self._check_digits(args, kwargs)
            raise

    def _check_digits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse the argument that has a number of more digits than Python writes."""
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for place, value in given:
            try:
                _encode(value)
            except ValueError:
                self._refuse(place, "has a number of too many digits to be written")

    def _check(self, value: object, place: int | str) -> None:
        try:
            fault = _fault_of(value)
        except RecursionError:
            fault = "is nested too deeply, or contains itself"
        if fault is not None:
            self._refuse(place, fault)

    def _refuse(self, place: int | str, fault: str) -> NoReturn:
        raise TypeError(
            f"Argument {self._parameter(place)} of {self._name} {fault}: durable "
            "jobs take JSON, so pass an id, or what it is made of"
        ) from None

    def _parameter(self, place: int | str) -> str:
        """Return the name of the parameter that the argument at this place is for."""
        if isinstance(place, str):
            return repr(place)
        names = self._names
        return repr(names[place]) if place < len(names) else f"number {place + 1}"


def _fault_of(value: object) -> str | None:
    """Return why it would not come back from JSON as it was; None if it would."""
    if isinstance(value, str | int | None):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"is {value!r}, which JSON cannot hold"
    if isinstance(value, list):
        faults = map(_fault_of, cast("list[object]", value))
    elif isinstance(value, dict):
        items = cast("dict[object, object]", value)
        for key in items:
            if not isinstance(key, str):
                return f"has the key {key!r}, which would come back as a string"
        faults = map(_fault_of, items.values())
    elif isinstance(value, tuple):
        return "has a tuple, which would come back as a list"
    else:
        return f"has a {type(value).__qualname__}, which JSON cannot hold"
    return next((fault for fault in faults if fault is not None), None)
