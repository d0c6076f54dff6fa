"""Answers of PostgreSQL are waited for in a cheaper way than psycopg's, which promises no less."""

from __future__ import annotations

import asyncio
import errno
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest
from psycopg.abc import PQGen
from psycopg.errors import DivisionByZero
from psycopg.pq import TransactionStatus

from db import students
from db.pool import DatabaseUnavailable, Pool, connection, create_pool, current_pool
from db.pooled_connection import PooledConnection
from db.readiness import Readiness
from schema.settings import Database
from schema.students import NewStudent

pytestmark = pytest.mark.anyio

LARGE = 16 * 1024 * 1024
"""Bytes: more than any socket takes at once."""


async def value(conn: PooledConnection, statement: str, *parameters: object) -> Any:
    row = await (await conn.execute(statement.encode(), parameters)).fetchone()
    assert row is not None
    return row[0]


SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


async def under_way(pool: Pool) -> None:
    """Returns once a statement sleeps in the server."""
    async with pool.connection() as watcher:
        with anyio.fail_after(60):
            while not await value(watcher, SLEEPING):  # noqa: ASYNC110 - another process does it
                await anyio.sleep(0.01)


@pytest.mark.usefixtures("pool")
async def test_what_is_sent_and_what_is_answered_may_be_large() -> None:
    async with connection() as conn:
        assert await value(conn, "SELECT length(%s)", "x" * LARGE) == LARGE
        assert len(await value(conn, "SELECT repeat('x', %s)", LARGE)) == LARGE
        assert await value(conn, "SELECT 1") == 1


async def test_many_wait_at_a_time_and_each_gets_its_own_answer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.readiness.AT_ONCE", 2)
    answers: list[tuple[int, int]] = []

    async def ask(number: int) -> None:
        async with connection() as conn:
            answers.append((number, await value(conn, "SELECT %s FROM pg_sleep(0.05)", number)))

    async with create_pool(database_url, Database(pool_min_size=8, pool_max_size=8)) as pool:
        current_pool.set(pool)
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(ask, number)
    assert sorted(answers) == [(number, number) for number in range(40)]


async def test_who_is_cancelled_ends_its_statement_in_the_server_too(pool: Pool) -> None:
    """By its task, as the gate cuts requests off; a scope of anyio's would not let it wait for that."""
    task = asyncio.current_task()
    assert task is not None
    async with connection() as conn:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await under_way(pool)
                task.cancel()

            group.start_soon(cancel)
            with pytest.raises(asyncio.CancelledError):
                await conn.execute("SELECT pg_sleep(600)")
            task.uncancel()
        assert conn.pgconn.transaction_status == TransactionStatus.IDLE
        assert await value(conn, "SELECT 1") == 1
        assert await value(conn, SLEEPING) == 0


async def test_a_connection_that_is_closed_keeps_nobody_waiting(pool: Pool) -> None:
    async with connection() as conn, anyio.create_task_group() as group:

        async def close() -> None:
            await under_way(pool)
            await conn.close()

        group.start_soon(close)
        with anyio.move_on_after(30) as patience, pytest.raises(psycopg.OperationalError):
            await conn.execute("SELECT pg_sleep(600)")
        assert not patience.cancel_called


async def test_a_pool_that_is_closed_lets_a_statement_end(database_url: str) -> None:
    other = create_pool(database_url, Database(pool_min_size=1))
    await other.open(wait=True)
    pool = create_pool(database_url, Database(pool_min_size=1))
    await pool.open(wait=True)
    current_pool.set(pool)
    async with connection() as conn, anyio.create_task_group() as group:

        async def close() -> None:
            await under_way(other)
            await pool.close()

        group.start_soon(close)
        with anyio.fail_after(60):
            assert await value(conn, "SELECT 7 FROM pg_sleep(0.5)") == 7
            assert pool.closed
            assert await value(conn, "SELECT 8") == 8
    await other.close()


async def test_where_there_is_no_epoll_psycopg_waits(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.pool.POSSIBLE", False)
    async with create_pool(database_url, Database()) as pool:
        current_pool.set(pool)
        async with connection() as conn:
            assert conn.readiness is None
            assert await value(conn, "SELECT 1") == 1


@pytest.mark.usefixtures("pool")
async def test_a_socket_that_is_none_any_more_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def readable(_self: Readiness, _descriptor: int) -> asyncio.Future[None]:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(Readiness, "readable", readable)
    with pytest.raises(DatabaseUnavailable, match="socket closed"):
        async with connection() as conn:
            await conn.execute("SELECT 1")


@pytest.mark.usefixtures("pool")
async def test_what_never_waits_lets_others_have_their_turn() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    def at_once() -> PQGen[int]:
        return 1
        yield

    async with connection() as conn, anyio.create_task_group() as group:
        group.start_soon(take_turns)
        with anyio.fail_after(60):
            while turns < 10:
                assert await conn.wait(at_once()) == 1
        group.cancel_scope.cancel()


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("pipeline", [False, True])
async def test_tasks_on_one_connection_get_their_own_rows(pipeline: bool) -> None:
    found: dict[str, str] = {}

    async def find(conn: PooledConnection, student_id: int, name: str) -> None:
        student = await students.get(conn, student_id)
        assert student is not None
        found[name] = student.name

    async with connection() as conn:
        ids = {name: (await students.create(conn, NewStudent(name=name))).id for name in ("Ada", "Ben", "Cleo")}
        async with conn.pipeline() if pipeline else nullcontext(), anyio.create_task_group() as group:
            for name, student_id in ids.items():
                group.start_soon(find, conn, student_id, name)
    assert found == {name: name for name in ids}


@pytest.mark.usefixtures("pool")
async def test_a_cursor_that_is_kept_keeps_no_rows() -> None:
    async with connection() as conn:
        row = await conn.first(
            b"SELECT repeat('x', %(length)s) AS text FROM generate_series(1, 3)", {"length": LARGE}
        )
        assert row == {"text": "x" * LARGE}
        kept = conn._spare
        assert kept is not None
        assert kept.pgresult is not None
        assert kept.pgresult.ntuples == 0
        assert await conn.first(b"SELECT 1 AS one", {}) == {"one": 1}
        assert conn._spare is kept


@pytest.mark.usefixtures("pool")
async def test_a_statement_that_fails_leaves_nothing_to_the_next_one() -> None:
    async with connection() as conn:
        assert await conn.first(b"SELECT 1 AS one", {}) == {"one": 1}
        with pytest.raises(DivisionByZero):
            await conn.first(b"SELECT 1/0", {})
        assert await conn.first(b"SELECT 2 AS two", {}) == {"two": 2}
        assert await conn.first(b"SELECT 3 AS three WHERE false", {}) is None


async def test_a_connection_that_has_to_be_cleaned_comes_home_through_a_cancellation(pool: Pool) -> None:
    with anyio.CancelScope() as scope:
        async with connection() as conn:
            await conn.execute("BEGIN")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not conn.closed
    assert conn.pgconn.transaction_status == TransactionStatus.IDLE
    assert pool.get_stats().get("returns_bad", 0) == 0
