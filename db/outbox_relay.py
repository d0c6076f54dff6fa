"""What the relay asks of the outbox, in one transaction for each batch.

```
BEGIN
  lock of the broker   another has it: leave it to that one
  take                 what is available, in the order of ids
    publish            outside, while the transaction waits
  remove               what was confirmed
  fail, postpone       the rest
COMMIT
```
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Text,
    any_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    select,
    true,
    update,
)

from db.outbox import outbox
from db.query import Connection, Query
from schema.text import storable

DESTINATIONS = 50
"""How many a survey lists."""

_due = outbox.c.available_at <= func.statement_timestamp()
_first = (
    select(outbox)
    .where(outbox.c.broker == bindparam("broker"), _due)
    .order_by(outbox.c.available_at, outbox.c.id)
    .limit(bindparam("limit"))
    .subquery("first")
)
_size = func.octet_length(_first.c.body)
_sized = select(
    _first, (func.sum(_size).over(order_by=(_first.c.available_at, _first.c.id)) - _size).label("bytes_before")
).subquery("sized")
_waiting_of_one = (
    select(outbox.c.id)
    .where(
        outbox.c.broker == bindparam("broker_"),
        outbox.c.exchange == bindparam("exchange_"),
        outbox.c.routing_key == bindparam("routing_key_"),
        _due,
    )
    .order_by(outbox.c.available_at, outbox.c.id)
    .limit(bindparam("limit"))
)
_these = outbox.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))

LOCK = Query(
    select(
        case((func.pg_try_advisory_xact_lock(bindparam("key", type_=BigInteger)), func.clock_timestamp())),
        func.set_config("idle_in_transaction_session_timeout", bindparam("lease", type_=Text), true()),
        func.set_config("tcp_user_timeout", bindparam("lease", type_=Text), true()),
    )
)
TAKE = Query(
    select(*(_sized.c[column.name] for column in outbox.c))
    .where(_sized.c.bytes_before < bindparam("max_bytes", type_=BigInteger))
    .order_by(_sized.c.id)
)
DELETE = Query(delete(outbox).where(_these))
FAIL = Query(
    update(outbox)
    .where(_these)
    .values(
        attempts=outbox.c.attempts + 1, available_at=bindparam("available_at_"), last_error=bindparam("last_error_")
    )
)
POSTPONE = Query(
    update(outbox)
    .where(outbox.c.id.in_(_waiting_of_one))
    .values(available_at=bindparam("available_at_"), last_error=bindparam("last_error_"))
)
NEXT = Query(
    select(func.extract("epoch", func.min(outbox.c.available_at) - func.clock_timestamp())).where(
        outbox.c.broker == bindparam("broker"), outbox.c.available_at < literal_column("'infinity'::timestamptz")
    )
)
LIMIT = Query(select(func.set_config("statement_timeout", bindparam("limit", type_=Text), true())))
SURVEY = Query(
    select(
        outbox.c.exchange,
        outbox.c.routing_key,
        func.count().label("waiting"),
        func.count(outbox.c.last_error).label("failing"),
        func.min(outbox.c.created_at).label("oldest_at"),
        func.max(outbox.c.last_error).label("error"),
        func.sum(func.count()).over().label("total"),
        func.min(func.min(outbox.c.created_at)).over().label("total_oldest_at"),
    )
    .where(outbox.c.broker == bindparam("broker"))
    .group_by(outbox.c.exchange, outbox.c.routing_key)
    .order_by(func.count(outbox.c.last_error).desc(), func.count().desc())
    .limit(DESTINATIONS)
)


class OutboxMessage(BaseModel):
    """A row."""

    id: int
    broker: str
    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    created_at: datetime
    available_at: datetime
    attempts: int
    last_error: str | None

    @property
    def message_id(self) -> str | None:
        """As its properties show it."""
        shown = self.properties.get("message_id") if isinstance(self.properties, dict) else None
        return shown if isinstance(shown, str) else None


class Waiting(BaseModel):
    """What waits for one destination."""

    exchange: str
    routing_key: str
    waiting: int
    failing: int
    """Of these, how many had an error when they were last tried, or wait because others of the destination had."""
    oldest_at: datetime
    error: str | None
    total: int
    """What waits for the broker, all its destinations together."""
    total_oldest_at: datetime


async def lock(connection: Connection, broker: str, *, lease: timedelta) -> datetime | None:
    """Whether this transaction is the one in the cluster that relays to the broker; it stays so until it ends.

    Rows are to be read by a later statement: only that one sees what the holder before has deleted.

    Params:
        lease: how long the server waits for the next statement, or for the client's machine to acknowledge an
            answer, until it ends the transaction: another has its turn then.

    Returns:
        The server's clock, or None if another transaction is at it.
    """
    key = int.from_bytes(blake2b(f"outbox\x00{broker}".encode(), digest_size=8).digest(), signed=True)
    now: datetime | None = await LOCK.scalar(connection, key=key, lease=f"{lease // timedelta(milliseconds=1)}")
    return now


async def take(connection: Connection, broker: str, *, limit: int, max_bytes: int) -> list[OutboxMessage]:
    """What has been available for longest, in the order of ids.

    Params:
        limit: how many at most.
        max_bytes: of their bodies together; one message is taken whatever its size.
    """
    return await TAKE.all(connection, OutboxMessage, broker=broker, limit=limit, max_bytes=max_bytes)


async def remove(connection: Connection, ids: Collection[int]) -> None:
    """Deletes what was confirmed."""
    await DELETE.execute(connection, ids=list(ids))


async def fail(connection: Connection, ids: Collection[int], *, error: str, until: datetime) -> None:
    """Counts a failed attempt of each, and holds them back until then."""
    await FAIL.execute(connection, ids=list(ids), last_error_=storable(error), available_at_=until)


async def postpone(
    connection: Connection, broker: str, exchange: str, routing_key: str, *, error: str, until: datetime, limit: int
) -> int:
    """Holds back, untried, what is available for a destination that fails; at most `limit`. Returns how many."""
    return await POSTPONE.execute(
        connection,
        broker_=broker,
        exchange_=exchange,
        routing_key_=routing_key,
        limit=limit,
        last_error_=storable(error),
        available_at_=until,
    )


async def next_available(connection: Connection, broker: str) -> float | None:
    """Seconds until the next message becomes available, negative if one is; None if there is none."""
    seconds = await NEXT.scalar(connection, broker=broker)
    return None if seconds is None else float(seconds)


async def survey(connection: Connection, broker: str, *, limit: timedelta) -> list[Waiting]:
    """What waits for each destination, those that fail first; at most `DESTINATIONS`. It reads the whole table.

    Raises:
        QueryCanceled: it took longer than `limit`.
    """
    await LIMIT.execute(connection, limit=f"{limit // timedelta(milliseconds=1)}")
    return await SURVEY.all(connection, Waiting, broker=broker)
