"""PostgreSQL is away under a stream of messages, for long and more than once: no message pays for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from roles.embedded.postgres import Postgres
from schema.students import NewStudent
from tests.e2e.support import App, channel, running
from tests.e2e.test_outages import AsyncServer
from tests.quarantine.support import DELAY, publish
from tests.services import RabbitServer

pytestmark = [pytest.mark.anyio, pytest.mark.early, pytest.mark.timeout(300)]

APP = Path(__file__).parent / "stream_app.py"
MESSAGES = 2000
OUTAGE = 30
"""Seconds."""
OUTAGES = 2


class Stream:
    """One process, with a virtual host and a database of its own."""

    def __init__(self, directory: Path, amqp_url: str, database_url: str, **settings: str) -> None:
        self.app: App
        self.directory = directory
        self.amqp_url = amqp_url
        self.database_url = database_url
        self.environ = {
            "APP_DATABASE__URL": database_url,
            "APP_DATABASE__MIGRATE": "true",
            "APP_AMQP__EXAMPLE__URL": amqp_url,
            **settings,
        }
        directory.mkdir()

    async def publish(self) -> None:
        numbers = [f"{number:04}" for number in range(MESSAGES)]
        await publish(self.amqp_url, ["stream"], ((number, NewStudent(name=number)) for number in numbers))

    async def names(self) -> list[str]:
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            return [name for (name,) in await (await connection.execute("SELECT name FROM student")).fetchall()]

    async def stored(self, count: int) -> None:
        """Returns when there are so many students."""

        async def enough() -> bool:
            return len(await self.names()) >= count

        await self.app.until(enough, within=120)

    async def paused(self) -> None:
        """Returns when the process says that the database is away."""

        async def says_so() -> bool:
            return "PostgreSQL" in ((await self.app.consumer("stream"))["reason"] or "")

        await self.app.until(says_so)

    def again(self) -> Iterator[tuple[int, int]]:
        """The attempt and the count of deliveries of each message that came more than once."""
        path = self.directory / "again"
        for line in path.read_text().splitlines() if path.exists() else ():
            attempt, count = line.split()
            yield int(attempt), int(count)

    async def lost_nothing(self) -> None:
        names = await self.names()
        assert len(names) == MESSAGES
        assert len(set(names)) == MESSAGES
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            assert await (await connection.execute("SELECT error FROM parked_message")).fetchall() == []
        async with channel(self.amqp_url) as other:
            for queue in ("stream", "stream.parked", f"stream.retry.{DELAY}"):
                assert (await other.queue_declare(queue, passive=True)).message_count == 0
        consumer = await self.app.consumer("stream")
        assert (consumer["retried"], consumer["parked"], consumer["reason"]) == (0, 0, None)
        assert {attempt for attempt, _ in self.again()} <= {1}


async def test_a_long_outage_of_the_database_under_a_stream_of_messages(
    rabbitmq: RabbitServer, tmp_path: Path
) -> None:
    """One process holds what it has in hand, the other one may not hold it for so long and gives it back: once."""
    database = Postgres(tmp_path / "services")
    async with AsyncServer(database) as server, AsyncExitStack() as stack:
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as admin:
            await admin.execute("CREATE DATABASE second")
        holds = Stream(tmp_path / "holds", stack.enter_context(rabbitmq.vhost()), database.url)
        gives_back = Stream(
            tmp_path / "gives_back",
            stack.enter_context(rabbitmq.vhost()),
            make_conninfo(database.url, dbname="second"),
            APP_CONSUME__GIVE_BACK_AFTER="4s",
        )
        streams = (holds, gives_back)
        for stream in streams:
            stream.app = await stack.enter_async_context(
                running(stream.directory, "--roles", "consume", environ=stream.environ, script=APP)
            )
        async with anyio.create_task_group() as group:
            for stream in streams:
                group.start_soon(stream.publish)
            for outage in range(OUTAGES):
                for stream in streams:
                    await stream.stored(200 + 700 * outage)
                await server.stop()
                async with anyio.create_task_group() as away:
                    away.start_soon(anyio.sleep, OUTAGE)
                    for stream in streams:
                        away.start_soon(stream.paused)
                assert (await gives_back.app.consumer("stream"))["subscribed"] is False
                assert (await holds.app.consumer("stream"))["subscribed"] is True
                await server.start()
        for stream in streams:
            await stream.stored(MESSAGES)
            await stream.lost_nothing()
            assert await stream.app.stop() == 0

        assert list(holds.again()) == []
        assert {count for _, count in gives_back.again()} <= set(range(1, OUTAGES + 1))
        assert len(list(gives_back.again())) <= OUTAGES * 10
