"""What a query makes of rows."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from db.pool import connection
from db.query import Query

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pool")]


class Named(BaseModel):
    full_name: str = Field(alias="fullName")


async def test_a_row_has_the_names_of_the_attributes_whatever_they_are_called_outside() -> None:
    query = Query(select(func.concat("A", "da").label("full_name")))
    async with connection() as conn:
        assert await query.one(conn, Named) == Named(fullName="Ada")
        assert await query.all(conn, Named) == [Named(fullName="Ada")]
