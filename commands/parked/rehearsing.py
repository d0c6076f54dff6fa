"""Running a consumer's handler on a parked message, in a transaction that is rolled back whatever happens."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import Any

import typer
from psycopg.errors import InvalidSavepointSpecification, NoActiveSqlTransaction
from psycopg.pq import TransactionStatus

from clients import open_clients
from commands.command import database, failure, print_json, show_fields, show_text
from commands.parked.showing import found
from db import parked_messages
from db.pool import DatabaseUnavailable, Work, connection, unit_of_work
from roles.consume import Consumer
from roles.consume.attempt import Attempt, Undecodable
from roles.consume.retry import describe
from schema.duration import parse_duration
from schema.settings import Settings
from schema.topic import Message, Topic

_TOUCHED = b"""
    SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables
    WHERE n_tup_ins + n_tup_upd + n_tup_del > 0 AND relname <> 'outbox' ORDER BY relname
"""
_BEGUN = b"SAVEPOINT rolecall_rehearsal"
_UNDO = b"ROLLBACK TO SAVEPOINT rolecall_rehearsal"
"""It fails in any other transaction than the one that the savepoint is of."""


@dataclass(frozen=True, slots=True)
class RehearsedWork(Work):
    """A unit of work that remembers what it would have published."""

    published: list[dict[str, object]] = field(default_factory=list)

    async def publish(
        self,
        topic: Topic[Message],
        message: Message,
        *,
        delay: timedelta | str | None = None,
        headers: Mapping[str, str | int] | None = None,
    ) -> str:
        """As `Work.publish`."""
        message_id = await Work.publish(self, topic, message, delay=delay, headers=headers)
        shown: dict[str, object] = {
            "topic": topic.name,
            "message": json.loads(message.model_dump_json(by_alias=True)),
        }
        if delay is not None:
            shown["delay"] = str(delay)
        if headers:
            shown["headers"] = dict(headers)
        self.published.append(shown)
        return message_id


@dataclass(slots=True)
class Outcome:
    """What happened: `error` is None if the handler has succeeded."""

    seconds: float = 0.0
    error: str | None = None
    trace: str | None = None
    rows: dict[str, str] = field(default_factory=dict)
    published: list[dict[str, object]] = field(default_factory=list)


class _RollBack(Exception):
    """Ends the transaction of a rehearsal."""


async def rehearse(settings: Settings, *, parked_id: int, consumers: Sequence[Consumer[Any]], as_json: bool) -> int:
    """Tells what a replay would do. Exit code 1: it would fail."""
    async with database(settings), open_clients(settings.clients):
        row = await found(parked_id)
        consumer = next((each for each in consumers if each.queue == row.queue), None)
        if consumer is None:
            raise failure(f"no consumer of this program has the queue {row.queue}", 1)
        if not consumer.transaction:
            raise failure(
                f"the consumer of {row.queue} has transaction=False: what its handler does outside its unit of work "
                "cannot be rolled back, so it cannot be rehearsed",
                1,
            )
        limit = parse_duration(settings.consume.handler_timeout if consumer.timeout is None else consumer.timeout)
        outcome = await _rehearsed(consumer, row.body, limit)
        async with connection() as conn:
            applied = (await parked_messages.applied(conn, [parked_id])).get(parked_id)
    if as_json:
        print_json({"id": parked_id, "queue": row.queue, "applied_at": applied, **_fields(outcome)})
    else:
        _show(parked_id, outcome, taken=applied is not None)
    return 0 if outcome.error is None else 1


async def _rehearsed(consumer: Consumer[Any], body: bytes, limit: timedelta) -> Outcome:
    attempt = Attempt(consumer, limit)
    outcome = Outcome()
    try:
        message = attempt.decode(body)
    except Undecodable as error:
        return Outcome(error=str(error))
    try:
        async with unit_of_work() as work:
            await work.connection.execute(_BEGUN)
            rehearsed = RehearsedWork(work.connection)
            began = perf_counter()
            try:
                with redirect_stdout(sys.stderr):  # standard output is for what is told of it
                    attempt.key_of(message)
                    await attempt.handle(consumer.alone(message), rehearsed)
                await work.connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")  # or they would fail at a commit
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is what is wanted here
                outcome.error = describe(error)
                outcome.trace = "".join(traceback.format_exception(error))
            outcome.seconds = perf_counter() - began
            outcome.published = rehearsed.published
            state = work.connection.pgconn.transaction_status
            if state == TransactionStatus.INTRANS:
                outcome.rows = await _touched(work)
            if state not in (TransactionStatus.UNKNOWN, TransactionStatus.ACTIVE):
                await _check_begun(work, outcome)
            raise _RollBack
    except _RollBack:
        return outcome
    except DatabaseUnavailable as error:
        if not isinstance(error.__cause__, _RollBack):
            raise
        outcome.error = outcome.error or "the connection of its transaction is gone"
        return outcome


async def _check_begun(work: Work, outcome: Outcome) -> None:
    """Has the transaction that was begun for the handler undo all, if it is still that one.

    Raises:
        typer.Exit: the handler has ended it, and may have begun another.
    """
    try:
        await work.connection.execute(_UNDO)
    except (NoActiveSqlTransaction, InvalidSavepointSpecification):
        failed = "" if outcome.error is None else f". It then failed with {outcome.error}"
        raise failure(
            f"the handler has ended the transaction by itself: what it did may be there to stay{failed}", 1
        ) from None


async def _touched(work: Work) -> dict[str, str]:
    """What was done to each table."""
    rows = await (await work.connection.execute(_TOUCHED)).fetchall()
    words = ("inserted", "updated", "deleted")
    return {
        table: ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True) if count)
        for table, *counts in rows
    }


def _fields(outcome: Outcome) -> dict[str, object]:
    return {
        "result": "handled" if outcome.error is None else "failed",
        "error": outcome.error,
        "seconds": round(outcome.seconds, 3),
        "rows": outcome.rows,
        "published": outcome.published,
        "traceback": outcome.trace,
    }


def _line(published: Mapping[str, object]) -> str:
    rest = [f"{name} {published[name]}" for name in ("delay", "headers") if name in published]
    return " ".join([str(published["topic"]), json.dumps(published["message"]), *rest])


def _show(parked_id: int, outcome: Outcome, *, taken: bool) -> None:
    fields = _fields(outcome)
    trace = fields.pop("traceback")
    fields["rows"] = [f"{table}: {what}" for table, what in outcome.rows.items()] or None
    fields["published"] = [_line(each) for each in outcome.published] or None
    show_fields(fields)
    if trace is not None:
        show_text(f"\n{trace}")
    if taken:
        typer.echo("It has taken effect already: a replay would be dropped as a duplicate.")
    typer.echo(
        f"Message {parked_id} is where it was, and nothing was stored or published. What the handler did outside the "
        "database was real."
    )
