"""What `work.publish` promises: the message is there if the transaction is, and whoever relays it hears of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg.rows import dict_row
from pydantic import BaseModel, Field

from db import outbox, students
from db.pool import Pool, connection, unit_of_work
from schema.students import STUDENT_CREATED, NewStudent, StudentCreated
from schema.topic import Topic

pytestmark = pytest.mark.anyio


async def rows() -> list[dict[str, Any]]:
    async with connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT * FROM outbox ORDER BY id")
        return await cursor.fetchall()


@pytest.fixture
def told(pool: Pool) -> list[str]:
    """The brokers that were told of."""
    told: list[str] = []
    pool.on_published.add(told.append)
    return told


async def test_a_message_is_written_with_all_that_its_topic_says(told: list[str]) -> None:
    before = datetime.now(UTC)
    async with unit_of_work() as work:
        message_id = await work.publish(STUDENT_CREATED, StudentCreated(id=7), headers={"tenant": 3, "via": "é"})
    (row,) = await rows()
    assert (
        row.items()
        >= {
            "broker": "example",
            "exchange": "example.exchange",
            "routing_key": "student.created",
            "body": b'{"id":7}',
            "properties": {
                "message_id": message_id,
                "type": "student.created",
                "content_type": "application/json",
                "headers": {"tenant": 3, "via": "é"},
            },
            "attempts": 0,
            "last_error": None,
        }.items()
    )
    assert str(UUID(message_id)) == message_id
    assert row["created_at"] >= before - timedelta(seconds=1)
    assert told == ["example"]


async def test_a_message_is_there_only_if_its_transaction_is(told: list[str]) -> None:
    with pytest.raises(RuntimeError):
        async with unit_of_work() as work:
            await students.create(work.connection, NewStudent(name="Ada"))
            await work.publish(STUDENT_CREATED, StudentCreated(id=1))
            raise RuntimeError
    assert await rows() == []
    assert told == []


async def test_the_relay_is_told_after_the_commit_and_once_however_many_messages_there_are(pool: Pool) -> None:
    told: list[str] = []
    pool.on_published.add(lambda broker: told.append(f"{broker} {done}"))
    done = False
    async with unit_of_work() as work:
        for number in range(3):
            await work.publish(STUDENT_CREATED, StudentCreated(id=number))
        done = True
    async with unit_of_work():
        pass
    assert told == ["example True"]


@pytest.mark.usefixtures("pool")
async def test_messages_of_one_transaction_become_available_one_after_the_other_and_a_delayed_one_later() -> None:
    async with unit_of_work() as work:
        for number in range(3):
            await work.publish(STUDENT_CREATED, StudentCreated(id=number))
        await work.publish(STUDENT_CREATED, StudentCreated(id=3), delay="5m")
    found = await rows()
    times = [row["available_at"] for row in found]
    assert times == sorted(times)
    assert len(set(times)) == 4
    assert found[3]["available_at"] - found[3]["created_at"] >= timedelta(minutes=5)
    assert found[2]["available_at"] - found[2]["created_at"] < timedelta(seconds=1)


class Moved(BaseModel):
    student_id: int = Field(alias="studentId")


@pytest.mark.usefixtures("pool")
async def test_a_message_is_what_its_own_model_reads() -> None:
    topic = Topic("student.moved", Moved, exchange="e", routing_key="moved")
    async with unit_of_work() as work:
        await work.publish(topic, Moved(studentId=7))
    (body,) = [row["body"] for row in await rows()]
    assert Moved.model_validate_json(body) == Moved(studentId=7)


@pytest.mark.usefixtures("pool")
async def test_what_cannot_be_sent_is_refused_at_once() -> None:
    async with unit_of_work() as work:
        with pytest.raises(TypeError, match=r"student\.created: a NewStudent is no StudentCreated"):
            await work.publish(STUDENT_CREATED, NewStudent(name="Ada"))  # type: ignore[misc]
        for headers in (
            {"": 1},
            {"x" * 256: 1},
            {"big": 2**31},
            {"nul": "\x00"},
            {"cut": "\ud83d"},
            {"yes": True},
            {"half": 0.5},
        ):
            with pytest.raises(ValueError, match="header"):
                await work.publish(STUDENT_CREATED, StudentCreated(id=1), headers=headers)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not a duration"):
            await work.publish(STUDENT_CREATED, StudentCreated(id=1), delay="soon")
        for delay in ("200000000d", timedelta.max, timedelta(seconds=-1)):
            with pytest.raises(ValueError, match=r"student\.created: delay '.*' is not between 0s and 36500d"):
                await work.publish(STUDENT_CREATED, StudentCreated(id=1), delay=delay)
        await work.publish(STUDENT_CREATED, StudentCreated(id=2))
    assert [row["body"] for row in await rows()] == [b'{"id":2}']


@pytest.mark.usefixtures("pool")
async def test_a_message_that_is_sent_again_keeps_its_bytes_and_shows_its_id() -> None:
    async with unit_of_work() as work:
        await outbox.add_encoded(
            work.connection,
            broker="other",
            exchange="",
            routing_key="a.queue",
            body=b"\x00\xff",
            properties=b"\x00\x80\x03i\x00d",
            message_id="i\x00d",
        )
    (row,) = await rows()
    assert (row["broker"], row["body"]) == ("other", b"\x00\xff")
    assert row["properties"] == {"message_id": "id", "encoded": "AIADaQBk"}


@pytest.mark.usefixtures("pool")
async def test_a_busy_outbox_is_vacuumed_by_number_and_not_by_share() -> None:
    async with connection() as conn:
        row = await (await conn.execute("SELECT reloptions FROM pg_class WHERE relname = 'outbox'")).fetchone()
    assert row is not None
    assert {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=1000", "vacuum_truncate=false"} <= set(
        row[0]
    )
