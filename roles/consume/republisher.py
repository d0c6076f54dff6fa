"""Moves a message that failed to a wait queue or to the parking lot, and knows when the broker has it there."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio

from roles.amqp import (
    Broker,
    BrokerUnavailable,
    Channel,
    Delivery,
    MessageRefused,
    Properties,
    TopologyMismatch,
    Unroutable,
)
from roles.consume import topology
from roles.consume.declarations import Consumer
from roles.consume.hold import Pause
from roles.consume.outage import Outage

TRIES = 3
"""With a message whose publication the connection does not survive, although it serves others."""


class Republisher:
    """One consumer's own channel to publish on, opened when it is first needed.

    One message at a time: a message that the broker will not take costs the channel, and must not cost the
    messages beside it theirs. Failures are rare, or should not be hurried.

    A message can also cost the whole connection: one that is too large to get through in time. Then it is tried
    again on a connection of its own, where nothing else suffers, and what does not serve it must serve another
    message first. So a broker that is away is told from a message that does not get through to it.
    """

    def __init__(self, consumer: Consumer[Any], broker: Broker, *, delivery_limit: int) -> None:
        self._consumer = consumer
        self._broker = broker
        self._delivery_limit = delivery_limit
        self._lock = anyio.Lock()
        self._channel: Channel | None = None
        self._failures = 0
        self._reason = ""
        """Why the last publication failed."""

    async def move(self, delivery: Delivery, properties: Properties, *, to: str, outage: Outage, hold: Pause) -> None:
        """Returns when the message is safe in the queue `to`, however long that takes. It is not acked yet.

        Params:
            outage: where it waits while the broker is away.

        Raises:
            MessageRefused: the broker will not take it, or it does not get through.
            GivenBack: the message must not be held any longer, and the broker is away.
        """
        losses = 0
        while True:
            try:
                if losses:
                    await self._publish_apart(delivery, properties, to=to)
                else:
                    await self._publish(delivery, properties, to=to)
            except _ConnectionLost as error:
                losses += 1
                if losses == TRIES:
                    outage.over()  # the broker took the message that goes nowhere: it is this one, not the world
                    raise MessageRefused(f"tried {TRIES} times, and never got through: {error}") from error
                await outage.wait(error, hold)
            except (BrokerUnavailable, Unroutable, TopologyMismatch) as error:
                await outage.wait(error, hold)
            else:
                return outage.over()

    async def answers(self) -> None:
        """Has the broker take a message that goes nowhere.

        Raises:
            BrokerUnavailable, TopologyMismatch: it does not, or there is no queue to move messages to.
        """
        async with self._broker.apart("publish") as channel:
            await topology.declare(channel, self._consumer, delivery_limit=self._delivery_limit)
            await _publish_nothing(channel)

    async def aclose(self) -> None:
        """Closes the channel; nothing is raised."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()

    async def _publish(self, delivery: Delivery, properties: Properties, *, to: str) -> None:
        failures = self._failures
        async with self._lock:
            if failures != self._failures:
                raise BrokerUnavailable(self._reason)
            try:
                await _publish_on(await self._open(), delivery.body, properties, to=to)
            except Exception as error:
                self._failures += 1
                self._reason = str(error)
                await self.aclose()  # the next one declares the queues again
                raise

    async def _publish_apart(self, delivery: Delivery, properties: Properties, *, to: str) -> None:
        async with self._broker.apart("publish") as channel:
            await topology.declare(channel, self._consumer, delivery_limit=self._delivery_limit)
            await _publish_nothing(channel)
            await _publish_on(channel, delivery.body, properties, to=to)

    async def _open(self) -> Channel:
        if self._channel is None or self._channel.lost.is_set():
            self._channel = await self._broker.channel("publish")
            await topology.declare(self._channel, self._consumer, delivery_limit=self._delivery_limit)
        return self._channel


class _ConnectionLost(BrokerUnavailable):
    """The connection was lost while the message was on its way, for its sake or not."""


async def _publish_on(channel: Channel, body: bytes, properties: Properties, *, to: str) -> None:
    try:
        await channel.publish(body, properties, exchange="", routing_key=to)
    except BrokerUnavailable as error:
        if channel.lost.is_set():
            raise _ConnectionLost(str(error)) from error
        raise


async def _publish_nothing(channel: Channel) -> None:
    """A broker that does not take messages, being short of memory or disk, does not answer this either."""
    with suppress(Unroutable):
        await channel.publish(b"", Properties({}), exchange="", routing_key="")
