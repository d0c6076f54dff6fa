from __future__ import annotations

import psycopg
import pytest

from roles.consume.handlers import CONSUMERS
from tests.amqp.support import eventually
from tests.consume.support import Producer, consuming

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("exchange", ["", "example.exchange"])
async def test_a_message_to_example_main_becomes_a_student(
    producer: Producer, amqp_url: str, database_url: str, exchange: str
) -> None:
    async with consuming(*CONSUMERS, amqp_url=amqp_url, database_url=database_url) as running:
        await producer.raw(b'{"name": "Ada Lovelace"}', exchange=exchange, queue="example.main")
        await eventually(lambda: running.tally().finished == 1)

    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await (await connection.execute("SELECT name, active FROM student")).fetchall()
    assert rows == [("Ada Lovelace", True)]


@pytest.mark.parametrize(
    "student", [b'"name": ""', b'"name": "x", "age": 1', b'"name": "\\u0000"', b'"name": "\\ud800"']
)
async def test_a_student_that_cannot_be_stored_is_parked(
    producer: Producer, amqp_url: str, database_url: str, student: bytes
) -> None:
    async with consuming(*CONSUMERS, amqp_url=amqp_url, database_url=database_url) as running:
        await producer.raw(b"{" + student + b"}", queue="example.main")
        parked = await producer.take("example.main.parked")

        assert running.status("example.main").retried == 0
    assert parked.body == b"{" + student + b"}"
