"""Listing parked messages, and showing one with all that is known of it."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from commands.command import database, failure, print_json, show, show_fields, show_text
from commands.parked.bodies import readable
from commands.parked.selection import Selection
from db import parked_acts, parked_messages
from db.parked_acts import ParkedAct
from db.parked_messages import ParkedMessage, ParkedSummary, Status
from db.pool import connection
from roles.amqp import Properties
from roles.amqp.properties import MalformedProperties
from roles.amqp.values import readable_headers, readable_properties
from schema.settings import Settings

_COLUMNS = ("id", "parked_at", "queue", "message_id", "attempts", "size", "status", "error")


async def list_messages(settings: Settings, *, selection: Selection, as_json: bool) -> int:
    """The newest first."""
    which = selection.filter(datetime.now(UTC))
    async with database(settings), connection() as conn:
        rows = await parked_messages.newest(conn, which, limit=selection.limit)
        count = await parked_messages.count(conn, which)
    show([row.model_dump() for row in rows], columns=_COLUMNS, as_json=as_json, empty="no message matches")
    if not as_json and count > len(rows):
        typer.echo(f"… and {count - len(rows)} more (--limit, or filters)")
    return 0


async def show_message(settings: Settings, *, parked_id: int, as_json: bool, raw: bool) -> int:
    """One message: where it is from, why it is here, what was done with it, what it would come to, and its body."""
    async with database(settings), connection() as conn:
        row = await found(parked_id)
        applied = (await parked_messages.applied(conn, [parked_id])).get(parked_id)
        acts = await parked_acts.of_message(conn, parked_id)
        others = await parked_messages.same_message(conn, row)
    if raw:
        _write(row.body)
    elif as_json:
        print_json(_document(row, applied, acts, others))
    else:
        _show(row, applied, acts, others, settings)
    return 0


async def found(parked_id: int) -> ParkedMessage:
    """The row of this id.

    Raises:
        typer.Exit: there is none.
    """
    async with connection() as conn:
        row = await parked_messages.get(conn, parked_id)
    if row is None:
        raise failure(f"there is no message {parked_id}", 1)
    return row


def _write(body: bytes) -> None:
    if sys.stdout.isatty() and not body.decode(errors="replace").replace("\n", "").isprintable():
        raise failure("the body has bytes that a terminal would act on: send it to a file or a pipe", 2)
    sys.stdout.buffer.write(body)
    sys.stdout.flush()


def _document(
    row: ParkedMessage, applied: datetime | None, acts: Sequence[ParkedAct], others: Sequence[ParkedSummary]
) -> dict[str, Any]:
    properties, headers = _decoded(row)
    try:
        body = row.body.decode()
    except UnicodeDecodeError:
        body = None
    return {
        **row.model_dump(exclude={"body", "properties", "parking"}),
        "properties": properties,
        "headers": headers,
        "applied_at": applied,
        "acts": [
            {**act.model_dump(exclude={"body_before"}), "body_before_base64": _base64(act.body_before)}
            for act in acts
        ],
        "others": [other.model_dump() for other in others],
        "body": body,
        "body_base64": _base64(row.body),
    }


def _show(
    row: ParkedMessage,
    applied: datetime | None,
    acts: Sequence[ParkedAct],
    others: Sequence[ParkedSummary],
    settings: Settings,
) -> None:
    properties, headers = _decoded(row)
    fields: dict[str, object] = {
        "id": row.id,
        "status": row.status,
        "queue": f"{row.queue} (broker {row.broker})",
        "message id": row.message_id or "none: nothing tells a second delivery of it from the first",
        "parked at": row.parked_at,
        "attempts": row.attempts,
        "error": row.error,
        "note": row.note,
        "resolved at": row.resolved_at,
        "resolved by": row.resolved_by,
        "in the inbox": _in_the_inbox(row, applied, settings),
    }
    fields |= {f"property {name}": value for name, value in properties.items() if name != "message_id"}
    fields |= {f"header {name}": "(none)" if value is None else value for name, value in headers.items()}
    for act in acts:
        several = f", with {act.how_many - 1} others" if act.how_many > 1 else ""
        note = f": {act.note}" if act.note else ""
        when = act.at.isoformat(sep=" ", timespec="seconds")
        fields[f"{act.act} {when}"] = f"by {act.who}{several}{note}"
    if others:
        fields["also parked as"] = ", ".join(f"{other.id} ({other.status})" for other in others)
    show_fields(fields)
    typer.echo(f"\nbody, {len(row.body)} bytes:")
    show_text(readable(row.body))


def _in_the_inbox(row: ParkedMessage, applied: datetime | None, settings: Settings) -> str | None:
    if row.message_id is None:
        return None
    if applied is not None:
        when = applied.isoformat(sep=" ", timespec="seconds")
        if row.status is Status.OPEN:
            return f"it took effect all the same, on {when}: a replay would be dropped as a duplicate"
        return f"it took effect on {when}"
    age = datetime.now(UTC) - row.parked_at
    forgotten = " as far as is remembered (consume.inbox_retention)" if age > settings.consume.inbox_retention else ""
    return f"it has not taken effect{forgotten}"


def _decoded(row: ParkedMessage) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    properties = Properties.decode(row.properties)
    try:
        headers = readable_headers(properties)
    except MalformedProperties as error:
        headers = {"(malformed)": str(error)}
    return readable_properties(properties), headers


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()
