"""Statements that are held back: to their transaction it makes no difference, but that they cost no round trip."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from psycopg.errors import DivisionByZero, InFailedSqlTransaction, NotNullViolation

from db import students
from db.joining import FIRST, joining
from db.pool import Pool, Work, connection, transaction, unit_of_work
from db.pooled_connection import HELD_AT_MOST, PooledConnection
from schema.students import NewStudent

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pool")]

ADD = b"INSERT INTO student (name) VALUES (%(name)s)"
NAMES = "SELECT name FROM student ORDER BY id"


async def names() -> list[str]:
    async with connection() as conn:
        return [row[0] for row in await (await conn.execute(NAMES)).fetchall()]


async def add(work: Work, name: str | None, done: list[str | None] | None = None) -> None:
    await work.connection.hold(ADD, {"name": name}, then=lambda: None if done is None else done.append(name))


async def test_the_next_statement_finds_what_was_held_done_and_the_commit_takes_the_rest() -> None:
    done: list[str | None] = []
    async with unit_of_work() as work:
        await add(work, "Ada", done)
        await add(work, "O'Neil \\ %s", done)
        assert done == []
        assert await (await work.connection.execute(NAMES)).fetchall() == [("Ada",), ("O'Neil \\ %s",)]
        assert done == ["Ada", "O'Neil \\ %s"]
        await add(work, "Cleo", done)
    assert await names() == ["Ada", "O'Neil \\ %s", "Cleo"]
    assert len(done) == 2, "there was no moment between the last one and the commit"


async def test_what_is_held_within_a_savepoint_shares_its_fate() -> None:
    async with unit_of_work() as work:
        await add(work, "Ada")
        with suppress(RuntimeError):
            async with work.connection.transaction():
                await add(work, "Ben")
                raise RuntimeError
        async with work.connection.transaction():
            await add(work, "Cleo")
    assert await names() == ["Ada", "Cleo"]


async def test_what_is_held_fails_with_what_it_travels_with_and_nothing_is_committed(pool: Pool) -> None:
    with pytest.raises(NotNullViolation):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))
            await add(work, None)
            await add(work, "Ben")
    with pytest.raises(NotNullViolation):
        async with unit_of_work() as work:
            await add(work, None)
            await students.create(work.connection, NewStudent(name="Ada"))
    assert await names() == []
    assert pool.get_stats().get("returns_bad", 0) == 0


async def test_what_is_held_in_a_unit_of_work_that_fails_is_run_by_nobody() -> None:
    with pytest.raises(RuntimeError):
        async with unit_of_work() as work:
            await add(work, "Ada")
            raise RuntimeError
    async with unit_of_work() as work:
        await add(work, "Ben")
    assert await names() == ["Ben"]


async def test_what_is_held_in_a_block_that_fails_cannot_keep_it_from_being_undone() -> None:
    async with transaction(begin_joined) as work:
        await add(work, "Ada")
        with joining(work):
            await add_as_a_part("Ben")
            with pytest.raises(RuntimeError):
                async with unit_of_work() as part:
                    await add(part, None)
                    raise RuntimeError
            await add_as_a_part("Cleo")
    assert await names() == ["Ada", "Ben", "Cleo"]


async def begin_joined(conn: PooledConnection) -> None:
    await conn.command(b"BEGIN; " + FIRST)


async def add_as_a_part(name: str) -> None:
    async with unit_of_work() as part:
        await students.create(part.connection, NewStudent(name=name))


async def test_after_a_failure_nothing_is_held_any_more() -> None:
    with pytest.raises(InFailedSqlTransaction):
        async with unit_of_work() as work:
            with suppress(DivisionByZero):
                await work.connection.execute("SELECT 1/0")
            await add(work, "Ada")
    assert await names() == []


async def test_without_a_transaction_around_it_a_statement_is_run_at_once() -> None:
    async with connection() as conn:
        await conn.hold(ADD, {"name": "Ada"}, then=lambda: None)
        assert await names() == ["Ada"]


async def test_in_a_pipeline_a_statement_is_a_part_of_it() -> None:
    async with unit_of_work() as work, work.connection.pipeline():
        await add(work, "Ada")
        await work.connection.execute(ADD, {"name": "Ben"})
    assert await names() == ["Ada", "Ben"]


async def test_large_statements_do_not_pile_up() -> None:
    done: list[str | None] = []
    async with unit_of_work() as work:
        await add(work, "x" * HELD_AT_MOST, done)
        assert len(done) == 1


async def check_that_psycopg_counts_right() -> None:
    """On all connections of the pool, for those who use them next."""
    async with connection() as one, connection() as other:
        for conn in (one, other):
            async with conn.transaction(), conn.transaction():
                await conn.execute("SELECT 1")


async def test_who_is_cancelled_at_the_beginning_of_a_savepoint_leaves_the_connection_as_it_was() -> None:
    with pytest.raises(TimeoutError):
        async with unit_of_work() as work:
            await work.connection.hold(b"SELECT pg_sleep(60)", {}, then=lambda: None)
            async with asyncio.timeout(0), work.connection.transaction():  # unlike anyio's, it cancels once
                pytest.fail("it was cancelled before")
    await check_that_psycopg_counts_right()


async def test_what_is_held_and_fails_at_a_savepoint_says_so_and_leaves_the_connection_as_it_was() -> None:
    with pytest.raises(NotNullViolation):
        async with unit_of_work() as work:
            await add(work, None)
            async with work.connection.transaction():
                pytest.fail("what was before it has failed")
    await check_that_psycopg_counts_right()


async def test_what_is_held_within_a_savepoint_and_fails_costs_nothing_else() -> None:
    async with unit_of_work() as work:
        await add(work, "Ada")
        with suppress(NotNullViolation):
            async with work.connection.transaction():
                await add(work, None)
        with suppress(RuntimeError):
            async with work.connection.transaction():
                await add(work, None)
                raise RuntimeError
        await add(work, "Ben")
    assert await names() == ["Ada", "Ben"]
    await check_that_psycopg_counts_right()
