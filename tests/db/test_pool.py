"""The pool's promises: whole transactions, no hang, and no error after PostgreSQL was away for a moment."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import anyio
import psycopg
import pytest
from psycopg.errors import (
    DivisionByZero,
    IdleInTransactionSessionTimeout,
    InFailedSqlTransaction,
    NoActiveSqlTransaction,
    OperationalError,
    QueryCanceled,
    UniqueViolation,
)
from sqlalchemy import bindparam, select
from sqlalchemy.schema import CreateTable

from db import students
from db.pool import (
    DatabaseUnavailable,
    Pool,
    PoolExhausted,
    connection,
    create_pool,
    current_pool,
    unit_of_work,
)
from db.query import Query
from roles.embedded.postgres import Postgres
from schema.duration import parse_duration
from schema.settings import Database
from schema.students import NewStudent
from tests.services import running

pytestmark = pytest.mark.anyio


async def count() -> int:
    async with connection() as conn:
        return await students.count_active(conn)


@pytest.mark.usefixtures("pool")
async def test_a_unit_of_work_is_whole_or_not_at_all() -> None:
    async with unit_of_work() as work:
        await students.create(work.connection, NewStudent(name="Ada"))
        assert await count() == 0
    assert await count() == 1
    with pytest.raises(RuntimeError):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ben"))
            raise RuntimeError
    assert await count() == 1


async def test_a_failed_statement_rolls_back_and_leaves_a_clean_connection(pool: Pool) -> None:
    with pytest.raises(UniqueViolation):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))
            again = "INSERT INTO student (id, name) OVERRIDING SYSTEM VALUE SELECT id, name FROM student"
            await work.connection.execute(again)
    assert await count() == 0
    assert pool.get_stats().get("returns_bad", 0) == 0


@pytest.mark.usefixtures("pool")
async def test_cancellation_rolls_back_and_the_connection_comes_home() -> None:
    with anyio.move_on_after(0.1):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))
            await anyio.sleep_forever()
    assert await count() == 0


async def slow_commits() -> None:
    async with connection() as conn:
        await conn.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'"
        )
        await conn.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON student DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION slow()"
        )


@pytest.mark.usefixtures("pool")
async def test_a_commit_that_has_begun_is_not_interrupted() -> None:
    await slow_commits()
    with anyio.move_on_after(0.1):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))
    assert await count() == 1


@pytest.mark.usefixtures("pool")
async def test_a_commit_that_gets_no_answer_is_the_databases_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    await slow_commits()
    monkeypatch.setattr("db.pool.COMMIT_TIMEOUT", 0.1)
    with pytest.raises(DatabaseUnavailable, match="no answer to a commit"):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))


async def test_an_exhausted_pool_is_an_error_and_not_a_hang(database_url: str) -> None:
    settings = Database(pool_min_size=1, pool_max_size=1, pool_timeout=parse_duration("200ms"), max_waiting=1)
    async with create_pool(database_url, settings) as pool:
        current_pool.set(pool)
        async with connection():
            with pytest.raises(PoolExhausted), anyio.fail_after(60):
                async with connection():
                    pass


async def test_a_statement_that_takes_too_long_is_its_own_failure(database_url: str) -> None:
    async with create_pool(database_url, Database(statement_timeout=parse_duration("100ms"))) as pool:
        current_pool.set(pool)
        with pytest.raises(QueryCanceled):
            async with connection() as conn:
                await conn.execute("SELECT pg_sleep(5)")


async def test_the_settings_reach_the_server(database_url: str) -> None:
    async with create_pool(database_url, Database(application_name="night shift")) as pool:
        current_pool.set(pool)
        async with connection() as conn:
            shown = {}
            for name in (
                "application_name",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
                "client_connection_check_interval",
            ):
                row = await (await conn.execute(f"SHOW {name}")).fetchone()
                assert row is not None
                shown[name] = row[0]
    assert shown == {
        "application_name": "night shift",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "1min",
        "client_connection_check_interval": "5s",
    }


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    url = f"postgresql:///nowhere?host={tmp_path}"
    async with create_pool(url, Database(pool_timeout=parse_duration("200ms"))) as pool:
        current_pool.set(pool)
        with pytest.raises(DatabaseUnavailable, match="No such file or directory") as caught, anyio.fail_after(60):
            await count()
        assert not isinstance(caught.value, PoolExhausted)


async def test_a_connection_that_the_server_ends_under_us_is_unavailable(pool: Pool) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with connection() as conn:
            await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
async def idle_pool(pool: Pool) -> Pool:
    await pool.wait()
    return pool


async def test_connections_that_died_while_idle_cost_no_error(idle_pool: Pool, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        killed = admin.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert killed == (2,)
    for _ in range(4):
        assert await count() == 0


async def test_a_restart_of_the_server_costs_no_error_afterwards(tmp_path: Path) -> None:
    server = Postgres(tmp_path)
    with running(server):
        pool = create_pool(server.url, Database(pool_min_size=4))
        await pool.open(wait=True)
        current_pool.set(pool)
    with running(server):
        for _ in range(8):
            async with connection() as conn:
                await conn.execute("SELECT 1")
        await pool.close()


async def test_a_healthy_idle_connection_is_not_asked(idle_pool: Pool) -> None:
    async with connection() as conn:
        pid = conn.info.backend_pid
        before = await (
            await conn.execute("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        ).fetchone()
    async with idle_pool.connection() as other, idle_pool.connection() as one:
        watched, watcher = (one, other) if one.info.backend_pid == pid else (other, one)
        assert watched.info.backend_pid == pid
        last = await (await watcher.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [pid])).fetchone()
    assert last == before, "the checkout ran a statement of its own"


def test_a_query_that_cannot_be_compiled_fails_at_import() -> None:
    with pytest.raises(TypeError, match="migrations do that"):
        Query(CreateTable(students.student))
    with pytest.raises(TypeError, match="not a statement"):
        Query("SELECT 1")  # type: ignore[arg-type]


@pytest.mark.usefixtures("pool")
async def test_a_query_says_which_parameter_is_missing() -> None:
    query = Query(select(students.student).where(students.student.c.id == bindparam("id")))
    async with connection() as conn:
        with pytest.raises(TypeError, match=r"\['id'\] are missing"):
            await query.execute(conn)


@pytest.mark.usefixtures("pool")
async def test_a_statement_that_failed_in_silence_is_no_commit() -> None:
    """PostgreSQL would answer the commit with a rollback, and nobody would know."""
    with pytest.raises(InFailedSqlTransaction, match="its error was caught"):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))
            with suppress(DivisionByZero):
                await work.connection.execute("SELECT 1/0")
    assert await count() == 0


@pytest.mark.usefixtures("pool")
async def test_a_savepoint_is_how_to_go_on_after_a_failure() -> None:
    async with unit_of_work() as work:
        await students.create(work.connection, NewStudent(name="Ada"))
        with suppress(DivisionByZero):
            async with work.connection.transaction():
                await students.create(work.connection, NewStudent(name="Ben"))
                await work.connection.execute("SELECT 1/0")
    assert await count() == 1


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_block_that_ends_its_own_transaction_is_told(end: str) -> None:
    with pytest.raises(NoActiveSqlTransaction):
        async with unit_of_work() as work:
            await work.connection.execute(end.encode())


@pytest.mark.usefixtures("pool")
async def test_a_connection_that_its_user_ruined_is_no_outage() -> None:
    with pytest.raises(OperationalError, match="the connection is closed"):
        async with unit_of_work() as work:
            with anyio.move_on_after(0.05):
                await work.connection.execute("SELECT pg_sleep(60)")
            await work.connection.execute("SELECT 1")
    with pytest.raises(IdleInTransactionSessionTimeout):
        async with unit_of_work() as work:
            await work.connection.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
            await anyio.wait_readable(work.connection.pgconn.socket)
            await work.connection.execute("SELECT 1")


@pytest.mark.usefixtures("pool")
async def test_an_outage_is_one_whatever_the_block_makes_of_it() -> None:
    class Wrapped(Exception):
        pass

    with pytest.raises(DatabaseUnavailable):
        async with unit_of_work() as work:
            try:
                await work.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            except psycopg.Error as error:
                raise Wrapped from error
