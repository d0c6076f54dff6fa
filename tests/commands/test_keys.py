"""`app.py keys …`, as a person and as a program use it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from app import cli
from db.api_keys import digest_of


@pytest.fixture(autouse=True)
def url(configured: str) -> str:
    """A database without keys."""
    with psycopg.connect(configured, autocommit=True) as admin:
        admin.execute("TRUNCATE api_key")
    return configured


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments])


def listed() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(keys("list", "--json").stdout)
    return rows


def test_a_key_is_shown_once_and_only_its_digest_is_kept(url: str) -> None:
    made = keys("create", "Ada", "--scope", "students:read", "--scope", "students:write")
    assert made.exit_code == 0
    [key] = made.stdout.splitlines()
    assert "only time" in made.stderr
    [row] = listed()
    assert key.startswith(f"rk_{row['id']}_")
    assert (row["name"], row["scopes"]) == ("Ada", ["students:read", "students:write"])
    assert row["expires_at"] is row["revoked_at"] is row["last_used_at"] is None
    for shown in (keys("list").stdout, keys("list", "--json").stdout):
        assert key.split("_", 2)[2] not in shown
        assert "digest" not in shown
    with psycopg.connect(url) as admin:
        stored = admin.execute("SELECT digest, api_key::text FROM api_key").fetchone()
    assert stored is not None
    assert stored[0] == digest_of(key)
    assert key.split("_", 2)[2] not in stored[1]


def test_a_key_may_end(url: str) -> None:
    made = json.loads(keys("create", "Ada", "--scope", "students:read", "--expires", "90d", "--json").stdout)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left <= timedelta(days=90)
    assert made["key"].startswith(f"rk_{made['id']}_")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scope", "student:read"], "did you mean 'students:read'?"),
        (["--scope", "zzz"], "known are students:read, students:write, timezone:read"),
        (["--scope", "students:read", "--expires", "soon"], "--expires: 'soon' is not a duration"),
        ([], "--scope"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_made(arguments: list[str], said: str) -> None:
    refused = keys("create", "Ada", *arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert listed() == []


def test_a_revoked_key_stays_in_the_list_with_the_time_of_that() -> None:
    made = json.loads(keys("create", "Ada", "--scope", "students:read", "--json").stdout)
    revoked = keys("revoke", made["id"], "--yes")
    assert (revoked.exit_code, revoked.stdout) == (0, f"revoked {made['id']}; refused everywhere within 10s\n")
    [row] = listed()
    assert row["revoked_at"] is not None
    assert keys("revoke", made["id"], "--yes").exit_code == 0
    assert listed() == [row]


def test_a_key_is_not_revoked_without_being_asked_for_and_only_if_there_is_one() -> None:
    made = json.loads(keys("create", "Ada", "--scope", "students:read", "--json").stdout)
    assert keys("revoke", made["id"]).exit_code == 2
    assert listed()[0]["revoked_at"] is None
    missing = keys("revoke", "nope", "--yes")
    assert missing.exit_code == 1
    assert "there is no key 'nope'" in missing.stderr


def test_people_see_a_table_and_a_hint_when_it_is_empty() -> None:
    assert "keys create" in keys("list").stdout
    keys("create", "Ada", "--scope", "students:read", "--scope", "timezone:read")
    shown = keys("list").stdout
    assert "last_used_at" in shown
    assert "students:read timezone:read" in shown


@pytest.mark.parametrize("expires", ["0s", "0.0d", "3000000d", "999999999d"])
def test_a_key_that_would_end_at_once_or_beyond_all_times_is_not_made(expires: str) -> None:
    refused = keys("create", "Ada", "--scope", "students:read", "--expires", expires)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"error: --expires: '{expires}' is " in refused.stderr
    assert listed() == []


@pytest.mark.parametrize("text", ["", " "])
def test_a_name_that_is_none_is_refused_and_an_id_that_is_none_is_no_keys(text: str) -> None:
    refused = keys("create", text, "--scope", "students:read")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "error: NAME: " in refused.stderr
    assert listed() == []
    unknown = keys("revoke", text, "--yes")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert f"error: there is no key {text!r}" in unknown.stderr
