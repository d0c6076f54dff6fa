"""Ways for a handler to fail that are not a plain exception, and what stays of its transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest
import structlog

from db import students
from db.pool import Work
from roles.consume import Delivery
from schema.students import NewStudent
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, Producer, consuming, declared, milliseconds, names

pytestmark = pytest.mark.anyio


async def test_a_message_is_one_transaction(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def store(message: Note, work: Work) -> None:
        await students.create(work.connection, NewStudent(name=message.text))
        if message.text == "bad" and calls.texts.count("bad") == 1:
            raise ValueError("after the insert")

    calls = Calls(store)
    ladder = milliseconds(20)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("good")
        await producer.send("bad")
        await eventually(lambda: running.tally().finished == 2)

    assert sorted(map(str, await names(database_url))) == ["bad", "good"]


async def test_a_handler_that_hangs_is_timed_out(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def hang(message: Note, work: Work) -> None:
        await students.create(work.connection, NewStudent(name=message.text))
        await anyio.sleep_forever()

    calls = Calls(hang)
    async with consuming(
        calls.declared(timeout="200ms", concurrency=1), amqp_url=amqp_url, database_url=database_url
    ) as running:
        await producer.send("x")
        parked = await producer.take("q.parked")
        assert running.status().subscribed

    assert parked.headers["x-error"] == "HandlerTimeout: the handler had not ended after 200ms"
    assert await names(database_url) == []


async def test_the_timeout_is_a_setting(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def hang(message: Note, work: Work) -> None:
        await anyio.sleep_forever()

    settings = {"consume": {"handler_timeout": "100ms"}}
    async with consuming(Calls(hang).declared(), amqp_url=amqp_url, database_url=database_url, **settings):
        await producer.send("x")
        parked = await producer.take("q.parked")

    assert "100ms" in parked.headers["x-error"]


async def test_a_statement_that_takes_too_long_is_the_handlers_own_failure(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def slow(message: Note, work: Work) -> None:
        await work.connection.execute("SELECT pg_sleep(10)")

    settings = {"database": {"statement_timeout": "100ms"}}
    async with consuming(Calls(slow).declared(), amqp_url=amqp_url, database_url=database_url, **settings):
        await producer.send("x")
        parked = await producer.take("q.parked")

    assert parked.headers["x-error"].startswith("QueryCanceled: canceling statement due to statement timeout")


async def replaced() -> None:
    """Libraries that run a call in a task of their own let out another error than the one that went in."""
    with suppress(asyncio.CancelledError):
        await anyio.sleep_forever()
    raise asyncio.CancelledError


async def miscounted() -> None:
    """Before Python 3.13, this leaves the task with a cancellation that nobody counts down."""

    async def fail() -> None:
        raise ValueError

    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
    await anyio.sleep_forever()


@pytest.mark.parametrize("hang", [replaced, miscounted])
async def test_no_worker_is_lost_to_an_odd_cancellation(
    producer: Producer, amqp_url: str, database_url: str, hang: Callable[[], Awaitable[None]]
) -> None:
    async def handle(message: Note, work: Work) -> None:
        if message.text == "hang":
            await hang()
        if message.text == "stray":
            raise asyncio.CancelledError

    calls = Calls(handle)
    async with consuming(
        calls.declared(timeout="100ms", concurrency=1), amqp_url=amqp_url, database_url=database_url
    ) as running:
        errors = []
        for text in ("hang", "stray", "hang"):
            await producer.send(text)
            errors.append((await producer.take("q.parked")).headers["x-error"].partition(":")[0])
        await producer.send("next")
        await eventually(lambda: running.tally().finished == 1)

    assert errors == ["HandlerTimeout", "StrayCancellation", "HandlerTimeout"]


class Panic(BaseException):
    """Such as pyo3's."""


class WithoutText(Exception):
    def __str__(self) -> str:
        return str(self.detail)  # type: ignore[attr-defined]  # it has none


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WithoutText(), "WithoutText: (its text cannot be had: AttributeError)"),
        (SystemExit(3), "Exited: sys.exit(3) was called"),
        (Panic("index 7"), "Broken: Panic: index 7"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"transaction": False}, {"batch": 2}], ids=["work", "delivery", "batch"])
async def test_an_error_of_an_odd_kind_is_the_messages_own(
    producer: Producer,
    amqp_url: str,
    database_url: str,
    error: BaseException,
    said: str,
    options: dict[str, Any],
) -> None:
    async def with_work(message: Note, work: Work) -> None:
        raise error

    async def with_delivery(message: Note, delivery: Delivery) -> None:
        raise error

    async def with_batch(messages: list[Note], work: Work) -> None:
        raise error

    handler: Any = (
        with_batch if "batch" in options else with_work if options.get("transaction", True) else with_delivery
    )
    async with consuming(declared(handler, **options), amqp_url=amqp_url, database_url=database_url) as running:
        for text in "ab":
            await producer.send(text)
        assert [(await producer.take("q.parked")).headers["x-error"] for _ in "ab"] == [said, said]
        await eventually(lambda: running.tally().failed == 2)
        assert running.status().subscribed


async def test_a_deadlock_is_tried_again_at_once(producer: Producer, amqp_url: str, database_url: str) -> None:
    """Each locks its own row, then the other's: PostgreSQL sacrifices one, and both end well."""
    both_hold_one = anyio.Event()
    holding = 0

    async def lock(message: Note, work: Work) -> None:
        nonlocal holding
        first, second = (1, 2) if message.text == "a" else (2, 1)
        await work.connection.execute("UPDATE student SET name = name || 'x' WHERE id = %s", [first])
        holding += 1
        if holding == 2:
            both_hold_one.set()
        await both_hold_one.wait()
        await work.connection.execute("UPDATE student SET name = name || 'x' WHERE id = %s", [second])

    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("INSERT INTO student (name) VALUES ('1'), ('2')")
    calls = Calls(lock)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("a")
        await producer.send("b")
        await eventually(lambda: running.tally().finished == 2)

        assert running.status().retried == running.status().parked == 0
    assert len(calls.texts) > 2
    assert await names(database_url) == ["1xx", "2xx"]


async def test_a_conflict_that_never_ends_is_a_failure(producer: Producer, amqp_url: str, database_url: str) -> None:
    class Conflict(psycopg.errors.SerializationFailure):
        sqlstate = "40001"

    async def always(message: Note, work: Work) -> None:
        raise Conflict("could not serialize access")

    calls = Calls(always)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url):
        await producer.send("x")
        parked = await producer.take("q.parked")

    assert len(calls.texts) == 5
    assert parked.headers["x-error"] == "Conflict: could not serialize access"


async def test_the_log_knows_which_message_it_was(producer: Producer, amqp_url: str, database_url: str) -> None:
    seen: list[dict[str, Any]] = []

    async def look(message: Note, work: Work) -> None:
        seen.append(dict(structlog.contextvars.get_contextvars()))
        if len(seen) == 1:
            raise ValueError("once")

    ladder = milliseconds(20)
    async with consuming(Calls(look).declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x", message_id="m")
        await eventually(lambda: running.tally().finished == 1)

    assert seen == [
        {"queue": "q", "message_id": "m", "attempt": 1},
        {"queue": "q", "message_id": "m", "attempt": 2},
    ]
