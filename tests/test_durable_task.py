"""Durable tasks by themselves: their arguments, their options, their envelopes."""

from __future__ import annotations

import enum
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aiohttp_jobs.durable import Envelope, Order, Task, backoff, durable
from tests.envelopes import envelope

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=9), inner, max_size=5)
    ),
    max_leaves=20,
)


@durable("mail.welcome")
async def welcome(
    app: web.Application, address: str, copies: int = 1, *others: Any, **more: Any
) -> tuple[str, int]:
    return address, copies


@durable("digest", max_attempts=3, timeout=9, backoff=lambda attempt: attempt * 10.0)
async def digest(app: web.Application) -> None:
    pass


@durable("strict")
async def strict(app: web.Application, user: int, /, kind: str, *, colour: str) -> None:
    pass


def packed(task: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    return json.loads(task.arguments.pack(args, kwargs))


# -- what a task is ---------------------------------------------------------------------


async def test_task_is_still_the_function() -> None:
    """Tests, and other tasks, can call it as before."""
    app = web.Application()
    assert await welcome(app, "ada@example.com", 2) == ("ada@example.com", 2)
    assert repr(welcome) == "<Task 'mail.welcome'>"


def test_task_has_what_it_was_given() -> None:
    """With defaults for the rest."""
    assert (digest.name, digest.max_attempts, digest.timeout) == ("digest", 3, 9)
    assert digest.backoff(2) == 20
    assert (welcome.max_attempts, welcome.timeout) == (5, None)
    assert welcome.backoff is backoff


def test_backoff_grows_with_jitter_up_to_an_hour() -> None:
    """Jobs that failed together do not come back together."""
    for attempt in (1, 2, 5, 12, 13, 10_000):
        pauses = {backoff(attempt) for _ in range(100)}
        longest = min(2 ** min(attempt - 1, 20), 3600)
        assert len(pauses) > 50
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, 7, None])
def test_name_is_checked(name: Any) -> None:
    """It is in logs, and in the store for ever."""
    with pytest.raises((TypeError, ValueError), match=r"durable\(\) takes"):
        durable(name)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": None},
        {"timeout": -1},
        {"backoff": 3},
        {"backoff": digest.function},
    ],
    ids=str,
)
def test_options_of_a_task_are_checked(options: dict[str, Any]) -> None:
    """The sentence names the option."""
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        durable("x", **options)


def test_task_takes_a_coroutine_function_with_an_application() -> None:
    """Nothing else could be run."""
    with pytest.raises(TypeError, match="takes a coroutine function"):
        durable("x")(lambda app: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="takes the application as its first argument"):

        @durable("x")  # type: ignore[arg-type]
        async def nothing() -> None:
            pass


# -- arguments --------------------------------------------------------------------------


@given(
    st.lists(JSON, min_size=1, max_size=4),
    st.dictionaries(st.from_regex("z[a-z]{1,9}"), JSON, max_size=4),
)
def test_json_comes_back_as_it_was(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Whatever it consists of, by position and by keyword."""
    assert packed(welcome, *args, **kwargs) == [args, kwargs]
    sent = envelope(arguments=welcome.arguments.pack(tuple(args), kwargs))
    assert Envelope.from_json(sent.to_json()).unpack() == (args, kwargs)


def test_members_of_enumerations_come_back_as_their_values() -> None:
    """If their values are strings or numbers."""

    class Colour(enum.StrEnum):
        RED = "red"

    class Size(enum.IntEnum):
        BIG = 3

    assert packed(welcome, Colour.RED, Size.BIG) == [["red", 3], {}]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"ada", "has a bytes, which JSON cannot hold"),
        ({"a": [datetime.now()]}, "has a datetime"),
        ({1: 2}, "has the key 1, which would come back as a string"),
        ([("a", "b")], "has a tuple, which would come back as a list"),
        ({"a"}, "has a set"),
        (float("nan"), "is nan"),
        ([float("inf")], "is inf"),
    ],
    ids=str,
)
def test_what_would_not_come_back_is_refused_by_the_name_of_its_parameter(
    value: object, fault: str
) -> None:
    """At the call, and not when the job runs."""
    with pytest.raises(TypeError, match=f"Argument 'address' of mail.welcome {fault}"):
        packed(welcome, value)
    with pytest.raises(TypeError, match=f"Argument 'copies' of mail.welcome {fault}"):
        packed(welcome, "a", copies=value)
    with pytest.raises(TypeError, match=f"Argument number 3 of mail.welcome {fault}"):
        packed(welcome, "a", 1, value)


def test_what_is_nested_in_itself_is_refused() -> None:
    """It would have no end."""
    endless = list[Any]()
    endless.append(endless)
    with pytest.raises(TypeError, match="is nested too deeply, or contains itself"):
        packed(welcome, endless)


def test_number_with_more_digits_than_python_writes_is_refused() -> None:
    """With the name of its parameter, wherever the number is."""
    huge = 10**5000
    for value in huge, [1, huge], {"a": [huge]}:
        with pytest.raises(
            TypeError, match=r"Argument 'copies' of mail.welcome .*digits"
        ):
            packed(welcome, "a", value)
        with pytest.raises(
            TypeError, match=r"Argument 'copies' of mail.welcome .*digits"
        ):
            packed(welcome, "a", copies=value)


def test_lone_number_with_too_many_digits_is_refused() -> None:
    """Even on the fast path for a single argument."""

    @durable("count")
    async def count(app: web.Application, number: int) -> None:
        pass

    with pytest.raises(TypeError, match=r"Argument 'number' of count .*digits"):
        packed(count, 10**5000)


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "fault"),
    [
        (welcome, (), {}, "missing a required argument: 'address'"),
        (digest, (1,), {}, "too many positional arguments"),
        (digest, (), {"a": 1}, "unexpected keyword argument 'a'"),
        (strict, (1, "a"), {}, "missing a required.* argument: 'colour'"),
        (strict, (1,), {"colour": "red"}, "missing a required argument: 'kind'"),
        (strict, (), {"user": 1, "kind": "a", "colour": "b"}, "'user'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], fault: str
) -> None:
    """At the call, where Python would refuse them only when the job runs."""
    with pytest.raises(
        TypeError, match=f"{task.name} cannot be called like that: .*{fault}"
    ):
        packed(task, *args, **kwargs)


def test_arguments_that_fit_are_taken() -> None:
    """By position, by keyword, and with defaults left out."""
    assert packed(welcome, "a") == [["a"], {}]
    assert packed(digest) == [[], {}]
    assert packed(strict, 1, "a", colour="b") == [[1, "a"], {"colour": "b"}]
    assert packed(strict, 1, kind="a", colour="b") == [[1], {"kind": "a", "colour": "b"}]


# -- options ----------------------------------------------------------------------------


def test_order_knows_when_it_is_due() -> None:
    """By a delay, or by a point in time."""
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=3)))
    assert digest.options().due(100.0) is None
    assert digest.options(delay=5).due(100.0) == 105
    assert digest.options(at=moment).due(100.0) == moment.timestamp()


def test_order_knows_what_it_asks_for() -> None:
    """The store has to support only that."""
    assert Order(digest).asks_for() == []
    order = digest.options(delay=0, priority=1, key="k", connection="c")
    assert order.asks_for() == ["delay", "priority", "key", "connection"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"delay": float("inf")}, "delay"),
        ({"at": 7}, "at takes a datetime"),
        ({"at": datetime(2026, 1, 1)}, "with a time zone"),
        ({"at": datetime.now(UTC), "delay": 1}, "cannot be combined"),
        ({"priority": 1.5}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 2**31}, "priority"),
        ({"key": 7}, "key"),
        ({"key": "\ud800"}, "key"),
    ],
    ids=str,
)
def test_options_of_a_call_are_checked(options: dict[str, Any], match: str) -> None:
    """The sentence names the option."""
    with pytest.raises((TypeError, ValueError), match=match):
        digest.options(**options)


# -- envelopes --------------------------------------------------------------------------


def test_envelope_comes_back_as_it_was() -> None:
    """With all of its fields."""
    sent = envelope(
        arguments='[["é"], {}]',
        attempt=3,
        due=1.5,
        priority=-1,
        key="k",
        origin="POST /",
        traceparent="00-1-2-01",
    )
    assert Envelope.from_json(sent.to_json()) == sent
    assert Envelope.from_json(sent.to_json().encode()) == sent
    assert set(json.loads(sent.to_json())) == {
        "version",
        *Envelope._fields,
    }


def test_envelope_of_the_first_release_can_be_read_for_ever() -> None:
    """Even with a field of a later release, and without those that have defaults."""
    text = (
        '{"version": 1, "id": "7", "task": "mail", "arguments": "[[1], {}]", '
        '"accepted_at": 1.5, "new": 1}'
    )
    assert Envelope.from_json(text) == Envelope("7", "mail", "[[1], {}]", 1.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "{}",
        '{"version": 1}',
        '{"version": "1", "id": "7", "task": "mail"}',
        '{"version": 99, "id": "7", "task": "mail", "arguments": "", "accepted_at": 1}',
        '{"version": 1, "id": 7, "task": "mail", "arguments": "", "accepted_at": 1}',
        Envelope("7", "mail", "", 1).to_json().replace('"attempt": 1', '"attempt": []'),
        Envelope("7", "mail", "", 1).to_json().replace('"due": null', '"due": "soon"'),
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_envelope_is_refused(text: str | bytes) -> None:
    """A queue may hold anything."""
    with pytest.raises(ValueError, match="not a readable durable job"):
        Envelope.from_json(text)


@pytest.mark.parametrize(
    "arguments", ["", "{}", "[1, 2]", "[[], []]", "[[], {}, 1]", "7", "[[], {}]]"]
)
def test_arguments_that_cannot_be_read_are_refused(arguments: str) -> None:
    """Another program may have written them."""
    with pytest.raises(ValueError, match="cannot be read"):
        envelope(arguments=arguments).unpack()
