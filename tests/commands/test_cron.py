"""The verbs `cron …` against a book that was written for them, at a time that stands still."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from commands.cron.listing import list_jobs
from commands.cron.pausing import pause, resume
from commands.cron.preview import preview
from commands.cron.runs import list_runs, show_run
from commands.cron.times import took
from db.cron_runs import RunStatus
from db.pool import Work
from roles.schedule.declarations import cron, every
from schema.settings import Settings
from tests.commands.support import Output, set_pause, utc, write


@cron("30 2 * * *", timezone="Europe/Berlin")
async def nightly(work: Work) -> None: ...


@cron("*/30 * * * *", timezone="Europe/Berlin")
async def rhythm(work: Work) -> None: ...


@every(minutes=5)
async def ticker(work: Work) -> None: ...


JOBS = (nightly, rhythm, ticker)
AUTUMN = datetime(2025, 10, 25, 12, tzinfo=UTC)
SPRING = datetime(2025, 3, 29, 12, tzinfo=UTC)
TRACEBACK = "ValueError: no room\nTraceback (most recent call last):\n\tFile \x1b[31m\nValueError: no room"


def golden(name: str) -> str:
    return (Path(__file__).parent / "golden" / name).read_text().rstrip()


def look_ahead(
    expression: str,
    start: str,
    *,
    days: int = 2,
    zone: str = "Europe/Berlin",
    limit: int = 100,
    as_json: bool = False,
) -> None:
    preview(expression, zone=zone, start=start, now=AUTUMN, days=days, limit=limit, as_json=as_json)


def test_a_preview_over_the_day_with_25_hours(out: Output) -> None:
    look_ahead("30 2 * * *", "2025-10-25", days=3)
    assert (
        out()
        == """\
Europe/Berlin                  in UTC
Sat 2025-10-25 02:30:00+02:00  2025-10-25T00:30:00Z
Sun 2025-10-26 02:30:00+02:00  2025-10-26T00:30:00Z  the first 02:30 of two; the second is no tick
Sun 2025-10-26 02:00:00+01:00  2025-10-26T01:00:00Z  -- clocks go back by 1h, from 03:00 to 02:00
Mon 2025-10-27 02:30:00+01:00  2025-10-27T01:30:00Z"""
    )


def test_a_preview_over_the_day_with_23_hours(out: Output) -> None:
    look_ahead("*/15 2 * * *", "2025-03-29T02:30")
    assert (
        out()
        == """\
Europe/Berlin                  in UTC
Sat 2025-03-29 02:30:00+01:00  2025-03-29T01:30:00Z
Sat 2025-03-29 02:45:00+01:00  2025-03-29T01:45:00Z
Sun 2025-03-30 03:00:00+02:00  2025-03-30T01:00:00Z  -- clocks go forward by 1h, from 02:00 to 03:00
Sun 2025-03-30 03:00:00+02:00  2025-03-30T01:00:00Z  for 02:00, 02:15, 02:30, 02:45, which do not come on that day
Mon 2025-03-31 02:00:00+02:00  2025-03-31T00:00:00Z
Mon 2025-03-31 02:15:00+02:00  2025-03-31T00:15:00Z"""
    )


def test_a_preview_of_a_rhythm_ends_at_its_limit_and_says_so(out: Output) -> None:
    look_ahead("*/30 * * * *", "2025-10-26T02:00:00+02:00", limit=4)
    assert (
        out()
        == """\
Europe/Berlin                  in UTC
Sun 2025-10-26 02:00:00+02:00  2025-10-26T00:00:00Z
Sun 2025-10-26 02:30:00+02:00  2025-10-26T00:30:00Z
Sun 2025-10-26 02:00:00+01:00  2025-10-26T01:00:00Z  -- clocks go back by 1h, from 03:00 to 02:00
Sun 2025-10-26 02:00:00+01:00  2025-10-26T01:00:00Z  02:00 for the second time
Sun 2025-10-26 02:30:00+01:00  2025-10-26T01:30:00Z  02:30 for the second time
… and more after these 4 (--limit)"""
    )


def test_a_preview_as_json(out: Output) -> None:
    look_ahead("30 2 * * *", "2025-10-26", days=1, as_json=True)
    assert json.loads(out()) == {
        "expression": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "from": "2025-10-25T22:00:00Z",
        "until": "2025-10-26T23:00:00Z",
        "truncated": False,
        "ticks": [
            {
                "at": "2025-10-26T00:30:00Z",
                "local": "2025-10-26T02:30:00+02:00",
                "note": "the first 02:30 of two; the second is no tick",
            }
        ],
        "changes": [
            {
                "at": "2025-10-26T01:00:00Z",
                "local_before": "2025-10-26T03:00:00+02:00",
                "local_after": "2025-10-26T02:00:00+01:00",
                "note": "clocks go back by 1h, from 03:00 to 02:00",
            }
        ],
    }


def test_a_preview_begins_now_and_takes_the_moments_of_its_edges_once(out: Output) -> None:
    preview("0 12 * * *", zone="UTC", start=None, now=AUTUMN, days=1, limit=9, as_json=False)
    assert out().splitlines()[1:] == ["Sat 2025-10-25 12:00:00+00:00  2025-10-25T12:00:00Z"]
    look_ahead("0 0 29 2 *", "2025-10-26", days=3)
    assert out() == "not due in 3 days"


@pytest.mark.parametrize(
    ("expression", "options", "says"),
    [
        ("0 0 31 2 *", {}, "cron expression '0 0 31 2 *': never comes"),
        ("@daily", {"zone": "Europe/Berln"}, "unknown timezone 'Europe/Berln': did you mean 'Europe/Berlin'?"),
        ("@daily", {"start": "tomorrow"}, "'tomorrow' is no time (try '2026-01-31T02:30'"),
        ("@daily", {"start": "0001-01-01"}, "'0001-01-01' is not within the years 1900-2500"),
    ],
)
def test_what_cannot_be_previewed(
    capsys: pytest.CaptureFixture[str], expression: str, options: dict[str, str], says: str
) -> None:
    with pytest.raises(typer.Exit) as ended:
        look_ahead(expression, options.get("start", "2025-10-25"), zone=options.get("zone", "UTC"))
    assert ended.value.exit_code == 2
    assert says in capsys.readouterr().err


async def listed(settings: Settings, now: datetime, *, as_json: bool = False, since: str = "7d") -> None:
    assert await list_jobs(settings, since=since, jobs=JOBS, now=now, as_json=as_json) == 0


@pytest.mark.anyio
async def test_the_list_before_the_day_with_25_hours(settings: Settings, database_url: str, out: Output) -> None:
    for minute in range(20):
        write(database_url, "ticker", f"2025-10-25T11:{minute:02}", seconds=minute + 1)
    write(database_url, "ticker", "2025-10-25T11:40", "failed", error=TRACEBACK)
    write(database_url, "ticker", "2025-10-25T11:45", "skipped", error="an earlier run of the job still went on")
    write(database_url, "nightly", "2025-10-25T09:00:00.250", trigger="manual", triggered_by="ada@desk")
    write(database_url, "nightly", "2025-10-01T00:30", "failed", error="before the figures begin")
    set_pause(database_url, "rhythm", "the disk is full")
    await listed(settings, AUTUMN)
    assert out() == golden("cron_list.txt")


@pytest.mark.anyio
async def test_the_list_as_json_before_the_day_with_23_hours(
    settings: Settings, database_url: str, out: Output
) -> None:
    write(database_url, "nightly", "2025-03-29T01:30", seconds=2)
    set_pause(database_url, "nightly", None)
    await listed(settings, SPRING, as_json=True, since="2025-03-20")
    first, second, _ = json.loads(out())
    assert first["next"][:2] == [
        {
            "at": "2025-03-30T01:00:00Z",
            "local": "2025-03-30T03:00:00+02:00",
            "note": "for 02:30, which does not come on that day",
        },
        {"at": "2025-03-31T00:30:00Z", "local": "2025-03-31T02:30:00+02:00", "note": None},
    ]
    assert len(first.pop("next")) == 5
    assert first.pop("latest")["run"] == "nightly@2025-03-29T01:30:00Z"
    assert first == {
        "job": "nightly",
        "schedule": "30 2 * * * (Europe/Berlin)",
        "timezone": "Europe/Berlin",
        "paused": {"job": "nightly", "paused_at": "2025-10-24T10:00:00Z", "paused_by": "ada@desk", "reason": None},
        "since": "2025-03-20T00:00:00Z",
        "finished": 1,
        "failed": 0,
        "missed": 0,
        "skipped": 0,
        "success_rate": 1.0,
        "mean_seconds": 2.0,
        "p95_seconds": 2.0,
    }
    assert (second["latest"], second["success_rate"], second["paused"]) == (None, None, None)


async def rows_of(settings: Settings, name: str, **options: Any) -> None:
    options = {"statuses": list(RunStatus), "since": None, "limit": 20, "as_json": False} | options
    assert await list_runs(settings, name=name, jobs=JOBS, now=AUTUMN, **options) == 0


@pytest.fixture
def book(database_url: str) -> None:
    write(database_url, "nightly", "2025-10-20T00:30", "missed", through=utc("2025-10-24T00:30"), error="too late")
    write(database_url, "nightly", "2025-10-25T00:30")
    write(database_url, "nightly", "2025-10-26T00:30", "failed", attempts=3, error=TRACEBACK)
    write(
        database_url, "nightly", "2025-10-26T10:00:00.25", trigger="manual", triggered_by="ada@desk", seconds=0.0124
    )
    write(database_url, "ticker", "2025-10-25T00:30", seconds=125)


@pytest.mark.anyio
async def test_the_rows_of_a_job(settings: Settings, book: None, out: Output) -> None:
    await rows_of(settings, "nightly")
    assert out() == golden("cron_runs.txt")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "days"),
    [
        ({"limit": 2}, ["26", "26"]),
        ({"statuses": [RunStatus.FAILED, RunStatus.MISSED]}, ["26", "20"]),
        ({"since": "2025-10-25T02:30"}, ["26", "26", "25"]),
        ({"since": "2025-10-25T02:31"}, ["26", "26"]),
        ({"since": "12h"}, ["26", "26", "25"]),
        ({"since": "11h"}, ["26", "26"]),
    ],
)
async def test_rows_are_filtered(
    settings: Settings, book: None, out: Output, options: dict[str, Any], days: list[str]
) -> None:
    await rows_of(settings, "nightly", as_json=True, **options)
    assert [row["scheduled_at"][8:10] for row in json.loads(out())] == days


@pytest.mark.anyio
async def test_a_row_is_shown_whole(settings: Settings, book: None, out: Output) -> None:
    assert await show_run(settings, run="nightly@2025-10-26T00:30:00Z", jobs=JOBS, as_json=False) == 0
    assert (
        out()
        == """\
run       nightly@2025-10-26T00:30:00Z
due       Sun 2025-10-26 02:30:00+02:00
trigger   schedule
status    failed
started   Sun 2025-10-26 02:30:01+02:00
ended     Sun 2025-10-26 02:30:02.500+02:00
took      1.5 s
attempts  3
host      web-1:7

ValueError: no room
Traceback (most recent call last):
    File ·[31m
ValueError: no room"""
    )


@pytest.mark.anyio
async def test_a_row_as_json_has_every_column(settings: Settings, book: None, out: Output) -> None:
    assert await show_run(settings, run="nightly@2025-10-26T00:30:00Z", jobs=JOBS, as_json=True) == 0
    assert json.loads(out()) == {
        "run": "nightly@2025-10-26T00:30:00Z",
        "job": "nightly",
        "scheduled_at": "2025-10-26T00:30:00Z",
        "through": None,
        "trigger": "schedule",
        "triggered_by": None,
        "status": "failed",
        "started_at": "2025-10-26T00:30:01Z",
        "finished_at": "2025-10-26T00:30:02.500000Z",
        "seconds": 1.5,
        "attempts": 3,
        "reason": "ValueError: no room",
        "progress": None,
        "host": "web-1:7",
        "error": TRACEBACK,
        "lease_expires_at": None,
        "fence": 0,
    }


@pytest.mark.anyio
@pytest.mark.parametrize("run", ["nightly@2025-10-26T10:00:00.250000Z", "nightly@2025-10-26T11:00:00.250+01:00"])
async def test_what_runs_prints_is_what_show_takes(settings: Settings, book: None, out: Output, run: str) -> None:
    await show_run(settings, run=run, jobs=JOBS, as_json=True)
    assert json.loads(out())["triggered_by"] == "ada@desk"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("run", "code", "says"),
    [
        ("nightly", 2, "'nightly' names no run: JOB@TIME is what `cron runs JOB` prints"),
        ("nihgtly@2025-10-26T00:30Z", 2, "there is no job 'nihgtly': did you mean 'nightly'?"),
        ("nightly@noon", 2, "'noon' is no time"),
        ("nightly@2025-10-27T00:30Z", 1, "the book has no run nightly@2025-10-27T00:30Z"),
    ],
)
async def test_what_cannot_be_shown(
    settings: Settings, book: None, capsys: pytest.CaptureFixture[str], run: str, code: int, says: str
) -> None:
    with pytest.raises(typer.Exit) as ended:
        await show_run(settings, run=run, jobs=JOBS, as_json=False)
    assert ended.value.exit_code == code
    assert says in capsys.readouterr().err


@pytest.mark.anyio
async def test_a_local_time_that_comes_twice_can_name_two_runs(
    settings: Settings, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for hour in (0, 1):
        write(database_url, "rhythm", f"2025-10-26T0{hour}:30")
    with pytest.raises(typer.Exit):
        await show_run(settings, run="rhythm@2025-10-26T02:30", jobs=JOBS, as_json=False)
    assert "can be any of rhythm@2025-10-26T00:30:00Z, rhythm@2025-10-26T01:30:00Z" in capsys.readouterr().err


@pytest.mark.anyio
async def test_a_job_that_is_no_longer_declared_has_left_its_rows(
    settings: Settings, database_url: str, out: Output
) -> None:
    write(database_url, "retired", "2025-10-25T00:30")
    await rows_of(settings, "retired")
    assert "Sat 2025-10-25 00:30:00+00:00" in out()


@pytest.mark.anyio
async def test_an_unknown_job_names_the_nearest_or_where_to_look(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, says in (("Tikcer", "did you mean 'ticker'?"), ("x", "`python app.py cron list` names them all")):
        with pytest.raises(typer.Exit) as ended:
            await rows_of(settings, name)
        assert ended.value.exit_code == 2
        assert f"there is no job {name!r}: {says}" in capsys.readouterr().err
        with pytest.raises(typer.Exit):
            await pause(settings, name=name, reason=None, jobs=JOBS, as_json=False)


@pytest.mark.anyio
async def test_a_job_is_paused_once_and_resumed(settings: Settings, out: Output) -> None:
    assert await pause(settings, name="ticker", reason="a full disk", jobs=JOBS, as_json=False) == 0
    assert out() == "ticker is paused: its ticks are skipped until `python app.py cron resume ticker`"
    assert await pause(settings, name="ticker", reason="another", jobs=JOBS, as_json=True) == 0
    kept = json.loads(out())
    assert (kept["job"], kept["reason"], "@" in kept["paused_by"]) == ("ticker", "a full disk", True)
    await pause(settings, name="ticker", reason=None, jobs=JOBS, as_json=False)
    assert "ticker is paused already, since" in out()
    assert await resume(settings, name="ticker", jobs=JOBS, as_json=True) == 0
    assert json.loads(out()) == kept
    await resume(settings, name="ticker", jobs=JOBS, as_json=False)
    assert out() == "ticker is not paused"


@pytest.mark.anyio
async def test_what_was_paused_and_is_declared_no_more_can_be_resumed(
    settings: Settings, database_url: str, out: Output
) -> None:
    set_pause(database_url, "retired", None)
    await resume(settings, name="retired", jobs=JOBS, as_json=False)
    assert out() == "retired runs again; it was paused since Fri 2025-10-24 10:00:00+00:00 by ada@desk"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0124, "12 ms"), (3.21, "3.2 s"), (125, "02:05"), (3725.4, "1:02:05"), (None, None)]
)
def test_how_long_it_took(seconds: float | None, text: str | None) -> None:
    assert took(seconds) == text
