"""Rates: so many in so much time, `"100/1s"` or `"6000/1m"`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from schema.duration import format_duration, parse_duration

LONGEST = timedelta(hours=1)
"""What is counted for longer is a quota, and needs a memory that lasts."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` in `period`."""

    count: int
    period: timedelta

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.period)}"

    @property
    def interval(self) -> timedelta:
        """The time between two, if they come evenly."""
        return self.period / self.count


def parse_rate(value: str | Rate) -> Rate:
    """The rate that a text such as `"100/1s"`, `"10/s"` or `"6000/1m"` names.

    Raises:
        ValueError: the text is no rate; the message says what one looks like.
    """
    if isinstance(value, Rate):
        return value
    count, slash, period = str(value).replace(" ", "").partition("/")
    try:
        if not (slash and count.isascii() and count.isdigit() and int(count)):
            raise ValueError
        rate = Rate(int(count), parse_duration(period if period[:1].isdigit() else f"1{period}"))
        if not (timedelta(0) < rate.period <= LONGEST and rate.interval):  # which is nothing below half a microsecond
            raise ValueError
    except ValueError:
        how = "try '10/s' or '6000/1m', counted in an hour at most, and up to a million a second"
        raise ValueError(f"{value!r} is not a rate ({how})") from None
    return rate


def _validate(value: Any) -> Rate:
    return parse_rate(value)


RateSetting = Annotated[Rate, BeforeValidator(_validate), PlainSerializer(str, return_type=str)]
"""A setting's rate: read with `parse_rate`, written as it is read."""
