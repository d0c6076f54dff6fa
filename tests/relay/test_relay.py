"""What is committed is published, whole and in order, and leaves the outbox when the broker has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import psycopg
import pytest

from db import outbox as outbox_table
from db import outbox_relay
from db.pool import Pool, connection, unit_of_work
from roles.amqp import Broker, Delivery, Properties
from schema.errors import ConfigurationError
from schema.settings import Amqp
from schema.steps import Step, observe
from schema.topic import Topic
from tests.amqp.support import eventually
from tests.consume.support import Producer
from tests.relay.support import NOTED, Note, bodies, left, note, outbox, relaying

pytestmark = pytest.mark.anyio


async def test_a_committed_message_is_published_with_all_its_properties(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    async with relaying(pool, amqp_url):
        async with unit_of_work() as work:
            message_id = await work.publish(NOTED, Note(text="é"), headers={"tenant": 7, "via": "api"})
        taken = await broker.take("q")
        await left(0)

    properties = taken.properties
    assert taken.body == '{"text":"é"}'.encode()
    assert (properties.message_id, properties.message_type) == (message_id, "noted")
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert taken.headers.items() >= {"tenant": 7, "via": "api"}.items()
    assert properties.timestamp is not None
    assert abs((datetime.now(UTC) - properties.timestamp).total_seconds()) < 120


async def test_a_local_commit_wakes_the_relay(pool: Pool, broker: Producer, amqp_url: str) -> None:
    async with relaying(pool, amqp_url, relay={"poll_interval": "1h"}) as running:
        for text in "abc":
            await note(text)
            assert await bodies(broker, 1) == [text]
        await left(0)
        assert running.tally().finished == 3


async def test_a_lone_message_goes_at_once_and_after_a_batch_of_several_more_are_waited_for(
    pool: Pool, broker: Producer, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.relay.relay.LINGER", timedelta(hours=1))
    steps: list[Step] = []
    observe(steps.append)
    try:
        async with relaying(pool, amqp_url):
            for text in "ab":
                await note(text)
                assert await bodies(broker, 1) == [text]
            await note("c", "d")
            assert await bodies(broker, 2) == ["c", "d"]
            await left(0)
            for text in "ef":
                await note(text)
        assert await bodies(broker, 2) == ["e", "f"], "a drain waits for no more"
    finally:
        observe(None)
    assert steps.count(Step.RELAY_PUBLISHED) == 4


async def test_messages_of_other_processes_are_polled_for(
    pool: Pool, broker: Producer, amqp_url: str, database_url: str
) -> None:
    async with relaying(pool, amqp_url):
        pool.on_published.clear()  # as if it had been committed elsewhere
        await note("a")
        assert await bodies(broker, 1) == ["a"]


async def test_more_than_a_batch_is_sent_in_order_and_at_the_end_of_the_role(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    texts = [str(number) for number in range(50)]
    await note(*texts[:25])
    await note(*texts[25:])
    async with relaying(pool, amqp_url, relay={"batch": 7, "poll_interval": "1h"}) as running:
        running.stop.set()
    assert await bodies(broker, 50) == texts
    assert await outbox() == []
    tally = running.tally()
    assert (tally.taken, tally.finished, tally.in_flight) == (50, 50, 0)


async def test_a_delayed_message_is_sent_when_it_is_due(pool: Pool, broker: Producer, amqp_url: str) -> None:
    async with relaying(pool, amqp_url, relay={"poll_interval": "1h"}):
        began = anyio.current_time()
        await note("later", delay="600ms")
        await note("now")
        assert await bodies(broker, 1) == ["now"]
        assert await bodies(broker, 1) == ["later"]
        assert anyio.current_time() - began >= 0.6


async def test_a_message_that_becomes_visible_late_is_sent_too(
    pool: Pool, broker: Producer, amqp_url: str, database_url: str
) -> None:
    async with relaying(pool, amqp_url), await psycopg.AsyncConnection.connect(database_url) as late:
        await late.execute(
            "INSERT INTO outbox (broker, exchange, routing_key, body, properties)"
            """ VALUES ('example', 'e', 'noted', '{"text": "late"}', '{}')"""
        )
        await note("early")
        assert await bodies(broker, 1) == ["early"]
        await late.commit()
        assert await bodies(broker, 1) == ["late"]


async def test_a_message_that_is_sent_again_goes_out_byte_for_byte(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    kept = Properties(
        {"message_id": b"\xff\xfe", "timestamp": b"\x7f" + b"\xff" * 7, "app_id": b"app", "delivery_mode": b"\x01"},
        {b"d": b"d" + b"\x3f\xf0" + b"\x00" * 6},
    )
    async with relaying(pool, amqp_url) as running:
        async with unit_of_work() as work:
            for routing_key in ("q", "q"):  # of the same id there must not be two in flight
                await outbox_table.add_encoded(
                    work.connection,
                    broker="example",
                    exchange="",
                    routing_key=routing_key,
                    body=b"\x00\xff",
                    properties=kept.encode(),
                    message_id="shown",
                )
            work.brokers.add("example")
        await left(0)
        assert running.tally().finished == 2
    consumer = Broker("example", amqp_url, Amqp())
    deliveries: list[Delivery] = []
    await (await consumer.channel("consume")).consume("q", prefetch=2, deliver=deliveries.append)
    await eventually(lambda: len(deliveries) == 2)
    await consumer.aclose()
    for delivery in deliveries:
        assert delivery.body == b"\x00\xff"
        assert delivery.properties.encode() == kept.with_fields({"delivery_mode": b"\x02"}).encode()


async def test_the_exchanges_of_topics_are_declared_and_one_of_another_type_is_a_wrong_configuration(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    topics = [Topic("a", Note, exchange="fresh", routing_key="a", exchange_type="fanout")]
    async with relaying(pool, amqp_url, topics=topics):
        await broker.channel.exchange_declare("fresh", exchange_type="fanout", durable=True, passive=True)
    wrong = [Topic("a", Note, exchange="fresh", routing_key="a", exchange_type="direct")]
    with pytest.raises(ExceptionGroup) as caught:
        async with relaying(pool, amqp_url, topics=wrong):
            pass
    assert caught.group_contains(ConfigurationError, match="exchange 'fresh' has type = fanout")


async def test_bodies_of_a_batch_are_bounded_in_bytes(
    pool: Pool, broker: Producer, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.relay.round.MAX_BYTES", 3000)
    sizes: list[int] = []
    take = outbox_relay.take

    async def taking(*arguments: object, **options: object) -> object:
        rows = await take(*arguments, **options)  # type: ignore[arg-type]
        sizes.append(sum(len(row.body) for row in rows))
        return rows

    monkeypatch.setattr(outbox_relay, "take", taking)
    texts = ["x" * 1000, "y" * 1000, "z" * 9000, "a", "b" * 2000, "c" * 2000]
    await note(*texts)
    async with relaying(pool, amqp_url):
        assert await bodies(broker, 6) == texts
    assert max(sizes) < 12_000
    async with connection() as conn:
        assert await (await conn.execute("SELECT count(*) FROM outbox")).fetchone() == (0,)
