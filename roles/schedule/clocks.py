"""What the clocks of a time zone show, and when they are changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from schema.meant import meant

SECOND: Final = timedelta(seconds=1)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the clocks."""

    at: datetime
    """The moment, in UTC."""
    before: timedelta
    """The offset from UTC up to it."""
    after: timedelta
    """The offset from it on."""

    @property
    def shown_before(self) -> datetime:
        """What the clocks would have shown at the moment, without the change."""
        return (self.at + self.before).replace(tzinfo=None)

    @property
    def shown_after(self) -> datetime:
        """What they show."""
        return (self.at + self.after).replace(tzinfo=None)

    def leaves_out(self, wall: datetime) -> bool:
        """Whether it puts the clocks forward over this time."""
        return self.shown_before <= wall < self.shown_after

    def repeats(self, wall: datetime) -> bool:
        """Whether it puts them back over this time."""
        return self.shown_after <= wall < self.shown_before


@cache
def zone_named(name: str) -> ZoneInfo:
    """The zone; kept, for zoneinfo itself remembers only a few and reads the others from disk each time.

    Raises:
        ValueError: there is no such zone; the message says which may have been meant.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # names no zone, is no relative path, names a directory
        hint = meant(name, available_timezones(), otherwise="try 'UTC' or 'Europe/Berlin'")
        raise ValueError(f"unknown timezone {name!r}: {hint}") from None


def offset_at(moment: datetime, zone: tzinfo) -> timedelta:
    """By how much clocks in the zone are ahead of UTC."""
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def wall_time(moment: datetime, zone: tzinfo) -> datetime:
    """What clocks in the zone show, naive."""
    return moment.astimezone(zone).replace(tzinfo=None)


def first_moment(wall: datetime, zone: tzinfo) -> datetime:
    """When clocks in the zone first show `wall`; if they skip it, the first moment after the gap."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if wall_time(moment, zone) == wall:
        return moment
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # in a gap the folds lie around it (PEP 495)
    return first_change(before, moment, zone) or moment


def first_change(start: datetime, end: datetime, zone: tzinfo) -> datetime | None:
    """The first moment after `start`, up to `end`, with another offset than at `start`; None if there is none."""
    offset = offset_at(start, zone)
    low = start
    while low < end:
        high = min(low + DAY, end)  # no zone changes its clocks and changes them back within a day
        if offset_at(high, zone) != offset:
            while high - low > SECOND:
                middle = low + (high - low) // 2 // SECOND * SECOND
                low, high = (middle, high) if offset_at(middle, zone) == offset else (low, middle)
            return high
        low = high
    return None


def changes(start: datetime, end: datetime, zone: tzinfo) -> Iterator[Change]:
    """All changes of the clocks after `start`, up to `end`."""
    start, end = start.replace(microsecond=0), end.replace(microsecond=0)  # they are made at whole seconds
    while (at := first_change(start, end, zone)) is not None:
        yield Change(at, offset_at(start, zone), offset_at(at, zone))
        start = at
