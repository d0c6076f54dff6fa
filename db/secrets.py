"""Secrets that the application makes for itself: the table, then its queries. All replicas share them.

They are made when they are first needed, and are no secrets from whoever may read the database: what they protect is
not worth more than that.
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import Column, LargeBinary, Table, Text, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query

secret = Table(
    "secret",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

LENGTH: Final = 32
"""Bytes."""

GET = Query(select(secret.c.value).where(secret.c.name == bindparam("name")))
CREATE = Query(insert(secret).values(name=bindparam("name"), value=bindparam("value")).on_conflict_do_nothing())


async def get(connection: Connection, name: str) -> bytes:
    """The secret of this name: the same for everybody, made by whoever asks first."""
    found = await GET.scalar(connection, name=name)
    if found is None:
        await CREATE.execute(connection, name=name, value=secrets.token_bytes(LENGTH))
        found = await GET.scalar(connection, name=name)
    return bytes(found)
