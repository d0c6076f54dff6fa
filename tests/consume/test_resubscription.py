"""However a subscription is lost, it is seen within seconds and repaired with nobody's help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from db.pool import Work
from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery
from tests.amqp.support import Proxy, eventually, mute_peer, proxied
from tests.consume.support import Calls, Note, Producer, Running, consuming
from tests.services import RabbitServer

pytestmark = pytest.mark.anyio


def lost(running: Running, queue: str = "q") -> Callable[[], bool]:
    return lambda: not running.status(queue).subscribed


async def consumes_again(running: Running, producer: Producer, calls: Calls, queue: str = "q") -> None:
    """It says so, and it is true."""
    await eventually(lambda: running.status(queue).subscribed)
    assert running.status(queue).reason is None
    before = len(calls.texts)
    await producer.send("again", queue=queue)
    await eventually(lambda: len(calls.texts) > before)


async def test_the_queue_is_deleted_under_the_consumer(producer: Producer, amqp_url: str, database_url: str) -> None:
    calls, neighbour = Calls(), Calls()
    async with consuming(
        calls.declared(), neighbour.declared("other"), amqp_url=amqp_url, database_url=database_url
    ) as running:
        since = running.status("other").since
        await producer.channel.queue_delete("q")
        await eventually(lost(running))
        reason = running.status().reason

        await consumes_again(running, producer, calls)
        assert reason == "broker example: the broker cancelled the subscription (was the queue deleted?)"
        assert running.status("other").since == since
        await consumes_again(running, producer, neighbour, "other")


async def test_the_broker_closes_the_channel(
    producer: Producer, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acking twice is an offence for which the broker closes the channel."""
    ack = Channel.ack

    async def ack_twice(self: Channel, delivery: Delivery) -> None:
        await ack(self, delivery)
        await ack(self, delivery)
        monkeypatch.undo()

    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        since = running.status().since
        monkeypatch.setattr(Channel, "ack", ack_twice)
        await producer.send("x")
        await eventually(lambda: running.status().since != since)

        await consumes_again(running, producer, calls)


async def test_an_operator_closes_the_connection(
    rabbitmq: RabbitServer, producer: Producer, amqp_url: str, database_url: str
) -> None:
    def close() -> bool:
        vhost = amqp_url.rpartition("/")[2]
        ours = [
            each["name"]
            for each in rabbitmq.api.get("/connections").json()
            if each.get("vhost") == vhost and "consume@" in each["client_properties"].get("connection_name", "")
        ]
        return any(rabbitmq.api.delete(f"/connections/{name}").is_success for name in ours)

    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        since = running.status().since
        await eventually(close)
        await eventually(lambda: running.status().since != since)

        await consumes_again(running, producer, calls)


async def silence(proxy: Proxy) -> None:
    proxy.silent = True


async def refuse(proxy: Proxy) -> None:
    proxy.refusing = True
    await proxy.sever()


@pytest.mark.parametrize("harm", [silence, refuse])
async def test_the_network_fails(
    producer: Producer, amqp_url: str, database_url: str, harm: Callable[[Proxy], Awaitable[None]]
) -> None:
    calls = Calls()
    async with (
        proxied(amqp_url) as proxy,
        consuming(calls.declared(), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        await consumes_again(running, producer, calls)
        await harm(proxy)
        await eventually(lost(running))
        assert running.status().reason
        await anyio.sleep(1)
        assert not running.status().subscribed

        proxy.silent = proxy.refusing = False
        await proxy.sever()
        await consumes_again(running, producer, calls)


async def test_handlers_at_work_finish_and_their_messages_come_again(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    """The ack comes to nothing, and is counted so. Never do more handlers run than may."""
    go_on = anyio.Event()
    running_now = most = 0

    async def wait(message: Note, work: Work) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await go_on.wait()
        running_now -= 1

    calls = Calls(wait)
    async with (
        proxied(amqp_url) as proxy,
        consuming(calls.declared(concurrency=2), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        await producer.send("a")
        await producer.send("b")
        await eventually(lambda: len(calls.texts) == 2)
        await proxy.sever()
        await eventually(lost(running))
        await eventually(lambda: running.status().subscribed)
        await eventually(lambda: running.tally().taken == 4)
        assert len(calls.texts) == 2
        go_on.set()
        await eventually(lambda: running.tally().finished == 2)

    tally = running.tally()
    assert (tally.taken, tally.finished, tally.given_back, tally.failed) == (4, 2, 2, 0)
    assert most == 2
    await producer.holds("q", 0)


async def test_a_role_of_which_no_consumer_can_subscribe_does_not_start(database_url: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with consuming(Calls().declared(), amqp_url="amqp://u:p@127.0.0.1:9/", database_url=database_url):
            pass

    (error,) = caught.value.exceptions
    assert isinstance(error, BrokerUnavailable)


async def test_one_broker_away_does_not_keep_the_others_from_consuming(
    producer: Producer, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, other = Calls(), Calls()
    async with mute_peer() as mute:
        monkeypatch.setattr(
            "roles.consume.role.Broker",
            lambda name, url, settings: Broker(name, url if name == "example" else mute, settings),
        )
        brokers = {"example": {"timeout": "2s"}, "away": {"timeout": "300ms"}}
        async with consuming(
            calls.declared(),
            other.declared("other", broker="away"),
            amqp_url=amqp_url,
            database_url=database_url,
            amqp=brokers,
        ) as running:
            await consumes_again(running, producer, calls)

            assert not running.status("other").subscribed
            assert "no answer within 300ms" in (running.status("other").reason or "")


async def test_the_queue_turns_into_something_else_while_we_run(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    """At start this ends the process; now that it serves, it is told and tried again."""
    calls = Calls()
    async with (
        proxied(amqp_url) as proxy,
        consuming(calls.declared(), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        await refuse(proxy)
        await eventually(lost(running))
        await producer.channel.queue_delete("q")
        await producer.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        proxy.refusing = False
        await eventually(lambda: "declare what is there" in (running.status().reason or ""))
        await producer.channel.queue_delete("q")

        await consumes_again(running, producer, calls)
