"""Arguments that no verb can do anything with: each is a usage error, and not something that the database refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli

pytestmark = pytest.mark.usefixtures("configured")

TOO_LARGE = "99999999999999999999"


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


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("parked", "list", "--error"), "--error"),
        (("parked", "list", "--queue"), "--queue"),
        (("parked", "replay", "--all", "--queue"), "--queue"),
        (("parked", "drop", "1", "--yes", "--note"), "--note"),
        (("parked", "replay", "1", "--yes", "--by"), "--by"),
        (("parked", "edit", "1", "--body", "-", "--by"), "--by"),
        (("cron", "runs"), "JOB"),
        (("cron", "why", "prune_inbox"), "TIME"),
        (("cron", "pause", "prune_inbox", "--reason"), "--reason"),
        (("keys", "create", "--scope", "students:read"), "NAME"),
        (("keys", "create", "Ada", "--scope"), "--scope"),
        (("keys", "revoke"), "ID"),
        (("publish", "student.created"), "JSON"),
        (("topology", "apply", "--recreate"), "--recreate"),
        (("--roles",), "--roles"),
    ],
)
def test_an_argument_that_is_no_text(arguments: tuple[str, ...], option: str) -> None:
    refused = CliRunner().invoke(cli, [*arguments, os.fsdecode(b"caf\xe9")])
    assert refused.exit_code == 2, refused.exception
    assert refused.stderr == f"error: {option}: b'caf\\xe9' is no UTF-8\n"


def test_the_name_of_a_file_need_not_be_text(here: Path) -> None:
    refused = CliRunner().invoke(cli, ["parked", "list", "--config", os.fsdecode(b"caf\xe9")])
    assert refused.exit_code == 2
    assert "there is no such file" in refused.output
