"""The types of durable tasks: one is spawned with the arguments after the application."""

from __future__ import annotations

from typing import assert_type

from aiohttp import web

from aiohttp_jobs.durable import (
    CurrentDurable,
    Durable,
    Order,
    SQLiteStore,
    Store,
    Task,
    current_durable,
    durable,
    run_worker,
    setup_durable,
    spawn_durable,
)


@durable("mail.welcome", max_attempts=3, timeout=30, backoff=lambda attempt: attempt * 2)
async def send_welcome(app: web.Application, address: str, copies: int = 1) -> bool:
    return True


@durable("digest")
async def send_digest(app: web.Application) -> None:
    pass


async def declaring(app: web.Application) -> None:
    assert_type(send_digest, Task[[], None])
    assert_type(await send_welcome(app, "ada@example.com"), bool)
    assert_type(send_digest.options(delay=1), Order[[]])

    durable("mail")(lambda app: 1)  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    durable(send_digest)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def setting_up(app: web.Application, store: Store) -> None:
    assert_type(setup_durable(app, "jobs.sqlite", tasks=[send_welcome]), Durable)
    setup_durable(app, store, tasks=(send_welcome, send_digest), limit=3, worker=False)
    setup_durable(app, SQLiteStore("jobs.sqlite"), tasks=[])
    run_worker(app)

    setup_durable(app, "jobs.sqlite")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    setup_durable(app, "jobs.sqlite", tasks=[declaring])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def spawning(request: web.Request, app: web.Application) -> None:
    assert_type(await spawn_durable(request, send_welcome, "ada@example.com"), str)
    await spawn_durable(app, send_welcome, "ada@example.com", 2)
    await spawn_durable(app, send_welcome, "ada@example.com", copies=2)
    await spawn_durable(app, send_digest)
    await spawn_durable(app, send_welcome.options(delay=60, key="ada"), "ada@example.com")
    assert_type(current_durable(), CurrentDurable | None)

    await spawn_durable(request, send_welcome)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await spawn_durable(request, send_welcome, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await spawn_durable(request, send_digest, "ada")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await spawn_durable(request, send_welcome.options(), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_welcome.options(delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
