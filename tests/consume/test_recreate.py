"""A queue is made anew, and no message is lost: whole, cut off before each call, and under producers that go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from aiormq.abc import DeliveredMessage

from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery
from roles.amqp.connection import Connection
from roles.consume import Ladder
from roles.consume.mover import QueueInUse
from roles.consume.recreate import Recreation, recreation_of
from roles.consume.survey import survey
from roles.consume.topology import declare, topology
from schema.settings import Settings
from tests.amqp.support import FAST
from tests.consume.support import Calls, Producer, consuming, producing

pytestmark = pytest.mark.anyio

NOTES = Calls().declared(exchange="e", retry=Ladder("1m"))
BEFORE, NOW = 5, 7
"""What the delivery limit was, and is."""
DECLARED = topology([NOTES], Settings.model_validate({"consume": {"delivery_limit": NOW}}), broker="example")
TEXTS = ["queued", "waiting"]


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    broker = Broker("example", amqp_url, FAST)
    yield broker
    await broker.aclose()


async def declare_as_before(broker: Broker, producer: Producer) -> None:
    """The queues with the old limit, and a message for each of the texts."""
    channel = await broker.channel("publish")
    await channel.delete_queue("q")
    await declare(channel, NOTES, delivery_limit=BEFORE)
    await channel.aclose()
    for text in TEXTS:
        await producer.send(text, queue="q.retry.1m" if text == "waiting" else "q", message_id=text)


async def prepared(broker: Broker, queue: str = "q") -> Recreation:
    """As the command has it, without the management API."""
    recreation = recreation_of(queue, broker, DECLARED, await survey(broker, DECLARED, None))
    recreation.settle = 0.02
    return recreation


async def drained(producer: Producer, queue: str = "q") -> list[str]:
    """The texts of all messages of a queue, which is empty afterwards."""
    return [json.loads((await producer.take(queue)).body)["text"] for _ in range(await producer.count(queue))]


async def test_a_queue_is_made_anew_with_its_messages_and_those_that_waited(
    broker: Broker, producer: Producer
) -> None:
    await declare_as_before(broker, producer)

    moved = await (await prepared(broker)).run()

    assert moved == len(TEXTS)
    found = await survey(broker, DECLARED, None)
    assert {name: queue.mismatch for name, queue in found.queues.items()} == dict.fromkeys(DECLARED.queues)
    await producer.send("routed", exchange="e")
    assert sorted(await drained(producer)) == sorted([*TEXTS, "routed"])


class Cut(BaseException):
    """The process has died, as far as the broker can tell."""


CHANGING = ("queue.declare", "queue.bind", "queue.unbind", "queue.delete", "basic.publish")
"""Calls after which the broker is not what it was; to these come the acks. To be cut off before another one is to
be cut off before the next of these."""


class Scissors:
    """Lets so many changes of a broker through; before the next one its connections are cut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
        self.changes: int | None = None
        self._broker = broker
        call, ack = Connection.call, Channel.ack

        async def counted_call(connection: Connection, what: str, action: Any) -> Any:
            if connection.broker == broker.name and what in CHANGING and self._is_over():
                action.close()
                raise Cut
            return await call(connection, what, action)

        async def counted_ack(channel: Channel, delivery: Delivery) -> None:
            if self._is_over():
                raise Cut
            await ack(channel, delivery)

        monkeypatch.setattr(Connection, "call", counted_call)
        monkeypatch.setattr(Channel, "ack", counted_ack)

    def _is_over(self) -> bool:
        if self.changes == 0:
            self._broker.cut()
            return True
        if self.changes is not None:
            self.changes -= 1
        return False


async def test_cut_off_before_any_of_its_calls_it_loses_nothing_and_goes_on(
    broker: Broker, amqp_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Broker("cut", amqp_url, FAST)
    scissors = Scissors(monkeypatch, cut)
    whole, changes = False, 0
    while not whole:
        await declare_as_before(broker, producer)
        recreation = await prepared(cut)
        scissors.changes = changes
        try:
            await recreation.run()
            whole = True
        except* (Cut, BrokerUnavailable):
            whole = False
        scissors.changes = None
        if not whole:
            await (await prepared(cut)).run()
        found = await survey(broker, DECLARED, None)
        assert found.queues.keys() == DECLARED.queues.keys(), f"cut before change {changes}"
        assert found.queues["q"].mismatch is None
        assert set(await drained(producer)) == set(TEXTS), f"cut before change {changes}"
        await producer.send("routed", exchange="e")
        assert await drained(producer) == ["routed"]
        changes += 1
    await cut.aclose()
    assert changes > 15, "declare, bind, unbind, publish and ack each message, delete, and all of it again"


async def test_a_queue_with_a_consumer_is_refused_and_left_as_it_is(
    broker: Broker, producer: Producer, amqp_url: str, database_url: str
) -> None:
    async with consuming(NOTES, amqp_url=amqp_url, database_url=database_url, consume={"delivery_limit": BEFORE}):
        recreation = await prepared(broker)
        with pytest.raises(QueueInUse, match="stop the application"):
            await recreation.run()
    found = await survey(broker, DECLARED, None)
    assert "q.moving" not in found.queues
    assert found.queues["q"].mismatch is not None


async def test_producers_go_on_meanwhile(broker: Broker, producer: Producer, amqp_url: str) -> None:
    """Through the exchange, that is: the queue itself is not there for an instant."""
    await declare_as_before(broker, producer)
    confirmed: list[str] = []
    stop = anyio.Event()

    async def produce(name: str) -> None:
        async with producing(amqp_url) as other:
            while not stop.is_set():
                text = f"{name} {len(confirmed)}"
                await other.send(text, exchange="e", message_id=text)
                confirmed.append(text)

    async with anyio.create_task_group() as group:
        for name in ("one", "two"):
            group.start_soon(produce, name)
        recreation = await prepared(broker)
        recreation.settle = 0.2
        await recreation.run()
        stop.set()
    assert len(confirmed) > 20
    assert set(await drained(producer)) == {*TEXTS, *confirmed}


async def test_what_a_message_came_with_comes_along(broker: Broker, producer: Producer) -> None:
    await declare_as_before(broker, producer)
    await drained(producer)
    given: dict[str, Any] = {
        "message_id": "m",
        "correlation_id": "c",
        "priority": 3,
        "app_id": "a",
        "expiration": "3600000",
    }
    await producer.send("x", headers={"tenant": "t", "x-attempt": 2, "CC": ["q.parked"]}, **given)
    await producer.take("q.parked")  # the carbon copy: there must be no second one

    await (await prepared(broker)).run()

    messages = [await producer.take("q") for _ in range(await producer.count("q"))]
    (found,) = [message for message in messages if message.properties.message_id == "m"]
    assert {name: getattr(found.properties, name) for name in given} == given
    assert {"tenant": "t", "x-attempt": 2}.items() <= found.headers.items()
    assert "CC" not in found.headers
    assert await producer.count("q.parked") == 0


async def test_the_parking_lot_too(broker: Broker, producer: Producer) -> None:
    await producer.channel.queue_declare(
        "q.parked", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3}
    )
    await producer.send("parked", queue="q.parked")
    await producer.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    subscription = await producer.channel.basic_consume("q", ignore)
    with pytest.raises(QueueInUse, match="queue q has 1 consumers"):
        await (await prepared(broker, "q.parked")).run()
    assert subscription.consumer_tag is not None
    await producer.channel.basic_cancel(subscription.consumer_tag)

    await (await prepared(broker, "q.parked")).run()

    assert (await survey(broker, DECLARED, None)).queues["q.parked"].mismatch is None
    assert await drained(producer, "q.parked") == ["parked"]


async def ignore(_: DeliveredMessage) -> None:
    pass
