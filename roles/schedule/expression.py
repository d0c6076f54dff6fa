"""Cron expressions: what is accepted, and the walk from one matching wall-clock time to the next.

```
┌ second (0-59), only with six fields
│ ┌ minute (0-59)
│ │ ┌ hour (0-23)
│ │ │ ┌ day of month (1-31, L: the last)
│ │ │ │ ┌ month (1-12, jan-dec)
│ │ │ │ │ ┌ day of week (0-7, sun-sat; 0 and 7 are Sunday)
0 * * * * *
```
Five fields, or six with the seconds first, as in Spring, Quartz and node-cron. A field is `*` or a list of
values, ranges (`mon-fri`, also around the end: `22-2`) and steps (`*/15`, `8-18/2`, `5/15`). `@hourly` and
friends stand for what they say. If both days are restricted, a day that fits either will do, as in every cron;
a field that admits everything (`*`, `*/1`, `1-31`) restricts nothing.

The fields are read here, for croniter takes more than anybody means: `R` is random, `5-5` is every minute, `22-4/3`
steps wrongly around the end, a seventh field is a year. It gets plain lists of numbers, and is asked for days only:
which of them fit is a matter of calendars. What comes next within a day is three lists, and is asked far more often.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache, lru_cache
from typing import Final

from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Field:
    """One column of an expression, and the numbers that it may hold."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Words for the numbers from `low` on."""


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HOUR: Final = Field("hour", 0, 23)
_DAY_OF_MONTH: Final = Field("day of month", 1, 31)
_LAST_DAY: Final = 32
_DAY_OF_WEEK: Final = Field("day of week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
FIELDS: Final = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    _HOUR,
    _DAY_OF_MONTH,
    Field("month", 1, 12, _MONTHS),
    _DAY_OF_WEEK,
)
SHORTHANDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)
_SOME_TIME = datetime(2000, 1, 1)  # noqa: DTZ001 - wall-clock times have no zone yet
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression that was read and is known to come."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: str | None
    """Day of month, month and day of week, as croniter reads them; None if every day fits."""

    @property
    def every_hour(self) -> bool:
        """Whether its hour field admits every hour: then it is a rhythm rather than a list of times of the day."""
        return len(self.hours) == _HOUR.high + 1

    def following(self, wall: datetime) -> datetime:
        """The first matching wall-clock time after `wall`; both naive."""
        today = wall.date()
        day = self._day_from(today)
        if day == today:
            later = self._later_that_day(wall)
            if later is not None:
                return datetime.combine(day, later)
            day = self._day_from(today + _DAY)
        return datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def _day_from(self, day: date) -> date:
        return day if self.days is None else _first_day(self.days, day)

    def _later_that_day(self, wall: datetime) -> time | None:
        if wall.hour in self.hours:
            if wall.minute in self.minutes and wall.second < self.seconds[-1]:
                return time(wall.hour, wall.minute, _above(self.seconds, wall.second))
            if wall.minute < self.minutes[-1]:
                return time(wall.hour, _above(self.minutes, wall.minute), self.seconds[0])
        if wall.hour < self.hours[-1]:
            return time(_above(self.hours, wall.hour), self.minutes[0], self.seconds[0])
        return None


@cache
def parse(text: str) -> Expression:
    """Reads a cron expression.

    Raises:
        ValueError: it is not one, or no date fits it; the message says why, and does not repeat the text.
    """
    shorthand = text.strip().lower()
    if shorthand.startswith("@") and shorthand not in SHORTHANDS:
        raise ValueError(f"there is no such shorthand (there are {', '.join(SHORTHANDS)})")
    columns = SHORTHANDS.get(shorthand, shorthand).split()
    if len(columns) == len(FIELDS) - 1:
        columns.insert(0, "0")
    if len(columns) != len(FIELDS):
        raise ValueError(f"five fields, or six with the seconds first, and not {len(columns)} (try '0 * * * *')")
    second, minute, hour, *days = (_numbers(field, column) for field, column in zip(FIELDS, columns, strict=True))
    listed = [_listed(field, numbers) for field, numbers in zip(FIELDS[-3:], days, strict=True)]
    expression = Expression(second, minute, hour, None if set(listed) == {"*"} else " ".join(listed))
    try:
        expression.following(_SOME_TIME)
    except CroniterBadDateError:
        raise ValueError("never comes: no month that it names has such a day") from None
    return expression


@lru_cache(maxsize=4096)  # a job that is due each minute asks for the same day all day long
def _first_day(days: str, day: date) -> date:
    """The first day that fits, from `day` on."""
    before = datetime.combine(day, time()) - timedelta(seconds=1)
    found: datetime = _calendar(days).get_next(start_time=before)
    return found.date()


@cache
def _calendar(days: str) -> croniter:
    return croniter(f"0 0 {days}", _SOME_TIME, ret_type=datetime)


def _above(numbers: tuple[int, ...], number: int) -> int:
    return numbers[bisect_right(numbers, number)]


def _numbers(field: Field, column: str) -> tuple[int, ...]:
    """What the column admits, in order; the last day of the month is number 32."""
    numbers: set[int] = set()
    for part in column.split(","):
        if part == "l" and field is _DAY_OF_MONTH:
            numbers.add(_LAST_DAY)
        else:
            numbers.update(_part(field, part))
    return tuple(sorted(numbers))


def _listed(field: Field, numbers: tuple[int, ...]) -> str:
    """The column for croniter."""
    if numbers[: field.high - field.low + 1] == tuple(range(field.low, field.high + 1)):
        return "*"
    return ",".join("l" if number == _LAST_DAY else str(number) for number in numbers)


def _part(field: Field, part: str) -> list[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"{field.name} {part!r} is not a value, a range or a step (try '*', '5', '1-5' or '*/15')")
    step = int(match["step"] or 1)
    if not 0 < step <= field.high - field.low:
        raise ValueError(f"{field.name} {part!r}: a step is within 1-{field.high - field.low}")
    if match["all"]:
        return list(range(field.low, field.high + 1, step))
    first = _number(field, match["first"])
    if match["last"] is None:
        return list(range(first, field.high + 1, step)) if match["step"] else [first]
    last = _number(field, match["last"])
    to_sunday = field is _DAY_OF_WEEK and match["last"] == "7" != match["first"]  # 0-7 is a week, not a Sunday
    if first <= last and not to_sunday:
        return list(range(first, last + 1, step))
    return [*range(first, field.high + 1), *range(field.low, last + 1)][::step]


def _number(field: Field, text: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if text == "7" and field is _DAY_OF_WEEK:
        return 0
    if not text.isdigit() or not field.low <= int(text) <= field.high:
        words = f", {field.names[0]}-{field.names[-1]}" if field.names else ""
        raise ValueError(f"{field.name} {text!r} is not within {field.low}-{field.high}{words}")
    return int(text)
