"""Batch: what the event loop hands to the writer's thread at once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp_jobs.durable.envelope import Envelope

from . import rows
from .rows import Buried, Receipt, Retried, Row

__all__ = ("Answers", "Batch", "Put", "Question", "Tick", "answer", "insert", "settle")


# A class that says what it holds, such as list[Put], takes five times as long.
def _new() -> list[Any]:
    return []


@dataclass(slots=True, eq=False)
class Put:
    """A job to be kept, and the future that gets its id."""

    envelope: Envelope
    row: Row
    future: asyncio.Future[str]


@dataclass(slots=True, eq=False)
class Tick:
    """A periodic job to be kept once, and the future that gets whether it was."""

    envelope: Envelope
    row: Row
    tick: float
    seen: float
    future: asyncio.Future[bool]


@dataclass(slots=True, eq=False)
class Question:
    """A function to call with the connection in a transaction, and its future."""

    ask: Callable[[Any], Any]
    future: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Batch:
    """What is done in one transaction: the work of one turn of the loop, or several."""

    puts: list[Put] = field(default_factory=_new)
    ticks: list[Tick] = field(default_factory=_new)
    questions: list[Question] = field(default_factory=_new)
    acked: list[Receipt] = field(default_factory=_new)
    retried: list[Retried] = field(default_factory=_new)
    buried: list[Buried] = field(default_factory=_new)
    given_back: list[Receipt] = field(default_factory=_new)

    @property
    def has_to_last(self) -> bool:
        """Whether it has anything that must survive a power cut once it is answered."""
        return bool(self.puts or self.ticks)

    @property
    def settles(self) -> bool:
        """Whether it settles any claimed jobs."""
        return bool(self.acked or self.retried or self.buried or self.given_back)

    @property
    def brings_jobs(self) -> bool:
        """Whether jobs may be due after it that were not before."""
        return bool(
            self.puts or self.ticks or self.retried or self.given_back or self.questions
        )

    def __bool__(self) -> bool:
        return bool(self.puts or self.ticks or self.questions) or self.settles

    def add(self, other: Batch) -> None:
        """Add what was handed over later."""
        self.puts += other.puts
        self.ticks += other.ticks
        self.questions += other.questions
        self.acked += other.acked
        self.retried += other.retried
        self.buried += other.buried
        self.given_back += other.given_back

    def settling(self) -> Batch:
        """Return the part that settles claimed jobs, which nobody waits for."""
        return Batch(
            acked=self.acked,
            retried=self.retried,
            buried=self.buried,
            given_back=self.given_back,
        )

    def singly(self) -> list[Batch]:
        """Return each of its parts as a batch of its own."""
        return [
            *(Batch(acked=[each]) for each in self.acked),
            *(Batch(retried=[each]) for each in self.retried),
            *(Batch(buried=[each]) for each in self.buried),
            *(Batch(given_back=[each]) for each in self.given_back),
            *(Batch(puts=[each]) for each in self.puts),
            *(Batch(ticks=[each]) for each in self.ticks),
            *(Batch(questions=[each]) for each in self.questions),
        ]

    def futures(self) -> list[asyncio.Future[Any]]:
        """Return the futures of everyone who waits."""
        return [
            *(each.future for each in self.puts),
            *(each.future for each in self.ticks),
            *(each.future for each in self.questions),
        ]


# Futures, each with its result or its exception.
Answers: TypeAlias = "list[tuple[asyncio.Future[Any], Any]]"


def answer(answers: Answers) -> None:
    """Tell those who wait. Called in the loop."""
    for future, result in answers:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def settle(connection: sqlite3.Connection, batch: Batch) -> None:
    """Write what has become of claimed jobs."""
    if batch.acked:
        rows.ack(connection, batch.acked)
    if batch.retried:
        rows.retry(connection, batch.retried)
    if batch.buried:
        rows.bury(connection, batch.buried)
    if batch.given_back:
        rows.give_back(connection, batch.given_back)


def insert(connection: sqlite3.Connection, batch: Batch) -> Answers:
    """Write what is put, and return what those who wait are told."""
    answers: Answers = []
    plain = list[Row]()  # without keys, not written yet
    for put in batch.puts:
        kept = put.envelope.id
        if put.envelope.key is None:
            plain.append(put.row)
        else:
            rows.insert(connection, plain)  # now, since these were put before this one
            plain.clear()
            kept = rows.insert_with_key(connection, put.envelope, put.row)
        answers.append((put.future, kept))
    rows.insert(connection, plain)
    for tick in batch.ticks:
        is_new = rows.see_tick(connection, tick.envelope.task, tick.tick, tick.seen)
        if is_new:
            rows.insert(connection, [tick.row])
        answers.append((tick.future, is_new))
    for question in batch.questions:
        answers.append((question.future, question.ask(connection)))
    return answers
