"""Whatever a stranger's message looks like, if the broker takes it then it comes to an end, and so does the next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Work
from roles.amqp import Broker, BrokerUnavailable, MessageRefused, Properties
from roles.consume import Consumer, Delivery, consumer
from schema.settings import Amqp
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, consuming, milliseconds

pytestmark = pytest.mark.anyio

bodies = st.binary(max_size=50) | st.text(max_size=20).map(lambda text: Note(text=text).model_dump_json().encode())
names = st.binary(max_size=12) | st.sampled_from([b"x-attempt", b"x-error", b"x-death", b"x-delivery-count", b"CC"])
values = st.one_of(
    st.binary(min_size=1, max_size=1).map(lambda data: b"b" + data),
    st.binary(min_size=4, max_size=4).map(lambda data: b"I" + data),
    st.binary(min_size=8, max_size=8).map(lambda data: b"l" + data),
    st.binary(min_size=8, max_size=8).map(lambda data: b"T" + data),
    st.binary(max_size=30).map(lambda data: b"S" + len(data).to_bytes(4) + data),
    st.binary(max_size=30).map(lambda data: b"x" + len(data).to_bytes(4) + data),
    st.just(b"V"),
    st.just(b"A\x00\x00\x00\x02t\x01"),
    st.just(b"F\x00\x00\x00\x04\x02\xff\xfeV"),
)
fields = st.fixed_dictionaries(
    {},
    optional={
        **{
            name: st.binary(max_size=20)
            for name in (
                *("content_type", "content_encoding", "correlation_id", "reply_to"),
                *("message_id", "type", "app_id"),
            )
        },
        "timestamp": st.binary(min_size=8, max_size=8),
        "delivery_mode": st.sampled_from([b"\x01", b"\x02"]),
        "priority": st.binary(min_size=1, max_size=1),
    },
)


def judge(message: Note) -> None:
    if len(message.text) % 2:
        raise ValueError(message.text)


async def handle(message: Note, work: Work) -> None:
    judge(message)


async def handle_outside(message: Note, delivery: Delivery) -> None:
    judge(message)
    async with delivery.unit_of_work():
        assert str(delivery.headers) + str(delivery.message_id)


async def handle_batch(messages: list[Note], work: Work) -> None:
    for message in messages:
        judge(message)


OPTIONS: dict[str, Any] = {"retry": milliseconds(10), "concurrency": 2, "breaker": None}
FLAVOURS = (
    consumer("q", **OPTIONS)(handle),
    consumer("q", transaction=False, **OPTIONS)(handle_outside),
    consumer("q", batch=5, **OPTIONS)(handle_batch),
    consumer("q", key=lambda message: message.text[:1], **OPTIONS)(handle),
)

messages = st.tuples(bodies, st.builds(Properties, fields, st.dictionaries(names, values, max_size=4)))


@pytest.mark.parametrize("method", [b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x32", b"\x00\x0a\x00\x32"])
async def test_a_body_that_begins_like_a_method_of_the_protocol_is_a_body(
    amqp_url: str, database_url: str, method: bytes
) -> None:
    """basic.deliver, basic.return and connection.close, which are looked into when they arrive."""
    producer = Broker("example", amqp_url, Amqp())
    subject = Calls().declared(retry=milliseconds(10))
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        channel = await producer.channel("publish")
        await channel.publish(method, Properties({}), exchange="", routing_key="q")
        await channel.publish(
            Note(text="next").model_dump_json().encode(), Properties({}), exchange="", routing_key="q"
        )
        status = running.status()
        await eventually(lambda: (status.parked, status.tally.finished) == (1, 1))
    await producer.aclose()


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(FLAVOURS), st.lists(messages, min_size=10, max_size=40))
async def test_whatever_arrives(
    amqp_url: str, database_url: str, subject: Consumer[Note], batch: list[tuple[bytes, Properties]]
) -> None:
    producer = Broker("example", amqp_url, Amqp())
    accepted = 0
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        channel = await producer.channel("publish")
        for body, properties in batch:
            try:
                await channel.publish(body, properties, exchange="", routing_key="q")
                accepted += 1
            except (MessageRefused, BrokerUnavailable):  # not even the broker takes it
                channel = await producer.channel("publish")
        status = running.status()
        await eventually(
            lambda: status.tally.finished + status.parked == accepted and not status.tally.in_flight, within=60
        )
        assert status.tally.failed == status.retried + status.parked
        assert status.subscribed
    await producer.aclose()
