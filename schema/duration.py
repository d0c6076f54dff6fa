"""Durations: `timedelta` inside the program, `"5s"` outside of it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer

LONGEST: Final = timedelta(days=36_500)
"""A hundred years: longer than anything that is meant, and not beyond the dates that there are."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)


def parse_duration(value: str | timedelta) -> timedelta:
    """The duration that a text such as `"5s"`, `"20ms"`, `"5m"`, `"1h"` or `"7d"` names.

    Raises:
        ValueError: the text is no duration; the message says what one looks like.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a duration (try '5s'; the units are ms, s, m, h and d)")
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise ValueError(f"{value!r} is too long a duration") from None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as `value`, to the millisecond: `"5s"`, `"90s"`, `"5m"`."""
    milliseconds = round(value / timedelta(milliseconds=1))
    for unit in ("d", "h", "m", "s"):
        size = round(_UNITS[unit] * 1000)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def _validate(value: Any) -> timedelta:
    return parse_duration(value)


Duration = Annotated[timedelta, BeforeValidator(_validate), PlainSerializer(format_duration, return_type=str)]
"""A setting's duration: read with `parse_duration`, written with `format_duration`."""
