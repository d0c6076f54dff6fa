"""The jobs that a verb is about, by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, tzinfo

import typer

from commands.command import failure
from db import cron_history, cron_pauses
from db.query import Connection
from roles.schedule.declarations import Job
from schema.meant import meant


def declared(name: str, jobs: Sequence[Job]) -> Job:
    """The job of this name.

    Raises:
        typer.Exit: there is none; the nearest name was printed.
    """
    for job in jobs:
        if job.name == name:
            return job
    raise _unknown(name, jobs)


async def zone_of(connection: Connection, name: str, jobs: Sequence[Job]) -> tzinfo:
    """The zone of a job that is declared; UTC for one that no longer is, and has left something in the database.

    Raises:
        typer.Exit: there is no such job, and there never was; the nearest name was printed.
    """
    for job in jobs:
        if job.name == name:
            return job.schedule.zone
    if await cron_history.latest(connection, [name]) or await cron_pauses.get(connection, name):
        return UTC
    raise _unknown(name, jobs)


def _unknown(name: str, jobs: Sequence[Job]) -> typer.Exit:
    hint = meant(name, [job.name for job in jobs], otherwise="`python app.py cron list` names them all")
    return failure(f"there is no job {name!r}: {hint}", 2)
