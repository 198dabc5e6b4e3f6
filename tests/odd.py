"""Odd exceptions: legal, but hostile to code that looks at them.

Nearly all were found in real applications: dataclasses, exceptions of extension modules
and proxies, and exceptions that carry a lazy translation, a lock, or a whole response.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

__all__ = ("ODD", "Sabotage")


class Sabotage(Exception):
    """Raised by an odd exception when it is touched."""


def _raise(*arguments: Any, **options: Any) -> NoReturn:
    raise Sabotage("it was touched")


def _made(name: str, **attributes: Any) -> type[Exception]:
    return type(name, (Exception,), attributes)


@dataclass(frozen=True)
class Frozen(Exception):
    """No attribute can be set, not even the traceback."""

    code: int = 3


@dataclass
class Unhashable(Exception):
    """Equal to all with the same code, and unhashable."""

    code: int = 3


class Slotted(Exception):
    __slots__ = ("code",)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__slots__:
            raise AttributeError(name)
        super().__setattr__(name, value)


class AlwaysEqual(Exception):
    """Equal to anything, including None and any sentinel."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = Exception.__hash__


class Closed(Exception):
    """Nothing of it can be read except its type."""

    def __getattribute__(self, name: str) -> Any:
        raise Sabotage(name)


class Pretender(Exception):
    """It claims to be of another class than it is."""

    pretended: type[BaseException]

    def __init__(self, pretended: type[BaseException]) -> None:
        super().__init__("pretending")
        self.pretended = pretended

    @property
    def __class__(self) -> Any:
        return self.pretended

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise Sabotage


class _Nameless(type):
    """The metaclass of a class that does not reveal its name."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__", "__mro__", "__doc__"):
            raise Sabotage(name)
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=_Nameless):
    pass


class Unpicklable(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__("unpicklable")
        self.one = one
        self.lock = threading.Lock()


class Stop(BaseException):
    """Not an Exception, though not a signal to stop either."""


def cyclic() -> Exception:
    one, two = ValueError("one"), KeyError("two")
    one.__context__, two.__context__ = two, one
    return one


def cyclic_by_cause() -> Exception:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def its_own_cause() -> Exception:
    error = ValueError("itself")
    error.__cause__ = error
    return error


def long_chain() -> Exception:
    error = Exception("the first")
    for n in range(3000):
        later = Exception(n)
        later.__context__ = error
        error = later
    return error


def nested_group() -> Exception:
    group: Exception = ExceptionGroup(
        "inside", [Frozen(), _made("Str", __str__=_raise)()]
    )
    for n in range(50):
        group = ExceptionGroup(str(n), [group, ValueError(n)])
    return group


def _reading(name: str) -> Callable[[], Exception]:
    """Return a factory of exceptions whose attribute of this name cannot be accessed."""
    return _made(f"Property{name}", **{name: property(_raise, _raise, _raise)})


# Each makes a new exception, which comes out of a coroutine unchanged.
ODD: Final[dict[str, Callable[[], BaseException]]] = {
    "frozen": Frozen,
    "unhashable": Unhashable,
    "slotted": Slotted,
    "equal to all": AlwaysEqual,
    "closed": Closed,
    "nameless": Nameless,
    **{
        method.strip("_"): _made(f"Raising{method}", **{method: _raise})
        for method in (
            *("__eq__", "__ne__", "__hash__", "__bool__", "__len__", "__iter__"),
            *("__str__", "__repr__", "__format__", "with_traceback", "add_note"),
            *("__setattr__", "__delattr__", "__reduce_ex__", "__copy__", "__dir__"),
        )
    },
    "str is no str": _made("StrIsNoStr", __str__=lambda self: 3),
    "str cancels": _made("StrCancels", __str__=lambda self: _cancel()),
    "no module": _made("NoModule", __module__=None),
    **{
        f"property {name.strip('_')}": _reading(name)
        for name in (
            *("__traceback__", "__context__", "__cause__", "__suppress_context__"),
            *("__notes__", "__class__", "__dict__", "args"),
        )
    },
    "pretends to be KeyboardInterrupt": lambda: Pretender(KeyboardInterrupt),
    "pretends to be SystemExit": lambda: Pretender(SystemExit),
    "pretends to be CancelledError": lambda: Pretender(asyncio.CancelledError),
    "pretends to be GeneratorExit": lambda: Pretender(GeneratorExit),
    "unpicklable": lambda: Unpicklable(1, 2),
    "cyclic": cyclic,
    "cyclic by cause": cyclic_by_cause,
    "its own cause": its_own_cause,
    "long chain": long_chain,
    "group": nested_group,
    "group of stops": lambda: BaseExceptionGroup("stops", [Stop(), KeyboardInterrupt()]),
    "stop": Stop,
    "GeneratorExit": GeneratorExit,
    "StopAsyncIteration": StopAsyncIteration,
}


def _cancel() -> NoReturn:
    raise asyncio.CancelledError
