"""Queues that are there before the application is, and messages in them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from db.pool import Work
from roles.amqp import Broker, Properties
from roles.consume import Ladder, consumer
from roles.consume.topology import declare
from schema.settings import Amqp, Consume

DELAY = "100ms"
"""The ladder of the consumers of these tests."""


async def publish(amqp_url: str, queues: Iterable[str], messages: Iterable[tuple[str, BaseModel]]) -> None:
    """Declares the queues as the application will, and spreads messages, by id, over them."""

    async def nothing(message: BaseModel, work: Work) -> None:
        raise AssertionError("it is only declared")

    broker = Broker("example", amqp_url, Amqp())
    channel = await broker.channel("publish")
    names = list(queues)
    for queue in names:
        declared = consumer(queue, retry=Ladder(DELAY))(nothing)
        await declare(channel, declared, delivery_limit=Consume().delivery_limit)
    for number, (message_id, message) in enumerate(messages):
        properties = Properties({"message_id": message_id.encode()})
        body = message.model_dump_json().encode()
        await channel.publish(body, properties, exchange="", routing_key=names[number % len(names)])
    await broker.aclose()
