"""`docs/schedule.md` is held to what it says: its tables name what there is, its example is what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app import cli
from commands.cron.verbs import cli as verbs
from commands.cron.verdict import Answer
from db.cron_runs import RunStatus, cron_run
from roles.schedule.cron import CronSchedule
from roles.schedule.declarations import Options, every
from roles.schedule.expression import FIELDS, SHORTHANDS
from schema.duration import parse_duration
from schema.settings import Schedule, Settings

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "schedule.md").read_text()


PROOFS = {
    "several replicas see a tick": "test_replicas_whose_clocks_differ_run_each_tick_once",
    "the job raises": "test_retries_that_are_used_up_leave_a_failure",
    "the job takes longer than its `timeout`": "test_whatever_a_job_does_its_tick_is_failed_and_the_role_goes_on",
    "the process is killed in the middle of the job": (
        "test_a_claimant_that_dies_in_the_middle_hands_over_although_missed_ticks_are_skipped"
    ),
    "a tick comes due while an earlier run goes on, on any replica": (
        "test_ticks_of_a_queue_wait_for_each_other_in_order_and_not_without_end"
    ),
    "nothing ran when ticks came due, and it is back within their `grace`": (
        "test_a_gap_within_the_grace_is_made_up_for_whatever_the_policy"
    ),
    "nothing ran for longer than that": "test_a_longer_gap_is_the_policys",
    "the database is away": "test_a_database_that_is_away_over_five_ticks",
    "a job is new": "test_a_new_job_looks_back_one_tick_and_no_further_than_its_grace",
    "a job is paused": "test_a_paused_job_is_skipped_on_all_replicas_and_a_resumed_one_does_not_burst",
    "more ticks are due than `schedule.concurrency`": (
        "test_jobs_of_the_same_second_take_no_more_connections_than_the_limit"
    ),
    "a job hangs": "test_a_job_that_hangs_harms_no_other",
    "a job calls `sys.exit`": "test_a_job_that_calls_exit_has_failed_and_ends_no_process",
    "the process drains": "test_a_drain_fires_no_more_and_lets_the_runs_in_hand_finish",
    "a long run's process dies": (
        "test_a_run_whose_lease_expired_is_taken_over_or_has_failed_and_the_old_one_commits_nothing_more"
    ),
}
"""The test that proves each row of "What happens when", by how the row begins."""


def section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    found = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found is not None, heading
    return [[cell.strip() for cell in row.strip("|").split(" |")] for row in found[1].splitlines()]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_options_are_those_of_the_decorators_with_their_defaults() -> None:
    rows = {quoted(name)[0]: default for name, default, _ in table(section("A job"), "option")}
    assert rows.keys() == Options.__annotations__.keys()
    defaults = every(days=1)(lambda _: NotImplemented)
    for name, default in rows.items():
        value = getattr(defaults, name)
        if value is None:
            assert {setting.removeprefix("schedule.") for setting in quoted(default)} <= Schedule.model_fields.keys()
        elif name in ("backoff", "jitter"):
            assert parse_duration(quoted(default)[0].strip('"')) == parse_duration(value)
        elif name != "name":
            assert quoted(default) == [repr(value).replace("'", '"')]


def test_the_fields_are_those_that_are_read() -> None:
    rows = table(section("When it is due"), "field")
    assert [name for name, *_ in rows] == [field.name for field in FIELDS]
    for (name, values, _), field in zip(rows, FIELDS, strict=True):
        high = 7 if name == "day of week" else field.high
        assert f"{field.low}-{high}" in values
        assert not field.names or {field.names[0], field.names[-1]} <= set(re.split(r"[-`]", values))
    assert {word for word in quoted(section("When it is due")) if word in SHORTHANDS} == SHORTHANDS.keys()


@pytest.mark.parametrize("expression", ["0 0 31 2 *", "R * * * *"])
def test_what_is_said_to_be_refused_is(expression: str) -> None:
    assert expression.split(maxsplit=1)[0] in section("When it is due")
    assert list(CronSchedule(expression).findings())


def test_every_row_of_what_happens_when_has_its_proof() -> None:
    rows = [when for when, _ in table(section("What happens when"), "when")]
    assert len(rows) == len(PROOFS)
    assert all(row.startswith(when) for row, when in zip(rows, PROOFS, strict=True))
    sources = "".join(file.read_text() for file in (ROOT / "tests" / "schedule").glob("test_*.py"))
    assert [name for name in PROOFS.values() if f"def {name}(" not in sources] == []


def test_the_columns_and_statuses_are_those_of_the_book() -> None:
    columns = [name for cell, _ in table(section("The book"), "column") for name in quoted(cell)]
    assert sorted(columns) == sorted(column.name for column in cron_run.columns)
    assert [quoted(cell)[0] for cell, _ in table(section("The book"), "status")] == [*RunStatus]


def test_the_preview_is_what_is_printed() -> None:
    shown = re.search(r"^\$ python app\.py (cron preview .*)\n((?:.+\n)+?)```", DOCUMENT, re.MULTILINE)
    assert shown is not None
    arguments = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', shown[1])]
    printed = CliRunner().invoke(cli, arguments).stdout
    assert [line.rstrip() for line in printed.splitlines()] == shown[2].splitlines()


def keys(value: Any) -> list[str]:
    return list(value[0] if isinstance(value, list) else value)


def test_the_verbs_and_the_keys_of_their_json(
    database_url: str, monkeypatch: pytest.MonkeyPatch, here: Path, settings: Settings
) -> None:
    monkeypatch.setenv("APP_DATABASE__URL", database_url)
    rows = {
        quoted(cell)[0].split()[1]: quoted(said) for cell, _, said in table(section("By hand"), "`python app.py …`")
    }
    group = typer.main.get_command(verbs)
    assert rows.keys() == getattr(group, "commands").keys()  # noqa: B009 - Typer's own copy of Click has no types

    def said(*arguments: str) -> Any:
        return json.loads(CliRunner().invoke(cli, ["cron", *arguments, "--json"]).stdout)

    ran = said("run", "hourly_report")
    runs = said("runs", "hourly_report")
    assert keys(said("list")) == rows["list"]
    assert keys(runs) == rows["runs"]
    assert keys(ran) == keys(said("show", ran["run"])) == [*rows["runs"], *rows["show"]]
    assert keys(said("why", "hourly_report", "2026-01-01")) == rows["why"]
    assert keys(said("pause", "hourly_report")) == rows["pause"] == keys(said("resume", "hourly_report"))
    assert said("resume", "hourly_report") is None
    assert keys(said("preview", "@daily")) == rows["preview"]


def test_the_answers_are_those_that_there_are() -> None:
    listed = re.search(r"`answer` is one of (.*?)\.\n", section("By hand"), re.DOTALL)
    assert listed is not None
    assert quoted(listed[1]) == [answer.value for answer in Answer]


def test_the_page_is_as_short_as_it_promises_to_be() -> None:
    assert len(DOCUMENT.split()) < 2200  # two pages and their tables
