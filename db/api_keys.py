"""API keys: the table, then its queries. A key is shown once, when it is made; what is stored is its digest.

A key is `rk_<id>_<secret>`. The id is no secret: it finds the row, and stands in lists and logs. The secret has 256
bits of chance, so a plain SHA-256 of the key is enough: there is nothing to guess from, and a slow hash would only
slow down requests.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

from pydantic import BaseModel
from sqlalchemy import ARRAY, Column, DateTime, LargeBinary, Table, Text, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
)


class ApiKey(BaseModel):
    """A row."""

    id: str
    name: str
    digest: bytes
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


_KEY: Final = re.compile(r"rk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")

GET = Query(select(api_key).where(api_key.c.id == bindparam("id")))
ALL = Query(select(api_key).order_by(api_key.c.created_at, api_key.c.id))
CREATE = Query(
    insert(api_key)
    .values({name: bindparam(name) for name in ("id", "name", "digest", "scopes", "expires_at")})
    .returning(api_key)
)
USED = Query(update(api_key).where(api_key.c.id == bindparam("id_")).values(last_used_at=bindparam("at")))
REVOKE = Query(
    update(api_key)
    .where(api_key.c.id == bindparam("id_"))
    .values(revoked_at=func.coalesce(api_key.c.revoked_at, func.now()))
    .returning(api_key)
)


def id_of(key: str) -> str | None:
    """The id in a key; None if it is none of ours."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


def digest_of(key: str) -> bytes:
    """What is stored of a key."""
    return sha256(key.encode()).digest()


async def get(connection: Connection, key_id: str) -> ApiKey | None:
    """The key with this id, whatever has become of it; None if there is none."""
    return await GET.one(connection, ApiKey, id=key_id)


async def all_keys(connection: Connection) -> list[ApiKey]:
    """All of them, the oldest first."""
    return await ALL.all(connection, ApiKey)


async def create(
    connection: Connection, name: str, *, scopes: Sequence[str], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Makes a key: its row, and the key itself, which nobody can find out any more afterwards."""
    key_id = secrets.token_hex(6)
    key = f"rk_{key_id}_{secrets.token_urlsafe(32)}"
    made = await CREATE.one(
        connection,
        ApiKey,
        id=key_id,
        name=name,
        digest=digest_of(key),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    assert made is not None
    return made, key


async def revoke(connection: Connection, key_id: str) -> ApiKey | None:
    """Ends a key, if it has not been already; None if there is none."""
    return await REVOKE.one(connection, ApiKey, id_=key_id)


async def used(connection: Connection, key_id: str, *, at: datetime) -> None:
    """Writes down when the key was last used."""
    await USED.execute(connection, id_=key_id, at=at)
