"""When jobs are due, against a walk through every moment: a decade of many zones, and what Hypothesis thinks of."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.schedule.cron import EPOCH, CronSchedule, IntervalSchedule
from tests.schedule import oracle
from tests.schedule.oracle import HOUR, MINUTE, Window

DAY = timedelta(days=1)
HALF_AN_HOUR = timedelta(minutes=30)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # winter time is the exception here
    "America/New_York",
    "America/Sao_Paulo",  # used to be changed at midnight
    "America/St_Johns",  # half an hour off the others
    "America/Caracas",  # moved by half an hour, in the middle of one
    "Africa/Casablanca",  # back for Ramadan
    "Asia/Beirut",  # changed at midnight
    "Asia/Kathmandu",  # a quarter of an hour off the others
    "Antarctica/Troll",  # two hours
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # left out a whole day, at the end of 2011
)
BY_THE_HOUR = (
    "0 2 * * *",
    "0 0 * * *",
    "0 1-3,23 * * 0",
    "0 * * 3,4,10,11 0",
    "0 */7 13 * 5",
    "0 3 29 2 *",
)
BY_THE_MINUTE = (
    "*/10 * * * *",
    "30 2 * * *",
    "0 0 * * *",
    "*/20 1-3 * * *",
    "15 0,2,23 * * *",
    "0 */2 * * *",
    "5 3 1,15 * 0",
    "45 1 * 3-11 1-6",
)
DECADE = (datetime(2012, 1, 1, 6, tzinfo=UTC), datetime(2022, 1, 1, 6, tzinfo=UTC))
"""Before 2012 Newfoundland changed its clocks a minute after midnight, which a walk by the hour does not see."""


def first_whole_hour(zone: str, start: datetime) -> datetime:
    """When clocks in the zone show a whole hour."""
    quarters = oracle.moments(zone, start, start + HOUR, timedelta(minutes=15))
    return next(moment for moment, wall in quarters if wall.minute == 0)


@pytest.mark.parametrize("zone", ZONES)
def test_every_hour_of_a_decade_agrees_with_the_oracle(zone: str) -> None:
    step = HALF_AN_HOUR if zone in ("Australia/Lord_Howe", "America/Caracas") else HOUR
    decade = oracle.window(zone, first_whole_hour(zone, DECADE[0]), DECADE[1], step)
    expected = {expression: oracle.due(expression, decade) for expression in BY_THE_HOUR}
    for expression, ticks in expected.items():
        assert list(CronSchedule(expression, zone).missed(decade.start - step, decade.end)) == ticks, expression
    # Asked from anywhere, not only from tick to tick: one expression after the other, from each hour of the day.
    starts = [moment for moment, _ in decade.shown[::101]]
    for moment, (expression, ticks) in zip(starts, cycle(expected.items()), strict=False):
        later = bisect_right(ticks, moment)
        if later < len(ticks):
            assert CronSchedule(expression, zone).next_due(moment) == ticks[later], (expression, moment)


@cache
def around_changes(zone: str) -> tuple[Window, ...]:
    """The days of eleven years on which the clocks are changed, and some hours more."""
    days = oracle.changes(zone, 2011, 2021) or [datetime(2020, 2, 28, tzinfo=UTC)]
    return tuple(oracle.window(zone, day - HOUR, day + 30 * HOUR) for day in days)


@pytest.mark.parametrize("zone", ZONES)
def test_every_minute_around_the_changes_agrees_with_the_oracle(zone: str) -> None:
    for expression in BY_THE_MINUTE:
        schedule = CronSchedule(expression, zone)
        for window in around_changes(zone):
            ours = list(schedule.missed(window.start - MINUTE, window.end))
            assert ours == oracle.due(expression, window), (expression, zone, window.start)


def column(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    span = st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.tuples(st.sampled_from(["*", f"{low}-{high}"]), st.integers(1, high - low)).map(
        lambda s: f"{s[0]}/{s[1]}"
    )
    some = st.lists(value.map(str) | span | step, min_size=1, max_size=3).map(",".join)
    return st.just("*") | some


expressions = st.tuples(column(0, 59), column(0, 23), column(1, 28), column(1, 12), column(0, 6)).map(" ".join)
with_seconds = st.tuples(column(0, 59), expressions).map(" ".join)
often = st.tuples(column(0, 59), column(0, 23), st.just("*"), st.just("*"), column(0, 6)).map(" ".join)
zones = st.sampled_from(ZONES)


@cache
def changes(zone: str) -> list[datetime]:
    return oracle.changes(zone, 2010, 2030) or [datetime(2024, 2, 28, tzinfo=UTC)]


@st.composite
def moments_near_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    zone = draw(zones)
    return zone, draw(st.sampled_from(changes(zone))) + timedelta(seconds=draw(st.integers(0, 2 * 86_400)))


@given(expressions | with_seconds, moments_near_changes(), st.integers(0, 999_999))
@settings(max_examples=150, deadline=None)
def test_next_due_is_strictly_later_and_nothing_lies_between(
    expression: str, near: tuple[str, datetime], microsecond: int
) -> None:
    zone, moment = near
    schedule = CronSchedule(expression, zone)
    after = moment.replace(microsecond=microsecond)
    due = schedule.next_due(after)
    assert due > after
    assert due.tzinfo is UTC
    assert schedule.next_due(due - timedelta(microseconds=1)) == due
    assert schedule.next_due(after + (due - after) / 2) == due


@given(often, moments_near_changes())
@settings(max_examples=60, deadline=None)
def test_any_expression_agrees_with_the_oracle(expression: str, near: tuple[str, datetime]) -> None:
    zone, moment = near
    day = moment.replace(hour=0, minute=0, second=0)
    window = oracle.window(zone, day - DAY, day + 2 * DAY)
    ours = list(CronSchedule(expression, zone).missed(window.start - MINUTE, window.end))
    expected = oracle.due(expression, window)
    cut = max((day - 12 * HOUR), window.start)  # a window that begins behind a change has no past
    assert [due for due in ours if due > cut] == [due for due in expected if due > cut]
    assert len(set(ours)) == len(ours)


@given(often, moments_near_changes(), st.integers(0, 3 * 86_400))
@settings(max_examples=60, deadline=None)
def test_walking_visits_what_was_missed_and_ends_at_the_latest(
    expression: str, near: tuple[str, datetime], seconds: int
) -> None:
    zone, since = near
    schedule = CronSchedule(expression, zone)
    now = since + timedelta(seconds=seconds)
    missed = list(schedule.missed(since, now))
    walked = []
    due = schedule.next_due(since)
    while due <= now:
        walked.append(due)
        due = schedule.next_due(due)
    assert missed == walked == sorted(set(walked))
    assert all(since < due <= now for due in missed)
    assert schedule.latest(since, now) == (missed[-1] if missed else None)


@given(st.integers(1, 10**7), st.integers(-(10**9), 10**10).map(lambda n: EPOCH + timedelta(seconds=n)))
def test_an_interval_is_due_at_its_multiples(seconds: int, after: datetime) -> None:
    schedule = IntervalSchedule(timedelta(seconds=seconds))
    due = schedule.next_due(after)
    assert after < due <= after + schedule.every
    assert (due - EPOCH) % schedule.every == timedelta(0)
