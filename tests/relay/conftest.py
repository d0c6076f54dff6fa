from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from db.pool import Pool, create_pool, current_pool
from schema.settings import Database
from tests.consume.support import Producer, producing


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """An open pool on a fresh database, and the current one."""
    async with create_pool(database_url, Database.model_validate({"pool_timeout": "1s"})) as pool:
        token = current_pool.set(pool)
        yield pool
        current_pool.reset(token)


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Producer]:
    """Another program's connection to the broker, with the queue `q` bound to all that tests publish."""
    async with producing(amqp_url) as producer:
        await producer.channel.exchange_declare("e", exchange_type="topic", durable=True)
        await producer.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        await producer.channel.queue_bind("q", "e", "noted")
        yield producer
