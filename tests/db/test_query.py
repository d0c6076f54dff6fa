"""What a query makes of rows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from db.pool import connection
from db.query import Query
from db.times import EARLIEST, LATEST

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pool")]


class Named(BaseModel):
    full_name: str = Field(alias="fullName")


async def test_a_row_has_the_names_of_the_attributes_whatever_they_are_called_outside() -> None:
    query = Query(select(func.concat("A", "da").label("full_name")))
    async with connection() as conn:
        assert await query.one(conn, Named) == Named(fullName="Ada")
        assert await query.all(conn, Named) == [Named(fullName="Ada")]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("infinity", LATEST),
        ("-infinity", EARLIEST),
        ("10000-01-02", LATEST),
        ("294276-01-01", LATEST),
        ("0044-03-15 BC", EARLIEST),
        ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
async def test_a_time_that_only_postgresql_knows_is_the_nearest_that_python_has(
    time: str, expected: datetime, zone: str
) -> None:
    async with connection() as conn:
        await conn.execute(f"SET timezone = '{zone}'".encode())
        row = await (await conn.execute("SELECT %s::timestamptz", [time])).fetchone()
        assert row is not None
        assert row[0] == expected
