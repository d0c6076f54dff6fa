"""`cron runs` and `cron show`: rows of the book."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from commands.command import database, failure, print_json, show, show_fields, show_text
from commands.cron.jobs import zone_of
from commands.cron.times import local, read_since, read_time, took, utc
from db import cron_history
from db.cron_runs import CronRun, RunStatus, Trigger
from db.pool import connection
from roles.schedule.declarations import Job
from schema.settings import Settings

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = ("run", "due", "status", "took", "attempts", "trigger", "host", "reason")


async def list_runs(
    settings: Settings,
    *,
    name: str,
    statuses: Sequence[RunStatus],
    since: str | None,
    limit: int,
    jobs: Sequence[Job],
    now: datetime,
    as_json: bool,
) -> int:
    """Prints the newest rows of a job that have one of these statuses."""
    async with database(settings), connection() as conn:
        zone = await zone_of(conn, name, jobs)
        start = BEGINNING if since is None else read_since(since, zone, now)
        found = await cron_history.runs(conn, name, statuses=statuses, since=start, limit=limit)
    if as_json:
        print_json([summary(run) for run in found])
        return 0
    rows = [_line(run, zone) for run in found]
    show(rows, columns=COLUMNS, as_json=False, empty=f"the book has no such run of {name}")
    return 0


async def show_run(settings: Settings, *, run: str, jobs: Sequence[Job], as_json: bool) -> int:
    """Prints all that the book has of a run, the traceback included."""
    name, _, time = run.rpartition("@")
    if not name:
        raise failure(f"{run!r} names no run: JOB@TIME is what `cron runs JOB` prints", 2)
    async with database(settings), connection() as conn:
        zone = await zone_of(conn, name, jobs)
        readings = read_time(time, zone)
        found = [row for reading in readings for row in await cron_history.at(conn, name, reading.at)]
    if not found:
        raise failure(f"the book has no run {run} (`python app.py cron why {name} {time}` may know more)", 1)
    if len(found) > 1:
        raise failure(f"{run} can be any of {', '.join(map(reference, found))}", 2)
    if as_json:
        print_json(details(found[0]))
    else:
        print_run(found[0], zone)
    return 0


def print_run(run: CronRun, zone: tzinfo) -> None:
    """Prints a run for people, its traceback at the end."""
    lines = {
        "run": reference(run),
        "due": _due(run, zone) if run.trigger is Trigger.SCHEDULE else None,
        "trigger": _trigger(run),
        "status": run.status.value,
        "started": run.started_at and local(run.started_at, zone),
        "ended": run.finished_at and local(run.finished_at, zone),
        "took": took(run.seconds),
        "attempts": run.attempts,
        "host": run.host,
        "progress": run.progress,
        "lease until": run.lease_expires_at and local(run.lease_expires_at, zone),
        "taken over": f"{run.fence} times" if run.fence else None,
    }
    show_fields(lines)
    if run.error is not None:
        show_text(f"\n{run.error}")


def summary(run: CronRun) -> dict[str, Any]:
    """A run in JSON, without its traceback."""
    return {
        "run": reference(run),
        "job": run.job,
        "scheduled_at": run.scheduled_at,
        "through": run.through,
        "trigger": run.trigger.value,
        "triggered_by": run.triggered_by,
        "status": run.status.value,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "seconds": run.seconds,
        "attempts": run.attempts,
        "reason": run.reason,
        "progress": run.progress,
        "host": run.host,
    }


def details(run: CronRun) -> dict[str, Any]:
    """A run in JSON, whole."""
    return {**summary(run), "error": run.error, "lease_expires_at": run.lease_expires_at, "fence": run.fence}


def reference(run: CronRun) -> str:
    """`nightly@2025-10-26T00:30:00Z`, for `cron show`."""
    return f"{run.job}@{utc(run.scheduled_at)}"


def _line(run: CronRun, zone: tzinfo) -> dict[str, Any]:
    return {
        "run": reference(run),
        "due": _due(run, zone),
        "status": run.status.value,
        "took": took(run.seconds),
        "attempts": run.attempts,
        "trigger": _trigger(run),
        "host": run.host,
        "reason": run.reason or run.progress,
    }


def _due(run: CronRun, zone: tzinfo) -> list[str]:
    """When it was due; of a row that stands for many ticks, the first and the last."""
    return [local(run.scheduled_at, zone), *([f"to {local(run.through, zone)}"] if run.through else [])]


def _trigger(run: CronRun) -> list[str]:
    return [run.trigger.value, *([run.triggered_by] if run.triggered_by else [])]
