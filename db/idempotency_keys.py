"""What was answered to requests that may be sent again: the table, then its queries.

A row is claimed and gets its answer in the transaction of the effect, so that there are both or neither. Whoever
claims holds an advisory lock to the end of its transaction, so that a twin knows at once, and waits with no
connection in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final

from psycopg.types.json import Jsonb
from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from db.joining import FIRST
from db.metadata import metadata
from db.pooled_connection import PooledConnection
from db.pruning import prune_query
from db.query import Connection, Query

idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("status", SmallInteger),
    Column("headers", JSONB),
    Column("body", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
Index("idempotency_key_created_at_idx", idempotency_key.c.created_at)


class Answer(BaseModel):
    """What was answered, and the digest of the request that it was answered to."""

    digest: bytes
    status: int
    headers: list[tuple[str, str]]
    body: bytes


_this = (idempotency_key.c.caller == bindparam("caller_"), idempotency_key.c.key == bindparam("key_"))

CLAIM = Query(
    insert(idempotency_key)
    .from_select(
        ["caller", "key", "digest"],
        select(
            bindparam("caller", type_=Text), bindparam("key", type_=Text), bindparam("digest", type_=LargeBinary)
        ).where(func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger))),
    )
    .on_conflict_do_nothing()
)
_BEGIN: Final = b"BEGIN; " + CLAIM.sql + b"; " + FIRST
GET = Query(select(*(idempotency_key.c[name] for name in ("digest", "status", "headers", "body"))).where(*_this))
SETTLE = Query(
    update(idempotency_key)
    .where(*_this)
    .values(status=bindparam("status_"), headers=bindparam("headers_"), body=bindparam("body_"))
)
PRUNE = prune_query(idempotency_key, idempotency_key.c.created_at)


async def begin(connection: PooledConnection, caller: str, key: str, *, digest: bytes) -> bool:
    """Begins a transaction that can be joined (`db.joining`), and claims the key, in one round trip.

    Returns:
        Whether this transaction is the first with the key; False if there is an answer, or will be.
    """
    lock = int.from_bytes(blake2b(f"{caller}\x00{key}".encode(), digest_size=8).digest(), signed=True)
    parameters = {"caller": caller, "key": key, "digest": digest, "lock": lock}
    _begun, claimed, _savepoint = await connection.command(connection.merged(_BEGIN, parameters))
    return claimed.command_tuples == 1


async def get(connection: Connection, caller: str, key: str) -> Answer | None:
    """What was answered; None if nothing was yet."""
    return await GET.one(connection, Answer, caller_=caller, key_=key)


async def settle(
    connection: PooledConnection,
    caller: str,
    key: str,
    *,
    status: int,
    headers: Sequence[tuple[str, str]],
    body: bytes,
) -> None:
    """Writes down, with the commit, what is answered to a key that was claimed."""
    values: dict[str, Any] = {"status_": status, "headers_": Jsonb(headers), "body_": body}
    await SETTLE.hold(connection, caller_=caller, key_=key, **values)


async def prune(connection: Connection, *, older_than: timedelta, at_most: int) -> int:
    """Deletes the oldest answers, and returns how many; fewer than `at_most` means that no older ones are left."""
    return await PRUNE.execute(connection, older_than=older_than, at_most=at_most)
