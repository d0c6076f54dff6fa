"""What people did with parked messages: the table, then its queries. A row is an act on one message.

It is written in the transaction of the act itself, and is kept for as long as the message is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query

parked_act = Table(
    "parked_act",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("who", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column(
        "parked_message_id",
        BigInteger,
        ForeignKey("parked_message.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("how_many", Integer, nullable=False),
    Column("note", Text),
    Column("body_before", LargeBinary),
)


class Act(StrEnum):
    """What was done."""

    REPLAY = "replay"
    EDIT = "edit"
    DROP = "drop"


class ParkedAct(BaseModel):
    """A row: who did what, when, why, and with how many messages at once."""

    at: datetime
    who: str
    act: Act
    how_many: int
    note: str | None
    body_before: bytes | None
    """What an edit has replaced."""


_row = parked_act.c
_ids = func.unnest(bindparam("ids", type_=ARRAY(BigInteger))).table_valued("id", name="message").render_derived()

RECORD = Query(
    insert(parked_act).from_select(
        ["who", "act", "how_many", "note", "body_before", "parked_message_id"],
        select(
            *(cast(bindparam(name), _row[name].type) for name in ("who", "act", "how_many", "note", "body_before")),
            _ids.c.id,
        ),
    )
)
OF_MESSAGE = Query(select(parked_act).where(_row.parked_message_id == bindparam("parked_id")).order_by(_row.id))


async def record(
    connection: Connection,
    ids: Sequence[int],
    act: Act,
    *,
    who: str,
    how_many: int,
    note: str | None = None,
    body_before: bytes | None = None,
) -> None:
    """Writes down an act on each of these messages.

    Params:
        how_many: messages that the act was about in all, in however many transactions.
    """
    await RECORD.execute(
        connection, ids=list(ids), act=act.value, who=who, how_many=how_many, note=note, body_before=body_before
    )


async def of_message(connection: Connection, parked_id: int) -> list[ParkedAct]:
    """All that was done with a message, in its order."""
    return await OF_MESSAGE.all(connection, ParkedAct, parked_id=parked_id)
