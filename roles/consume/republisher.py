"""Moves a message that failed to a wait queue or to the parking lot, and knows when the broker has it there."""

from __future__ import annotations

from typing import Any

import anyio

from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery, Properties, TopologyMismatch, Unroutable
from roles.consume import topology
from roles.consume.declarations import Consumer
from roles.consume.outage import Outage


class Republisher:
    """One consumer's own channel to publish on, opened when it is first needed.

    One message at a time: a message that the broker will not take costs the channel, and must not cost the
    messages beside it theirs. Failures are rare, or should not be hurried.
    """

    def __init__(self, consumer: Consumer[Any], broker: Broker, outage: Outage, *, delivery_limit: int) -> None:
        self._consumer = consumer
        self._broker = broker
        self._outage = outage
        self._delivery_limit = delivery_limit
        self._lock = anyio.Lock()
        self._channel: Channel | None = None
        self._failures = 0

    async def move(self, delivery: Delivery, properties: Properties, *, to: str) -> None:
        """Returns when the message is safe in the queue `to`, however long that takes. It is not acked yet.

        Raises:
            MessageRefused: the broker will not take it.
            GivenBack: the message was lost meanwhile, or we are to stop and the broker is away.
        """
        while True:
            try:
                await self._publish(delivery, properties, to=to)
            except (BrokerUnavailable, Unroutable, TopologyMismatch) as error:
                await self._outage.wait(error, delivery)
            else:
                return self._outage.over()

    async def aclose(self) -> None:
        """Closes the channel; nothing is raised."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()

    async def _publish(self, delivery: Delivery, properties: Properties, *, to: str) -> None:
        failures = self._failures
        async with self._lock:
            if failures != self._failures:
                raise BrokerUnavailable(self._outage.reason or "the broker was away a moment ago")
            try:
                if self._channel is None or self._channel.lost.is_set():
                    self._channel = await self._broker.channel("publish")
                    await topology.declare(self._channel, self._consumer, delivery_limit=self._delivery_limit)
                await self._channel.publish(delivery.body, properties, exchange="", routing_key=to)
            except Exception:
                self._failures += 1
                await self.aclose()  # the next one declares the queues again
                raise
