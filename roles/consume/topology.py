"""The queues of a consumer, as data, and their declaration.

```
exchange ──routing key──▶ q ◀──────────────── q.retry.5s    (each message after its delay)
                          │ ╲ handler failed ──▶
                          │  ╲ no attempt left, or refused ──▶ q.parked
                          └── delivered too often (the broker's own limit) ──▶ q.parked
```
All are durable quorum queues. The broker moves messages at-least-once, which it only does from queues that
refuse what they cannot take (`reject-publish`; otherwise it silently falls back to at-most-once). A delay is
in its queue's name and not in the message: a queue lets a message expire only at its head, so that a short
delay behind a long one would wait for both; and a changed ladder makes new queues instead of meeting old ones
with other arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from roles.amqp import Channel
from roles.consume.declarations import Consumer
from roles.consume.names import parked_queue, wait_queue
from schema.settings import Settings
from schema.topic import Topic

UNLIMITED = 2**31 - 1
"""Deliveries. RabbitMQ 4 drops a message after 20 by default, 3.10 takes no negative number for 'no limit'."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to declare."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """From an exchange to a queue."""

    exchange: str
    routing_key: str
    queue: str

    def __str__(self) -> str:
        return f"{self.exchange} ─{self.routing_key}→ {self.queue}"


@dataclass(frozen=True, slots=True)
class Topology:
    """All that is declared on one broker, each queue after those that it sends messages on to."""

    queues: Mapping[str, Queue]
    exchanges: Mapping[str, str]
    """Types by name."""
    bindings: frozenset[Binding]


def topology(
    consumers: Sequence[Consumer[Any]], settings: Settings, *, broker: str, topics: Sequence[Topic[Any]] = ()
) -> Topology:
    """What the consumers and the topics of one broker declare there."""
    here = [each for each in consumers if each.broker == broker]
    limit = settings.consume.delivery_limit
    published = {each.exchange: each.exchange_type for each in topics if each.broker == broker and each.exchange}
    return Topology(
        queues={queue.name: queue for each in here for queue in queues(each, delivery_limit=limit)},
        exchanges=published | {each.exchange: each.exchange_type for each in here if each.exchange},
        bindings=frozenset(Binding(each.exchange, each.binding_key, each.queue) for each in here if each.exchange),
    )


def queues(consumer: Consumer[Any], *, delivery_limit: int) -> tuple[Queue, ...]:
    """The queues of a consumer, each after those that it sends messages on to."""
    main, parked = consumer.queue, parking_lot(consumer)
    return (
        parked,
        Queue(main, {**_sends_on_to(parked.name), "x-delivery-limit": delivery_limit, **_single(consumer)}),
        *(
            Queue(
                wait_queue(main, delay),
                {**_sends_on_to(main), "x-message-ttl": delay // timedelta(milliseconds=1)},
            )
            for delay in dict.fromkeys(consumer.retry.steps())
        ),
    )


def parking_lot(consumer: Consumer[Any]) -> Queue:
    """Where messages go that will not be tried again. Nothing there is given up, however often it is delivered."""
    return Queue(parked_queue(consumer.queue), {"x-queue-type": "quorum", "x-delivery-limit": UNLIMITED})


async def declare(channel: Channel, consumer: Consumer[Any], *, delivery_limit: int) -> None:
    """Declares what the consumer needs; what is there already stays as it is.

    Raises:
        TopologyMismatch: it is there, but not as declared.
        BrokerUnavailable: the broker is away or does not let us.
    """
    for queue in queues(consumer, delivery_limit=delivery_limit):
        await channel.declare_queue(queue.name, queue.arguments)
    if consumer.exchange:
        await channel.declare_exchange(consumer.exchange, consumer.exchange_type)
        await channel.bind(consumer.queue, exchange=consumer.exchange, routing_key=consumer.binding_key)


def _single(consumer: Consumer[Any]) -> dict[str, Any]:
    return {"x-single-active-consumer": True} if consumer.single_active else {}


def _sends_on_to(queue: str) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
