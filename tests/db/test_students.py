"""The student queries, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest

from db import students
from db.pool import connection, create_pool, current_pool, unit_of_work
from schema.settings import Database
from schema.students import NewStudent, StudentChange

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[None]:
    async with create_pool(database_url, Database()) as pool:
        token = current_pool.set(pool)
        yield
        current_pool.reset(token)


@pytest.mark.usefixtures("pool")
async def test_created_is_found() -> None:
    async with unit_of_work() as work:
        created = await students.create(work.connection, NewStudent(name="Ada"))
    async with connection() as conn:
        assert await students.get(conn, created.id) == created
        assert await students.get(conn, created.id + 1) is None
