"""What can be declared, what is refused at boot, and the jobs that ship."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from db import students
from db.pool import Work, create_pool, current_pool, unit_of_work
from roles.schedule.cron import CronSchedule, IntervalSchedule
from roles.schedule.declarations import cron, every, validate
from roles.schedule.jobs import JOBS
from roles.schedule.jobs.students import hourly_report, rename_students
from roles.schedule.policy import Timetable, decide
from schema.errors import ConfigurationError
from schema.settings import Database, Schedule
from schema.students import NewStudent


async def example(work: Work) -> None:
    """Does nothing."""


def findings(*jobs: object) -> list[str]:
    try:
        validate(jobs)
    except ConfigurationError as error:
        return str(error).splitlines()
    return []


def test_a_declaration_is_data() -> None:
    job = cron("*/5 * * * *", timezone="Europe/Berlin", timeout="90s")(example)
    assert (job.name, job.schedule) == ("example", CronSchedule("*/5 * * * *", "Europe/Berlin"))
    assert job.terms(Schedule()).timeout == timedelta(seconds=90)
    job = every(hours=1, minutes=30, name="another")(example)
    assert (job.name, job.schedule) == ("another", IntervalSchedule(timedelta(minutes=90)))
    assert job.terms(Schedule(timeout=timedelta(seconds=7))).timeout == timedelta(seconds=7)
    assert not findings(job)


def test_the_jobs_that_ship_are_right() -> None:
    validate(JOBS)
    assert [(job.name, str(job.schedule)) for job in JOBS] == [
        ("rename_students", "every 1m"),
        ("hourly_report", "0 * * * * (UTC)"),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timezone": "Europe/Berln"}, "unknown timezone 'Europe/Berln': did you mean 'Europe/Berlin'?"),
        ({"timeout": "5x"}, "timeout '5x' is not a duration (try '5s'; the units are ms, s, m, h and d)"),
        ({"timezone": None}, "timezone None is not a text (try 'UTC')"),
        ({"timezone": ["UTC"]}, "timezone ['UTC'] is not a text (try 'UTC')"),
        ({"name": None}, "name=None must be a text of 1 to 200 printable characters"),
        ({"name": ""}, "name='' must be a text of 1 to 200 printable characters"),
        ({"name": "a\x00b"}, r"name='a\x00b' must be a text of 1 to 200 printable characters"),
        (
            {"name": "x" * 10_000},
            "name='xxxxxxxxxxxx...xxxxxxxxxxxxx' must be a text of 1 to 200 printable characters",
        ),
        ({"name": ["a"]}, "name=['a'] must be a text of 1 to 200 printable characters"),
        ({"retries": "3"}, "retries='3' is not a whole number"),
        ({"retries": 1.5}, "retries=1.5 is not a whole number"),
        ({"retries": True}, "retries=True is not a whole number"),
        ({"retries": None}, "retries=None is not a whole number"),
        ({"retries": 10**12}, "retries=1000000000000 must be 1000 or less"),
        ({"backlog": 2.5}, "backlog=2.5 is not a whole number"),
        ({"backlog": 10**30}, f"backlog={10**30} must be 100000 or less"),
        ({"jitter": None}, "jitter None is not a duration (try '5s'; the units are ms, s, m, h and d)"),
        ({"backoff": None}, "backoff None is not a duration (try '5s'; the units are ms, s, m, h and d)"),
        ({"grace": "999999d"}, "grace '999999d' must be 36500d or less"),
        ({"retention": "999999d"}, "retention '999999d' must be 36500d or less"),
        ({"transaction": "no"}, "transaction='no' must be True or False"),
        ({"timeout": "0s"}, "timeout '0s' must be longer than zero"),
        ({"missed": "none"}, "missed='none' is not possible (what is: 'skip', 'latest', 'all')"),
        ({"overlap": "run"}, "overlap='run' is not possible (what is: 'skip', 'queue')"),
        ({"retries": -1}, "retries=-1 must be 0 or more"),
        ({"backlog": 0}, "backlog=0 must be 1 or more"),
        ({"grace": "0s"}, "grace '0s' must be longer than zero"),
        ({"jitter": timedelta(seconds=-1)}, "jitter datetime.timedelta(days=-1, seconds=86399) must be 0s or more"),
        ({"retention": "5m"}, "retention '5m' must be 1h or more"),
        (
            {"rerun": True},
            "rerun=True is for long jobs (transaction=False): a tick that is one transaction is handed over anyway",
        ),
        (
            {"transaction": False},
            "is a long job (transaction=False), which takes another parameter: `async def job(run: Run) -> None`",
        ),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], says: str) -> None:
    assert findings(cron("* * * * *", **options)(example)) == [f"job example: {says}"]


@pytest.mark.parametrize("expression", [None, 5, b"* * * * *", ["* * * * *"]])
def test_an_expression_that_is_no_text_is_named(expression: Any) -> None:
    says = f"job example: cron expression {expression!r}: is not a text (try '0 * * * *')"
    assert findings(cron(expression)(example)) == [says]


def test_an_interval_that_ends_beyond_all_dates_is_named() -> None:
    says = "job example: an interval of 3000000d: it must be 36500d or less"
    assert findings(every(days=3_000_000)(example)) == [says]


def test_a_function_whose_name_is_another_one_in_each_process_needs_one_that_lasts() -> None:
    handler = partial(example)
    assert findings(every(minutes=1)(handler)) == [f"job {handler}: has no name that lasts: give it one (name='…')"]
    assert not findings(every(minutes=1, name="partly")(handler))


@pytest.mark.parametrize("longest", [{"retries": 1000, "timeout": "36500d"}, {"grace": "36500d", "jitter": "36500d"}])
def test_what_is_accepted_can_be_worked_with(longest: dict[str, Any]) -> None:
    job = every(days=36_500, **longest)(example)
    assert not findings(job)
    table, now = Timetable(job, job.terms(Schedule())), datetime(2026, 1, 1, tzinfo=UTC)
    assert table.floor(now) < now < table.starts_at(table.upcoming(now))
    assert decide(table, [], now, floor=table.floor(now)).missed == ()


def test_all_that_is_wrong_is_said_at_once() -> None:
    def plain(work: Work) -> Any: ...

    async def two(work: Work, more: int) -> None: ...

    wrong = findings(
        cron("61 * * * *", timezone="Mars")(example),
        every(seconds=0)(example),
        every(days=1)(plain),
        every(days=1)(two),  # type: ignore[arg-type]
        example,
    )
    assert wrong == [
        "job example: cron expression '61 * * * *': minute '61' is not within 0-59",
        "job example: unknown timezone 'Mars': try 'UTC' or 'Europe/Berlin'",
        "job example: an interval of 0 seconds: it must be one or more whole seconds",
        "job plain: not an async function: declare it with `async def`",
        "job two: must take one parameter: `async def job(work: Work) -> None`",
        "JOBS: example is no job: decorate it with @cron or @every",
        "job example: declared 2 times: give all but one another name (name='…')",
    ]


@pytest.mark.anyio
async def test_students_are_renamed_and_counted(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with create_pool(database_url, Database(pool_min_size=1)) as pool:
        current_pool.set(pool)
        async with unit_of_work() as work:
            for name in ("Ada", "Ben"):
                await students.create(work.connection, NewStudent(name=name))
            await rename_students(work)
            await hourly_report(work)
            page = await students.page(work.connection, after=0, limit=10)
    assert [student.name for student in page] == ["Ada_new", "Ben_new"]
