"""When a cron expression is due, by brute force: a walk through every moment, with no use of croniter or of ours.

It reads fewer expressions than we do (numbers, `*`, lists, ranges and steps), and only within a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))

Moments = list[tuple[datetime, datetime]]
"""Each moment in UTC with the wall-clock time that it has in a zone."""


def moments(zone: str, start: datetime, end: datetime, step: timedelta = timedelta(minutes=1)) -> Moments:
    """Every moment from `start` to before `end`."""
    count = (end - start) // step
    info = ZoneInfo(zone)
    utc = (start + index * step for index in range(count))
    return [(moment, moment.astimezone(info).replace(tzinfo=None)) for moment in utc]


def due(expression: str, window: Moments) -> list[datetime]:
    """When it is due within the window; the window must begin and end away from a change of the clocks."""
    columns = expression.split()
    fields = [set(_values(column, *bounds)) for column, bounds in zip(["0", *columns][-6:], RANGES, strict=True)]
    if len(fields[2]) == 24:
        return [moment for moment, wall in window if _matches(fields, wall)]
    return sorted(set(_times_of_day(fields, window)))


def _times_of_day(fields: list[set[int]], window: Moments) -> Iterator[datetime]:
    step = window[1][0] - window[0][0]
    shown = set()
    previous = window[0][1] - step
    for moment, wall in window:
        skipped = previous + step
        while skipped < wall:  # the clock was put forward over these
            if _matches(fields, skipped) and skipped not in shown:
                yield moment
            shown.add(skipped)
            skipped += step
        if _matches(fields, wall) and wall not in shown:
            yield moment
        shown.add(wall)
        previous = wall


def _matches(fields: list[set[int]], wall: datetime) -> bool:
    seconds, minutes, hours, days, months, weekdays = fields
    if wall.second not in seconds or wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
        return False
    fits = (wall.day in days, wall.isoweekday() % 7 in weekdays)
    return any(fits) if len(days) < 31 and len(weekdays) < 7 else all(fits)


def _values(column: str, low: int, high: int) -> Iterator[int]:
    for part in column.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = low if span == "*" else int(first)
        end = high if span == "*" or (step and not last) else int(last or first)
        yield from range(begin, end + 1, int(step or 1))


def changes(zone: str, first_year: int, last_year: int) -> list[datetime]:
    """The days (in UTC) on which the zone's clocks are changed."""
    days = moments(
        zone, datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year + 1, 1, 1, tzinfo=UTC), timedelta(1)
    )
    offsets = [(moment, wall - moment.replace(tzinfo=None)) for moment, wall in days]
    return [moment for (moment, offset), (_, later) in pairwise(offsets) if offset != later]
