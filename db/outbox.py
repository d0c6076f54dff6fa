"""The outbox: messages that are to be published, put down in the transaction of whoever sends them.

`Work.publish` inserts; the role `relay` publishes what is committed and available, and deletes a row when the broker
has confirmed its message. A row that is still here has not been published, or its deletion was lost in a crash: then
it is published once more, with the same message id.

`properties` is for people to read and for the relay to make AMQP properties of:

```
{"message_id": "0b9a…", "type": "student.created", "content_type": "application/json", "headers": {"tenant": 7}}
{"message_id": "0b9a…", "encoded": "kAAAAAAh…"}    a message that is sent again: its properties byte for byte, Base64
```
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb
from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    Table,
    Text,
    bindparam,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from db.metadata import metadata
from db.pooled_connection import PooledConnection
from db.query import Connection, Query
from schema.duration import LONGEST, format_duration, parse_duration
from schema.routing import MAX_NAME
from schema.steps import Step, reached
from schema.text import is_storable
from schema.topic import Topic

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("broker", Text, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("properties", JSONB, nullable=False),
    # Not now(), which is when the transaction began: rows become available in the order in which they were written.
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("available_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
)
Index("outbox_available_idx", outbox.c.broker, outbox.c.available_at, outbox.c.id)

INSERT = Query(
    insert(outbox)
    .inline()  # it returns no id
    .values(
        broker=bindparam("broker"),
        exchange=bindparam("exchange"),
        routing_key=bindparam("routing_key"),
        body=bindparam("body"),
        properties=bindparam("properties"),
        available_at=func.clock_timestamp() + bindparam("delay", type_=Interval),
    )
)

HEADER_INTEGERS = range(-(2**31), 2**31)
NO_DELAY = timedelta(0)


async def add(
    connection: PooledConnection,
    topic: Topic[Any],
    message: BaseModel,
    *,
    delay: timedelta | str | None = None,
    headers: Mapping[str, str | int] | None = None,
) -> str:
    """Puts a message of a topic down; see `db.pool.Work.publish`, which also wakes the relay. Returns its id.

    The row travels with the next statement or the commit, unless it is delayed: its delay counts from now.

    Raises:
        TypeError: the message is not of the topic's model.
        ValueError: a header, or the delay, is none.
    """
    if not isinstance(message, topic.model):
        raise TypeError(f"topic {topic.name}: a {type(message).__name__} is no {topic.model.__name__}")
    message_id = str(uuid4())
    properties: dict[str, Any] = {
        "message_id": message_id,
        "type": topic.name,
        "content_type": "application/json",
    }
    if headers:
        properties["headers"] = _headers(topic, headers)
    row = {
        "broker": topic.broker,
        "exchange": topic.exchange,
        "routing_key": topic.routing_key,
        "body": message.__pydantic_serializer__.to_json(message, by_alias=True),  # as schemas and readers have it
        "properties": Jsonb(properties),
    }
    if delay is None:
        await INSERT.hold(connection, **row, delay=NO_DELAY, then=_inserted)
    else:
        await INSERT.execute(connection, **row, delay=_delay(topic, delay))
        _inserted()
    return message_id


async def add_encoded(
    connection: Connection,
    *,
    broker: str,
    exchange: str,
    routing_key: str,
    body: bytes,
    properties: bytes,
    message_id: str | None,
    delay: timedelta = NO_DELAY,
) -> None:
    """Puts a message down that is to be sent exactly so, such as one that is sent once more.

    Params:
        properties: as on the wire (`roles.amqp.Properties.encode`); they go out byte for byte, but persistent.
        message_id: what they say it is, for people who look at the row.
        delay: how long the relay leaves it alone.
    """
    shown = {} if message_id is None else {"message_id": message_id.replace("\x00", "")}
    await INSERT.execute(
        connection,
        broker=broker,
        exchange=exchange,
        routing_key=routing_key,
        body=body,
        properties=Jsonb(shown | {"encoded": b64encode(properties).decode()}),
        delay=delay,
    )
    _inserted()


def _inserted() -> None:
    reached(Step.OUTBOX_INSERTED)


def _headers(topic: Topic[Any], headers: Mapping[str, str | int]) -> dict[str, str | int]:
    for name, value in headers.items():
        if not name or len(name.encode()) > MAX_NAME or "\x00" in name:
            raise ValueError(f"topic {topic.name}: {name!r} is no name of a header")
        fits = is_storable(value) if isinstance(value, str) else type(value) is int and value in HEADER_INTEGERS
        if not fits:
            raise ValueError(f"topic {topic.name}: header {name}: {value!r} is no text and no 32-bit number")
    return dict(headers)


def _delay(topic: Topic[Any], delay: timedelta | str) -> timedelta:
    value = parse_duration(delay)
    if not NO_DELAY <= value <= LONGEST:
        raise ValueError(f"topic {topic.name}: delay {str(delay)!r} is not between 0s and {format_duration(LONGEST)}")
    return value
