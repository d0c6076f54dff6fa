from __future__ import annotations

import pytest

from roles.consume import Ladder
from roles.consume.topology import Binding, queues, topology
from schema.errors import ConfigurationError
from schema.settings import Settings
from schema.topic import Topic
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, Producer, consuming, declared
from tests.services import RabbitServer

pytestmark = pytest.mark.anyio


async def test_the_queues_are_what_the_design_says(
    rabbitmq: RabbitServer, producer: Producer, amqp_url: str, database_url: str
) -> None:
    subject = Calls().declared(exchange="e", retry=Ladder("5s", "5m", "5s"))
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url):
        vhost = amqp_url.rpartition("/")[2]
        listed = rabbitmq.api.get(f"/queues/{vhost}").json()
        bindings = rabbitmq.api.get(f"/exchanges/{vhost}/e/bindings/source").json()
        exchange = rabbitmq.api.get(f"/exchanges/{vhost}/e").json()

    found = {queue["name"]: queue["arguments"] for queue in listed}
    onward = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert all(queue["durable"] for queue in listed)
    assert found == {
        "q": onward | {"x-dead-letter-routing-key": "q.parked", "x-delivery-limit": 100},
        "q.retry.5s": onward | {"x-dead-letter-routing-key": "q", "x-message-ttl": 5_000},
        "q.retry.5m": onward | {"x-dead-letter-routing-key": "q", "x-message-ttl": 300_000},
        "q.parked": {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1},
    }
    assert [(each["destination"], each["routing_key"]) for each in bindings] == [("q", "q")]
    assert (exchange["type"], exchange["durable"]) == ("topic", True)


def test_the_exchange_of_a_topic_is_part_of_it() -> None:
    topics = [
        Topic("one", Note, exchange="theirs", routing_key="k", exchange_type="fanout"),
        Topic("two", Note, exchange="", routing_key="some.queue"),
        Topic("three", Note, exchange="elsewhere", routing_key="k", broker="other"),
    ]
    made = topology([Calls().declared(exchange="e")], Settings(), broker="example", topics=topics)
    assert made.exchanges == {"theirs": "fanout", "e": "topic"}
    assert made.bindings == {Binding("e", "q", "q")}


def test_each_queue_comes_after_those_that_it_sends_to() -> None:
    names = [queue.name for queue in queues(Calls().declared(retry=Ladder("1s")), delivery_limit=1)]

    assert names == ["q.parked", "q", "q.retry.1s"]


async def test_a_message_through_the_exchange(producer: Producer, amqp_url: str, database_url: str) -> None:
    calls = Calls()
    subject = calls.declared(exchange="e", routing_key="notes.*")
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x", exchange="e", queue="notes.new")
        await eventually(lambda: running.tally().finished)
    assert calls.texts == ["x"]


async def test_a_queue_that_is_something_else_ends_the_role_with_what_to_do(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    await producer.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "classic"})

    with pytest.raises(ExceptionGroup) as caught:
        async with consuming(Calls().declared(), amqp_url=amqp_url, database_url=database_url):
            pass

    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigurationError)
    assert "queue 'q' has x-" in str(error)
    assert " and is declared with " in str(error)
    assert "`python app.py topology apply --recreate q`" in str(error)


async def test_another_ladder_needs_no_other_queue(producer: Producer, amqp_url: str, database_url: str) -> None:
    for ladder in (Ladder("1s"), Ladder("2s"), Ladder()):
        async with consuming(Calls().declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
            assert running.status().subscribed


async def test_a_bad_declaration_ends_the_role(amqp_url: str, database_url: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with consuming(declared(Calls().handle, concurrency=0), amqp_url=amqp_url, database_url=database_url):
            pass
    assert "concurrency 0" in str(caught.value.exceptions[0])
