"""`cron why`: why a job did or did not run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import typer

from commands.command import database, print_json, show_fields
from commands.cron.jobs import declared
from commands.cron.runs import reference, summary
from commands.cron.times import Reading, local, note, read_time
from commands.cron.verdict import Facts, judge
from db import cron_history, cron_pauses, cron_runs
from db.pool import connection
from db.query import Connection
from roles.schedule.declarations import Job
from roles.schedule.policy import Timetable
from schema.settings import Settings


async def explain(
    settings: Settings, *, name: str, time: str, jobs: Sequence[Job], now: datetime, as_json: bool
) -> int:
    """Prints what became of the tick of a job at a time: for each moment, if clocks show that time twice."""
    job = declared(name, jobs)
    table = Timetable(job, job.terms(settings.schedule))
    async with database(settings), connection() as conn:
        found = [
            (reading, await _facts(conn, table, reading.at, now)) for reading in read_time(time, job.schedule.zone)
        ]
    if as_json:
        print_json([_json(reading, facts) for reading, facts in found])
        return 0
    for index, (reading, facts) in enumerate(found):
        if index:
            typer.echo()
        _print(reading, facts)
    return 0


async def _facts(conn: Connection, table: Timetable, at: datetime, now: datetime) -> Facts:
    job = table.job
    last = await cron_runs.last(conn, [job.name])
    return Facts(
        table=table,
        at=at,
        now=now,
        rows=await cron_history.at(conn, job.name, at),
        row=await cron_history.of_tick(conn, job.name, at),
        first=await cron_history.first(conn, job.name),
        last=last.get(job.name),
        pause=await cron_pauses.get(conn, job.name),
        running_since=await cron_history.running_since(conn, job.name, at),
    )


def _json(reading: Reading, facts: Facts) -> dict[str, Any]:
    answer, because = judge(facts)
    zone = facts.job.schedule.zone
    row = facts.row or next(iter(facts.rows), None)
    return {
        "job": facts.job.name,
        "schedule": str(facts.job.schedule),
        "at": facts.at,
        "local": facts.at.astimezone(zone),
        "answer": answer.value,
        "because": because,
        "clocks": _clocks(reading, facts),
        "run": row and summary(row),
        "previous": facts.previous,
        "next": facts.following,
    }


def _print(reading: Reading, facts: Facts) -> None:
    answer, because = judge(facts)
    zone = facts.job.schedule.zone
    row = facts.row or next(iter(facts.rows), None)
    show_fields(
        {
            "job": f"{facts.job.name}: {facts.job.schedule}",
            "at": local(facts.at, zone),
            "answer": answer.value,
            "because": because,
            "clocks": _clocks(reading, facts),
            "run": row and reference(row),
            "tick before": facts.previous and local(facts.previous, zone),
            "tick after": local(facts.following, zone),
        }
    )


def _clocks(reading: Reading, facts: Facts) -> str | None:
    """What a change of the clocks has to do with it."""
    return reading.note or (note(facts.job.schedule, facts.at) if facts.is_due else None)
