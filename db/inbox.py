"""The inbox: which messages have taken effect. The table, then its queries.

The primary key is the claim. It is inserted in the transaction that holds the effects of the message, so that
there are both or neither, however often the broker delivers the message and whoever dies on the way. Of two
deliveries at the same time the second waits for the first: if that commits, it is a duplicate, and if that rolls
back, it has the claim. A row is needed for as long as a second delivery may come; then it is pruned.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import (
    ARRAY,
    Column,
    DateTime,
    Index,
    Table,
    Text,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.pooled_connection import PooledConnection
from db.pruning import prune_query
from db.query import Connection, Query

inbox = Table(
    "inbox",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("message_id", Text, primary_key=True),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.01},
)
Index("inbox_received_at_idx", inbox.c.received_at)

CLAIM = Query(
    insert(inbox).values(queue=bindparam("queue"), message_id=bindparam("message_id")).on_conflict_do_nothing()
)
_BEGIN_AND_CLAIM = b"BEGIN; " + CLAIM.sql
CLAIM_ALL = Query(
    insert(inbox)
    .from_select(
        [inbox.c.queue, inbox.c.message_id],
        select(bindparam("queue", type_=Text), func.unnest(bindparam("message_ids", type_=ARRAY(Text)))),
    )
    .on_conflict_do_nothing()
    .returning(inbox.c.message_id)
)
PRUNE = prune_query(inbox, inbox.c.received_at)


def storable(message_id: bytes) -> str:
    r"""The message id as it stands in the table: another for each, and text whatever the bytes are.

    What PostgreSQL's `text` cannot hold is escaped: NUL and bytes that are no UTF-8 as `\x00`, the backslash as `\\`.
    """
    try:
        text = message_id.decode()
    except UnicodeDecodeError:
        text = message_id.replace(b"\\", rb"\\").decode(errors="backslashreplace")
    else:
        if "\\" in text:
            text = text.replace("\\", r"\\")
    return text.replace("\x00", r"\x00") if "\x00" in text else text


async def begin(connection: PooledConnection, queue: str, message_id: bytes) -> bool:
    """Begins a transaction with the claim of a message, in one round trip: each costs a message dearly.

    Another transaction that has the claim and has not ended is waited for.

    Returns:
        Whether the message has not taken effect yet; then it is this transaction that is to see to that.
    """
    parameters = {"queue": queue, "message_id": storable(message_id)}
    _begun, claimed = await connection.command(connection.merged(_BEGIN_AND_CLAIM, parameters))
    return claimed.command_tuples == 1


async def claim_all(connection: Connection, queue: str, message_ids: Collection[bytes]) -> set[bytes]:
    """Claims many messages at once; returns those that have not taken effect yet. Waits as `begin` does.

    Whoever else claims some of them asks in the same order, so that the two cannot wait for each other.
    """
    ids = {storable(message_id): message_id for message_id in message_ids}
    return {ids[each] for each in await CLAIM_ALL.scalars(connection, queue=queue, message_ids=sorted(ids))}


async def prune(connection: Connection, *, older_than: timedelta, at_most: int) -> int:
    """Deletes the oldest claims, and returns how many; fewer than `at_most` means that no older ones are left.

    It waits for nobody, and whoever inserts does not notice it.
    """
    return await PRUNE.execute(connection, older_than=older_than, at_most=at_most)
