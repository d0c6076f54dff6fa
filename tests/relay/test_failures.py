"""What fails suffers alone: a message, a destination, a broker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from db import outbox as outbox_table
from db.pool import Pool, connection, unit_of_work
from db.times import EARLIEST
from roles.amqp import Properties
from schema.topic import Topic
from tests.amqp.support import eventually, mute_peer, proxied
from tests.consume.support import Producer, producing
from tests.relay.support import NOTED, Note, bodies, failing, left, note, outbox, relaying
from tests.services import RabbitServer

pytestmark = pytest.mark.anyio

NOWHERE = Topic("nowhere", Note, exchange="e", routing_key="nowhere")
FULL = Topic("full", Note, exchange="", routing_key="full")
BASIC_PUBLISH = b"\x00\x3c\x00\x28"
GONE = Topic("gone", Note, exchange="gone", routing_key="x")


async def full_queue(broker: Producer) -> None:
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    await broker.channel.queue_declare("full", durable=True, arguments=arguments)
    for _ in range(5):
        try:
            await broker.send("filler", queue="full")
        except Exception:
            return
    raise AssertionError("the queue takes everything")


async def test_an_unroutable_message_backs_off_is_shown_and_goes_out_once_a_queue_is_bound(
    pool: Pool, broker: Producer, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.relay.relay.SURVEY_INTERVAL", timedelta(milliseconds=50))
    await note(*map(str, range(20)), topic=NOWHERE)
    await note("routed")
    async with relaying(pool, amqp_url) as running:
        assert await bodies(broker, 1) == ["routed"]
        rows = await left(20)
        await failing(20)
        assert "routing key 'nowhere'" in rows[0]["last_error"]
        await eventually(lambda: running.status().destinations and running.status().destinations[0].failing == 20)
        (shown,) = running.status().destinations
        assert (shown.exchange, shown.routing_key, shown.waiting) == ("e", "nowhere", 20)
        assert shown.oldest_at == rows[0]["created_at"]
        assert running.status().waiting == 20
        assert "nowhere" in (shown.error or "")

        await broker.channel.queue_bind("q", "e", "nowhere")
        assert await bodies(broker, 20) == list(map(str, range(20)))
        await left(0)
        await eventually(lambda: running.status().waiting == 0 and not running.status().destinations)


async def test_a_full_queue_holds_up_nobody_else_and_its_messages_keep_their_order(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    await full_queue(broker)
    async with relaying(
        pool, amqp_url, relay={"poll_interval": "50ms", "backoff_max": "200ms", "batch": 10}
    ) as running:
        await note(*map(str, range(30)), topic=FULL)
        await note(*"abc")
        assert await bodies(broker, 3) == ["a", "b", "c"]
        assert len(await left(30)) == 30
        await broker.channel.queue_delete("full")
        await broker.channel.queue_declare("full", durable=True, arguments={"x-queue-type": "quorum"})
        assert await bodies(broker, 30, "full") == list(map(str, range(30)))
        await left(0)
        assert running.tally().in_flight == 0


async def test_a_destination_that_fails_costs_an_attempt_now_and_then_and_not_one_for_each_message(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    await note(*map(str, range(300)), topic=NOWHERE)
    async with relaying(
        pool, amqp_url, relay={"poll_interval": "20ms", "backoff_max": "300ms", "batch": 20}
    ) as running:
        await eventually(lambda: running.tally().failed >= 24)
        await note("next")
        assert await bodies(broker, 1) == ["next"]
        await left(300)
    rows = await outbox()
    assert sum(row["attempts"] for row in rows) == running.tally().failed < 150
    assert all(row["last_error"] for row in rows)


async def test_a_message_that_costs_the_channel_suffers_alone(pool: Pool, broker: Producer, amqp_url: str) -> None:
    """The broker closes the channel over a foreign user id, a header that it looks at, and an exchange of nowhere."""
    odd = [
        Properties({"message_id": b"f", "user_id": b"somebody"}),
        Properties({"message_id": b"c"}, {b"CC": b"S\x00\x00\x00\x01x"}),
    ]
    async with unit_of_work() as work:
        await work.publish(NOTED, Note(text="a"))
        for properties in odd:
            await outbox_table.add_encoded(
                work.connection,
                broker="example",
                exchange="e",
                routing_key="noted",
                body=b"odd",
                properties=properties.encode(),
                message_id=properties.text("message_id"),
            )
        await work.publish(GONE, Note(text="gone"))
        await work.publish(NOTED, Note(text="b"))
    async with relaying(pool, amqp_url) as running:
        assert await bodies(broker, 2) == ["a", "b"]
        rows = await left(3)
        await failing(3)
        await note("c")
        assert await bodies(broker, 1) == ["c"]
        assert running.tally().finished == 3, "nothing was sent twice"
    assert "user_id property" in rows[0]["last_error"]
    assert "no exchange 'gone'" in rows[2]["last_error"]


async def test_a_message_that_costs_the_channel_unexpectedly_is_found_among_its_neighbours(
    pool: Pool, broker: Producer, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.relay.batch.is_risky", lambda _: False)
    foreign = Properties({"message_id": b"f", "user_id": b"somebody"})
    async with unit_of_work() as work:
        for number in range(40):
            if number == 20:
                await outbox_table.add_encoded(
                    work.connection,
                    broker="example",
                    exchange="e",
                    routing_key="noted",
                    body=b"odd",
                    properties=foreign.encode(),
                    message_id="f",
                )
            await work.publish(NOTED, Note(text=str(number)))
    async with relaying(pool, amqp_url):
        (row,) = await failing(1)
        assert "user_id property" in row["last_error"]
        await left(1)
    got = set(await bodies(broker, 40))
    while len(got) < 40:
        got |= set(await bodies(broker, 1))
    assert got == set(map(str, range(40)))


async def test_rows_that_nobody_can_send_are_held_back_and_hold_up_nobody(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    bad: list[Any] = [
        [],
        {"encoded": "!"},
        {"encoded": "gAA="},
        {"message_id": 7},
        {"headers": {"a": [1]}, "message_id": "1"},
        {"headers": {"a": 2**31}, "message_id": "2"},
        {"headers": {"a" * 256: 1}, "message_id": "3"},
    ]
    async with connection() as conn:
        for properties in bad:
            await conn.execute(
                "INSERT INTO outbox (broker, exchange, routing_key, body, properties)"
                " VALUES ('example', 'e', 'noted', '', %s)",
                [Jsonb(properties)],
            )
        await conn.execute(
            "INSERT INTO outbox (broker, exchange, routing_key, body, properties)"
            " VALUES ('example', 'e', repeat('k', 300), '', '{}')"
        )
    await note("a")
    async with relaying(pool, amqp_url):
        assert await bodies(broker, 1) == ["a"]
        rows = await failing(8)
    assert all("it cannot be" in row["last_error"] or "cannot be sent" in row["last_error"] for row in rows)


async def test_times_that_only_postgresql_knows_are_no_obstacle(
    pool: Pool, broker: Producer, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.relay.relay.SURVEY_INTERVAL", timedelta(milliseconds=50))
    await note("refused", topic=NOWHERE)
    await note("first", "old", "new")
    async with connection() as conn:
        await conn.execute(b"UPDATE outbox SET created_at = '-infinity' WHERE routing_key = 'nowhere'")
        await conn.execute(b"UPDATE outbox SET available_at = '-infinity' WHERE id = 2")
        await conn.execute(b"UPDATE outbox SET created_at = '1960-01-01' WHERE id = 3")
        await conn.execute(b"UPDATE outbox SET created_at = 'infinity' WHERE id = 4")
    async with relaying(pool, amqp_url) as running:
        assert sorted(await bodies(broker, 3)) == ["first", "new", "old"]
        await eventually(lambda: running.status().waiting == 1)
        assert running.status().oldest_at == EARLIEST


async def test_a_broker_that_is_away_is_waited_for_and_burns_no_attempt(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    async with proxied(amqp_url) as proxy:
        proxy.refusing = True
        async with relaying(pool, proxy.url) as running:
            await note("a")
            await eventually(lambda: running.status().reason)
            assert not running.status().connected
            assert [row["attempts"] for row in await outbox()] == [0]
            proxy.refusing = False
            assert await bodies(broker, 1) == ["a"]
            await eventually(lambda: running.status().connected and running.status().reason is None)
            await left(0)

            proxy.refusing = True
            await proxy.sever()
            await note("b")
            await eventually(lambda: not running.status().connected)
            proxy.refusing = False
            assert await bodies(broker, 1) == ["b"]
            await left(0)


async def test_a_broker_that_is_away_does_not_hold_up_another(
    pool: Pool, broker: Producer, amqp_url: str, rabbitmq: RabbitServer
) -> None:
    elsewhere = Topic("elsewhere", Note, exchange="e", routing_key="noted", broker="other")
    settings: dict[str, Any] = {"amqp": {"example": {"timeout": "1s"}, "other": {"timeout": "1s"}}}
    async with mute_peer() as mute:
        urls = {"example": amqp_url, "other": mute}
        async with relaying(pool, urls, topics=[NOTED, elsewhere], **settings) as running:
            await note("x", topic=elsewhere)
            for text in "abc":
                await note(text)
                assert await bodies(broker, 1) == [text]
            await eventually(lambda: running.status("other").reason)
            assert running.status().connected
    assert [row["broker"] for row in await outbox()] == ["other"]
    with rabbitmq.vhost() as other_url:
        async with producing(other_url) as other:
            await other.channel.exchange_declare("e", exchange_type="topic", durable=True)
            await other.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
            await other.channel.queue_bind("q", "e", "noted")
            urls = {"example": amqp_url, "other": other_url}
            async with relaying(pool, urls, topics=[NOTED, elsewhere], **settings):
                assert await bodies(other, 1) == ["x"]


async def test_a_message_that_the_broker_never_answers_suffers_alone(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    """Its frames vanish on the way, each time, and what is behind them on that connection."""
    async with proxied(amqp_url) as proxy:
        proxy.swallowing = b"poison"
        async with relaying(pool, proxy.url, amqp={"example": {"timeout": "1s"}}):
            await note("a", "b", "poison", "c", "d")
            row = (await failing(1, within=80))[0]
            assert b"poison" in row["body"]
            assert "no answer to basic.publish" in row["last_error"]
            await note("e")
            assert sorted(set(await bodies(broker, 5))) == ["a", "b", "c", "d", "e"]
            await left(1)


async def test_a_broker_that_takes_no_messages_for_a_while_burns_no_attempt(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    """Short of memory or disk it lets everybody in, and stops reading from those that publish."""
    async with proxied(amqp_url) as proxy:
        proxy.swallowing = BASIC_PUBLISH
        async with relaying(pool, proxy.url, amqp={"example": {"timeout": "500ms"}}) as running:
            await note("a", "b", "c")
            await eventually(lambda: proxy.swallowed >= 6)
            assert [(row["attempts"], row["last_error"]) for row in await outbox()] == [(0, None)] * 3
            assert "no answer to basic.publish" in (running.status().reason or "")
            proxy.swallowing = None
            assert await bodies(broker, 3) == ["a", "b", "c"]
            await left(0)


async def test_a_message_of_a_headers_exchange_says_nothing_of_the_next(
    pool: Pool, broker: Producer, amqp_url: str
) -> None:
    await broker.channel.exchange_declare("h", exchange_type="headers", durable=True)
    await broker.channel.queue_bind("q", "h", "", arguments={"x-match": "all", "kind": "known"})
    topic = Topic("h", Note, exchange="h", routing_key="", exchange_type="headers")
    async with relaying(pool, amqp_url, topics=[topic]):
        await note("unknown", topic=topic, headers={"kind": "new"})
        await failing(1)
        await note("known", topic=topic, headers={"kind": "known"})
        assert await bodies(broker, 1) == ["known"]
        await left(1)
