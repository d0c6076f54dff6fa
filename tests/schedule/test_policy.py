"""What the policies make of a gap, and that nothing falls between two chairs: the pure core under Hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.cron_gaps import BookedTick
from roles.schedule.cron import CronSchedule, IntervalSchedule, Schedule
from roles.schedule.policy import ROWS, Decision, Timetable, decide
from schema.settings import Schedule as Defaults
from tests.schedule.support import MINUTE, SECOND, START, a_job, leave_a_trace

GRACE = timedelta(seconds=90)


def a_table(schedule: Schedule = MINUTE, **options: Any) -> Timetable:
    job = a_job(leave_a_trace, schedule, **{"grace": GRACE, **options})
    return Timetable(job, job.terms(Defaults()))


def booked(*ticks: datetime, through: datetime | None = None) -> list[BookedTick]:
    return [BookedTick(job="example", scheduled_at=tick, through=through) for tick in ticks]


def decided(
    table: Timetable, book: Sequence[BookedTick], now: datetime, in_hand: Sequence[datetime] = ()
) -> Decision:
    return decide(table, book, now, floor=table.floor(now), in_hand=in_hand)


def minute(*numbers: float) -> tuple[datetime, ...]:
    return tuple(START + timedelta(minutes=number) for number in numbers)


@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
def test_a_gap_within_the_grace_is_made_up_for_whatever_the_policy(missed: str) -> None:
    table = a_table(missed=missed)
    assert decided(table, booked(START), START + timedelta(minutes=2.5)) == Decision(run=minute(1, 2))


@pytest.mark.parametrize(
    ("missed", "run", "given_up"),
    [("skip", (), (1, 2, 3, 4)), ("latest", (4,), (1, 2, 3)), ("all", (1, 2, 3, 4), ())],
)
def test_a_longer_gap_is_the_policys(missed: str, run: tuple[int, ...], given_up: tuple[int, ...]) -> None:
    decision = decided(a_table(missed=missed), booked(START), START + timedelta(minutes=4.5))
    assert (decision.run, decision.missed, decision.missed_before) == (minute(*run), minute(*given_up), None)
    reason = f"nothing could start it within its grace of 90s (missed='{missed}')"
    assert decision.reason == (reason if given_up else "")


@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
def test_what_is_on_time_is_no_part_of_a_gap(missed: str) -> None:
    decision = decided(a_table(missed=missed), booked(START), START + timedelta(minutes=5, seconds=0.2))
    assert decision.run[-1:] == minute(5)


def test_all_means_up_to_the_backlog() -> None:
    decision = decided(a_table(missed="all", backlog=3), booked(START), START + timedelta(minutes=10.5))
    assert (decision.run, decision.missed) == (minute(8, 9, 10), minute(1, 2, 3, 4, 5, 6, 7))


def test_a_week_of_seconds_does_not_become_600_000_rows() -> None:
    now = START + timedelta(days=7, seconds=0.5)
    decision = decided(a_table(SECOND, missed="skip"), booked(START), now)
    assert decision.run == (START + timedelta(days=7),)
    assert len(decision.missed) <= ROWS
    assert decision.missed_before is not None
    first, through = decision.missed_before
    assert (first, through + SECOND.every) == (START + SECOND.every, decision.missed[0])
    assert decision.missed[-1] + SECOND.every == decision.run[0]


def test_a_new_job_looks_back_one_tick_and_no_further_than_its_grace() -> None:
    assert decided(a_table(), [], START + timedelta(minutes=9.5)) == Decision(run=minute(9))
    daily = IntervalSchedule(timedelta(days=1))
    assert decided(a_table(daily), [], START + timedelta(seconds=89)) == Decision(run=(START,))
    assert decided(a_table(daily), [], START + timedelta(seconds=91)) == Decision()
    assert decided(a_table(), [], START + timedelta(minutes=9.5), in_hand=minute(9)) == Decision()


def test_a_run_that_died_before_its_row_is_a_hole_in_the_book() -> None:
    table = a_table(missed="skip", timeout="30s")
    now = START + timedelta(minutes=3, seconds=10)
    assert decided(table, booked(*minute(0, 1, 3)), now) == Decision(run=minute(2))
    assert decided(table, booked(*minute(0, 1, 3)), now, in_hand=minute(2)) == Decision(), "somebody is at it"
    later = START + timedelta(minutes=9)
    assert decided(table, booked(*minute(8, 9)), later) == Decision(), "what is before the floor is settled"


def test_the_latest_is_not_run_after_a_later_one() -> None:
    table = a_table(missed="latest", timeout="10m")
    now = START + timedelta(minutes=6, seconds=10)
    assert decided(table, booked(*minute(0, 1, 5, 6)), now).missed == minute(2, 3, 4)
    assert decided(table, booked(*minute(0, 1, 5, 6)), now).run == ()
    assert decided(table, booked(*minute(0, 1)), now, in_hand=minute(6)).missed == minute(2, 3, 4, 5)


def test_ticks_that_share_a_row_are_in_the_book() -> None:
    table = a_table(missed="all", timeout="10m")
    book = [*booked(START), *booked(*minute(1), through=minute(4)[0]), *booked(*minute(5, 6))]
    assert decided(table, book, START + timedelta(minutes=6, seconds=10)) == Decision()
    only = booked(*minute(1), through=minute(4)[0])
    assert decided(table, only, START + timedelta(minutes=5, seconds=10)) == Decision(run=minute(5))


def test_jitter_spreads_starts_alike_on_all_replicas_and_changes_no_tick() -> None:
    spread = a_table(jitter="50s")
    starts = [spread.starts_at(tick) - tick for tick in minute(*range(200))]
    assert starts == [a_table(jitter="50s").starts_at(tick) - tick for tick in minute(*range(200))]
    assert all(timedelta(0) <= start < timedelta(seconds=50) for start in starts)
    assert len({start // timedelta(seconds=5) for start in starts}) == 10, "they are all over the place"
    assert starts != [a_table(jitter="50s", name="another").starts_at(tick) - tick for tick in minute(*range(200))]
    wide = a_table(jitter="10m")
    assert all(tick <= wide.starts_at(tick) <= tick + timedelta(minutes=1) for tick in minute(*range(50)))


def test_jitter_may_be_as_long_as_a_day() -> None:
    daily = a_table(IntervalSchedule(timedelta(days=1)), jitter="1d")
    delays = [daily.starts_at(START + timedelta(days=day)) - (START + timedelta(days=day)) for day in range(50)]
    assert timedelta(0) <= min(delays) < timedelta(hours=6)
    assert timedelta(hours=18) < max(delays) < timedelta(days=1)


@pytest.mark.parametrize("jitter", ["0s", "20s", "5m"])
def test_the_upcoming_tick_is_the_first_that_starts_later(jitter: str) -> None:
    table = a_table(jitter=jitter)
    for seconds in range(0, 600, 7):
        now = START + timedelta(seconds=seconds)
        tick = table.upcoming(now)
        assert table.starts_at(tick) > now
        assert table.starts_at(tick - timedelta(minutes=1)) <= now


def test_a_tick_that_has_not_started_is_not_open() -> None:
    table = a_table(jitter="50s")
    tick = next(tick for tick in minute(*range(1, 50)) if table.starts_at(tick) > tick + timedelta(seconds=10))
    before = booked(tick - timedelta(minutes=1))
    assert decided(table, before, tick + timedelta(seconds=1)) == Decision()
    assert decided(table, before, table.starts_at(tick)) == Decision(run=(tick,))
    assert decided(table, [], tick + timedelta(seconds=1)).run != (tick,)


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu")
EXPRESSIONS = ("* * * * *", "*/7 * * * *", "30 2 * * *", "*/15 1-3 * * *", "@hourly", "0 0 * * sun", "17 */5 * * *")


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    if draw(st.booleans()):
        return IntervalSchedule(timedelta(seconds=draw(st.integers(1, 7200))))
    return CronSchedule(draw(st.sampled_from(EXPRESSIONS)), draw(st.sampled_from(ZONES)))


CHANGES = tuple(datetime(2026, month, day, tzinfo=UTC) for month, day in ((3, 8), (3, 29), (10, 25), (11, 1)))
moments = st.one_of(
    st.floats(0, 3650).map(lambda days: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=days)),
    st.sampled_from(CHANGES),
)


@given(schedule=schedules(), since=moments, hours=st.floats(0, 30), limit=st.integers(1, 40))
def test_a_walk_visits_what_was_missed_and_the_recent_are_its_end(
    schedule: Schedule, since: datetime, hours: float, limit: int
) -> None:
    now = since + timedelta(hours=hours)
    if isinstance(schedule, IntervalSchedule) and schedule.every < timedelta(seconds=30):
        now = since + timedelta(minutes=hours)
    walk = list(schedule.missed(since, now))
    assert all(earlier < later for earlier, later in pairwise(walk))
    assert all(since < tick <= now for tick in walk)
    due = since
    for tick in walk:
        due = schedule.next_due(due)
        assert due == tick
    assert schedule.next_due(due) > now
    assert schedule.recent(since, now, limit) == walk[-limit:]


@given(
    schedule=schedules(),
    start=moments,
    missed=st.sampled_from(["skip", "latest", "all"]),
    jitter=st.sampled_from(["0s", "20s", "10m"]),
    backlog=st.integers(1, 150),
    ticks=st.integers(2, 260),
    gone=st.sets(st.integers(0, 259)),
    in_hand=st.sets(st.integers(0, 259), max_size=3),
    seconds=st.floats(0, 7200),
)
def test_every_open_tick_is_run_or_missed_once(
    *,
    schedule: Schedule,
    start: datetime,
    missed: str,
    jitter: str,
    backlog: int,
    ticks: int,
    gone: set[int],
    in_hand: set[int],
    seconds: float,
) -> None:
    table = a_table(schedule, missed=missed, jitter=jitter, backlog=backlog)
    walk = [schedule.next_due(start)]
    while len(walk) < ticks:
        walk.append(schedule.next_due(walk[-1]))
    book = booked(*(tick for index, tick in enumerate(walk) if index not in gone)) or booked(walk[0])
    held = {walk[index] for index in in_hand if index < ticks} - {row.scheduled_at for row in book}
    now = walk[-1] + timedelta(seconds=seconds)
    floor = table.floor(now)
    decision = decide(table, book, now, floor=floor, in_hand=held)

    known = {row.scheduled_at for row in book}
    since = max(min(floor, max(known)), min(known))
    open_ticks = [
        tick
        for tick in schedule.recent(since, now, 20_000)
        if tick not in known and tick not in held and table.starts_at(tick) <= now
    ]
    run, lost = list(decision.run), list(decision.missed)
    if decision.missed_before is not None:
        first, through = decision.missed_before
        lost = [tick for tick in open_ticks if first <= tick <= through] + lost
    assert not set(run) & set(lost)
    assert sorted({*run, *lost}) == open_ticks
    assert run == sorted(run)
    assert len(run) <= backlog or missed != "all"
    if missed == "latest" and open_ticks and now - table.starts_at(open_ticks[0]) > GRACE:
        assert len(run) <= 1


def test_more_holes_than_rows_share_one_that_begins_at_the_first() -> None:
    ticks = [START + timedelta(seconds=number) for number in range(401)]
    table = a_table(SECOND, missed="skip", grace="1s", timeout="10m")
    decision = decided(table, booked(ticks[0], ticks[400]), ticks[400] + timedelta(seconds=30.5))
    assert decision.missed_before is not None
    assert decision.missed_before[0] == ticks[1]
    assert len(decision.missed) == ROWS
