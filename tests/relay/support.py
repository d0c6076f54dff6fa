"""A relay role in the test's own task group, topics, and a look into the outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskStatus
from psycopg.rows import dict_row
from pydantic import BaseModel

from db.pool import Pool, connection, current_pool, unit_of_work
from roles.board import Board, OutboxStatus
from roles.relay.role import RelayRole
from roles.resources import Resources
from roles.tally import Tally
from schema.settings import Settings
from schema.topic import Topic
from tests.consume.support import Producer

FAST: dict[str, Any] = {
    "amqp": {"example": {"heartbeat": "1s", "timeout": "2s"}},
    "supervisor": {"backoff_initial": "50ms", "backoff_max": "400ms"},
    "relay": {"poll_interval": "100ms", "backoff_max": "400ms"},
}


class Note(BaseModel):
    text: str


NOTED = Topic("noted", Note, exchange="e", routing_key="noted")


@dataclass
class Running:
    board: Board
    stop: anyio.Event
    ended: anyio.Event = field(default_factory=anyio.Event)

    def status(self, broker: str = "example") -> OutboxStatus:
        return self.board.outbox[broker]

    def tally(self) -> Tally:
        return self.board.tally("relay")

    async def drain(self, *, within: float = 60) -> None:
        self.stop.set()
        with anyio.fail_after(within):
            await self.ended.wait()


@asynccontextmanager
async def relaying(
    pool: Pool, urls: str | dict[str, str], *, topics: Sequence[Topic[Any]] = (NOTED,), **settings: Any
) -> AsyncIterator[Running]:
    """Runs the role until the block ends, then drains it."""
    loaded = Settings.model_validate(FAST | settings)
    amqp_urls = {"example": urls} if isinstance(urls, str) else urls
    resources = Resources(settings=loaded, pool=pool, amqp_urls=amqp_urls)
    running = Running(resources.board, anyio.Event())

    async def run(*, task_status: TaskStatus[None]) -> None:
        current_pool.set(pool)
        await RelayRole(resources, topics=topics).run(task_status=task_status, stop=running.stop)
        running.ended.set()

    async with anyio.create_task_group() as group:
        await group.start(run)
        yield running
        await running.drain()


async def note(*texts: str, topic: Topic[Note] = NOTED, **options: Any) -> None:
    """Publishes notes in one transaction."""
    async with unit_of_work() as work:
        for text in texts:
            await work.publish(topic, Note(text=text), **options)


async def outbox() -> list[dict[str, Any]]:
    """The rows that are still there."""
    async with connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT * FROM outbox ORDER BY id")
        return await cursor.fetchall()


async def left(count: int, *, within: float = 60) -> list[dict[str, Any]]:
    """The rows, once there are so many."""
    with anyio.fail_after(within):
        while len(rows := await outbox()) != count:  # noqa: ASYNC110 - it happens in the database
            await anyio.sleep(0.02)
    return rows


async def failing(count: int, *, within: float = 60) -> list[dict[str, Any]]:
    """The rows that have been tried in vain, once there are so many."""
    with anyio.fail_after(within):
        while len(rows := [row for row in await outbox() if row["attempts"]]) != count:  # noqa: ASYNC110 - it happens in the database
            await anyio.sleep(0.02)
    return rows


async def bodies(broker: Producer, count: int, queue: str = "q") -> list[str]:
    """The texts of the next messages of a queue, waited for."""
    return [Note.model_validate_json((await broker.take(queue)).body).text for _ in range(count)]
