"""A real `web.run_app` process that gets SIGTERM and SIGINT."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
from collections.abc import Iterator

import pytest
from aiohttp import __version__ as aiohttp_version

from tests.processes import Command, needs_signals, running, send

pytestmark = needs_signals

AIOHTTP = tuple(int(part) for part in re.findall(r"\d+", aiohttp_version)[:3])


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[Command, int]]:
    """Run the application; yield the process and its port."""
    with running("tests.application", *options) as command:
        port = wait_for(command, r"port (\d+)")[1]
        yield command, int(port)


def wait_for(command: Command, pattern: str) -> re.Match[str]:
    match = re.fullmatch(pattern, command.read_until(re.compile(f"{pattern}\n").match))
    assert match is not None
    return match


def spawn(command: Command, path: str, port: int, line: str | None = None) -> None:
    """Spawn a job by a request, and wait for the line it prints at its start."""
    with send(path, port) as connection:
        assert receive(connection).startswith("HTTP/1.1 200 OK")
    if line is not None:
        wait_for(command, line)


def receive(connection: socket.socket) -> str:
    return connection.recv(4096).decode()


def hang_up(connection: socket.socket) -> None:
    """Abort the connection, so that the server notices at once."""
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def seconds_until_clean_up(command: Command) -> float:
    """Return how long it took, as the application reported."""
    found = re.search(
        r"^cleaned up after (\S+) s$", "\n".join(command.lines), re.MULTILINE
    )
    assert found is not None
    return float(found[1])


both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])

all_options = pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="no-handler-cancellation"),
        pytest.param(("--handler-cancellation",), id="handler-cancellation"),
        pytest.param(("--uvloop",), id="uvloop-no-handler-cancellation"),
        pytest.param(("--uvloop", "--handler-cancellation"), id="uvloop"),
    ],
)


@both_signals
@all_options
def test_signal_arrives_handlers_and_jobs_end_before_the_clean_up(
    number: signal.Signals, options: tuple[str, ...]
) -> None:
    """W2, W4: at a signal plain handlers, atomic ones and jobs end, in this order if need
    be, and then comes the clean-up; nothing is logged, and the exit status is 0."""
    with serving(*options) as (command, port):
        spawn(command, "/job/job", port, "job begins")
        with send("/plain", port) as of_plain, send("/atomic", port) as of_atomic:
            for _ in range(2):
                wait_for(command, ".* begins")
            command.send(number)
            wait_for(command, "shutting down")
            started = len(command.lines)
            for name, connection in (("plain", of_plain), ("atomic", of_atomic)):
                command.tell(name)
                wait_for(command, f"{name} ends")
                assert receive(connection).startswith("HTTP/1.1 200 OK")
            command.tell("job")
            status, stderr = command.end()
    assert (status, stderr) == (0, "")
    *lines, cleaned_up, ended = command.lines[started:]
    assert lines == [
        "plain ends",
        "atomic ends",
        "job ends",
        "database saved",
        "database closed",
    ]
    assert cleaned_up.startswith("cleaned up after")
    assert ended == "ended"


@all_options
def test_deadline_passes_one_record_tells_what_is_left(
    options: tuple[str, ...],
) -> None:
    """E5, W2: one log record names the jobs left at the deadline, with counts; they have
    ended before the clean-up, and the exit status is 0 all the same."""
    times = ("--limit=2", "--shutdown-timeout=0.1", "--wait-timeout=0.1")
    with serving(*options, *times) as (command, port):
        spawn(command, "/job/first", port, "first begins")
        spawn(command, "/job/second", port, "second begins")
        spawn(command, "/job/third", port)
        with send("/atomic", port):
            wait_for(command, "atomic begins")
            command.send(signal.SIGTERM)
            wait_for(command, "shutting down")
            started = len(command.lines)
            status, stderr = command.end()
    assert status == 0
    assert sorted(command.lines[started : started + 3]) == [
        "atomic cancelled",
        "first cancelled",
        "second cancelled",
    ]
    assert command.lines[started + 3 : -2] == ["database saved", "database closed"]
    (record,) = stderr.splitlines()
    assert record.startswith("WARNING aiohttp_jobs: ")
    assert "3 cancelled (" in record
    assert "1 never started (third)" in record


def test_handler_hangs_it_is_given_its_time_twice() -> None:
    """W2: run_app cancels a handler that has not ended after twice shutdown_timeout; an
    atomic one is drained after that, for wait_timeout."""
    with (
        serving("--shutdown-timeout=0.1", "--wait-timeout=0.1") as (command, port),
        send("/plain", port),
        send("/atomic", port),
    ):
        for _ in range(2):
            wait_for(command, ".* begins")
        command.send(signal.SIGTERM)
        wait_for(command, "shutting down")
        started = len(command.lines)
        status, stderr = command.end()
    assert status == 0
    assert "1 cancelled (Shop.atomic)" in stderr
    assert command.lines[started : started + 2] == ["plain cancelled", "atomic cancelled"]
    # One clock may tick a little before the other.
    assert seconds_until_clean_up(command) >= 3 * 0.1 - 0.02


def test_job_swallows_its_cancellation_it_is_let_go_and_cancelled_at_the_end() -> None:
    """E0, E1: a job that swallows its cancellation is cancelled once by the scheduler and
    let go; the other clean-up takes place, and then run_app cancels it again."""
    with serving("--wait-timeout=0.1", "--shutdown-timeout=0.1") as (command, port):
        spawn(command, "/stubborn/1", port, "stubborn goes on")
        command.send(signal.SIGTERM)
        wait_for(command, "shutting down")
        started = len(command.lines)
        status, stderr = command.end()
    assert status == 0
    assert command.lines[started : started + 4] == [
        "stubborn cancelled 1",
        "stubborn goes on",
        "database saved",
        "database closed",
    ]
    assert command.lines[-2:] == ["stubborn cancelled 2", "ended"]
    assert "1 cancelled (stubborn)" in stderr
    assert "Job closing timed out" in stderr


def test_job_ignores_cancellation_for_ever_the_clean_up_takes_place() -> None:
    """E0, W2: not even a job that ignores every cancellation keeps the clean-up from
    taking place; the process stays, until it is killed."""
    with serving("--wait-timeout=0.1", "--shutdown-timeout=0.1") as (command, port):
        spawn(command, "/stubborn/1000000", port, "stubborn goes on")
        command.send(signal.SIGTERM)
        wait_for(command, "database closed")
        wait_for(command, "stubborn cancelled 2")
        command.tell("speak")
        wait_for(command, "still here")
        command.send(signal.SIGKILL)
        status, _ = command.end()
    assert status == -signal.SIGKILL


def test_client_has_gone_its_handler_runs_on_through_the_clean_up() -> None:
    """W2: a plain handler whose client has gone, without handler cancellation, is only
    cancelled by the last step; an atomic one is drained before the clean-up."""
    with serving("--shutdown-timeout=0.1") as (command, port):
        for name in ("plain", "atomic"):
            with send(f"/{name}", port) as connection:
                wait_for(command, f"{name} begins")
                hang_up(connection)
        command.send(signal.SIGTERM)
        wait_for(command, "shutting down")
        started = len(command.lines)
        command.tell("atomic")
        status, stderr = command.end()
    assert (status, stderr) == (0, "")
    lines = command.lines[started:]
    assert lines[:3] == ["atomic ends", "database saved", "database closed"]
    assert lines[-2:] == ["plain cancelled", "ended"]


def test_client_has_gone_with_handler_cancellation_atomic_handler_is_drained() -> None:
    """W4: with handler cancellation a plain handler is cancelled when its client goes; an
    atomic one is not, and ends before the clean-up."""
    with serving("--handler-cancellation") as (command, port):
        for name in ("atomic", "plain"):
            with send(f"/{name}", port) as connection:
                wait_for(command, f"{name} begins")
                hang_up(connection)
        wait_for(command, "plain cancelled")
        command.send(signal.SIGTERM)
        wait_for(command, "shutting down")
        started = len(command.lines)
        command.tell("atomic")
        status, stderr = command.end()
    assert (status, stderr) == (0, "")
    assert command.lines[started : started + 2] == ["atomic ends", "database saved"]


@both_signals
@pytest.mark.parametrize("options", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
def test_second_signal_the_scheduler_closes_at_once(
    number: signal.Signals, options: tuple[str, ...]
) -> None:
    """E4: a second signal ends the drain: active jobs are cancelled at once, jobs left
    are logged (E5); the clean-up contexts run only their finally blocks."""
    times = ("--limit=1", "--shutdown-timeout=0.1")
    with serving(*options, *times) as (command, port):
        spawn(command, "/job/first", port, "first begins")
        spawn(command, "/job/second", port)
        command.send(number)
        wait_for(command, "shutting down")
        command.send(number)
        status, stderr = command.end()
    assert status == 1
    assert "database saved" not in command.lines
    if AIOHTTP < (3, 10, 11):
        # In this case run_app abandons everything.
        assert "first cancelled" not in command.lines
    else:
        assert "first cancelled" in command.lines
        assert command.lines[-1] == "database closed"
        # run_app cancels all tasks, in any order. If the job's comes before the drain's,
        # the next job still gets its slot, and is the one that is closed.
        assert ("second begins" in command.lines) == ("second cancelled" in command.lines)
        assert "(second)" in stderr


def test_start_up_fails_jobs_are_cancelled_and_no_clean_up_takes_place() -> None:
    """W2: if the start-up fails, run_app cancels the jobs with all other tasks, and calls
    no clean-up handlers; clean-up contexts run only their finally blocks."""
    with running("tests.application", "--fail-to-start") as command:
        status, stderr = command.end()
    assert status == 1
    assert stderr.endswith("OSError: the start-up fails\n")
    assert command.lines == ["import begins", "import cancelled", "database closed"]
