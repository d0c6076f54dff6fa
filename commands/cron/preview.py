"""`cron preview`: when an expression would be due, with the changes of the clocks marked. It needs no database."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import islice

import typer

from commands.command import failure, print_json, show
from commands.cron.times import describe, local, note, read_time, utc
from roles.schedule.clocks import changes, first_moment, wall_time
from roles.schedule.cron import CronSchedule

MOMENT = timedelta(microseconds=1)


def preview(
    expression: str, *, zone: str, start: str | None, now: datetime, days: int, limit: int, as_json: bool
) -> None:
    """Prints when an expression is due from `start` (or `now`) on, for so many days, and at most `limit` times.

    Raises:
        typer.Exit: the expression can never work, or there is no such zone; what is wrong was printed.
    """
    schedule = CronSchedule(expression, zone)
    if findings := list(schedule.findings()):
        raise failure("; ".join(findings), 2)
    here = schedule.zone
    begin = now if start is None else read_time(start, here)[0].at
    end = first_moment(wall_time(begin, here) + timedelta(days=days), here)
    due = list(islice(schedule.missed(begin - MOMENT, end - MOMENT), limit + 1))
    truncated = len(due) > limit
    if truncated:
        end = due.pop()
    notes = [note(schedule, each) for each in due]
    marks = list(changes(begin, end, here))
    if as_json:
        print_json(
            {
                "expression": expression,
                "timezone": zone,
                "from": begin,
                "until": end,
                "truncated": truncated,
                "ticks": [
                    {"at": at, "local": at.astimezone(here), "note": text}
                    for at, text in zip(due, notes, strict=True)
                ],
                "changes": [
                    {
                        "at": change.at,
                        "local_before": change.at.astimezone(timezone(change.before)),
                        "local_after": change.at.astimezone(timezone(change.after)),
                        "note": describe(change),
                    }
                    for change in marks
                ],
            }
        )
        return
    lines = [(change.at, 0, f"-- {describe(change)}") for change in marks]
    lines += [(at, 1, text or "") for at, text in zip(due, notes, strict=True)]
    rows = [{zone: local(at, here), "in UTC": utc(at), "": text} for at, _, text in sorted(lines)]
    show(rows if due else [], columns=(zone, "in UTC", ""), as_json=False, empty=f"not due in {days} days")
    if truncated:
        typer.echo(f"… and more after these {limit} (--limit)")
