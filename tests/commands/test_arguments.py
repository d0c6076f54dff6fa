"""Arguments that no verb can do anything with: each is a usage error, and not something that the database refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli
from tests.services import PostgresServer

TOO_LARGE = "99999999999999999999"


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture(autouse=True)
def settings(url: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE__URL", url)


@pytest.mark.parametrize("number", [TOO_LARGE, f"-{TOO_LARGE}"])
@pytest.mark.parametrize("verb", ["show", "replay", "drop", "edit", "rehearse"])
def test_a_number_that_no_message_can_have(verb: str, number: str) -> None:
    refused = CliRunner().invoke(cli, ["parked", verb, "--", number])
    assert refused.exit_code == 2, refused.output
    assert "Invalid value for" in refused.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("parked", "list"),
        ("parked", "replay", "--all"),
        ("parked", "drop", "--all"),
        ("cron", "runs", "prune_inbox"),
        ("cron", "preview", "@daily"),
    ],
)
def test_a_limit_that_the_database_does_not_know(arguments: tuple[str, ...]) -> None:
    refused = CliRunner().invoke(cli, [*arguments, "--limit", "99999999999"])
    assert refused.exit_code == 2, refused.output
    assert "Invalid value for" in refused.output
