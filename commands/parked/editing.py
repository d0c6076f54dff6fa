"""Giving a parked message another body, before it is replayed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import typer
from anyio import to_thread
from pydantic import ValidationError

from commands.command import confirm, database, failure, on_interrupt, show_text
from commands.parked.bodies import as_text, difference
from commands.parked.showing import found
from db import parked_acts, parked_messages
from db.parked_acts import Act
from db.parked_messages import ParkedMessage, Status
from db.pool import unit_of_work
from roles.consume import Consumer
from roles.consume.retry import describe
from schema.settings import Settings


async def edit_message(
    settings: Settings,
    *,
    parked_id: int,
    source: str | None,
    note: str | None,
    by: str,
    yes: bool,
    consumers: Sequence[Consumer[Any]],
) -> int:
    """Stores another body: from a file, from standard input (`-`), or from an editor.

    The consumer's model decides whether it is a body. The one that it replaces is kept with the record of the act.
    """
    async with database(settings):
        row = await found(parked_id)
        if row.status is not Status.OPEN:
            raise failure(f"message {parked_id} is {row.status}, and only an open one can be edited", 1)
        with on_interrupt(lambda *_: None) if source is None else nullcontext():  # Ctrl-C is the editor's, as in vi
            body = await to_thread.run_sync(_new_body, row, source)
        if body == row.body:
            typer.echo("the body is the same: nothing was done")
            return 0
        if problem := _problem(row.queue, body, consumers):
            kept = "" if source is not None else f"; what you wrote is in {_kept(body)}, for --body"
            raise failure(f"the consumer of {row.queue} would not take this body: {problem}{kept}", 1)
        show_text(difference(row.body, body))
        confirm(f"Store this as the body of message {parked_id}?", yes=yes)
        async with unit_of_work() as work:
            locked = await parked_messages.lock(work.connection, [parked_id], status=Status.OPEN)
            if [each.body for each in locked] != [row.body]:
                raise failure(f"message {parked_id} was changed by somebody else meanwhile: nothing was done", 1)
            await parked_messages.change_body(work.connection, parked_id, body, note=note)
            await parked_acts.record(
                work.connection, [parked_id], Act.EDIT, who=by, how_many=1, note=note, body_before=row.body
            )
    typer.echo(f"message {parked_id} has another body now: parked rehearse {parked_id}, parked replay {parked_id}")
    return 0


def _problem(queue: str, body: bytes, consumers: Sequence[Consumer[Any]]) -> str | None:
    consumer = next((each for each in consumers if each.queue == queue), None)
    if consumer is None:
        typer.echo(f"no consumer of this program has the queue {queue}: the body is not checked", err=True)
        return None
    try:
        consumer.model().model_validate_json(body)
    except ValidationError as error:
        return describe(error)
    return None


def _new_body(row: ParkedMessage, source: str | None) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if source is not None:
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise failure(f"--body {source}: {error.strerror}", 2) from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise failure("there is no terminal to edit on: give the body with --body FILE, or --body - for a pipe", 2)
    text = as_text(row.body)
    if text is None:
        raise failure("the body is no text: take it with `parked show --raw`, and give another with --body FILE", 1)
    return _edited(text, row.body)


def _edited(text: str, unchanged: bytes) -> bytes:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with TemporaryDirectory(prefix="parked-") as directory:  # an editor may replace the file
        file = Path(directory, "body.json")
        file.write_bytes(text.encode() + b"\n")
        try:
            done = subprocess.run([*shlex.split(editor), file], check=False)  # noqa: S603 - the person's own
        except (OSError, ValueError) as error:  # ValueError: quotes that do not close
            why = error.strerror if isinstance(error, OSError) else error
            raise failure(f"the editor {editor!r} cannot be run ({why}): set EDITOR", 2) from None
        if done.returncode:
            raise failure(f"the editor {editor!r} ended with {done.returncode}: nothing was done", 1)
        try:
            written = file.read_bytes().removesuffix(b"\n")
        except OSError as error:
            raise failure(f"what the editor wrote cannot be read ({error.strerror}): nothing was done", 1) from None
    return unchanged if written == text.encode() else written


def _kept(body: bytes) -> str:
    with NamedTemporaryFile("wb", suffix=".json", prefix="parked-", delete=False) as file:
        file.write(body)
    return file.name
