"""`cron list`: each job with what comes next, what came last, and how it went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any, Final

from commands.command import database, print_json, show
from commands.cron.runs import summary
from commands.cron.times import END, local, note, read_since, took, utc
from db import cron_history, cron_pauses
from db.cron_history import Figures
from db.cron_pauses import CronPause
from db.cron_runs import CronRun, Trigger
from db.pool import connection
from roles.schedule.declarations import Job
from schema.settings import Settings

NEXT: Final = 5
"""How many of the next ticks are shown."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a job."""

    job: Job
    upcoming: list[datetime]
    since: datetime
    """When the figures begin."""
    figures: Figures | None
    latest: CronRun | None
    pause: CronPause | None


async def list_jobs(settings: Settings, *, since: str, jobs: Sequence[Job], now: datetime, as_json: bool) -> int:
    """Prints the jobs with their next ticks, their latest row in the book, and the sums over its rows since then."""
    start = read_since(since, UTC, now)
    names = [job.name for job in jobs]
    async with database(settings), connection() as conn:
        figures = await cron_history.figures(conn, names, since=start)
        latest = await cron_history.latest(conn, names)
        pauses = await cron_pauses.all_paused(conn)
    entries = [
        Entry(
            job=job,
            upcoming=list(islice(job.schedule.missed(now, END), NEXT)),
            since=start,
            figures=figures.get(job.name),
            latest=latest.get(job.name),
            pause=pauses.get(job.name),
        )
        for job in jobs
    ]
    if as_json:
        print_json([_json(entry) for entry in entries])
    else:
        columns = ("job", "next", "in UTC", "latest", f"since {utc(start)}")
        rows = [dict(zip(columns, _cells(entry), strict=True)) for entry in entries]
        show(rows, columns=columns, as_json=False, empty="no job is declared")
    return 0


def _json(entry: Entry) -> dict[str, Any]:
    job, figures = entry.job, entry.figures or Figures(job=entry.job.name)
    return {
        "job": job.name,
        "schedule": str(job.schedule),
        "timezone": str(job.schedule.zone),
        "paused": entry.pause,
        "next": [
            {"at": due, "local": due.astimezone(job.schedule.zone), "note": note(job.schedule, due)}
            for due in entry.upcoming
        ],
        "latest": entry.latest and summary(entry.latest),
        "since": entry.since,
        "finished": figures.finished,
        "failed": figures.failed,
        "missed": figures.missed,
        "skipped": figures.skipped,
        "success_rate": figures.success_rate,
        "mean_seconds": figures.mean_seconds,
        "p95_seconds": figures.p95_seconds,
    }


def _cells(entry: Entry) -> Iterator[list[str]]:
    job, zone = entry.job, entry.job.schedule.zone
    yield [job.name, str(job.schedule), *_pause(entry.pause, zone)]
    yield [local(due, zone) for due in entry.upcoming]
    yield [utc(due) for due in entry.upcoming]
    yield _latest(entry.latest, zone)
    yield _figures(entry.figures)


def _pause(pause: CronPause | None, zone: tzinfo) -> list[str]:
    if pause is None:
        return []
    lines = [f"paused by {pause.paused_by}", local(pause.paused_at, zone)]
    return lines if pause.reason is None else [*lines, pause.reason]


def _latest(run: CronRun | None, zone: tzinfo) -> list[str]:
    if run is None:
        return ["-"]
    status = run.status.value if run.trigger is Trigger.SCHEDULE else f"{run.status.value} ({run.trigger.value})"
    return [status, local(run.scheduled_at, zone), *([run.reason] if run.reason else [])]


def _figures(figures: Figures | None) -> list[str]:
    if figures is None:
        return ["-"]
    lines = [f"{figures.finished} finished, {figures.failed} failed"]
    if figures.success_rate is not None:
        lines.append(f"{figures.success_rate:.1%} succeeded")
    if figures.mean_seconds is not None:
        lines.append(f"{took(figures.mean_seconds)} mean, {took(figures.p95_seconds)} p95")
    if figures.missed or figures.skipped:
        lines.append(f"{figures.missed} missed, {figures.skipped} skipped")
    return lines
