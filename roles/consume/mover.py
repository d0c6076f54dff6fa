"""Moves messages from queues to another one: each is published, confirmed, and then the original is acked.

So whatever dies and whenever, a message is in one of the two queues, or in both.
"""

from __future__ import annotations

import math
from typing import Self

import anyio

from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery, Properties

_PREFETCH = 200
_LAST_WORDS = 5.0
"""Seconds in which the broker tells a subscriber that its queue is gone."""
_NOT_CARRIED = ("CC", "BCC", "x-delivery-count", "x-acquired-count")
"""Headers by which the broker would send a message elsewhere too, or which it sets itself."""


class QueueInUse(Exception):
    """Somebody else consumes from the queue, and would declare it again, with arguments of its own."""


class Mover:
    """Subscribes to queues, and publishes what it gets to another one: confirmed, then the original is acked."""

    def __init__(self, broker: Broker, to: str) -> None:
        self.moved = 0
        self._broker = broker
        self._to = to
        self._taken = 0
        self._done = 0
        self._subscriptions: dict[str, Channel] = {}
        self._deleted: Channel | None = None

    async def __aenter__(self) -> Self:
        self._publishing = await self._broker.channel("publish")
        self._send, self._receive = anyio.create_memory_object_stream[Delivery](math.inf)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._send.close()
        self._receive.close()
        for channel in (*self._subscriptions.values(), self._publishing):
            await channel.aclose()

    async def subscribe(self, queue: str) -> None:
        channel = await self._broker.channel("consume")
        self._subscriptions[queue] = channel
        await channel.consume(queue, prefetch=_PREFETCH, deliver=self._take)

    async def work(self) -> None:
        """Moves one message at a time, until `finish`."""
        async for delivery in self._receive:
            properties = _carried(delivery.properties, self._broker.user)
            await self._publishing.publish(delivery.body, properties, exchange="", routing_key=self._to)
            self.moved += 1
            try:
                await delivery.channel.ack(delivery)
            except BrokerUnavailable:
                if delivery.channel is not self._deleted:
                    raise
            self._done += 1

    async def is_idle(self) -> bool:
        """Whether nothing is left, neither in the queues nor on its way.

        Raises:
            QueueInUse: somebody else takes messages too.
        """
        before = self._taken
        for _ in range(2):  # an answer may overtake what was delivered before it
            for queue, channel in self._subscriptions.items():
                count = await channel.count(queue)
                if count is None:
                    raise BrokerUnavailable(channel.reason)
                if count.consumers > 1:
                    raise QueueInUse(f"queue {queue} has another consumer: stop it, then do this again")
                if count.messages:
                    return False
        return before == self._taken == self._done

    async def delete(self, queue: str) -> None:
        """Deletes a queue, and waits for the last messages that the broker had handed to us before."""
        self._deleted = self._subscriptions[queue]
        await self._publishing.delete_queue(queue)
        with anyio.move_on_after(_LAST_WORDS):
            await self._deleted.lost.wait()

    def finish(self) -> None:
        """Has `work` end when everything is moved."""
        self._send.close()

    def _take(self, delivery: Delivery) -> None:
        self._taken += 1
        self._send.send_nowait(delivery)


def first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first of a group: those beside it followed from it."""
    error = errors.exceptions[0]
    return first(error) if isinstance(error, ExceptionGroup) else error


def _carried(properties: Properties, user: str) -> Properties:
    """The properties to publish a message with again. The broker refuses what says that it is from somebody else."""
    try:
        headers = {name.decode(errors="replace") for name in properties.headers}
    except ValueError:  # malformed, and so nothing that the broker would act on
        return properties
    changes = {}
    if (user_id := properties.text("user_id")) is not None and user_id != user:
        changes = {"x-user-id": user_id}
        properties = properties.with_fields({"user_id": None})
    stale = headers.intersection(_NOT_CARRIED)
    return properties.with_headers(changes, without=stale) if changes or stale else properties
