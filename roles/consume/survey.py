"""What a broker has, seen from outside: it is looked at, and nothing is changed.

Over AMQP there is the passive look, which tells whether a queue or an exchange exists and what is in it, and the
declaration of one that exists, which the broker refuses if it is another one. The management API, where it is
configured, shows arguments and bindings, and what is there besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clients.rabbitmq import ManagementClient
from roles.amqp import Broker, Channel, Mismatch, QueueCount, TopologyMismatch
from roles.consume.names import moving_queue
from roles.consume.topology import Binding, Topology


@dataclass(frozen=True, slots=True)
class FoundQueue:
    """A queue that exists."""

    messages: int
    """That are ready."""
    consumers: int
    arguments: Mapping[str, Any] | None
    """None if they cannot be seen."""
    mismatch: Mismatch | None
    """Why the broker refuses our declaration of it, if it does."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a broker has of what is declared, and of what looks as if it had been."""

    queues: Mapping[str, FoundQueue]
    exchanges: Mapping[str, Mismatch | None]
    bindings: frozenset[Binding] | None
    """Of the queues and exchanges that are declared; None if they cannot be seen."""


async def survey(broker: Broker, declared: Topology, management: ManagementClient | None) -> Found:
    """Looks at what is declared, and with the management API at all other queues that look like ours.

    Raises:
        BrokerUnavailable: the broker is away or does not let us.
        UpstreamError: the management API does.
    """
    listed = {each.name: each for each in await management.queues()} if management else {}
    look = _Look(broker)
    try:
        queues: dict[str, FoundQueue] = {}
        names = [*declared.queues, *map(moving_queue, declared.queues), *_strays(listed, declared)]
        for name in dict.fromkeys(names):
            count = await look.count(name)
            if count is not None:
                arguments = listed[name].arguments if name in listed else None
                queue = declared.queues.get(name)
                mismatch = await look.refusal_of_queue(name, queue.arguments) if queue else None
                queues[name] = FoundQueue(count.messages, count.consumers, arguments, mismatch)
        exchanges = {
            name: await look.refusal_of_exchange(name, kind)
            for name, kind in declared.exchanges.items()
            if await look.exchange_exists(name)
        }
    finally:
        await look.aclose()
    return Found(queues, exchanges, await _bindings(management, declared) if management else None)


def is_ours(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a queue looks like one that a consumer of ours declares, or once did."""
    onward = arguments.get("x-dead-letter-routing-key")
    return (
        arguments.get("x-queue-type") == "quorum"
        and arguments.get("x-dead-letter-strategy") == "at-least-once"
        and (onward == f"{name}.parked" or (isinstance(onward, str) and name.startswith(f"{onward}.retry.")))
    )


def _strays(listed: Mapping[str, Any], declared: Topology) -> Iterable[str]:
    for name, queue in listed.items():
        if name not in declared.queues and is_ours(name, queue.arguments):
            yield name
            if f"{name}.parked" in listed:
                yield f"{name}.parked"


async def _bindings(management: ManagementClient, declared: Topology) -> frozenset[Binding]:
    """Those of our queues, and of the queues that stand in for them."""
    ours = {*declared.queues, *map(moving_queue, declared.queues)}
    return frozenset(
        Binding(each.source, each.routing_key, each.destination)
        for each in await management.bindings()
        if each.source and each.destination_type == "queue" and each.destination in ours
    )


class _Look:
    """A channel, opened anew whenever the broker has closed it over an answer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._current: Channel | None = None

    async def count(self, queue: str) -> QueueCount | None:
        return await (await self._channel()).count(queue)

    async def exchange_exists(self, name: str) -> bool:
        return await (await self._channel()).exchange_exists(name)

    async def refusal_of_queue(self, name: str, arguments: Mapping[str, Any]) -> Mismatch | None:
        channel = await self._channel()
        try:
            await channel.declare_queue(name, arguments)
        except TopologyMismatch as error:
            if error.mismatch is None:  # an argument that this broker does not know
                raise
            return error.mismatch
        return None

    async def refusal_of_exchange(self, name: str, kind: str) -> Mismatch | None:
        channel = await self._channel()
        try:
            await channel.declare_exchange(name, kind)
        except TopologyMismatch as error:
            if error.mismatch is None:
                raise
            return error.mismatch
        return None

    async def aclose(self) -> None:
        if self._current is not None:
            await self._current.aclose()

    async def _channel(self) -> Channel:
        if self._current is None or self._current.lost.is_set():
            self._current = await self._broker.channel("consume")
        return self._current
