"""What can be declared, what is refused at boot, and the jobs that ship."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from db import students
from db.pool import Work, create_pool, current_pool, unit_of_work
from roles.schedule.cron import CronSchedule, IntervalSchedule
from roles.schedule.declarations import cron, every, validate
from roles.schedule.jobs import JOBS
from roles.schedule.jobs.students import hourly_report, rename_students
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
