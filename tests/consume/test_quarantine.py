"""Suspects: alone and behind a mark, whoever else lives or dies meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import anyio
import psycopg
import pytest

from db.pool import Pool, Work, create_pool, current_pool
from roles.amqp import Channel, Delivery, Properties
from roles.clock import SystemClock
from roles.consume.hold import GivenBack
from roles.consume.quarantine import Killer, Quarantine
from schema.settings import Database
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, Producer, consuming, producing

pytestmark = pytest.mark.anyio

AGAIN = Delivery(
    body=b"{}",
    properties=Properties({"message_id": b"m"}),
    exchange="",
    routing_key="q",
    redelivered=True,
    tag=1,
    channel=cast("Channel", None),
)
FRESH = replace(AGAIN, redelivered=False, properties=Properties({"message_id": b"fresh"}))


async def hold(pause: Callable[[], Awaitable[None]]) -> None:
    await pause()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with create_pool(database_url, Database(pool_max_size=6)) as pool:
        token = current_pool.set(pool)
        yield pool
        current_pool.reset(token)


@asynccontextmanager
async def process(*, patience: float) -> AsyncIterator[Quarantine]:
    """As far as the quarantine can tell, a process of its own; it is dead when the block has ended."""
    quarantine = Quarantine(clock=SystemClock(), patience=timedelta(seconds=patience))
    async with quarantine.alive():
        yield quarantine


async def suspects(database_url: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        return await (await connection.execute("SELECT message_id, state, deaths FROM suspect")).fetchall()


async def nothing() -> None:
    """A handler that succeeds."""


async def died_with(database_url: str, *, process: str = "00000000-0000-0000-0000-000000000001") -> None:
    """A process that lived for a moment was killed while it handled the message, some time ago."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute(
            """
            INSERT INTO suspect (queue, message_id, state, process, started_at, seen_at)
            VALUES ('q', 'm', 'running', %s, now() - interval '60.2 seconds', now() - interval '60 seconds')
            ON CONFLICT (queue, message_id) DO UPDATE SET
                state = 'running', process = excluded.process,
                started_at = excluded.started_at, seen_at = excluded.seen_at
            """,
            [process],
        )


async def test_what_comes_for_the_first_time_costs_no_statement(pool: Pool) -> None:
    async with process(patience=60) as us:
        await anyio.wait_all_tasks_blocked()
        before = pool.get_stats().get("requests_num", 0)
        await us.handle("q", FRESH, hold, nothing)

    assert pool.get_stats().get("requests_num", 0) <= before + 1, "none but the sign of life at the start"


async def test_the_mark_is_there_while_the_handler_runs_and_gone_after_it(pool: Pool, database_url: str) -> None:
    seen: list[tuple[Any, ...]] = []

    async def look() -> None:
        seen.extend(await suspects(database_url))

    async def fail() -> None:
        await look()
        raise ValueError("no")

    async with process(patience=60) as us:
        await us.handle("q", AGAIN, hold, look)
        assert await suspects(database_url) == []
        with pytest.raises(ValueError, match="no"):
            await us.handle("q", AGAIN, hold, fail)
        assert await suspects(database_url) == []

    assert seen == [("m", "running", 0)] * 2


async def test_a_mark_of_a_process_that_lives_is_no_death(pool: Pool, database_url: str) -> None:
    """It has lost its connection to the broker, which delivers the message to another one meanwhile."""
    async with process(patience=2) as one, process(patience=2) as other, anyio.create_task_group() as group:
        go_on, done = anyio.Event(), anyio.Event()

        async def handle_elsewhere() -> None:
            await other.handle("q", AGAIN, hold, nothing)
            done.set()

        group.start_soon(one.handle, "q", AGAIN, hold, go_on.wait)
        while not await suspects(database_url):  # noqa: ASYNC110 - it happens in the database
            await anyio.sleep(0.01)
        group.start_soon(handle_elsewhere)
        await anyio.sleep(5)  # longer than a process may be silent
        assert not done.is_set()
        assert await suspects(database_url) == [("m", "running", 0)]
        go_on.set()
        await done.wait()
    assert await suspects(database_url) == []


async def test_a_second_death_after_a_control_convicts(pool: Pool, database_url: str) -> None:
    handled = 0

    async def handle() -> None:
        nonlocal handled
        handled += 1
        raise ValueError("alive")

    async with process(patience=0.2) as us:
        await died_with(database_url)
        with pytest.raises(ValueError, match="alive"):
            await us.handle("q", AGAIN, hold, handle)
        assert await suspects(database_url) == [("m", "known", 1)]

        await died_with(database_url)
        with pytest.raises(Killer, match="killed the process 2 times"):
            await us.handle("q", AGAIN, hold, handle)
        with pytest.raises(Killer):
            await us.handle("q", AGAIN, hold, handle)
        assert handled == 1
        await us.forget("q", AGAIN)
    assert await suspects(database_url) == []


async def test_a_message_that_is_held_back_and_given_back_stays_accused(pool: Pool, database_url: str) -> None:
    await died_with(database_url)

    async def hold_not(pause: Callable[[], Awaitable[None]]) -> None:
        if await suspects(database_url) == [("m", "control", 0)]:
            raise GivenBack("asked to stop")
        await pause()

    async with process(patience=0.2) as us:
        with pytest.raises(GivenBack):
            await us.handle("q", AGAIN, hold_not, nothing)
    assert await suspects(database_url) == [("m", "accused", 0)]


async def test_a_handler_that_is_cut_off_leaves_no_mark(pool: Pool, database_url: str) -> None:
    async with process(patience=60) as us:
        with anyio.move_on_after(0.5):
            await us.handle("q", AGAIN, hold, anyio.sleep_forever)
    assert await suspects(database_url) == []


async def test_what_is_delivered_again_is_handled_one_at_a_time(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    at_work = 0
    at_a_time: list[int] = []

    async def count(message: Note, work: Work) -> None:
        nonlocal at_work
        at_work += 1
        await anyio.sleep(0.002)
        at_a_time.append(at_work)
        at_work -= 1

    subject = Calls(count).declared(concurrency=20)
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url):
        pass  # the queue is there from now on
    for number in range(60):
        await producer.send(str(number))
    async with producing(amqp_url) as other:
        for _ in range(30):
            await other.channel.basic_get("q")
    await producer.holds("q", 60)
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        await eventually(lambda: running.tally().finished == 60)

    assert at_a_time[:30] == [1] * 30
    assert max(at_a_time) > 1
    assert await suspects(database_url) == []
