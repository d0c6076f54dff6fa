"""Replaying and dropping parked messages.

A few at a time, in one transaction with their record (`db.parked_acts`) and, for a replay, with their rows in the
outbox. So it can be interrupted anywhere: what was done is done and written down, and the rest is as it was. Of two
people who want the same message one gets it. A message that cannot be sent is told, and holds up no other.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter

import anyio
import typer

from commands.command import confirm, database, failure
from commands.parked.selection import Selection, counted
from db import outbox, parked_acts, parked_messages
from db.parked_acts import Act
from db.parked_messages import Found, ParkedMessage, Status
from db.pool import Work, connection, unit_of_work
from roles.consume.parking import to_be_replayed
from schema.rate import parse_rate
from schema.settings import Settings

AT_ONCE = 100
"""Messages in one transaction."""
MAX_BYTES = 4 * 1024 * 1024
"""Of their bodies together, all of which are in memory; one message is taken whatever its size."""

Do = Callable[[Work, Sequence[ParkedMessage]], Awaitable[dict[int, typer.Exit]]]
"""Does it; returns the ids of those messages that it cannot be done with, whose errors were printed."""


async def replay(
    settings: Settings, *, selection: Selection, rate: str | None, note: str | None, by: str, yes: bool
) -> int:
    """Sends messages to their queues once more, through the outbox: with their ids, and a ladder of their own."""
    try:
        pace = None if rate is None else timedelta(seconds=1) / parse_rate(rate).interval
    except ValueError as error:
        raise failure(f"--rate: {error}", 2) from None
    do = partial(_into_outbox, brokers=tuple(settings.amqp))
    done = partial(_do, do, act=Act.REPLAY, status=Status.REPLAYED, by=by, note=note)
    async with database(settings):
        return await _act("Replay", selection, done, pace=pace, yes=yes)


async def drop(settings: Settings, *, selection: Selection, note: str | None, by: str, yes: bool) -> int:
    """Gives messages up. They are kept for `consume.parked_retention`, in case that was wrong."""
    done = partial(_do, _nothing, act=Act.DROP, status=Status.DROPPED, by=by, note=note)
    async with database(settings):
        return await _act("Drop", selection, done, pace=None, yes=yes)


async def _act(
    verb: str,
    selection: Selection,
    done: Callable[..., Awaitable[tuple[int, list[typer.Exit]]]],
    *,
    pace: float | None,
    yes: bool,
) -> int:
    async with connection() as conn:
        found = await selection.find(conn, datetime.now(UTC))
        applied = await parked_messages.applied(conn, [each.id for each in found]) if verb == "Replay" else {}
    if not found:
        typer.echo("no message matches")
        return 0
    known = f" {len(applied)} of them took effect meanwhile, and will be dropped as duplicates." if applied else ""
    confirm(f"{verb} {counted(found)}?{known}", yes=yes)
    at_once = AT_ONCE if pace is None else min(AT_ONCE, math.ceil(pace / 10))
    count = 0
    refused: list[typer.Exit] = []
    try:
        due = anyio.current_time()
        for few in _batches(found, at_once):
            if pace is not None:
                await anyio.sleep(max(0.0, due - anyio.current_time()))
                due = anyio.current_time() + len(few) / pace  # what was held up is not made up for
            successes, failures = await done(few, selection.status, how_many=len(found))
            count += successes
            refused += failures
    finally:
        past = {"Replay": "replayed", "Drop": "dropped"}[verb]
        others = f" of {len(found)}; the others are as they were, or somebody else's by now"
        typer.echo(f"{past} {count}{'' if count == len(found) else others}")
    if refused:
        raise max(refused, key=attrgetter("exit_code"))
    return 0


def _batches(found: Sequence[Found], at_once: int) -> Iterator[list[int]]:
    """Their ids, as many at a time as go into one transaction."""
    batch: list[int] = []
    size = 0
    for each in found:
        if batch and (len(batch) == at_once or size + each.size > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each.id)
        size += each.size
    if batch:
        yield batch


async def _do(
    do: Do,
    these: Sequence[int],
    expected: Status,
    *,
    act: Act,
    status: Status,
    by: str,
    note: str | None,
    how_many: int,
) -> tuple[int, list[typer.Exit]]:
    """Does it with those of the messages that still are what they were; returns how many, and what was refused."""
    async with unit_of_work() as work:
        rows = await parked_messages.lock(work.connection, these, status=expected)
        refused = await do(work, rows)
        ids = [row.id for row in rows if row.id not in refused]
        await parked_messages.resolve(work.connection, ids, status=status, by=by, note=note)
        await parked_acts.record(work.connection, ids, act, who=by, how_many=how_many, note=note)
    return len(ids), list(refused.values())


async def _into_outbox(work: Work, rows: Sequence[ParkedMessage], *, brokers: Sequence[str]) -> dict[int, typer.Exit]:
    refused: dict[int, typer.Exit] = {}
    for row in rows:
        if row.broker not in brokers:
            refused[row.id] = failure(
                f"message {row.id} is for the broker {row.broker!r}, which [amqp.{row.broker}] is to name", 2
            )
            continue
        try:
            properties = to_be_replayed(row)
        except ValueError as error:
            refused[row.id] = failure(f"message {row.id} cannot be sent: {error}", 1)
            continue
        await outbox.add_encoded(
            work.connection,
            broker=row.broker,
            exchange="",
            routing_key=row.queue,
            body=row.body,
            properties=properties.encode(),
            message_id=properties.text("message_id"),
        )
        work.brokers.add(row.broker)
    return refused


async def _nothing(_work: Work, _rows: Sequence[ParkedMessage]) -> dict[int, typer.Exit]:
    """A message that is dropped goes nowhere."""
    return {}
