"""Suspects: messages that may be what killed a process. The table, then its queries.

A message that was delivered before may be the one whose handler kills the process. It is handled behind a mark: a
row that is committed before its handler runs, and gone when the handler has ended. A mark whose process has fallen
silent tells of a death, and which message was being handled then (`roles.consume.quarantine` has the reasoning).

```
           the process dies            somebody lives without it
RUNNING ─────────────────────▶ ACCUSED ─────▶ CONTROL ─────▶ KNOWN, and one death more
   ▲                             ▲               │
   │                             └── dies, and handled another suspect ──┤
   │                                                                     │
   └───────────────── handled again ◀──── KNOWN ◀── dies of something else
```
Times are the database's, so that replicas with skewed clocks agree on who is silent.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    Interval,
    Table,
    Text,
    Uuid,
    bindparam,
    case,
    delete,
    func,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db.inbox import storable
from db.metadata import metadata
from db.query import Connection, Query

suspect = Table(
    "suspect",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("message_id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("process", Uuid),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False),
    Column("lived", Interval),
    Column("deaths", Integer, nullable=False, server_default=text("0")),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.01},
)


class State(StrEnum):
    """Where a suspect is."""

    RUNNING = "running"
    """`process` handles it, and no other message, at the moment; or did so when it died."""
    ACCUSED = "accused"
    """A process died with it. Whether because of it is to be found out."""
    CONTROL = "control"
    """`process` holds it back, to see whether it lives without it."""
    KNOWN = "known"
    """Nobody has it. It stays because of its deaths, or because a control showed that it is not to blame."""


class Suspect(BaseModel):
    """A row. `process` is who has it, `lived` how long the process had lived that died with it, at the longest."""

    state: State
    process: UUID | None
    lived: timedelta | None
    deaths: int


class Key(NamedTuple):
    """Which message: the queue, and its id or what stands for it."""

    queue: str
    message_id: str


def key(queue: str, message_id: bytes | None, body: bytes) -> Key:
    """The identity of a message. Those without an id are known by their body, and twins taken for one."""
    return Key(queue, storable(message_id) if message_id else f"sha256:{sha256(body).hexdigest()}")


_this = (suspect.c.queue == bindparam("queue_"), suspect.c.message_id == bindparam("message_id_"))
_now = func.now()
_started_at = _now - bindparam("age", type_=Interval)
_mine = suspect.c.process == bindparam("process_", type_=Uuid)

MARK = Query(
    insert(suspect)
    .values(
        queue=bindparam("queue_"),
        message_id=bindparam("message_id_"),
        state=State.RUNNING.value,
        process=bindparam("process_", type_=Uuid),
        started_at=_started_at,
        seen_at=_now,
    )
    .on_conflict_do_update(
        index_elements=[suspect.c.queue, suspect.c.message_id],
        set_={
            "state": State.RUNNING.value,
            "process": bindparam("process_", type_=Uuid),
            "started_at": _started_at,
            "seen_at": _now,
        },
        where=suspect.c.state == State.KNOWN.value,
    )
    .returning(suspect.c.deaths)
)
GET = Query(select(suspect.c.state, suspect.c.process, suspect.c.lived, suspect.c.deaths).where(*_this))
SEEN = Query(update(suspect).where(_mine).values(seen_at=_now))
_silent = (
    select(
        suspect.c.process,
        func.bool_or(suspect.c.state == State.RUNNING.value).label("explained"),
        (func.max(suspect.c.seen_at) - func.min(suspect.c.started_at)).label("lived"),
    )
    .where(
        suspect.c.process != bindparam("process_", type_=Uuid),
        suspect.c.process.is_not(None),
    )
    .group_by(suspect.c.process)
    .having(func.max(suspect.c.seen_at) < _now - bindparam("lease", type_=Interval))
    .cte("silent")
)
BURY = Query(
    update(suspect)
    .where(suspect.c.process == _silent.c.process)
    .values(
        process=null(),
        state=case(
            (suspect.c.state == State.RUNNING.value, State.ACCUSED.value),
            (_silent.c.explained, State.ACCUSED.value),
            else_=State.KNOWN.value,
        ),
        lived=case(
            (suspect.c.state == State.RUNNING.value, func.greatest(suspect.c.lived, _silent.c.lived)),
            else_=suspect.c.lived,
        ),
    )
)
CONTROL = Query(
    update(suspect)
    .where(*_this, suspect.c.state == State.ACCUSED.value)
    .values(
        state=State.CONTROL.value,
        process=bindparam("process_", type_=Uuid),
        started_at=_started_at,
        seen_at=_now,
    )
    .returning(suspect.c.lived)
)
COUNT = Query(
    update(suspect)
    .where(*_this, _mine, suspect.c.state == State.CONTROL.value)
    .values(state=State.KNOWN.value, process=null(), deaths=suspect.c.deaths + 1)
    .returning(suspect.c.deaths)
)
RELEASE = Query(
    update(suspect)
    .where(*_this, _mine)
    .values(
        state=case((suspect.c.state == State.CONTROL.value, State.ACCUSED.value), else_=State.KNOWN.value),
        process=null(),
    )
)
FORGET = Query(
    delete(suspect).where(*_this, or_(_mine, suspect.c.process.is_(None), suspect.c.state == State.CONTROL.value))
)
PRUNE = Query(delete(suspect).where(suspect.c.seen_at < _now - bindparam("age", type_=Interval)))


async def mark(connection: Connection, key: Key, *, process: UUID, age: timedelta) -> int | None:
    """Marks the message as being handled by `process`, which has lived for `age`.

    Returns:
        The deaths that were counted against it, or None if it is not free to be handled: see `get`.
    """
    deaths: int | None = await MARK.scalar(connection, **_parameters(key), process_=process, age=age)
    return deaths


async def get(connection: Connection, key: Key) -> Suspect | None:
    """The row of a message, or None if there is none."""
    return await GET.one(connection, Suspect, **_parameters(key))


async def seen(connection: Connection, process: UUID) -> None:
    """A sign of life: the process and its suspects are there."""
    await SEEN.execute(connection, process_=process)


async def bury(connection: Connection, *, process: UUID, lease: timedelta) -> None:
    """Draws the conclusions from the silence of others: those that were not seen for `lease` are dead.

    What one handled is accused. What one held back stays accused if there is a suspect that explains the death;
    else something is about that kills without it, and its accusation is dropped.
    """
    await BURY.execute(connection, process_=process, lease=lease)


async def control(connection: Connection, key: Key, *, process: UUID, age: timedelta) -> timedelta | None:
    """Has `process` hold an accused message back; None if it is not accused, or another one has it.

    Returns:
        How long the process had lived that died with it.
    """
    lived: timedelta | None = await CONTROL.scalar(connection, **_parameters(key), process_=process, age=age)
    return lived


async def count(connection: Connection, key: Key, *, process: UUID) -> int | None:
    """Counts a death after a control that was survived.

    Returns:
        All deaths of the message, or None if it is not in the control of `process` any more.
    """
    deaths: int | None = await COUNT.scalar(connection, **_parameters(key), process_=process)
    return deaths


async def release(connection: Connection, key: Key, *, process: UUID) -> None:
    """Lets go of a message without a verdict: what it was accused of, and its deaths, stay."""
    await RELEASE.execute(connection, **_parameters(key), process_=process)


async def forget(connection: Connection, key: Key, *, process: UUID) -> None:
    """The message has ended in the hands of `process`: it is no suspect any more, unless another one handles it."""
    await FORGET.execute(connection, **_parameters(key), process_=process)


async def prune(connection: Connection, *, age: timedelta) -> int:
    """Deletes rows of messages that nobody has seen for `age`, and returns how many."""
    return await PRUNE.execute(connection, age=age)


def _parameters(key: Key) -> dict[str, Any]:
    return {"queue_": key.queue, "message_id_": key.message_id}
