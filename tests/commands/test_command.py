"""What all verbs share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
import typer

from commands.command import confirm, database, exit_with, failure, print_json, show, who
from db.pool import connection
from schema.errors import ConfigurationError, DependencyUnavailable
from schema.settings import Settings

ROWS = [{"name": "Ada", "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "note": None, "hidden": 1}]


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigurationError("wrong"), 2), (DependencyUnavailable("away"), 1), (typer.Exit(7), 7)]
)
def test_an_error_becomes_an_exit_code_also_out_of_a_task_group(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main(_: Settings) -> int:
        async with anyio.create_task_group():
            raise error
        return 0

    with pytest.raises(typer.Exit) as ended:
        exit_with(main, Settings())
    assert ended.value.exit_code == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    async def main(_: Settings) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_with(main, Settings())


def test_a_failure_says_so_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure("no such thing", 1).exit_code == 1
    assert capsys.readouterr().err == "error: no such thing\n"


def test_rows_are_a_table_for_people_and_whole_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, columns=("name", "at", "note"), as_json=False, empty="nobody")
    assert "Ada   2026-01-02 03:04:05+00:00  -" in capsys.readouterr().out
    show(ROWS, columns=("name", "at", "note"), as_json=True, empty="nobody")
    assert json.loads(capsys.readouterr().out) == [
        {"name": "Ada", "at": "2026-01-02T03:04:05Z", "note": None, "hidden": 1}
    ]


def test_no_rows_are_said_to_people_and_an_empty_list_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    show([], columns=("name",), as_json=False, empty="nobody")
    assert capsys.readouterr().out == "nobody\n"
    show([], columns=("name",), as_json=True, empty="nobody")
    assert json.loads(capsys.readouterr().out) == []


def test_a_cell_holds_nothing_that_a_terminal_acts_on(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"name": "\x1b[31mred\nand [bold]more"}], columns=("name",), as_json=False, empty="")
    assert "·[31mred and [bold]more" in capsys.readouterr().out


def test_json_keeps_text_as_people_wrote_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "é", "when": ROWS[0]["at"]})
    assert json.loads(capsys.readouterr().out)["text"] == "é"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_null(number: float, capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"mean": [number]})
    assert "".join(capsys.readouterr().out.split()) == '{"mean":[null]}'


def test_without_a_terminal_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    confirm("Drop all?", yes=True)
    with pytest.raises(typer.Exit) as ended:
        confirm("Drop all?", yes=False)
    assert ended.value.exit_code == 2
    assert "add --yes" in capsys.readouterr().err


def test_a_login_that_is_no_text_can_be_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "caf\udce9")
    assert who().startswith("caf?@")


@pytest.mark.anyio
async def test_a_command_finds_the_database_open(database_url: str, here: Path) -> None:
    settings = Settings.model_validate({"database": {"url": database_url}})
    async with database(settings), connection() as conn:
        row = await (await conn.execute("SELECT count(*) FROM student")).fetchone()
    assert row == (0,)
