"""`cron run`, and the verbs as a user types them."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from app import cli
from commands.cron.by_hand import run_job
from db import cron_runs
from db.pool import Work
from db.pooled_connection import PooledConnection
from roles.schedule.declarations import cron
from roles.schedule.run import Run
from schema.settings import Settings
from tests.commands.support import Output, set_pause


@cron("0 0 1 1 *", timezone="Europe/Berlin")
async def count(work: Work) -> None:
    print("one more")  # noqa: T201
    await work.connection.execute("INSERT INTO student (name) VALUES ('Ada')")


@cron("0 0 1 1 *", retries=1, backoff="0s")
async def fail(work: Work) -> None:
    await count(work)
    raise ValueError("no room")


@cron("0 0 1 1 *", transaction=False)
async def long(run: Run) -> None:
    async with run.unit_of_work() as work:
        await count(work)
    run.report("half")


JOBS = (count, fail, long)


async def outcome(settings: Settings, out: Output, name: str) -> tuple[int, dict[str, Any]]:
    code = await run_job(settings, name=name, jobs=JOBS, as_json=True)
    return code, json.loads(out())


def students(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM student").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["count", "long"])
async def test_a_job_is_run_although_it_is_paused(
    settings: Settings, database_url: str, out: Output, name: str
) -> None:
    set_pause(database_url, name, None)
    code, run = await outcome(settings, out, name)  # JSON, whatever the job prints
    assert code == 0
    assert (run["status"], run["trigger"], run["attempts"]) == ("finished", "manual", 1)
    assert "@" in run["triggered_by"]
    assert students(database_url) == 1


@pytest.mark.anyio
async def test_a_job_that_fails_leaves_its_traceback_and_nothing_else(
    settings: Settings, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_job(settings, name="fail", jobs=JOBS, as_json=False) == 1
    printed = capsys.readouterr()
    assert "status    failed" in printed.out
    assert "attempts  2" in printed.out
    assert "ValueError: no room" in printed.out.splitlines()[-1]
    assert "job failed" in printed.err
    assert students(database_url) == 0


@pytest.mark.anyio
async def test_a_job_that_goes_on_elsewhere_is_not_run(settings: Settings, database_url: str, out: Output) -> None:
    async with await PooledConnection.connect(database_url) as replica:
        assert await cron_runs.lock_job(replica, "count")
        code, run = await outcome(settings, out, "count")
    assert (code, run["status"], run["reason"]) == (1, "skipped", "an earlier run of the job still went on")
    assert students(database_url) == 0


@pytest.fixture
def type_in(database_url: str, monkeypatch: pytest.MonkeyPatch, here: object) -> Any:
    monkeypatch.setenv("APP_DATABASE__URL", database_url)

    def invoke(*arguments: str) -> tuple[int, Any, str]:
        result = CliRunner().invoke(cli, ["cron", *arguments])
        return result.exit_code, json.loads(result.stdout) if "--json" in arguments else result.stdout, result.stderr

    return invoke


def test_the_verbs_as_they_are_typed(type_in: Any) -> None:
    code, ran, _ = type_in("run", "hourly_report", "--json")
    assert (code, ran["job"], ran["status"]) == (0, "hourly_report", "finished")
    code, rows, _ = type_in("runs", "hourly_report", "--status", "finished", "--status", "failed", "--json")
    assert (code, [row["run"] for row in rows]) == (0, [ran["run"]])
    assert type_in("runs", "hourly_report", "--status", "missed") == (
        0,
        "the book has no such run of hourly_report\n",
        "",
    )
    assert type_in("show", ran["run"], "--json") == (0, ran, "")
    code, listed, _ = type_in("list", "--json")
    assert code == 0
    assert {"rename_students", "hourly_report", "prune_cron_runs"} <= {row["job"] for row in listed}
    assert type_in("pause", "hourly_report", "--reason", "a test", "--json")[1]["reason"] == "a test"
    code, [reason], _ = type_in("why", "hourly_report", "2100-01-01T00:00", "--json")
    assert (code, reason["answer"]) == (0, "not yet")
    assert "a test" in reason["because"]
    assert type_in("resume", "hourly_report")[0] == 0
    code, shown, _ = type_in("preview", "@yearly", "--from", "2026-01-01", "--days", "1", "--json")
    assert (code, [tick["at"] for tick in shown["ticks"]]) == (0, ["2026-01-01T00:00:00Z"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "hourly_reprot"], 2, "there is no job 'hourly_reprot': did you mean 'hourly_report'?"),
        (["why", "hourly_report", "noon"], 2, "'noon' is no time"),
        (["runs", "hourly_report", "--since", "yesterday"], 2, "'yesterday' is no time"),
        (["show", "hourly_report@2026-01-01"], 1, "the book has no run hourly_report@2026-01-01"),
        (["runs", "hourly_report", "--status", "lost"], 2, "lost"),
        (["runs", "hourly_report", "--limit", "0"], 2, "limit"),
        (["runs"], 2, "JOB"),
    ],
)
def test_what_is_typed_wrong(type_in: Any, arguments: list[str], code: int, says: str) -> None:
    ended, _, error = type_in(*arguments)
    assert ended == code, error
    assert says in error
