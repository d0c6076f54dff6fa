"""From the parking lot of the broker into the table: each parking is one row, whoever dies on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import aiormq
import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from db import parked_messages
from db.pool import Work
from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery, MessageRefused, Properties
from roles.board import ParkingLotStatus
from roles.consume import Reject, archiver
from schema.settings import Amqp
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, Producer, Running, consuming, sealed
from tests.consume.test_anything import messages
from tests.consume.test_world import Door

pytestmark = pytest.mark.anyio

PATIENCE = 120
ARCHIVING: dict[str, Any] = {"consume": {"archive": True}}

Start = Callable[[], AbstractAsyncContextManager[Running]]


async def refuse(message: Note, work: Work) -> None:
    raise Reject(f"no {message.text} today")


@pytest.fixture
def start(amqp_url: str, database_url: str) -> Start:
    """Runs a consumer that parks whatever it gets, and its archiver."""
    return partial(consuming, Calls(refuse).declared(), amqp_url=amqp_url, database_url=database_url, **ARCHIVING)


@pytest.fixture(autouse=True)
def counted_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiver, "COUNT_INTERVAL", 0.1)


@pytest.fixture
def door(database_url: str) -> Door:
    return Door(database_url)


async def table(database_url: str) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row) as connection:
        return await (await connection.execute("SELECT * FROM parked_message ORDER BY id")).fetchall()


async def send(producer: Producer, body: bytes, message_id: str | None = None, *, queue: str = "q") -> None:
    fields = {} if message_id is None else {"message_id": message_id.encode()}
    await producer.channel.basic_publish(body, routing_key=queue, properties=sealed(**fields), timeout=5)


async def change(database_url: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(statement.encode())


def lot(running: Running) -> ParkingLotStatus:
    return running.status().parking_lot


async def archived(running: Running, count: int) -> None:
    await eventually(lambda: lot(running).archived >= count, within=PATIENCE)


@asynccontextmanager
async def parked_by_the_broker(
    start: Start, producer: Producer, *bodies: bytes, message_id: str | None
) -> AsyncIterator[Running]:
    """A role that finds messages which the broker itself dead-lettered, all at the same time."""
    async with start():
        pass
    for body in bodies:
        await send(producer, body, message_id)
    await producer.holds("q", len(bodies))
    tags = []
    for _ in bodies:
        message = await producer.channel.basic_get("q", timeout=5)
        assert isinstance(message.delivery, aiormq.spec.Basic.GetOk)
        tags.append(message.delivery.delivery_tag or 0)
    for tag in tags:
        await producer.channel.basic_reject(tag, requeue=False)
    await producer.holds("q.parked", len(bodies))
    async with start() as running:
        yield running


def lose_first_acks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the archiver lose its channel between its commit and its ack, once for each message."""
    ack = Channel.ack

    async def lose(channel: Channel, delivery: Delivery) -> None:
        if delivery.routing_key == "q.parked" and not delivery.redelivered:
            raise BrokerUnavailable("broker example: the connection is lost")
        await ack(channel, delivery)

    monkeypatch.setattr(Channel, "ack", lose)


async def test_a_parked_message_becomes_a_row_with_all_that_it_is(
    start: Start, producer: Producer, database_url: str
) -> None:
    before = datetime.now(UTC)
    async with start() as running:
        await producer.send("x", message_id="m", headers={"tenant": 7}, correlation_id="c")
        await eventually(lambda: lot(running).open == 1, within=PATIENCE)
        assert lot(running).archived == 1
        assert lot(running).reason is None
        assert lot(running).oldest_at is not None

    (row,) = await table(database_url)
    assert (row["broker"], row["queue"], row["message_id"]) == ("example", "q", "m")
    assert row["body"] == b'{"text": "x"}'
    assert (row["error"], row["attempts"], row["status"]) == ("no x today", 1, "open")
    assert before.replace(microsecond=0) <= row["parked_at"] <= datetime.now(UTC)
    properties = Properties.decode(row["properties"])
    assert properties.text("correlation_id") == "c"
    assert properties.integer_header("tenant") == 7
    await producer.holds("q.parked", 0)


@pytest.mark.parametrize("message_id", ["m", None])
async def test_a_message_whose_ack_is_lost_is_one_row(
    start: Start, producer: Producer, database_url: str, monkeypatch: pytest.MonkeyPatch, message_id: str | None
) -> None:
    lose_first_acks(monkeypatch)
    async with start() as running:
        for text in ("a", "b", "b" if message_id is None else "c"):
            await send(producer, Note(text=text).model_dump_json().encode(), message_id and message_id + text)
        await archived(running, 3)
        await producer.holds("q.parked", 0)

    assert len(await table(database_url)) == 3


async def test_a_row_that_was_resolved_before_the_second_delivery_is_not_opened_again(
    start: Start, producer: Producer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ack = Channel.ack

    async def resolve_and_lose(channel: Channel, delivery: Delivery) -> None:
        if delivery.routing_key == "q.parked" and not delivery.redelivered:
            await change(database_url, "UPDATE parked_message SET status = 'dropped', resolved_at = now()")
            raise BrokerUnavailable("broker example: the connection is lost")
        await ack(channel, delivery)

    monkeypatch.setattr(Channel, "ack", resolve_and_lose)
    async with start() as running:
        await send(producer, b'{"text": "x"}')
        await archived(running, 1)

    assert [row["status"] for row in await table(database_url)] == ["dropped"]


async def test_messages_that_look_alike_are_rows_of_their_own(
    start: Start, producer: Producer, database_url: str
) -> None:
    async with start() as running:
        for _ in range(3):
            await send(producer, b'{"text": "x"}')
        await archived(running, 3)

    assert len(await table(database_url)) == 3


async def test_a_message_that_was_parked_twice_has_one_open_row(
    start: Start, producer: Producer, database_url: str
) -> None:
    """As it comes about when the process dies between publishing it and acking the original."""
    async with start() as running:
        for _ in range(2):
            await producer.send("x", message_id="m")
        await archived(running, 2)
        assert len(await table(database_url)) == 1

        await change(database_url, "UPDATE parked_message SET status = 'replayed', resolved_at = now()")
        await producer.send("x", message_id="m")
        await archived(running, 3)

    assert [row["status"] for row in await table(database_url)] == ["replayed", "open"]


async def test_two_messages_with_the_same_id_are_two_rows(
    start: Start, producer: Producer, database_url: str
) -> None:
    async with start() as running:
        for text in "ab":
            await producer.send(text, message_id="m")
        await archived(running, 2)

    assert len(await table(database_url)) == 2


async def test_what_the_broker_parked_itself_says_so(start: Start, producer: Producer, database_url: str) -> None:
    async with parked_by_the_broker(start, producer, b"1", message_id="m") as running:
        await archived(running, 1)

    (row,) = await table(database_url)
    assert row["error"].startswith("parked by the broker itself, because it could not be published again")
    assert row["attempts"] == 1


async def test_what_looks_alike_and_was_parked_by_the_broker_at_once_is_not_lost(
    start: Start, producer: Producer, database_url: str
) -> None:
    async with parked_by_the_broker(start, producer, b"1", b"1", b"1", message_id=None) as running:
        await archived(running, 3)

    assert [(row["body"], row["note"]) for row in await table(database_url)] == [(b"1", None)] * 3


async def test_what_the_broker_parked_is_known_again_by_its_id(
    start: Start, producer: Producer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_first_acks(monkeypatch)
    async with parked_by_the_broker(start, producer, b"1", b"2", message_id="m") as running:
        await archived(running, 2)

    assert [row["body"] for row in await table(database_url)] == [b"1", b"2"]


async def test_what_cannot_be_told_apart_says_that_it_may_be_there_twice(
    start: Start, producer: Producer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_first_acks(monkeypatch)
    async with parked_by_the_broker(start, producer, b"1", message_id=None) as running:
        await archived(running, 1)

    first, second = await table(database_url)
    assert first["body"] == second["body"] == b"1"
    assert first["note"] is None
    assert second["note"].startswith("may be there twice")


async def test_the_database_goes_away(start: Start, producer: Producer, database_url: str, door: Door) -> None:
    async with start() as running:
        await eventually(lambda: lot(running).open == 0, within=PATIENCE)
        await door.shut()
        try:
            for number in range(5):
                await producer.raw(b"%d" % number, queue="q.parked")
            await eventually(lambda: lot(running).reason, within=PATIENCE)
            assert "PostgreSQL" in str(lot(running).reason)
        finally:
            await door.open()
        await archived(running, 5)
        await eventually(lambda: lot(running).reason is None, within=PATIENCE)

    assert len(await table(database_url)) == 5


async def test_a_message_that_the_database_refuses_keeps_no_other_one_back(
    start: Start, producer: Producer, database_url: str
) -> None:
    await change(database_url, "ALTER TABLE parked_message ADD CONSTRAINT no_two CHECK (body <> '2')")
    try:
        async with start() as running:
            for number in range(4):
                await producer.raw(b"%d" % number, queue="q.parked", message_id=f"m{number}")
            await archived(running, 3)
            await eventually(lambda: lot(running).reason, within=PATIENCE)
            assert "message m2 cannot be stored: CheckViolation" in str(lot(running).reason)
            assert [row["body"] for row in await table(database_url)] == [b"0", b"1", b"3"]
            await change(database_url, "ALTER TABLE parked_message DROP CONSTRAINT no_two")
            await archived(running, 4)
            await eventually(lambda: lot(running).reason is None, within=PATIENCE)
    finally:
        await change(database_url, "ALTER TABLE parked_message DROP CONSTRAINT IF EXISTS no_two")


async def exists(connection: aiormq.abc.AbstractConnection, queue: str) -> bool:
    channel = await connection.channel()
    try:
        await channel.queue_declare(queue, passive=True, timeout=5)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


async def test_a_parking_lot_that_was_deleted_is_there_again(start: Start, producer: Producer, amqp_url: str) -> None:
    async with start() as running:
        await producer.send("a")
        await archived(running, 1)
        connection = await aiormq.connect(amqp_url)
        await producer.channel.queue_delete("q.parked")
        # Not before it is there again: if somebody declares a quorum queue anew before those who are subscribed to
        # the old one are told, RabbitMQ 3.10 lets them wait at the new one for nothing.
        with anyio.fail_after(PATIENCE):
            while not await exists(connection, "q.parked"):  # noqa: ASYNC110 - it happens at the broker
                await anyio.sleep(0.02)
        await connection.close()
        await producer.send("b")
        await archived(running, 2)
        await eventually(lambda: lot(running).reason is None, within=PATIENCE)


async def test_a_drain_leaves_what_is_not_stored_in_its_queue(
    start: Start, producer: Producer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = anyio.Event()

    async def hang(*_: object) -> set[str]:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with start() as running:
        monkeypatch.setattr(parked_messages, "archive", hang)
        for text in "abc":
            await producer.send(text)
        await eventually(lambda: running.status().parked == 3, within=PATIENCE)
        with anyio.fail_after(PATIENCE):
            await reached.wait()
        await running.drain()
    await producer.holds("q.parked", 3)
    assert await table(database_url) == []


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(messages, min_size=10, max_size=40))
async def test_whatever_is_parked_is_stored_as_it_is(
    amqp_url: str, database_url: str, batch: list[tuple[bytes, Properties]]
) -> None:
    await change(database_url, "TRUNCATE parked_message CASCADE")
    other = Broker("example", amqp_url, Amqp())
    sent: list[bytes] = []
    subject = Calls(refuse).declared()
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url, **ARCHIVING) as running:
        channel = await other.channel("publish")
        for body, properties in batch:
            try:
                await channel.publish(body, properties, exchange="", routing_key="q.parked")
                sent.append(body)
            except (MessageRefused, BrokerUnavailable):  # not even the broker takes it
                channel = await other.channel("publish")
        await archived(running, len(sent))
    await other.aclose()

    rows = await table(database_url)
    # A message that was drawn twice, with an id, is one.
    assert {row["body"] for row in rows} == set(sent)
    for row in rows:
        Properties.decode(row["properties"])
