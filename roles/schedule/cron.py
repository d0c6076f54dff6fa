"""When a job is due: the pure core of the scheduler. It knows no clock, is given the time, and answers in UTC.

A tick's time comes from the schedule alone, so that replicas whose clocks differ agree on it. Daylight saving:

- An expression whose hour admits every hour (`*/30 * * * *`, `@hourly`) is a rhythm: it is due at every moment
  at which the local clock shows a matching time. It goes on through the hour that comes twice, and there is
  nothing to do in the hour that does not come.
- Any other expression (`30 2 * * *`, `*/10 1-3 * * *`) names times of the day, and each comes once on each day:
  the first time, if the clock is put back over it; at the first moment after the gap, if it is put forward.
  Several that fall into one gap are one tick.
- An interval is counted from 1970-01-01 00:00 UTC and knows no zones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from roles.schedule.clocks import SECOND, first_change, first_moment, offset_at, wall_time, zone_named
from roles.schedule.expression import parse
from schema.duration import LONGEST, format_duration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Schedule(ABC):
    """When something is due."""

    @property
    @abstractmethod
    def zone(self) -> tzinfo:
        """The time zone that its times are shown in."""

    @abstractmethod
    def next_due(self, after: datetime) -> datetime:
        """The first time it is due that is later than `after`, in UTC."""

    @abstractmethod
    def findings(self) -> Iterator[str]:
        """What is wrong with it, one sentence each; it can be asked for times only if nothing is."""

    def missed(self, since: datetime, now: datetime) -> Iterator[datetime]:
        """All the times it was due later than `since` and not later than `now`, in order."""
        due = self.next_due(since)
        while due <= now:
            yield due
            due = self.next_due(due)

    def recent(self, since: datetime, now: datetime, limit: int) -> list[datetime]:
        """The last `limit` of `missed(since, now)`, in order, found without a walk through all of them."""
        width = SECOND
        while True:
            start = max(since, now - width)
            window = deque(self.missed(start, now), maxlen=limit)
            if len(window) == limit or start == since:
                return list(window)
            width *= 2

    def latest(self, since: datetime, now: datetime) -> datetime | None:
        """The last of `missed(since, now)`; None if there is none."""
        return next(iter(self.recent(since, now, 1)), None)


@dataclass(frozen=True, slots=True)
class CronSchedule(Schedule):
    """A cron expression (see `roles.schedule.expression`), read on the clocks of a time zone."""

    expression: str
    timezone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.expression} ({self.timezone})"

    @property
    def zone(self) -> tzinfo:
        return zone_named(self.timezone)

    def findings(self) -> Iterator[str]:
        expression: object = self.expression
        timezone: object = self.timezone
        try:
            if not isinstance(expression, str):
                raise ValueError("is not a text (try '0 * * * *')")  # noqa: TRY004 - said like all that is wrong
            parse(expression)
        except ValueError as error:
            yield f"cron expression {expression!r}: {error}"
        try:
            if not isinstance(timezone, str):
                raise ValueError(f"timezone {timezone!r} is not a text (try 'UTC')")  # noqa: TRY004
            zone_named(timezone)
        except ValueError as error:
            yield str(error)

    def next_due(self, after: datetime) -> datetime:
        after = after.astimezone(UTC).replace(microsecond=0)  # nothing is due within a second
        return self._next_of_rhythm(after) if parse(self.expression).every_hour else self._next_of_day(after)

    def _next_of_day(self, after: datetime) -> datetime:
        zone = self.zone
        wall = wall_time(after, zone)
        while True:
            wall = parse(self.expression).following(wall)
            due = first_moment(wall, zone)
            if due > after:  # else `after` is in the second pass of an hour that comes twice
                return due

    def _next_of_rhythm(self, after: datetime) -> datetime:
        zone = self.zone
        wall = wall_time(after, zone)
        while True:
            offset = offset_at(after, zone)
            due = (parse(self.expression).following(wall) - offset).replace(tzinfo=UTC)
            change = first_change(after, due, zone)
            if change is None:
                return due
            after, wall = change, wall_time(change, zone) - SECOND  # the moment of the change may be due itself


@dataclass(frozen=True, slots=True)
class IntervalSchedule(Schedule):
    """Every so often, in whole seconds, counted from the epoch."""

    every: timedelta

    def __str__(self) -> str:
        return f"every {format_duration(self.every)}"

    @property
    def zone(self) -> tzinfo:
        return UTC

    def findings(self) -> Iterator[str]:
        if self.every < SECOND or self.every % SECOND:
            yield f"an interval of {self.every / SECOND:g} seconds: it must be one or more whole seconds"
        elif self.every > LONGEST:
            yield f"an interval of {format_duration(self.every)}: it must be {format_duration(LONGEST)} or less"

    def next_due(self, after: datetime) -> datetime:
        return EPOCH + ((after - EPOCH) // self.every + 1) * self.every
