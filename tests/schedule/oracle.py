"""When a cron expression is due, by brute force: a walk through every moment, with no use of croniter or of ours.

It reads fewer expressions than we do (numbers, `*`, lists, ranges and steps), and only within a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))

Moments = list[tuple[datetime, datetime]]
"""Moments in UTC, each with a wall-clock time of a zone."""


@dataclass(frozen=True)
class Window:
    """A stretch of time in a zone, at every `step`; it must begin and end away from a change of the clocks."""

    shown: Moments
    """What the clocks show at each moment."""
    firsts: Moments
    """Each time of the day, with the moment when it was first shown or, if it was left out, first was over."""

    @property
    def start(self) -> datetime:
        return self.shown[0][0]

    @property
    def end(self) -> datetime:
        return self.shown[-1][0]


def window(zone: str, start: datetime, end: datetime, step: timedelta = MINUTE) -> Window:
    """From `start` to before `end`. The clocks may be changed at whole steps only."""
    shown = moments(zone, start, end, step)
    return Window(shown, list(_firsts(shown, step)))


def moments(zone: str, start: datetime, end: datetime, step: timedelta) -> Moments:
    """Every moment from `start` to before `end`."""
    info = ZoneInfo(zone)
    utc = (start + index * step for index in range((end - start) // step))
    return [(moment, moment.astimezone(info).replace(tzinfo=None)) for moment in utc]


def due(expression: str, window: Window) -> list[datetime]:
    """When it is due within the window."""
    columns = expression.split()
    fields = [set(_values(column, *bounds)) for column, bounds in zip(["0", *columns][-6:], RANGES, strict=True)]
    if len(fields[2]) == 24:
        return [moment for moment, wall in window.shown if _matches(fields, wall)]
    return sorted({moment for moment, wall in window.firsts if _matches(fields, wall)})


def changes(zone: str, first_year: int, last_year: int) -> list[datetime]:
    """The days (in UTC) on which the zone's clocks are changed."""
    days = moments(
        zone, datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year + 1, 1, 1, tzinfo=UTC), timedelta(1)
    )
    offsets = [(moment, wall - moment.replace(tzinfo=None)) for moment, wall in days]
    return [moment for (moment, offset), (_, later) in pairwise(offsets) if offset != later]


def _firsts(shown: Moments, step: timedelta) -> Iterator[tuple[datetime, datetime]]:
    highest = shown[0][1] - step
    for moment, wall in shown:
        while highest < wall:  # once in most cases, not at all in the second pass, and for all that is left out
            highest += step
            yield moment, highest


def _matches(fields: list[set[int]], wall: datetime) -> bool:
    seconds, minutes, hours, days, months, weekdays = fields
    if wall.hour not in hours or wall.minute not in minutes or wall.second not in seconds or wall.month not in months:
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
