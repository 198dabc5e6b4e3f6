"""A state machine drives a scheduler through anything, and the contract is checked.

Hypothesis chooses the steps. Several may fall into one turn of the loop, and the clock
moves only when a step says so. tests/model.py has the works and calls, tests/books.py the
checks. `make fuzz` makes many more and longer runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, cast
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aiohttp_jobs import JobsError
from tests.books import Books
from tests.loops import KINDS, VirtualLoop, make_loop
from tests.model import (
    LEAVES,
    MANNERS,
    Call,
    Failure,
    FrozenFailure,
    Give,
    HangUp,
    Manner,
    OddFailure,
    Order,
    Raise,
    Work,
    home,
    together,
    trail,
)

T = TypeVar("T")

# More turns than anything takes.
SPINS = 5000

some = st.integers(0, 5)
whom = st.none() | some
timeouts = st.none() | st.integers(0, 3)
manners = st.sampled_from(MANNERS)
ends = st.sampled_from(
    [
        Give(),
        Give(),
        Raise(Failure),
        Raise(Failure),
        Raise(OddFailure),
        Raise(FrozenFailure),
        HangUp(),
        Raise(asyncio.CancelledError),
        Raise(KeyboardInterrupt),
    ]
)
# The orders that a work has from the start: wait for orders, or end at once.
first_orders = st.lists(ends, max_size=1)
ways_to_call = st.sampled_from(["wait", "wait", "close job", "drain", "shield"])
ways_to_wait = st.sampled_from(["in turn", "gather", "group"])


# A copy of the spawner's context, one for this job, or a context that jobs share.
contexts = st.sampled_from(["copy", "copy", "own", "shared 0", "shared 1"])
places = st.sampled_from(["", "", "shared 0", "shared 1"])
limits = st.sampled_from([1, 1, 2, 3, None])
pending_limits = st.sampled_from([1, 1, 2, 3, 0])


class Model(RuleBasedStateMachine):
    kinds: tuple[str, ...] = ("asyncio",)

    # -- its life ------------------------------------------------------------------------

    @initialize(
        seed=st.integers(0, 1000),
        kind=st.integers(0, 20),
        limit=limits,
        pending_limit=pending_limits,
        close_timeout=st.sampled_from([0, 1, 3, None]),
        wait_timeout=st.sampled_from([0, 2, 5, None]),
        handler=st.sampled_from(
            ["keeps", "keeps", "raises", "spawns", "closes", "exits"]
        ),
        meddler=st.sampled_from([None, None, "raises", "exits", "spawns"]),
        meddles_at=st.integers(0, 9),
        batch=st.sampled_from([1, 2, 500]),
    )
    def begin(
        self,
        seed: int,
        kind: int,
        handler: str,
        meddler: str | None,
        meddles_at: int,
        batch: int,
        **options: Any,
    ) -> None:
        # Visiting the objects that exist already would take most of the time at the end.
        gc.freeze()
        kind_of_loop = self.kinds[kind % len(self.kinds)]
        self.loop = cast(VirtualLoop, make_loop(kind_of_loop, seed))
        self.books = Books(self.loop, handler, meddler, meddles_at, **options)
        self.scheduler = self.books.scheduler
        self.while_it_lives = contextlib.ExitStack()
        self.while_it_lives.enter_context(self.books.recording())
        self.contexts = {name: make_context(name) for name in ("shared 0", "shared 1")}
        for module in ("ending", "gate"):
            patch = mock.patch(f"aiohttp_jobs.core.{module}.BATCH", batch)
            self.while_it_lives.enter_context(patch)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        failed = sys.exc_info()[0] is not None
        try:
            with contextlib.suppress(*[AssertionError] if failed else []):
                self.let_everything_end()
            if not failed:
                self.books.check_end()
                self.books.check_nothing_is_kept()
        finally:
            for work in self.books.works + self.books.shielded:
                with contextlib.suppress(RuntimeError, Failure):
                    work.coro.close()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.turn(9)
            self.loop.close()
            self.while_it_lives.close()
            gc.unfreeze()

    def let_everything_end(self) -> None:
        with self.standing():
            for future in self.books.futures:
                if not future.done():
                    future.set_result(None)
            for work in self.books.works + self.books.shielded:
                work.tell(Give())
        self.call_by_test(Call("close", self.scheduler.close))
        self.advance(20)
        if self.scheduler.close_timeout is None:
            # Without a bound, jobs that swallow their cancellation and wait for each
            # other never end.
            for work in self.books.works + self.books.shielded:
                if work.is_running and work.calls:
                    self.cancel(work)
            self.advance(20)
        self.settle()
        self.books.check_step()
        self.look_back()

    def look_back(self) -> None:
        """R1: a job gives its outcome even after its end."""
        for work in self.books.works:
            if work.is_accepted and work.job is not None:
                make = work.job.wait
                self.call_by_test(Call("look back", make, target=work))
        self.settle()

    # -- the loop ------------------------------------------------------------------------

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Run the block as if between two callbacks of the loop."""
        with self.loop.standing():
            try:
                yield
            except LEAVES as error:  # out of an eager task
                self.books.left.append(error)

    @rule(times=st.integers(1, 3))
    def turn(self, times: int = 1) -> None:
        while times:
            try:
                self.loop.turn()
            except LEAVES as error:
                self.books.left.append(error)  # in the middle of the turn
            else:
                times -= 1
                self.books.turns += 1

    @rule()
    def settle(self) -> None:
        for _ in range(SPINS):
            if self.loop.is_settled():
                self.books.check_settled()
                return
            self.turn()
        pytest.fail("It spins")

    @rule(times=st.integers(1, 3))
    def advance(self, times: int) -> None:
        """Let whole seconds pass, up to the turn in which the last one is over."""
        for _ in range(times):
            self.settle()
            self.loop.move_clock(1)
            self.turn()

    @invariant()
    def check(self) -> None:
        self.books.check_step()

    # -- spawning ------------------------------------------------------------------------

    @rule(
        how=st.sampled_from(["spawn", "spawn", "spawn_nowait", "at once", "after"]),
        by=whom,
        works=st.lists(st.tuples(manners, first_orders), min_size=1, max_size=3),
        timeout=timeouts,
        context=contexts,
        place=places,
    )
    def spawn(
        self,
        how: str,
        by: int | None,
        works: list[tuple[Manner, list[Order]]],
        timeout: int | None,
        context: str,
        place: str,
    ) -> None:
        caller = self.caller(by)
        calls = list[Call]()
        for manner, orders in works:
            work = self.books.new_work(manner, orders)
            if how == "at once":
                work.takes_slot = False
            else:
                work.timeout = timeout
                work.home = None if context == "copy" else context
            calls.append(self.spawning(work, how, caller))
        self.call_by(calls, caller, place=place)

    @rule(
        by=some,
        manner=manners,
        children=st.lists(first_orders, min_size=1, max_size=3),
        how=ways_to_wait,
        timeout=timeouts,
    )
    def spawn_and_wait(
        self,
        by: int,
        manner: Manner,
        children: list[list[Order]],
        how: str,
        timeout: int | None,
    ) -> None:
        parent = self.caller(by)
        if parent is None:
            return
        works = [self.books.new_work(manner, orders) for orders in children]

        async def spawn_and_wait() -> None:
            spawns = [self.spawning(work, "spawn", parent) for work in works]
            self.books.calls += spawns
            await together("in turn", spawns, self.books.turn)
            waits = [
                self.waiting(work, parent, timeout) for work in works if work.is_accepted
            ]
            self.books.calls += waits
            await together(how, waits, self.books.turn)

        parent.tell(spawn_and_wait)

    def spawning(self, work: Work, how: str, by: Work | None) -> Call:
        async def spawn() -> None:
            trail.set((*trail.get(), f"before {work}"))
            try:
                await self.spawn_in(work, how)
            except (JobsError, asyncio.CancelledError):
                work.is_refused = True
                raise
            except LEAVES:
                work.is_accepted = True  # and it ended so in its first step
                raise
            finally:
                trail.set((*trail.get(), f"after {work}"))
            work.is_accepted = True

        work.spawning = Call(how, spawn, by=by, target=work)
        return work.spawning

    async def spawn_in(self, work: Work, how: str) -> None:
        scheduler, name = self.scheduler, work.name
        context = None
        if work.home is not None:
            context = self.contexts.get(work.home) or make_context(work.home)
        options: dict[str, Any] = {"timeout": work.timeout, "context": context}
        if how == "at once":
            work.job = scheduler.spawn_at_once(work.coro, name)
        elif how == "after":
            work.is_held_back = True
            future = self.loop.create_future()
            self.books.futures.append(future)
            work.job = scheduler.spawn_after(future, work.coro, name, **options)
        else:
            self.books.line.append(work)
            if how == "spawn":
                work.job = await scheduler.spawn(work.coro, name, **options)
            else:
                work.job = scheduler.spawn_nowait(work.coro, name, **options)

    @rule(n=some)
    def let_come(self, n: int) -> None:
        """Let the future be done that a job is held back for."""
        future = pick([f for f in self.books.futures if not f.done()], n)
        if future is not None:
            with self.standing():
                future.set_result(None)

    # -- steering ------------------------------------------------------------------------

    @rule(by=whom, limit=limits)
    def set_limit(self, by: int | None, limit: int | None) -> None:
        self.steer(by, lambda: setattr(self.scheduler, "limit", limit))

    @rule(by=whom, limit=pending_limits)
    def set_pending_limit(self, by: int | None, limit: int | None) -> None:
        self.steer(by, lambda: setattr(self.scheduler, "pending_limit", limit))

    @rule(by=whom)
    def hold(self, by: int | None) -> None:
        self.steer(by, self.scheduler.hold)

    @precondition(lambda self: self.scheduler.held)
    @rule(by=whom)
    def release(self, by: int | None) -> None:
        self.steer(by, self.scheduler.release)

    def steer(self, by: int | None, steer: Callable[[], object]) -> None:
        """Call `steer` from outside, or let a work call it."""
        caller = self.caller(by)

        async def steer_from_inside() -> None:
            steer()

        with self.standing():
            if caller is None:
                steer()
            else:
                caller.tell(steer_from_inside)

    # -- orders, calls, cancellations ----------------------------------------------------

    @rule(n=some, order=ends)
    def tell(self, n: int, order: Order) -> None:
        work = self.running(n)
        if work is not None:
            with self.standing():
                work.tell(order)

    @rule(
        by=whom,
        what=ways_to_call,
        n=some,
        timeout=timeouts,
        place=places,
        lets_through=st.booleans(),
    )
    def call(
        self,
        by: int | None,
        what: str,
        n: int,
        timeout: int | None,
        place: str,
        lets_through: bool,
    ) -> None:
        caller = self.caller(by)
        calls = self.new_calls([what], caller, n, timeout)
        for call in calls:
            call.lets_through = lets_through and caller is not None
        self.call_by(calls, caller, place=place)

    @rule(
        by=some,
        whats=st.lists(ways_to_call, min_size=2, max_size=3),
        n=some,
        timeout=timeouts,
        how=ways_to_wait,
    )
    def call_many(
        self, by: int, whats: list[str], n: int, timeout: int | None, how: str
    ) -> None:
        caller = self.caller(by)
        if caller is not None:
            calls = self.new_calls(whats, caller, n, timeout)
            # A child task that waited for its parent would wait for ever.
            calls = [call for call in calls if call.target is not caller]
            self.call_by(calls, caller, how)

    @precondition(lambda self: len(self.books.works) > 8)
    @rule(by=whom, what=st.sampled_from(["close", "wait_and_close"]), timeout=timeouts)
    def end(self, by: int | None, what: str, timeout: int | None) -> None:
        caller = self.caller(by)
        self.call_by(self.new_calls([what], caller, 0, timeout), caller)

    @rule(n=some)
    def cancel_call(self, n: int) -> None:
        """Cancel a task of the test that waits in a call."""
        call = pick([c for c in self.books.calls if c.waits and c.by is None], n)
        if call is not None and call.task is not None:
            with self.standing():
                call.task.cancel()

    @rule(n=some)
    def cancel_work(self, n: int) -> None:
        """Cancel the task of a job or shielded awaitable, bypassing the scheduler."""
        work = self.running(n)
        if work is not None:
            self.cancel(work)

    def cancel(self, work: Work) -> None:
        assert work.task is not None
        work.cancelled_by_test += 1
        with self.standing():
            work.task.cancel()

    def running(self, n: int) -> Work | None:
        works = self.books.works + self.books.shielded
        return pick([work for work in works if work.is_running], n)

    def caller(self, n: int | None) -> Work | None:
        works = self.books.works + self.books.shielded
        return None if n is None else pick([work for work in works if work.is_idle], n)

    def call_by_test(self, call: Call, place: str = "") -> None:
        self.books.calls.append(call)
        # In a context of its own, or one that jobs are given; it is not part of a job.
        context = self.contexts.get(place) or contextvars.Context()
        with self.standing():
            call.task = self.books.make_task(call, context)

    def call_by(
        self, calls: list[Call], by: Work | None, how: str = "in turn", place: str = ""
    ) -> None:
        """Make each call in a task of the test, or all of them in a work."""
        if by is None:
            for call in calls:
                self.call_by_test(call, place)
        else:
            self.books.calls += calls
            with self.standing():
                by.tell(partial(together, how, calls, self.books.turn))

    def new_calls(
        self, whats: list[str], by: Work | None, n: int, timeout: int | None
    ) -> list[Call]:
        calls = (self.new_call(what, by, n + k, timeout) for k, what in enumerate(whats))
        return [call for call in calls if call is not None]

    def new_call(
        self, what: str, by: Work | None, n: int, timeout: int | None
    ) -> Call | None:
        scheduler = self.scheduler
        grace = scheduler.close_timeout
        if what == "shield":
            manner = MANNERS[n % len(MANNERS)]
            return self.shielding(manner, by, ends_at_once=timeout == 0)
        if what == "close":
            return Call(what, scheduler.close, by=by, bound=grace)
        if what in ("drain", "wait_and_close"):
            bound = scheduler.wait_timeout if timeout is None else timeout
            if what == "drain":
                return Call(what, partial(scheduler.drain, timeout), by=by, bound=bound)
            make = partial(scheduler.wait_and_close, timeout)
            return Call(what, make, by=by, bound=plus(bound, grace))
        target = pick([w for w in self.books.works if w.is_known], n)
        if target is None:
            return None
        if what == "wait":
            return self.waiting(target, by, timeout)
        assert target.job is not None
        target.is_targeted = True
        make = partial(target.job.close, timeout=timeout)
        bound = grace if timeout is None else timeout
        return Call(what, make, by=by, target=target, bound=bound)

    def waiting(self, work: Work, by: Work | None, timeout: int | None) -> Call:
        assert work.job is not None
        if timeout is not None:
            work.is_targeted = True
        return Call(
            "wait",
            partial(work.job.wait, timeout=timeout),
            by=by,
            target=work,
            timeout=timeout,
            bound=plus(timeout, self.scheduler.close_timeout),
        )

    def shielding(self, manner: Manner, by: Work | None, ends_at_once: bool) -> Call:
        orders: list[Order] = [Give()] if ends_at_once else []
        work = Work(f"shielded {len(self.books.shielded)}", manner, orders)
        work.shielded_by = by and (by.shielded_by or by)
        self.books.shielded.append(work)

        async def shield() -> Any:
            try:
                future = self.scheduler.shield(work.coro)
            except JobsError:
                work.is_refused = True
                raise
            return await future

        return Call("shield", shield, by=by, target=work)


def pick(things: list[T], n: int) -> T | None:
    return things[n % len(things)] if things else None


def plus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def make_context(name: str) -> contextvars.Context:
    context = contextvars.Context()
    context.run(home.set, name)
    return context


class Shuffled(Model):
    kinds = ("shuffled",)


class Eager(Model):
    kinds = ("eager",)


class Foreign(Model):
    kinds = tuple(
        kind
        for kind in KINDS
        if kind not in ("asyncio", "debug", "eager") and not kind.startswith("uvloop")
    )


TestPlain = Model.TestCase
TestShuffled = Shuffled.TestCase
TestForeign = Foreign.TestCase
TestEager = pytest.mark.eager(Eager.TestCase)
