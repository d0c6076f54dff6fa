"""`cron pause` and `cron resume`: jobs that no replica runs until somebody says so."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from commands.command import database, failure, print_json, who
from commands.cron.jobs import declared, zone_of
from commands.cron.times import local
from db import cron_pauses
from db.pool import unit_of_work
from roles.schedule.declarations import Job
from schema.settings import Settings


async def pause(settings: Settings, *, name: str, reason: str | None, jobs: Sequence[Job], as_json: bool) -> int:
    """Pauses a job. One that is paused already stays so as it was."""
    zone = declared(name, jobs).schedule.zone
    async with database(settings), unit_of_work() as work:
        made = await cron_pauses.pause(work.connection, name, paused_by=who(), reason=reason)
        paused = made or await cron_pauses.get(work.connection, name)
    if paused is None:
        raise failure(f"{name} was resumed by somebody at this very moment: nothing was done", 1)
    if as_json:
        print_json(paused)
    elif made is None:
        since = f"since {local(paused.paused_at, zone)} by {paused.paused_by}"
        typer.echo(f"{name} is paused already, {since}: {paused.reason or 'no reason was given'}")
    else:
        typer.echo(f"{name} is paused: its ticks are skipped until `python app.py cron resume {name}`")
    return 0


async def resume(settings: Settings, *, name: str, jobs: Sequence[Job], as_json: bool) -> int:
    """Lets a job run again, if it is paused."""
    async with database(settings), unit_of_work() as work:
        zone = await zone_of(work.connection, name, jobs)
        ended = await cron_pauses.resume(work.connection, name)
    if as_json:
        print_json(ended)
    elif ended is None:
        typer.echo(f"{name} is not paused")
    else:
        typer.echo(f"{name} runs again; it was paused since {local(ended.paused_at, zone)} by {ended.paused_by}")
    return 0
