from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from aiormq import spec
from yarl import URL

from roles.amqp import (
    BrokerUnavailable,
    Channel,
    Delivery,
    MessageRefused,
    Properties,
    QueueCount,
    TopologyMismatch,
    Unroutable,
)
from roles.amqp.connection import Connection
from tests.amqp.support import connected, eventually, proxied
from tests.services import RabbitServer

pytestmark = pytest.mark.anyio

QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
async def connection(amqp_url: str) -> AsyncIterator[Connection]:
    async with connected(amqp_url) as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await Channel.open(connection)


@pytest.fixture
def login_for_e(rabbitmq: RabbitServer, amqp_url: str) -> Iterator[str]:
    """The URL of a user who may publish to the exchange `e` alone."""
    name, url = f"u{uuid4().hex[:12]}", URL(amqp_url)
    rabbitmq.api.put(f"/users/{name}", json={"password": "p", "tags": ""}).raise_for_status()
    permissions = {"configure": "^e$", "write": "^e$", "read": ""}
    rabbitmq.api.put(f"/permissions/{url.path[1:]}/{name}", json=permissions).raise_for_status()
    yield str(url.with_user(name).with_password("p"))
    rabbitmq.api.delete(f"/users/{name}").raise_for_status()


def message(**properties: object) -> Properties:
    return Properties.decode(spec.Basic.Properties(**properties).marshal())  # type: ignore[arg-type]


async def received(channel: Channel, queue: str, count: int = 1) -> list[Delivery]:
    deliveries: list[Delivery] = []
    await channel.consume(queue, prefetch=count, deliver=deliveries.append)
    await eventually(lambda: len(deliveries) == count)
    return deliveries


async def test_a_message_arrives_with_its_properties_byte_for_byte(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)
    sent = message(message_id="m", headers={"a": 0.1, "b": [1, {"c": "d"}]}, delivery_mode=2, app_id="app")

    await channel.publish(b"body", sent, exchange="", routing_key="q")

    (delivery,) = await received(channel, "q")
    assert (delivery.body, delivery.routing_key, delivery.redelivered) == (b"body", "q", False)
    assert delivery.properties.encode() == sent.encode()


@pytest.mark.parametrize(
    "properties",
    [
        Properties({"message_id": b"\xff\xfe"}),
        Properties({"timestamp": b"\x7f" + b"\xff" * 7}),
        Properties({"timestamp": int(datetime(2026, 1, 31, tzinfo=UTC).timestamp() * 1000 + 7).to_bytes(8)}),
        Properties({}, {b"\xff": b"I\x00\x00\x00\x01"}),
        Properties({}, {b"x": b"S\x00\x00\x00\x02\xff\xfe"}),
        Properties({}, {b"x": b"T" + b"\xff" * 8}),
    ],
    ids=["binary id", "no date", "milliseconds", "binary name", "binary value", "no date in a header"],
)
async def test_properties_that_python_has_no_value_for(connection: Connection, properties: Properties) -> None:
    publishing, consuming = await Channel.open(connection), await Channel.open(connection)
    await publishing.declare_queue("q", QUORUM)

    await publishing.publish(b"odd", properties, exchange="", routing_key="q")
    await publishing.publish(b"next", message(message_id="n"), exchange="", routing_key="q")

    odd, _ = await received(consuming, "q", 2)
    assert odd.body == b"odd"
    assert odd.properties.fields.items() >= properties.fields.items()
    assert odd.properties.headers == properties.headers


async def test_a_routing_key_that_is_no_text(connection: Connection, channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)
    await channel.declare_exchange("e", "topic")
    await channel.bind("q", exchange="e", routing_key="#")
    raw = b"\x00\x3c\x00\x28\x00\x00\x01e\x04\xff.\xfex\x00"  # basic.publish; aiormq can only send text
    header = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    number = (await Channel.open(connection))._raw.number
    frames = b"".join(
        kind + number.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"
        for kind, payload in ((b"\x01", raw), (b"\x02", header))
    )
    connection._peer._transport.write(frames)  # type: ignore[union-attr]

    (delivery,) = await received(channel, "q")
    assert (delivery.routing_key, delivery.body) == ("?.?x", b"")


async def test_a_probe_is_answered_and_goes_nowhere(channel: Channel, amqp_url: str) -> None:
    await channel.probe()
    assert not channel.lost.is_set()

    async with proxied(amqp_url) as proxy, connected(proxy.url) as connection:
        deaf = await Channel.open(connection)
        proxy.silent = True
        with pytest.raises(BrokerUnavailable):
            await deaf.probe()


async def test_a_probe_that_is_forbidden_is_answered_too(login_for_e: str) -> None:
    async with connected(login_for_e) as connection:
        channel = await Channel.open(connection)
        await channel.probe()
        assert channel.lost.is_set()
        assert "ACCESS_REFUSED" in channel.reason
        assert not connection.lost.is_set()


async def test_a_message_without_an_id_is_given_one(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)

    await channel.publish(b"", message(), exchange="", routing_key="q")

    (delivery,) = await received(channel, "q")
    assert len(delivery.properties.text("message_id") or "") == 32
    assert delivery.properties.fields["delivery_mode"] == b"\x02"


@pytest.mark.parametrize(
    "properties", [message(message_id="m"), message(), Properties({"message_id": b"\xff" * 255})]
)
async def test_a_message_for_which_there_is_no_queue(channel: Channel, properties: Properties) -> None:
    with pytest.raises(Unroutable, match="routing key 'nowhere'"):
        await channel.publish(b"", properties, exchange="", routing_key="nowhere")

    await channel.declare_queue("q", QUORUM)
    await channel.publish(b"", properties, exchange="", routing_key="q")


async def test_an_exchange_that_is_not_there(channel: Channel) -> None:
    with pytest.raises(Unroutable, match="no exchange 'nowhere'"):
        await channel.publish(b"", message(), exchange="nowhere", routing_key="q")


async def test_a_message_that_pretends_to_come_from_somebody_else(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)

    with pytest.raises(MessageRefused, match="user_id property set to 'somebody'"):
        await channel.publish(b"", message(user_id="somebody"), exchange="", routing_key="q")


async def test_properties_larger_than_a_frame(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)

    with pytest.raises(MessageRefused, match="do not fit"):
        await channel.publish(b"", message(headers={"x": "x" * 140_000}), exchange="", routing_key="q")

    await channel.publish(b"", message(headers={"x": "x" * 130_000}), exchange="", routing_key="q")


async def test_a_full_queue(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM | {"x-max-length": 1, "x-overflow": "reject-publish"})

    with pytest.raises(BrokerUnavailable, match="not accepted"):
        for _ in range(10):
            await channel.publish(b"", message(), exchange="", routing_key="q")


async def test_a_queue_with_other_arguments(connection: Connection) -> None:
    await (await Channel.open(connection)).declare_queue("q.retry", QUORUM | {"x-message-ttl": 5000})

    with pytest.raises(
        TopologyMismatch,
        match=r"queue 'q\.retry' has x-message-ttl = 5000 and is declared with 6000: .* apply --recreate q\.retry`",
    ):
        await (await Channel.open(connection)).declare_queue("q.retry", QUORUM | {"x-message-ttl": 6000})


async def test_an_exchange_of_another_type(connection: Connection) -> None:
    await (await Channel.open(connection)).declare_exchange("e", "direct")

    with pytest.raises(
        TopologyMismatch, match=r"exchange .e. has type = direct and is declared with topic: .* diff`"
    ):
        await (await Channel.open(connection)).declare_exchange("e", "topic")


async def test_a_look_at_what_is_there_and_what_is_not(connection: Connection) -> None:
    channel = await Channel.open(connection)
    await channel.declare_queue("q", QUORUM)
    await channel.declare_exchange("e", "topic")
    await channel.publish(b"", message(), exchange="", routing_key="q")

    assert await channel.count("q") == QueueCount(messages=1, consumers=0)
    assert await channel.exchange_exists("e")
    assert await channel.count("other") is None
    assert channel.lost.is_set()
    assert not await (await Channel.open(connection)).exchange_exists("other")


async def test_a_queue_that_is_deleted(connection: Connection, channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)
    await channel.publish(b"", message(), exchange="", routing_key="q")

    assert await channel.delete_queue("q") == 1
    assert await channel.delete_queue("q") == 0
    assert await channel.count("q") is None


async def test_a_binding_that_is_taken_away(connection: Connection, channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)
    await channel.declare_exchange("e", "topic")
    await channel.bind("q", exchange="e", routing_key="k")
    await channel.unbind("q", exchange="e", routing_key="k")
    await channel.unbind("q", exchange="e", routing_key="k")

    with pytest.raises(Unroutable):
        await channel.publish(b"", message(), exchange="e", routing_key="k")


async def test_an_argument_that_the_broker_does_not_know(channel: Channel) -> None:
    with pytest.raises(TopologyMismatch, match="invalid arg 'x-message-ttl'"):
        await channel.declare_queue("q", QUORUM | {"x-message-ttl": -1})


async def test_a_queue_that_is_gone_can_be_declared_again(channel: Channel) -> None:
    with pytest.raises(BrokerUnavailable, match="no queue 'gone'"):
        await channel.consume("gone", prefetch=1, deliver=lambda _: None)


async def test_a_queue_deleted_under_its_consumer(connection: Connection, channel: Channel, amqp_url: str) -> None:
    await channel.declare_queue("q", QUORUM)
    await channel.consume("q", prefetch=1, deliver=lambda _: None)

    async with connected(amqp_url) as other:
        await other.call("delete", (await Channel.open(other))._raw.queue_delete("q"))

    with anyio.fail_after(60):
        await channel.lost.wait()
    assert "the broker cancelled the subscription" in channel.reason
    assert not connection.lost.is_set()


async def test_a_channel_closed_by_the_broker_leaves_its_neighbours_alone(connection: Connection) -> None:
    offending, neighbour = await Channel.open(connection), await Channel.open(connection)
    await offending.declare_queue("q", QUORUM)
    await offending.publish(b"", message(), exchange="", routing_key="q")
    (delivery,) = await received(offending, "q")
    await offending.ack(delivery)
    await offending.ack(delivery)  # twice is an offence

    with anyio.fail_after(60):
        await offending.lost.wait()
    assert "unknown delivery tag 1" in offending.reason
    await neighbour.declare_queue("other", QUORUM)


async def test_a_connection_closed_by_an_operator(
    rabbitmq: RabbitServer, connection: Connection, channel: Channel
) -> None:
    def close() -> bool:
        for each in rabbitmq.api.get("/connections").json():
            if each.get("vhost") == connection.link.vhost:
                return rabbitmq.api.delete(f"/connections/{each['name']}").is_success
        return False

    await eventually(close)
    with anyio.fail_after(60):
        await channel.lost.wait()
    assert "CONNECTION_FORCED" in channel.reason


async def test_everything_on_a_lost_channel_says_so(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)
    await channel.publish(b"", message(), exchange="", routing_key="q")
    (delivery,) = await received(channel, "q")
    channel._connection.cut("cut by the test")

    for action in (
        channel.ack(delivery),
        channel.reject(delivery),
        channel.cancel(),
        channel.declare_queue("q", QUORUM),
        channel.publish(b"", message(), exchange="", routing_key="q"),
    ):
        with anyio.fail_after(60), pytest.raises(BrokerUnavailable, match="cut by the test"):
            await action


@pytest.fixture
async def sixty(connection: Connection, channel: Channel) -> list[Delivery]:
    """Deliveries from the queue `q`, which dead-letters to `lot`."""
    publishing = await Channel.open(connection)
    await publishing.declare_queue("lot", QUORUM)
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "lot"}
    await publishing.declare_queue("q", QUORUM | dead)
    for number in range(60):
        await publishing.publish(b"", message(message_id=str(number)), exchange="", routing_key="q")
    return await received(channel, "q", 60)


async def test_an_ack_of_several_does_not_overtake_those_of_single_ones(
    connection: Connection, channel: Channel, sixty: list[Delivery]
) -> None:
    """What is acked twice costs the channel."""
    first, second, third = sixty[:20], sixty[20:40], sixty[40:]

    async def others() -> None:
        await anyio.lowlevel.checkpoint()  # now the writer has made room, and the second has not noticed
        await channel.ack(*first)
        await channel.ack(*third)

    async with anyio.create_task_group() as group:
        group.start_soon(channel.ack, *second)  # one by one, as the first are open, and more than the writer takes
        group.start_soon(others)
    await channel.cancel()

    assert not channel.lost.is_set(), channel.reason
    await channel.aclose()
    left = await (await Channel.open(connection)).count("q")
    assert left == QueueCount(messages=0, consumers=0)


async def test_an_ack_of_several_does_not_overtake_a_rejection(
    connection: Connection, channel: Channel, sixty: list[Delivery]
) -> None:
    """It would be one of them."""
    guilty, *rest = sixty

    async def others() -> None:
        await anyio.lowlevel.checkpoint()
        await channel.ack(*rest[20:])

    async with anyio.create_task_group() as group:
        group.start_soon(channel.ack, *rest[:20])
        group.start_soon(channel.reject, guilty)
        group.start_soon(others)
    await channel.cancel()

    assert not channel.lost.is_set(), channel.reason
    (parked,) = await received(await Channel.open(connection), "lot")
    assert parked.properties.text("message_id") == "0"


async def test_what_was_not_acked_comes_again(connection: Connection) -> None:
    first, second = await Channel.open(connection), await Channel.open(connection)
    await first.declare_queue("q", QUORUM)
    for body in (b"1", b"2"):
        await first.publish(body, message(), exchange="", routing_key="q")
    one, _ = await received(first, "q", 2)

    await first.ack(one)
    await first.aclose()

    (again,) = await received(second, "q")
    assert (again.body, again.redelivered) == (b"2", True)


async def test_after_a_cancel_nothing_is_delivered(channel: Channel) -> None:
    await channel.declare_queue("q", QUORUM)
    deliveries: list[Delivery] = []
    await channel.consume("q", prefetch=10, deliver=deliveries.append)

    await channel.cancel()

    await channel.publish(b"", message(), exchange="", routing_key="q")
    await channel.declare_queue("q", QUORUM)  # a round trip later
    assert not deliveries
    assert not channel.lost.is_set()


async def test_a_rejected_message_goes_where_the_queue_sends_its_dead(channel: Channel) -> None:
    await channel.declare_queue("dead", QUORUM)
    await channel.declare_queue("q", QUORUM | {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    await channel.publish(b"body", message(), exchange="", routing_key="q")
    (delivery,) = await received(channel, "q")

    await channel.reject(delivery)

    (dead,) = await received(channel, "dead")
    assert dead.body == b"body"


async def test_a_channel_on_a_lost_connection(connection: Connection) -> None:
    connection.cut("cut by the test")

    with pytest.raises(BrokerUnavailable, match="cut by the test"):
        await Channel.open(connection)


async def test_an_ack_that_would_have_to_wait_has_a_deadline(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is stuck: its queue is full, and what is put into it waits."""
    await channel.declare_queue("q", QUORUM)
    await channel.publish(b"", message(), exchange="", routing_key="q")
    (delivery,) = await received(channel, "q")
    monkeypatch.setattr(channel._raw.write_queue, "full", lambda: True)
    monkeypatch.setattr(channel._raw.write_queue, "put", lambda _: anyio.sleep_forever())

    with anyio.fail_after(60), pytest.raises(BrokerUnavailable, match=r"no answer to basic\.ack within 2s"):
        await channel.ack(delivery)

    assert channel.lost.is_set()


async def test_properties_that_are_none_send_the_message_to_the_dead(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No broker should deliver such a message; if one does, it must not stay in our hands."""
    await channel.declare_queue("dead", QUORUM)
    await channel.declare_queue("q", QUORUM | {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})

    def refuse(_: object) -> Properties:
        monkeypatch.undo()
        return Properties.decode(b"\x80\x00\x09x")

    monkeypatch.setattr("roles.amqp.channel.unseal", refuse)
    await channel.publish(b"body", message(), exchange="", routing_key="q")
    await channel.consume("q", prefetch=1, deliver=lambda _: None)

    (dead,) = await received(channel, "dead")
    assert dead.body == b"body"
