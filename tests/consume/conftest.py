from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.consume.support import Producer, producing


@pytest.fixture
async def producer(amqp_url: str) -> AsyncIterator[Producer]:
    async with producing(amqp_url) as producer:
        yield producer
