"""Times as people write and read them: in the zone of a job, with the offset, and with what the clocks do to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from commands.command import failure
from roles.schedule.clocks import DAY, SECOND, Change, changes, first_moment, wall_time
from roles.schedule.cron import CronSchedule, Schedule
from roles.schedule.expression import parse
from schema.duration import format_duration, parse_duration

MINUTE: Final = 60
END: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Later than anything that is asked for."""
YEARS: Final = range(1900, 2501)
FEW: Final = 4
"""Times that are named before the rest is left to an ellipsis."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A moment that a text can mean."""

    at: datetime
    """In UTC."""
    note: str | None = None
    """What makes it special, if it was written without an offset and the clocks are changed around it."""


def local(moment: datetime, zone: tzinfo) -> str:
    """`Sun 2025-10-26 02:30:00+01:00`, to the millisecond."""
    shown = moment.astimezone(zone)
    precision = "milliseconds" if shown.microsecond else "seconds"
    return f"{shown:%a} {shown.isoformat(sep=' ', timespec=precision)}"


def utc(moment: datetime) -> str:
    """`2025-10-26T01:30:00Z`, to the microsecond: it names a run."""
    shown = moment.astimezone(UTC).replace(tzinfo=None)
    return f"{shown.isoformat()}Z"


def read_time(text: str, zone: tzinfo) -> list[Reading]:
    """The moments that an ISO 8601 time can mean: two, if it has no offset and clocks in the zone show it twice.

    Raises:
        typer.Exit: it is no time; what is wrong was printed.
    """
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise failure(f"{text!r} is no time (try '2026-01-31T02:30' or '2026-01-31 02:30:00+01:00')", 2) from None
    if given.year not in YEARS:
        raise failure(f"{text!r} is not within the years {YEARS[0]}-{YEARS[-1]}", 2)
    if given.tzinfo is not None:
        return [Reading(given.astimezone(UTC))]
    first = first_moment(given, zone)
    for change in changes(first - DAY, first + DAY, zone):
        if change.leaves_out(given):
            return [Reading(first, f"{clock(given)} does not come on that day: {describe(change)}")]
        if change.repeats(given):
            second = given.replace(tzinfo=zone, fold=1).astimezone(UTC)
            twice = f"{clock(given)} comes twice on that day: {describe(change)}"
            return [Reading(first, twice), Reading(second, twice)]
    return [Reading(first)]


def read_since(text: str, zone: tzinfo, now: datetime) -> datetime:
    """A time, or a duration such as `7d`: so long ago.

    Raises:
        typer.Exit: it is neither; what is wrong was printed.
    """
    try:
        return now - parse_duration(text)
    except (ValueError, OverflowError):
        return read_time(text, zone)[0].at


def describe(change: Change) -> str:
    """What is done to the clocks."""
    by = format_duration(abs(change.after - change.before))
    where = "forward" if change.after > change.before else "back"
    return f"clocks go {where} by {by}, from {clock(change.shown_before)} to {clock(change.shown_after)}"


def note(schedule: Schedule, due: datetime) -> str | None:
    """What a change of the clocks does to a tick; None if nothing."""
    if not isinstance(schedule, CronSchedule):
        return None
    expression, wall = parse(schedule.expression), wall_time(due, schedule.zone)
    for change in changes(due - DAY, due + DAY, schedule.zone):
        if expression.every_hour:
            if change.repeats(wall) and due >= change.at:
                return f"{clock(wall)} for the second time"
        elif change.repeats(wall):
            return f"the first {clock(wall)} of two; the second is no tick"
        elif change.at == due and (left_out := _left_out(schedule, change)):
            return f"for {', '.join(left_out)}, which {'do' if len(left_out) > 1 else 'does'} not come on that day"
    return None


def clock(wall: datetime) -> str:
    """`02:30`, with seconds if there are any."""
    return wall.isoformat(sep=" ", timespec="seconds" if wall.second else "minutes").partition(" ")[2]


def took(seconds: float | None) -> str | None:
    """`12 ms`, `3.2 s`, `2:05` or `1:02:05`."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


def _left_out(schedule: CronSchedule, change: Change) -> list[str]:
    """The times of a schedule that the clocks are put forward over: the first few."""
    expression = parse(schedule.expression)
    found: list[str] = []
    wall = expression.following(change.shown_before - SECOND)
    while change.leaves_out(wall) and len(found) < FEW:
        found.append(clock(wall))
        wall = expression.following(wall)
    return [*found, "…"] if change.leaves_out(wall) else found
