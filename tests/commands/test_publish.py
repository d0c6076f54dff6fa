"""`app.py publish`: a message is checked against its topic, and put into the outbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import structlog
from typer.testing import CliRunner, Result

from app import cli

Run = Callable[..., Result]


@pytest.fixture
def run(here: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("commands.command.configure", lambda *_, **__: None)  # it would outlive the test
    structlog.reset_defaults()

    def run(*arguments: str, entered: str | bytes = "") -> Result:
        return CliRunner().invoke(
            cli, ["publish", *arguments], input=entered, env={"APP_DATABASE__URL": database_url}
        )

    return run


def rows(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as conn:
        return conn.execute(
            "SELECT exchange, routing_key, body, available_at > created_at + interval '1 minute',"
            " properties ->> 'message_id' FROM outbox ORDER BY id"
        ).fetchall()


def test_a_message_is_put_into_the_outbox(run: Run, database_url: str) -> None:
    now = run("student.created", '{"id": 7}')
    later = run("student.created", "-", "--delay", "5m", entered='{"id": 8}')
    assert (now.exit_code, later.exit_code) == (0, 0), now.output + later.output
    (one, two) = rows(database_url)
    assert one[:4] == ("example.exchange", "student.created", b'{"id":7}', False)
    assert two[2:4] == (b'{"id":8}', True)
    assert now.output == f"{one[4]} is in the outbox of broker example\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("studnt.created", "{}"), "there is no topic 'studnt.created': did you mean 'student.created'?"),
        (("student.created", "{}"), "this is no message of topic student.created: id: Field required"),
        (("student.created", "{"), "this is no message of topic student.created: JSON: Invalid JSON"),
        (("student.created", '{"id": 7}', "--delay", "soon"), "'soon' is not a duration"),
        (
            ("student.created", '{"id": 7}', "--delay", "200000000d"),
            "topic student.created: delay '200000000d' is not",
        ),
        (("student.created", "-"), "this is no message of topic student.created: JSON: Invalid JSON"),
    ],
)
def test_what_is_no_message_is_refused(run: Run, database_url: str, arguments: tuple[str, ...], said: str) -> None:
    refused = run(*arguments, entered=b'{"id": "\xff"}')
    assert refused.exit_code == 2
    assert f"error: {said}" in refused.output
    assert rows(database_url) == []
