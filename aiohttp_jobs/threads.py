"""in_thread: a blocking function as a job, which is over when the function is.

A thread cannot be stopped. A coroutine that awaits asyncio.to_thread() ends at once when
it is cancelled, while the thread goes on and finds the database closed. Here the job
waits for the function, which can ask whether the job was cancelled; the cancellation is
raised when it has returned. How long that may take is up to whoever cancels.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

__all__ = ("InThread", "in_thread", "names_of")

P = ParamSpec("P")
T = TypeVar("T")


class InThread:
    """Call a blocking function in another thread, for :func:`spawn` or ``await``.

    ``await spawn(request, in_thread(make_report, 42))`` is a job that keeps its slot, and
    that shutdown waits for, until the function has returned. The function sees a copy of
    the job's context variables.

    Args:
        function: the plain function to call.
        args, kwargs: what to call it with.
        executor: where to call it, instead of the default executor of the event loop. For
            a process pool, function, arguments and result have to be picklable, and no
            context variables are passed on.

    Returns:
        A coroutine with the result of the function, and named like it.

    Raises:
        TypeError: the function is not callable, or it is a coroutine function; the
            executor is not an :class:`~concurrent.futures.Executor`.
        RuntimeError: when it is awaited: the executor was shut down before the function
            could begin, or the function has raised StopIteration.

    Cancellation:
        If the function has not begun, it never runs. Otherwise it is waited for, however
        often the waiter is cancelled: the function can ask ``in_thread.cancelled()`` and
        return early. When it has returned, the cancellation is raised, or else the
        exception of the function. The deadlines of a job still hold: after them, the job
        is reported and let go, and only its thread goes on.
    """

    @overload
    def __call__(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        executor: Executor | None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def __call__(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...

    def __call__(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        executor: Any = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, T]:
        _check(function, executor)
        coro: Any = _run(function, args, kwargs, executor)
        coro.__name__, coro.__qualname__ = names_of(function)
        return coro  # type: ignore[no-any-return]

    @staticmethod
    def cancelled() -> bool:
        """Return whether the job that the running function works for was cancelled.

        The function calls this in its thread now and then; if it is true, it should clean
        up and return. Always False elsewhere, and in another process.
        """
        word = _word.get(None)
        return word is not None and word.is_cancelled


in_thread: Final = InThread()


class _Word:
    """What the waiting coroutine tells the function."""

    __slots__ = ("is_cancelled",)

    def __init__(self) -> None:
        self.is_cancelled = False


# Set only in the contexts of calls.
_word: Final = contextvars.ContextVar[_Word]("aiohttp_jobs.in_thread")


class _Call(Generic[T]):
    """One call of a function, on its way into another thread.

    Args:
        word: what the function may be told meanwhile.
        function, args, kwargs: what to call, and with what.
    """

    __slots__ = ("_context", "_has_begun", "_is_dropped", "_lock", "_what")

    def __init__(
        self,
        word: _Word,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._what = function, args, kwargs
        self._context = contextvars.copy_context()
        self._context.run(_word.set, word)
        # Guards the next two, of which at most one is ever true.
        self._lock = threading.Lock()
        self._has_begun = False
        self._is_dropped = False

    def __call__(self) -> T | None:
        with self._lock:
            if self._is_dropped:
                return None
            self._has_begun = True
        function, args, kwargs = self._what
        return self._context.run(_apply, function, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither the context nor the lock goes into another process.
        return functools.partial, (_apply, *self._what)

    def drop(self) -> bool:
        """Never begin the call; return False if it has already begun."""
        with self._lock:
            self._is_dropped = not self._has_begun
        return self._is_dropped


def _apply(
    function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future does not accept it, and its waiter would wait forever.
        name = names_of(function)[1]
        raise RuntimeError(f"The function {name} raised StopIteration") from error


async def _run(
    function: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    executor: Executor | None,
) -> T:
    word = _Word()
    call = _Call(word, function, args, kwargs)
    loop = asyncio.get_running_loop()
    end: asyncio.Future[Any]
    if executor is None:
        end, drop = loop.run_in_executor(None, call), call.drop
    else:
        # Only the executor's future tells whether a process has begun the call.
        handed_in = executor.submit(call)
        end, drop = asyncio.wrap_future(handed_in, loop=loop), handed_in.cancel
        del handed_in
    cancelled: asyncio.CancelledError | None = None
    try:
        while not end.done():
            try:
                # When this is cancelled, it leaves the future alone.
                await asyncio.wait((end,))
            except asyncio.CancelledError as error:
                word.is_cancelled = True
                if drop():
                    end.cancel()
                    raise
                cancelled = error if cancelled is None else cancelled
            except BaseException:
                word.is_cancelled = True  # thrown away with its loop
                raise
        if end.cancelled():
            if cancelled is None:
                raise RuntimeError(
                    f"The function {names_of(function)[1]} was never called, since its "
                    "executor was shut down: shut it down when the jobs have ended"
                )
            raise cancelled
        result: T = end.result()
        if cancelled is not None:
            raise cancelled
        return result
    finally:
        # An exception's traceback shows this frame: break the cycles.
        del call, end, drop, cancelled


def _check(function: object, executor: object) -> None:
    if not callable(function):
        hint = ""
        if inspect.iscoroutine(function):
            hint = ": a coroutine needs no thread, spawn it as it is"
        raise TypeError(f"in_thread() takes a function, not {function!r}{hint}")
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"in_thread() takes a plain function, and {function!r} is a coroutine "
            "function: it needs no thread, spawn what it returns"
        )
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            "executor takes a concurrent.futures.Executor or None, not "
            f"{executor!r}: pass a function's own argument of that name with "
            "functools.partial"
        )


def names_of(function: Any) -> tuple[str, str]:
    """Return a function's name and qualified name, for messages."""
    while isinstance(function, functools.partial):
        function = function.func
    kind = type(function)  # pyright: ignore[reportUnknownVariableType]
    name = getattr(function, "__name__", kind.__name__)
    qualname = getattr(function, "__qualname__", kind.__qualname__)
    return str(name), str(qualname)
