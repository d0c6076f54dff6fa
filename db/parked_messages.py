"""The parking lot as a table: the table, then its queries. A row is a message that nobody will try again unasked.

A row is there once for each parking, however often the archiver gets the message: `parking` says which one it is
(see `roles.consume.parking`). Beside it, a message with an id has one open row at a time, so that what was parked
twice, because a process died between publishing it and acking the original, is one thing to look at.

What people do with a row is in `db.parked_acts`, in the transaction that does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db.inbox import inbox
from db.metadata import metadata
from db.pruning import prune_query
from db.query import Connection, Query

parked_message = Table(
    "parked_message",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("broker", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("message_id", Text),
    Column("body", LargeBinary, nullable=False),
    Column("properties", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("parked_at", DateTime(timezone=True), nullable=False),
    Column("status", Text, nullable=False, server_default="open"),
    Column("resolved_at", DateTime(timezone=True)),
    Column("resolved_by", Text),
    Column("note", Text),
    Column("parking", Text, nullable=False, unique=True),
    Column("fingerprint", Text),
)
_row = parked_message.c
Index("parked_message_open_key", _row.queue, _row.fingerprint, unique=True, postgresql_where=_row.status == "open")
Index("parked_message_open_idx", _row.queue, _row.id, postgresql_where=_row.status == "open")
Index("parked_message_message_id_idx", _row.queue, _row.message_id)
Index("parked_message_resolved_at_idx", _row.resolved_at)


class Status(StrEnum):
    """What became of a parked message."""

    OPEN = "open"
    REPLAYED = "replayed"
    """Handed to the outbox. Should it fail again, that is another row."""
    DROPPED = "dropped"


class ParkedMessage(BaseModel):
    """A row of the parking lot."""

    id: int
    broker: str
    queue: str
    message_id: str | None
    """As text; bytes that PostgreSQL's text cannot hold are written as escapes."""
    body: bytes
    properties: bytes
    """As on the wire (`roles.amqp.Properties.decode` reads them)."""
    error: str
    attempts: int
    parked_at: datetime
    status: Status
    resolved_at: datetime | None
    resolved_by: str | None
    note: str | None
    parking: str


class ParkedSummary(BaseModel):
    """A row of the parking lot, as a list of many needs it."""

    id: int
    queue: str
    message_id: str | None
    size: int
    """Bytes of the body."""
    error: str
    attempts: int
    parked_at: datetime
    status: Status
    resolved_at: datetime | None
    resolved_by: str | None
    note: str | None


class Found(BaseModel):
    """A row that somebody is about to do something with."""

    id: int
    queue: str
    size: int
    """Bytes of the body."""


class OpenCount(BaseModel):
    """How many messages of a queue wait for a person, and since when the first of them does."""

    queue: str
    count: int
    oldest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewParkedMessage:
    """A message from the queue `<queue>.parked`, ready to be stored.

    Params:
        parking: tells this parking from every other one.
        fingerprint: tells the message from every other one of its queue; None if it has no id.
    """

    broker: str
    queue: str
    message_id: str | None
    body: bytes
    properties: bytes
    error: str
    attempts: int
    parked_at: datetime
    parking: str
    fingerprint: str | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows are meant; what is None does not matter.

    Params:
        error: a text that the error contains, in upper or lower case.
        before, after: of `parked_at`.
    """

    ids: Sequence[int] | None = None
    queue: str | None = None
    error: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    status: Status | None = None

    def parameters(self) -> dict[str, Any]:
        status = None if self.status is None else self.status.value
        ids = None if self.ids is None else list(self.ids)
        return {
            "ids": ids,
            "queue": self.queue,
            "error": self.error,
            "before": self.before,
            "after": self.after,
            "status": status,
        }


def _filtered() -> ColumnElement[bool]:
    def unless_none(name: str, kind: Any, condition: Any) -> ColumnElement[bool]:
        value = bindparam(name, None, kind)
        return or_(value.is_(None), condition(value))

    return and_(
        unless_none("ids", ARRAY(BigInteger), lambda ids: _row.id == func.any(ids)),
        unless_none("queue", Text(), lambda queue: _row.queue == queue),
        unless_none("error", Text(), lambda error: func.strpos(func.lower(_row.error), func.lower(error)) > 0),
        unless_none("before", DateTime(timezone=True), lambda before: _row.parked_at < before),
        unless_none("after", DateTime(timezone=True), lambda after: _row.parked_at > after),
        unless_none("status", Text(), lambda status: _row.status == status),
    )


_stored = tuple(NewParkedMessage.__dataclass_fields__)
_new = (
    func.unnest(*(bindparam(name, type_=ARRAY(_row[name].type)) for name in _stored))
    .table_valued(*_stored, name="new")
    .render_derived()
)
_size = func.octet_length(_row.body).label("size")
_summary = (
    *(column for column in _row if column.name not in ("body", "properties", "broker", "parking", "fingerprint")),
    _size,
)
_one = _row.id == bindparam("id_")
ARCHIVE = Query(
    insert(parked_message)
    .from_select(_stored, select(*(_new.c[name] for name in _stored)))
    .on_conflict_do_nothing()
    .returning(_row.parking)
)
GET = Query(select(parked_message).where(_one))
LIST = Query(select(*_summary).where(_filtered()).order_by(_row.id.desc()).limit(bindparam("limit", None, Integer)))
COUNT = Query(select(func.count()).select_from(parked_message).where(_filtered()))
FIND = Query(
    select(_row.id, _row.queue, _size).where(_filtered()).order_by(_row.id).limit(bindparam("limit", None, Integer))
)
OTHERS = Query(
    select(*_summary)
    .where(_row.queue == bindparam("queue"), _row.message_id == bindparam("message_id"), _row.id != bindparam("id_"))
    .order_by(_row.id)
)
COUNT_OPEN = Query(
    select(_row.queue, func.count().label("count"), func.min(_row.parked_at).label("oldest"))
    .where(_row.status == Status.OPEN.value)
    .group_by(_row.queue)
)
APPLIED = Query(
    select(_row.id, inbox.c.received_at)
    .join(inbox, and_(inbox.c.queue == _row.queue, inbox.c.message_id == _row.message_id))
    .where(_row.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))))
)
LOCK = Query(
    select(parked_message)
    .where(_row.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))), _row.status == bindparam("status_"))
    .order_by(_row.id)
    .with_for_update()
)
RESOLVE = Query(
    update(parked_message)
    .where(_row.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))))
    .values(
        status=bindparam("status_"),
        resolved_at=func.now(),
        resolved_by=bindparam("by"),
        note=func.coalesce(bindparam("note_", type_=Text), _row.note),
    )
)
CHANGE_BODY = Query(
    update(parked_message)
    .where(_one)
    .values(body=bindparam("body_"), note=func.coalesce(bindparam("note_", type_=Text), _row.note))
)
PRUNE = prune_query(parked_message, _row.resolved_at, _row.status != Status.OPEN.value)


async def archive(connection: Connection, batch: Sequence[NewParkedMessage]) -> set[str]:
    """Stores messages, and returns the `parking` of those that were not there already."""
    values = {name: [getattr(each, name) for each in batch] for name in _stored}
    return {each.parking for each in await ARCHIVE.all(connection, _Parking, **values)}


async def get(connection: Connection, parked_id: int) -> ParkedMessage | None:
    """The row, or None if there is none."""
    return await GET.one(connection, ParkedMessage, id_=parked_id)


async def newest(connection: Connection, which: Filter, *, limit: int | None) -> list[ParkedSummary]:
    """The newest of these rows first."""
    return await LIST.all(connection, ParkedSummary, **which.parameters(), limit=limit)


async def count(connection: Connection, which: Filter) -> int:
    """How many rows these are."""
    return int(await COUNT.scalar(connection, **which.parameters()))


async def find(connection: Connection, which: Filter, *, limit: int | None) -> list[Found]:
    """The oldest of these rows first."""
    return await FIND.all(connection, Found, **which.parameters(), limit=limit)


async def same_message(connection: Connection, row: ParkedMessage) -> list[ParkedSummary]:
    """The other rows of the message, in the order of their parking; none if it has no id."""
    if row.message_id is None:
        return []
    return await OTHERS.all(connection, ParkedSummary, queue=row.queue, message_id=row.message_id, id_=row.id)


async def applied(connection: Connection, ids: Sequence[int]) -> dict[int, datetime]:
    """Those of these messages that took effect all the same, as far as the inbox remembers, and when.

    A message that is parked has left no claim: it came to its queue once more, was replayed, or was sent twice.
    """
    return {each.id: each.received_at for each in await APPLIED.all(connection, _Applied, ids=list(ids))}


async def open_counts(connection: Connection) -> list[OpenCount]:
    """The queues that have messages waiting for a person."""
    return await COUNT_OPEN.all(connection, OpenCount)


async def lock(connection: Connection, ids: Sequence[int], *, status: Status) -> list[ParkedMessage]:
    """Those of these rows that still have this status, and keep it until the transaction ends.

    Of two transactions that want the same row the second waits for the first, and then does not get it.
    """
    return await LOCK.all(connection, ParkedMessage, ids=list(ids), status_=status.value)


async def resolve(
    connection: Connection, ids: Sequence[int], *, status: Status, by: str, note: str | None = None
) -> None:
    """Writes down what became of rows that are locked."""
    await RESOLVE.execute(connection, ids=list(ids), status_=status.value, by=by, note_=note)


async def change_body(connection: Connection, parked_id: int, body: bytes, *, note: str | None = None) -> None:
    """Gives a locked row another body."""
    await CHANGE_BODY.execute(connection, id_=parked_id, body_=body, note_=note)


async def prune(connection: Connection, *, older_than: timedelta, at_most: int) -> int:
    """Deletes the rows that were resolved first, with the record of what was done with them; returns how many."""
    return await PRUNE.execute(connection, older_than=older_than, at_most=at_most)


class _Applied(BaseModel):
    id: int
    received_at: datetime


class _Parking(BaseModel):
    parking: str
