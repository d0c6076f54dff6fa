"""When jobs are due, against known answers and against a walk through every moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from roles.schedule.cron import EPOCH, CronSchedule, IntervalSchedule, Schedule

HOUR = timedelta(hours=1)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # winter time is the exception here
    "America/New_York",
    "America/Sao_Paulo",  # used to be changed at midnight
    "America/St_Johns",
    "America/Caracas",
    "Africa/Casablanca",  # back for Ramadan
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Antarctica/Troll",  # two hours
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # left out a whole day in 2011
)
EXPRESSIONS = (
    "*/10 * * * *",
    "30 2 * * *",
    "0 0 * * *",
    "*/20 1-3 * * *",
    "15 0,2,23 * * *",
    "0 */2 * * *",
    "5 3 1,15 * 0",
    "45 1 * 3-11 1-6",
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def first(schedule: Schedule, count: int, after: str) -> list[str]:
    return [
        f"{due:%m-%d %H:%M:%S}"
        for due in islice(schedule.missed(utc(after), datetime.max.replace(tzinfo=UTC)), count)
    ]


def test_a_daily_job_comes_once_on_the_day_with_25_hours() -> None:
    nightly = CronSchedule("30 2 * * *", "Europe/Berlin")
    assert first(nightly, 3, "2025-10-25") == ["10-25 00:30:00", "10-26 00:30:00", "10-27 01:30:00"]


def test_in_the_second_pass_of_an_hour_its_times_are_over() -> None:
    nightly = CronSchedule("30 2 * * *", "Europe/Berlin")
    assert first(nightly, 1, "2025-10-26 01:10") == ["10-27 01:30:00"]  # 02:10 for the second time


def test_a_daily_job_comes_on_the_day_that_lacks_its_hour_at_the_first_moment_after_the_gap() -> None:
    nightly = CronSchedule("30 2 * * *", "Europe/Berlin")
    assert first(nightly, 3, "2025-03-29") == ["03-29 01:30:00", "03-30 01:00:00", "03-31 00:30:00"]


def test_times_that_fall_into_one_gap_are_one_tick() -> None:
    schedule = CronSchedule("*/20 2 * * *", "Europe/Berlin")
    assert first(schedule, 2, "2025-03-30") == ["03-30 01:00:00", "03-31 00:00:00"]


@pytest.mark.parametrize("expression", ["*/30 * * * *", "0,30 0-23 * * *"])
def test_a_rhythm_goes_on_through_both_changes(expression: str) -> None:
    schedule = CronSchedule(expression, "Europe/Berlin")
    for day in ("2025-03-30", "2025-10-26"):
        ticks = list(schedule.missed(utc(day), utc(day) + 4 * HOUR))
        assert ticks == [utc(day) + n * timedelta(minutes=30) for n in range(1, 9)]


def test_hourly_is_every_hour_of_elapsed_time() -> None:
    assert first(CronSchedule("@hourly", "America/New_York"), 3, "2025-11-02 04:30") == [
        "11-02 05:00:00",
        "11-02 06:00:00",
        "11-02 07:00:00",
    ]


def test_a_day_that_a_zone_left_out_still_has_its_tick() -> None:
    midday = CronSchedule("0 12 * * *", "Pacific/Apia")  # 2011-12-30 did not happen there
    assert first(midday, 3, "2011-12-29 12:00") == ["12-29 22:00:00", "12-30 10:00:00", "12-30 22:00:00"]


def test_six_fields_have_the_seconds_first() -> None:
    assert first(CronSchedule("15,45 30 12 * * *"), 3, "2025-01-01") == [
        "01-01 12:30:15",
        "01-01 12:30:45",
        "01-02 12:30:15",
    ]


def test_the_29th_of_february_comes() -> None:
    assert CronSchedule("0 0 29 2 *").next_due(utc("2025-01-01")) == utc("2028-02-29")


def test_the_last_day_of_the_month_can_be_named() -> None:
    assert first(CronSchedule("0 0 L * *"), 3, "2028-01-31 12:00") == [
        "02-29 00:00:00",
        "03-31 00:00:00",
        "04-30 00:00:00",
    ]
    assert first(CronSchedule("0 0 1,L * *"), 3, "2025-01-30") == [
        "01-31 00:00:00",
        "02-01 00:00:00",
        "02-28 00:00:00",
    ]


def test_either_day_will_do_if_both_are_restricted() -> None:
    assert first(CronSchedule("0 0 13 * fri"), 4, "2026-02-05") == [
        "02-06 00:00:00",
        "02-13 00:00:00",
        "02-20 00:00:00",
        "02-27 00:00:00",
    ]


@pytest.mark.parametrize(
    ("expression", "means"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("0 0 * JAN-mar,Dec Mon-Fri", "0 0 * 1-3,12 1-5"),
        ("0 0 * * fri-mon", "0 0 * * 0,1,5,6"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 7-7", "0 0 * * 0"),
        ("0 0 15 * 0-6", "0 0 15 * *"),
        ("0 0 15 * */1", "0 0 15 * *"),
        ("5-5 * * * *", "5 * * * *"),
        ("0 22-2 * * *", "0 0,1,2,22,23 * * *"),
        ("0 22-4/3 * * *", "0 1,4,22 * * *"),
        ("10/20 * * * *", "10,30,50 * * * *"),
        ("  0\t0  * * * ", "0 0 * * *"),
    ],
)
def test_what_an_expression_means(expression: str, means: str) -> None:
    ours = list(islice(CronSchedule(expression).missed(EPOCH, utc("9000-01-01")), 100))
    assert ours == list(islice(CronSchedule(means).missed(EPOCH, utc("9000-01-01")), 100))


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "five fields, or six with the seconds first, and not 0"),
        ("* * * *", "and not 4"),
        ("* * * * * * *", "and not 7"),
        ("0 0 31 2 *", "never comes"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("R * * * *", "minute 'r' is not within 0-59"),
        ("H * * * *", "minute 'h' is not within 0-59"),
        ("R(0-5) * * * *", "minute 'r(0-5)' is not a value, a range or a step"),
        ("60 * * * *", "minute '60' is not within 0-59"),
        ("-1 * * * *", "minute '-1' is not a value"),
        ("* 24 * * *", "hour '24' is not within 0-23"),
        ("* * 0 * *", "day of month '0' is not within 1-31"),
        ("* * * 13 *", "month '13' is not within 1-12, jan-dec"),
        ("* * * * 8", "day of week '8' is not within 0-6, sun-sat"),
        ("* * * * monday", "day of week 'monday' is not within 0-6, sun-sat"),
        ("* * * * mon#2", "day of week 'mon#2' is not a value"),
        ("* * ? * *", "day of month '?' is not a value"),
        ("* * 15W * *", "day of month '15w' is not within 1-31"),
        ("L * * * *", "minute 'l' is not within 0-59"),
        ("*/0 * * * *", "minute '*/0': a step is within 1-59"),
        ("*/90 * * * *", "minute '*/90': a step is within 1-59"),
        ("1,,2 * * * *", "minute '' is not a value"),
        ("٣ * * * *", "minute '٣' is not a value"),
        ("@reboot", "no such shorthand"),
        ("@every 5m", "no such shorthand"),
    ],
)
def test_what_can_never_work_is_refused(expression: str, says: str) -> None:
    [finding] = CronSchedule(expression).findings()
    assert finding.startswith(f"cron expression {expression!r}: ")
    assert says in finding


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("utc", "did you mean 'UTC'?"),
        ("Europe", "did you mean"),
        ("", "try 'UTC'"),
        ("../../etc/passwd", "try 'UTC'"),
        ("UTC\0", "did you mean 'UTC'?"),
    ],
)
def test_an_unknown_timezone_is_refused(zone: str, says: str) -> None:
    [finding] = CronSchedule("* * * * *", zone).findings()
    assert finding.startswith(f"unknown timezone {zone!r}: ")
    assert says in finding


def test_intervals_are_counted_from_the_epoch_whatever_the_start() -> None:
    schedule = IntervalSchedule(timedelta(minutes=5))
    assert schedule.next_due(utc("2026-01-01 12:03:07.5")) == utc("2026-01-01 12:05")
    assert schedule.next_due(utc("2026-01-01 12:05")) == utc("2026-01-01 12:10")
    assert schedule.next_due(utc("1969-12-31 23:59:59")) == EPOCH
    assert str(schedule) == "every 5m"


@pytest.mark.parametrize(
    "every", [timedelta(0), timedelta(seconds=-5), timedelta(seconds=1.5), timedelta(milliseconds=5)]
)
def test_an_interval_is_whole_seconds(every: timedelta) -> None:
    assert list(IntervalSchedule(every).findings())
    assert not list(IntervalSchedule(timedelta(seconds=1)).findings())
