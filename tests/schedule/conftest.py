from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.schedule.support import Witness


@pytest.fixture
async def witness(database_url: str) -> AsyncIterator[Witness]:
    """Sees the book, and a table for the effects of jobs."""
    async with await psycopg.AsyncConnection.connect(
        database_url, autocommit=True, row_factory=dict_row
    ) as connection:
        await connection.execute("CREATE TABLE effect (job text, scheduled_at timestamptz)")
        yield Witness(connection)
