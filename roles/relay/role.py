"""The `relay` role: a relay for each broker, in every process that has brokers configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
from anyio.abc import TaskStatus

from roles.amqp import Broker
from roles.board import OutboxStatus
from roles.relay.relay import Relay
from roles.resources import Resources
from schema.errors import ConfigurationError
from schema.topic import Topic
from schema.topics import TOPICS, validate

GOODBYE = 2.0
"""Seconds that closing the connections may take."""


class RelayRole:
    """Publishes what is in the outbox. A broker that is away holds up nobody but its own messages.

    Raises:
        ConfigurationError: a topic is declared wrongly.
    """

    def __init__(self, resources: Resources, *, topics: Sequence[Topic[Any]] = TOPICS) -> None:
        validate(topics, resources.settings)
        self._resources = resources
        self._topics = topics

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """See `roles.role.Role`. It serves also while brokers are away: `/status` says which, and why.

        Raises:
            ConfigurationError: an exchange exists, and is not what a topic says.
        """
        settings = self._resources.settings
        brokers = [Broker(name, self._resources.amqp_urls[name], each) for name, each in settings.amqp.items()]
        relays = [self._relay(broker, stop) for broker in brokers]
        try:
            wrong = await self._start(relays)
            if wrong:
                raise ConfigurationError("\n".join(wrong))
            task_status.started()
            async with anyio.create_task_group() as group:
                for relay in relays:
                    group.start_soon(relay.run)
        finally:
            with anyio.move_on_after(GOODBYE, shield=True):
                for broker in brokers:
                    await broker.aclose()
            for broker in brokers:
                broker.cut()

    async def _start(self, relays: Sequence[Relay]) -> list[str]:
        wrong: list[str] = []

        async def start(relay: Relay) -> None:
            try:
                await relay.start()
            except ConfigurationError as error:
                wrong.append(str(error))

        async with anyio.create_task_group() as group:
            for relay in relays:
                group.start_soon(start, relay)
        return wrong

    def _relay(self, broker: Broker, stop: anyio.Event) -> Relay:
        status = self._resources.board.outbox.setdefault(broker.name, OutboxStatus(broker.name))
        topics = [topic for topic in self._topics if topic.broker == broker.name]
        return Relay(broker, topics, status, self._resources, stop)
