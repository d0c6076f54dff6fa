"""A consume role in the test's own task group, and a producer of its own to feed it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiormq
import anyio
import psycopg
from anyio.abc import TaskStatus
from pydantic import BaseModel

from db.pool import Work, create_pool, current_pool
from roles.amqp import Properties
from roles.amqp.transport import Published
from roles.board import Board, ConsumerStatus
from roles.consume import Consumer, Ladder, consumer
from roles.consume.role import ConsumeRole
from roles.resources import Resources
from roles.tally import Tally
from schema.settings import Settings

FAST: dict[str, Any] = {
    "amqp": {"example": {"heartbeat": "3s", "timeout": "5s"}},
    "supervisor": {"backoff_initial": "50ms", "backoff_max": "400ms"},
    "database": {"pool_timeout": "3s", "connect_timeout": "5s"},
}
LEFT_IN_ITS_QUEUE = {"archive": False}
"""What is parked stays where a test can take it, unless the test is about the archiver."""


class Note(BaseModel):
    text: str


Handle = Callable[[Note, Work], Awaitable[None]]


def declared(handler: Handle, queue: str = "q", **options: Any) -> Consumer[Note]:
    """A consumer of notes that gives up at once, unless told otherwise."""
    return consumer(queue, **{"retry": Ladder(), "concurrency": 2, "breaker": None, **options})(handler)


class Calls:
    """A handler that notes its calls, and does what `then` does."""

    def __init__(self, then: Handle | None = None) -> None:
        self.texts: list[str] = []
        self.times: list[float] = []
        self._then = then

    async def handle(self, message: Note, work: Work) -> None:
        self.texts.append(message.text)
        self.times.append(anyio.current_time())
        if self._then is not None:
            await self._then(message, work)

    def declared(self, queue: str = "q", **options: Any) -> Consumer[Note]:
        return declared(self.handle, queue, **options)


@dataclass
class Running:
    board: Board
    stop: anyio.Event
    ended: anyio.Event = field(default_factory=anyio.Event)

    def status(self, queue: str = "q") -> ConsumerStatus:
        return self.board.consumers[queue]

    def tally(self) -> Tally:
        return self.board.tally("consume")

    async def drain(self, *, within: float = 60) -> None:
        self.stop.set()
        with anyio.fail_after(within):
            await self.ended.wait()


@asynccontextmanager
async def consuming(
    *consumers: Consumer[Any], amqp_url: str, database_url: str, **settings: Any
) -> AsyncIterator[Running]:
    """Runs the role until the block ends, then drains it."""
    consume = LEFT_IN_ITS_QUEUE | settings.pop("consume", {})
    loaded = Settings.model_validate(FAST | settings | {"consume": consume})
    async with create_pool(database_url, loaded.database) as pool:
        token = current_pool.set(pool)
        urls = dict.fromkeys(loaded.amqp, amqp_url)
        resources = Resources(settings=loaded, pool=pool, amqp_urls=urls)
        running = Running(resources.board, anyio.Event())

        async def run(*, task_status: TaskStatus[None]) -> None:
            await ConsumeRole(resources, consumers).run(task_status=task_status, stop=running.stop)
            running.ended.set()

        try:
            async with anyio.create_task_group() as group:
                await group.start(run)
                yield running
                await running.drain()
        finally:
            current_pool.reset(token)


@dataclass(frozen=True)
class Taken:
    """A message that the test took from a queue."""

    body: bytes
    properties: aiormq.spec.Basic.Properties
    headers: dict[str, Any]


class Producer:
    """Another program's connection to the same broker, by a client that knows nothing of ours."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self.channel = channel
        self._sent = 0

    async def send(self, text: str, *, queue: str = "q", exchange: str = "", **properties: Any) -> None:
        await self.raw(json.dumps({"text": text}).encode(), queue=queue, exchange=exchange, **properties)

    async def raw(self, body: bytes, *, queue: str = "q", exchange: str = "", **properties: Any) -> None:
        self._sent += 1
        properties.setdefault("message_id", f"id-{self._sent}")
        await self.channel.basic_publish(
            body,
            exchange=exchange,
            routing_key=queue,
            mandatory=True,
            properties=aiormq.spec.Basic.Properties(**{"delivery_mode": 2, **properties}),
            timeout=5,
        )

    async def count(self, queue: str) -> int:
        """How many messages are ready in the queue at the moment."""
        return (await self.channel.queue_declare(queue, passive=True, timeout=5)).message_count or 0

    async def holds(self, queue: str, count: int) -> None:
        """Returns when so many messages are ready: what is given back takes the broker a moment."""
        with anyio.fail_after(60):
            while await self.count(queue) != count:  # noqa: ASYNC110 - it happens at the broker
                await anyio.sleep(0.02)

    async def take(self, queue: str, *, within: float = 60) -> Taken:
        """The next message of the queue, waited for."""
        with anyio.fail_after(within):
            while True:
                message = await self.channel.basic_get(queue, no_ack=True, timeout=5)
                if isinstance(message.delivery, aiormq.spec.Basic.GetOk):
                    properties = message.header.properties
                    return Taken(message.body, properties, dict(properties.headers or {}))
                await anyio.sleep(0.02)


@asynccontextmanager
async def producing(amqp_url: str) -> AsyncIterator[Producer]:
    connection = await aiormq.connect(amqp_url)
    try:
        yield Producer(await connection.channel())
    finally:
        await connection.close()


async def rows(database_url: str, statement: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        return await (await connection.execute(statement.encode())).fetchall()


async def claims(database_url: str) -> list[tuple[object, ...]]:
    """Queues and message ids in the inbox."""
    return await rows(database_url, "SELECT queue, message_id FROM inbox ORDER BY 1, 2")


async def names(database_url: str) -> list[object]:
    """Of the students, in the order in which they came."""
    return [name for (name,) in await rows(database_url, "SELECT name FROM student ORDER BY id")]


def sealed(**fields: bytes) -> aiormq.spec.Basic.Properties:
    """Persistent properties with exactly these bytes: aiormq's own gives every message an id, and that in UTF-8."""
    return Published(Properties({"delivery_mode": b"\x02", **fields}))


def milliseconds(*values: float) -> Ladder:
    return Ladder(*(timedelta(milliseconds=value) for value in values))
