from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from tests.consume.support import Producer, producing
from tests.services import PostgresServer


@pytest.fixture
async def producer(amqp_url: str) -> AsyncIterator[Producer]:
    async with producing(amqp_url) as producer:
        yield producer


@pytest.fixture(scope="package")
def shared_database_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def database_url(shared_database_url: str) -> str:
    """One database for all tests in here, without students and claims: most of them only need transactions."""
    with psycopg.connect(shared_database_url) as connection:
        connection.execute("TRUNCATE parked_message, parked_act, student, inbox, suspect RESTART IDENTITY")
    return shared_database_url
