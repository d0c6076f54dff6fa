"""Many messages in flight on one channel: each has an outcome of its own, and none is taken for another's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from roles.amqp import BrokerUnavailable, Channel, MessageRefused, NotAccepted, Outgoing, Properties, Unroutable
from roles.amqp.connection import Connection
from roles.amqp.pipeline import Pipeline
from tests.amqp.support import connected, eventually, proxied
from tests.amqp.test_channel import QUORUM, received

pytestmark = pytest.mark.anyio


@pytest.fixture
async def connection(amqp_url: str) -> AsyncIterator[Connection]:
    async with connected(amqp_url) as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    channel = await Channel.open(connection)
    await channel.declare_queue("q", QUORUM)
    return channel


def outgoing(number: int, *, to: str = "q", body: bytes = b"", exchange: str = "") -> Outgoing:
    return Outgoing(body or b"%d" % number, Properties({"message_id": b"%d" % number}), exchange, to)


async def test_they_arrive_in_their_order_persistent_and_confirmed(connection: Connection, channel: Channel) -> None:
    told: list[str] = []

    assert await channel.publish_all(
        list(map(outgoing, range(300))), written=lambda: told.append("on their way")
    ) == ([None] * 300)
    assert await channel.publish_all([outgoing(300)]) == [None]

    deliveries = await received(await Channel.open(connection), "q", 301)
    assert [delivery.body for delivery in deliveries] == [b"%d" % number for number in range(301)]
    assert {delivery.properties.fields["delivery_mode"] for delivery in deliveries} == {b"\x02"}
    assert told == ["on their way"]


async def test_those_that_no_queue_takes_are_told_from_their_neighbours(channel: Channel) -> None:
    messages = [outgoing(number, to="q" if number % 3 else "nowhere") for number in range(60)]

    outcomes = await channel.publish_all(messages)

    assert [type(outcome) for outcome in outcomes] == [type(None) if n % 3 else Unroutable for n in range(60)]
    assert not channel.lost.is_set()
    assert await channel.publish_all([outgoing(0)]) == [None], "its id is free again"


async def test_those_that_a_full_queue_rejects_are_told_from_their_neighbours(channel: Channel) -> None:
    await channel.declare_queue("full", QUORUM | {"x-max-length": 1, "x-overflow": "reject-publish"})
    while (await channel.publish_all([outgoing(0, to="full")])) == [None]:
        pass

    outcomes = await channel.publish_all([outgoing(n, to="q" if n % 2 else "full") for n in range(20)])

    assert [type(outcome) for outcome in outcomes] == [NotAccepted, type(None)] * 10
    assert not channel.lost.is_set()


async def test_what_cannot_be_written_is_refused_alone(connection: Connection, channel: Channel) -> None:
    large = Properties({"message_id": b"l"}, {b"x": b"S" + (140_000).to_bytes(4) + b"x" * 140_000})
    odd = [Outgoing(b"", large, "", "q"), outgoing(1, to="k" * 300), outgoing(2, exchange="\ud800")]

    outcomes = await channel.publish_all([outgoing(3), *odd, outgoing(4)])

    assert [type(outcome) for outcome in outcomes] == [type(None), *[MessageRefused] * 3, type(None)]
    assert [type(outcome) for outcome in await channel.publish_all(odd)] == [MessageRefused] * 3
    assert await channel.publish_all([]) == []
    assert [delivery.body for delivery in await received(await Channel.open(connection), "q", 2)] == [b"3", b"4"]


async def test_a_body_of_many_frames(connection: Connection, channel: Channel) -> None:
    body = bytes(range(256)) * 4096

    assert await channel.publish_all([outgoing(1, body=body), outgoing(2)]) == [None, None]

    first, second = await received(await Channel.open(connection), "q", 2)
    assert (first.body, second.body) == (body, b"2")


async def test_of_several_nobody_knows_which_one_cost_the_channel(connection: Connection, channel: Channel) -> None:
    foreign = Outgoing(b"", Properties({"message_id": b"f", "user_id": b"somebody"}), "", "q")

    outcomes = await channel.publish_all([*map(outgoing, range(50)), foreign, outgoing(51)])

    assert channel.lost.is_set()
    assert {type(outcome) for outcome in outcomes[50:]} == {BrokerUnavailable}
    with pytest.raises(BrokerUnavailable):
        await channel.publish_all([outgoing(1)])
    (outcome,) = await (await Channel.open(connection)).publish_all([foreign])
    assert isinstance(outcome, MessageRefused)
    (outcome,) = await (await Channel.open(connection)).publish_all([outgoing(1, exchange="nowhere")])
    assert isinstance(outcome, Unroutable)


async def test_nothing_counts_as_sent_on_a_channel_that_closes(connection: Connection, channel: Channel) -> None:
    """The broker has closed it, and aiormq has not said so yet."""
    foreign = Outgoing(b"", Properties({"message_id": b"f", "user_id": b"somebody"}), "", "q")
    raw = channel._raw

    (refused,) = await channel.publish_all([foreign])

    assert isinstance(refused, MessageRefused)
    assert channel.lost.is_set()
    pipeline = Pipeline(connection, raw, [outgoing(1), outgoing(2)])
    outcomes = await pipeline.run(lambda: None)
    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 2
    assert pipeline.lost


async def test_a_broker_that_falls_silent_is_cut_off(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy, connected(proxy.url) as connection:
        channel = await Channel.open(connection)
        proxy.silent = True

        with anyio.fail_after(60):
            outcomes = await channel.publish_all(list(map(outgoing, range(5))))

        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 5
        assert connection.lost.is_set()


async def test_whoever_is_cancelled_leaves_nothing_behind(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy, connected(proxy.url) as connection:
        channel = await Channel.open(connection)
        proxy.silent = True
        with anyio.move_on_after(0.05) as scope:
            await channel.publish_all(list(map(outgoing, range(5))))

        assert scope.cancelled_caught
        await eventually(lambda: channel._raw.message_id_delivery_tag == {})
        connection.cut("cut by the test")
