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

The fields are read here and croniter gets plain lists of numbers, for it takes more than anybody means:
`R` is random, `5-5` is every minute, `22-4/3` steps wrongly around the end, a seventh field is a year.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
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
_DAY_OF_MONTH: Final = Field("day of month", 1, 31)
_DAY_OF_WEEK: Final = Field("day of week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
FIELDS: Final = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    Field("hour", 0, 23),
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


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression that was read and is known to come."""

    every_hour: bool
    """Whether its hour field admits every hour: then it is a rhythm rather than a list of times of the day."""
    _walker: croniter

    def following(self, wall: datetime) -> datetime:
        """The first matching wall-clock time after `wall`; both naive."""
        found: datetime = self._walker.get_next(start_time=wall)
        return found


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
    second, *rest = (_column(field, column) for field, column in zip(FIELDS, columns, strict=True))
    walker = croniter(" ".join([*rest, second]), _SOME_TIME, ret_type=datetime)  # croniter wants the seconds last
    try:
        walker.get_next()
    except CroniterBadDateError:
        raise ValueError("never comes: no month that it names has such a day") from None
    return Expression(every_hour=rest[1] == "*", _walker=walker)


def _column(field: Field, column: str) -> str:
    """The column as `*` or a list of numbers (and `l`, the last day of the month)."""
    values: set[int] = set()
    last_day = False
    for part in column.split(","):
        if part == "l" and field is _DAY_OF_MONTH:
            last_day = True
        else:
            values.update(_part(field, part))
    if len(values) == field.high - field.low + 1:
        return "*"
    return ",".join([*map(str, sorted(values)), *(["l"] if last_day else [])])


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
