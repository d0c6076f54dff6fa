"""The command line: what it says, and the code that it exits with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from db.schema_version import head
from roles.consume.handlers import CONSUMERS
from roles.schedule.jobs import JOBS
from tests.e2e.support import APP, ROOT, running


def run(directory: Path, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("ROLES", "DEBUG")}
    return subprocess.run(
        [sys.executable, str(APP), *arguments],
        cwd=directory,
        env={**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_is_good_enough_to_work_from(here: Path) -> None:
    shown = run(here, "--help")
    assert shown.returncode == 0
    for word in (
        "--roles",
        "--console",
        "--config",
        "--migrate",
        "--reload",
        "config",
        "migrate",
        "check",
        "SIGTERM",
    ):
        assert word in shown.stdout
    assert "--workers" not in shown.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_was_started_without_standard_streams_works_all_the_same(here: Path, closed: str) -> None:
    command = ["sh", "-c", f'"$0" "$@" {closed}', sys.executable, str(APP), "check"]
    done = subprocess.run(command, cwd=here, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    assert done.returncode == 0


def test_an_unknown_role_names_the_nearest(here: Path) -> None:
    refused = run(here, "--roles", "api,shedule")
    assert refused.returncode == 2
    assert "unknown role 'shedule': did you mean 'schedule'?" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["--console", "loud"]])
def test_usage_errors_exit_with_2(here: Path, arguments: list[str]) -> None:
    assert run(here, *arguments).returncode == 2


def test_config_prints_what_is_in_force_and_from_where(here: Path) -> None:
    (here / "config.toml").write_text('[api]\nbind = "127.0.0.1:1234"\n')
    shown = run(here, "config", environ={"APP_DATABASE__URL": "postgresql://me:hunter2@db/x"})
    assert shown.returncode == 0
    assert 'api.bind = "127.0.0.1:1234"  # config.toml: [api] bind' in shown.stdout
    assert 'database.url = "postgresql://me:***@db/x"  # environment: APP_DATABASE__URL' in shown.stdout
    assert 'ops.bind = "127.0.0.1:8091"  # default' in shown.stdout
    assert "hunter2" not in shown.stdout + shown.stderr


def test_a_config_file_can_be_named_before_or_after_the_command(here: Path) -> None:
    (here / "other.toml").write_text('[ops]\nbind = "127.0.0.1:4321"\n')
    for arguments in (["--config", "other.toml", "config"], ["config", "--config", "other.toml"]):
        assert 'ops.bind = "127.0.0.1:4321"' in run(here, *arguments).stdout
    missing = run(here, "--config", "nowhere.toml")
    assert missing.returncode == 2
    assert "nowhere.toml: there is no such file" in missing.stderr


def test_check_finds_everything_in_order(here: Path, services: dict[str, str]) -> None:
    checked = run(here, "check", environ=services)
    assert checked.stdout.splitlines() == [
        "ok   routes: 6 declared, to be served by hypercorn",
        'ok   callers: auth.mode = "none", so everybody may do everything',
        f"ok   consumers: {len(CONSUMERS)} declared",
        f"ok   jobs: {len(JOBS)} declared",
        "ok   topics: 1 declared",
        "ok   pool: up to 28 of database.pool_max_size = 30 connections are wanted at a time",
        "ok   database: reachable, its schema is at head",
        "ok   amqp.example: reachable",
    ]
    assert checked.returncode == 0


def test_check_says_what_is_not_in_order(here: Path, services: dict[str, str]) -> None:
    with psycopg.connect(services["APP_DATABASE__URL"], autocommit=True) as admin:
        admin.execute("DROP TABLE alembic_version")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    environ = {**services, "APP_AMQP__EXAMPLE__URL": f"amqp://guest:hunter2@127.0.0.1:{port}/"}
    checked = run(here, "check", environ=environ)
    assert checked.returncode == 2
    bad = [line for line in checked.stdout.splitlines() if line.startswith("bad")]
    assert len(bad) == 2
    assert "run `python app.py migrate`" in bad[0]
    assert f"127.0.0.1:{port}" in bad[1] or "refused" in bad[1].lower()
    assert "amqp.example" in bad[1]
    assert "hunter2" not in checked.stdout + checked.stderr
    assert "Traceback" not in checked.stderr


def test_migrate_brings_the_schema_to_head(here: Path, services: dict[str, str]) -> None:
    with psycopg.connect(services["APP_DATABASE__URL"], autocommit=True) as admin:
        admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        migrated = run(here, "migrate", environ=services)
        assert migrated.returncode == 0
        assert f"the database's schema is at {head()}" in migrated.stdout
        assert admin.execute("SELECT version_num FROM alembic_version").fetchall() == [(head(),)]


def test_migrate_fails_with_1_when_the_database_is_away(here: Path) -> None:
    failed = run(here, "migrate", environ={"APP_DATABASE__URL": f"postgresql:///x?host={here}"})
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: PostgreSQL: ")
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("setting", ["api.bind", "ops.bind"])
def test_a_taken_port_is_an_error_that_names_the_setting(here: Path, services: dict[str, str], setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        name = f"APP_{setting.upper().replace('.', '__')}"
        ports = {"APP_API__BIND": "127.0.0.1:0", "APP_OPS__BIND": "127.0.0.1:0"}
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = run(here, "--roles", "api", environ={**services, **ports, name: address})
    assert refused.returncode == 2
    assert f'error: {setting} = "{address}" ({name}): the port is in use by' in refused.stderr


def test_an_embedded_directory_that_cannot_be_used_is_an_error_that_names_the_setting(here: Path) -> None:
    (here / "file").write_text("in the way")
    for roles in ("api", "consume"):
        refused = run(here, "--roles", roles, environ={"APP_EMBEDDED__DIRECTORY": "file/local"})
        assert refused.returncode == 2
        assert "error: embedded.directory = 'file/local' cannot be used: Not a directory" in refused.stderr
        assert "amqp.<name>.url" in refused.stderr


@pytest.mark.anyio
async def test_migrate_at_start_is_asked_for_by_a_flag(here: Path, services: dict[str, str]) -> None:
    with psycopg.connect(services["APP_DATABASE__URL"], autocommit=True) as admin:
        admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    async with running(here, "--migrate", environ=services) as app:
        assert (await app.api.get("/api/v1/students")).status_code == 200
        assert await app.stop() == 0
