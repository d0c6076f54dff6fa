from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from db.pool import Pool, create_pool, current_pool
from schema.settings import Database


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """An open pool on a fresh database, and the current one."""
    async with create_pool(database_url, Database(pool_max_size=2, max_waiting=1)) as pool:
        token = current_pool.set(pool)
        yield pool
        current_pool.reset(token)
