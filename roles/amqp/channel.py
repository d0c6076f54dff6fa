"""A channel: what there is to do with a broker, and the one place where losing it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import aiormq
import anyio
import structlog
from aiormq import exceptions
from aiormq.abc import DeliveredMessage

from roles.amqp.connection import Connection
from roles.amqp.errors import (
    BrokerUnavailable,
    Unroutable,
    refused_declaration,
    refused_publication,
    said,
    unavailable,
)
from roles.amqp.pipeline import Outgoing, Pipeline, publishable
from roles.amqp.properties import MalformedProperties, Properties
from roles.amqp.transport import unseal

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message in our hands, until it is acked or its channel is lost."""

    body: bytes
    properties: Properties
    exchange: str
    routing_key: str
    redelivered: bool
    tag: int
    channel: Channel = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class QueueCount:
    """What is in a queue, as the broker counts it."""

    messages: int
    """That are ready; those in somebody's hands are not among them."""
    consumers: int


class Channel:
    """An open channel with publisher confirms.

    `lost` is set as soon as it can no longer be used: the broker closed it or its connection, the heartbeat
    failed, or the broker cancelled the subscription on it. Whatever was delivered on it and not acked by then
    goes back to the queue.
    """

    def __init__(self, connection: Connection, raw: aiormq.Channel) -> None:
        self.lost = anyio.Event()
        self._connection = connection
        self._raw = raw
        self._reason = ""
        self._tag: str | None = None
        self._unacked: set[int] = set()
        """Delivery tags, until the frame that settles them is on its way: one that waits for the network could be
        overtaken by an ack of several, which must not include it.
        """
        connection.on_lost.add(self._on_connection_lost)
        raw.closing.add_done_callback(self._on_closing)
        raw.on_consumer_cancel_callbacks.add(self._on_cancelled)

    @classmethod
    async def open(cls, connection: Connection) -> Channel:
        """Raises BrokerUnavailable if the broker does not give us one."""
        try:
            raw = await connection.call("channel.open", connection.link.channel())
        except Exception as error:
            raise unavailable(connection.broker, error) from error
        return cls(connection, cast("aiormq.Channel", raw))

    @property
    def _open(self) -> aiormq.Channel:
        if self.lost.is_set():
            raise BrokerUnavailable(self.reason)
        return self._raw

    @property
    def reason(self) -> str:
        """Why it was lost."""
        return f"broker {self._connection.broker}: {self._reason}"

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Declares a durable queue.

        Raises:
            TopologyMismatch: it exists with other arguments, or the broker knows no such argument.
            BrokerUnavailable: see there.
        """
        await self._declare("queue.declare", self._open.queue_declare(name, durable=True, arguments=dict(arguments)))

    async def declare_exchange(self, name: str, kind: str) -> None:
        """Declares a durable exchange. Raises as `declare_queue`."""
        await self._declare("exchange.declare", self._open.exchange_declare(name, exchange_type=kind, durable=True))

    async def bind(self, queue: str, *, exchange: str, routing_key: str) -> None:
        """Binds a queue to an exchange. Raises as `declare_queue`."""
        await self._declare("queue.bind", self._open.queue_bind(queue, exchange, routing_key))

    async def unbind(self, queue: str, *, exchange: str, routing_key: str) -> None:
        """Takes a binding away; one that is not there is no error.

        Raises:
            BrokerUnavailable: see there.
        """
        await self._call("queue.unbind", self._open.queue_unbind(queue, exchange, routing_key))

    async def delete_queue(self, name: str) -> int:
        """Deletes a queue with all that is in it, and returns how many messages were. One that is gone has none.

        There is no "only if it is empty": RabbitMQ closes the connection of whoever asks that of a quorum queue.

        Raises:
            BrokerUnavailable: see there.
        """
        answer = await self._call("queue.delete", self._open.queue_delete(name))
        return (answer and answer.message_count) or 0

    async def count(self, queue: str) -> QueueCount | None:
        """What a queue has at the moment; None if there is no such queue, and then this channel is lost.

        Raises:
            BrokerUnavailable: see there.
        """
        try:
            answer = await self._connection.call("a look at a queue", self._open.queue_declare(queue, passive=True))
        except exceptions.ChannelNotFoundEntity as error:
            self._lose(said(error))
            return None
        except Exception as error:
            raise unavailable(self._connection.broker, error) from error
        assert answer is not None
        return QueueCount(answer.message_count or 0, answer.consumer_count or 0)

    async def exchange_exists(self, name: str) -> bool:
        """Whether there is such an exchange; if not, this channel is lost. Raises as `count`."""
        try:
            await self._connection.call("a look at an exchange", self._open.exchange_declare(name, passive=True))
        except exceptions.ChannelNotFoundEntity as error:
            self._lose(said(error))
            return False
        except Exception as error:
            raise unavailable(self._connection.broker, error) from error
        return True

    async def consume(self, queue: str, *, prefetch: int, deliver: Callable[[Delivery], None]) -> None:
        """Subscribes; `deliver` is called with each message and must return at once.

        Params:
            prefetch: how many messages the broker leaves in our hands at a time.

        Raises:
            BrokerUnavailable: see there; a queue that is gone is of this kind, for it can be declared again.
        """

        async def on_message(message: DeliveredMessage) -> None:
            self._unacked.add(message.delivery_tag or 0)
            try:
                deliver(self._delivery(message))
            except MalformedProperties as error:
                log.error("message rejected", queue=queue, reason=str(error))  # noqa: TRY400
                await self._raw.basic_reject(message.delivery_tag or 0, requeue=False, wait=False)
                self._unacked.discard(message.delivery_tag or 0)

        await self._call("basic.qos", self._open.basic_qos(prefetch_count=prefetch))
        answer = await self._call("basic.consume", self._open.basic_consume(queue, on_message))
        self._tag = answer.consumer_tag

    async def cancel(self) -> None:
        """Ends the subscription; nothing is delivered any more. What was delivered can still be acked.

        Raises:
            BrokerUnavailable: the channel is lost, so the subscription has ended as well.
        """
        if self._tag is not None:
            await self._call("basic.cancel", self._open.basic_cancel(self._tag))
            self._tag = None

    async def ack(self, *deliveries: Delivery) -> None:
        """Tells the broker that messages are done with, of which all came on this channel. Those that are all that
        was delivered up to some point take one frame. There is no answer: a lost ack is a second delivery.

        Raises:
            BrokerUnavailable: it could not be sent; messages will be delivered again.
        """
        tags = sorted(delivery.tag for delivery in deliveries)
        if len(tags) > 1 and not any(tag < tags[-1] for tag in self._unacked.difference(tags)):
            await self._send("basic.ack", self._open.basic_ack(tags[-1], multiple=True, wait=False))
            self._unacked.difference_update(tags)
            return
        for tag in tags:
            await self._send("basic.ack", self._open.basic_ack(tag, wait=False))
            self._unacked.discard(tag)

    async def reject(self, delivery: Delivery) -> None:
        """Has the broker itself dead-letter the message. Raises as `ack`."""
        await self._send("basic.reject", self._open.basic_reject(delivery.tag, requeue=False, wait=False))
        self._unacked.discard(delivery.tag)

    async def publish(self, body: bytes, properties: Properties, *, exchange: str, routing_key: str) -> None:
        """Publishes a message and returns when the broker has it safe: persistent, mandatory, confirmed.

        A message without an id is given one: unroutable messages come back, and are known by it. Of two with
        the same id in flight on one channel, only one would be told; don't.

        Raises:
            Unroutable: no queue took it.
            MessageRefused: the broker closed the channel over it.
            BrokerUnavailable: it may have arrived or not.
        """
        published = publishable(properties, self._open.max_content_size)
        confirmed = self._open.basic_publish(
            body, exchange=exchange, routing_key=routing_key, properties=published, mandatory=True, wait=False
        )
        broker = self._connection.broker
        try:
            await self._connection.call("basic.publish", confirmed)
        except Exception as error:
            raise refused_publication(broker, error, exchange=exchange, routing_key=routing_key) from error

    async def probe(self) -> None:
        """Has the broker answer to a message that goes nowhere. One that is short of memory or disk answers to none.

        A login that may not publish to the default exchange is an answer, too: it costs this channel.

        Raises:
            BrokerUnavailable: there is none.
        """
        try:
            # With a body: RabbitMQ stops to read after the header, and so answers to the first that has none.
            await self.publish(b"?", Properties({}), exchange="", routing_key="")
        except Unroutable:
            pass
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, exceptions.ChannelAccessRefused):
                raise
            self._lose(said(error.__cause__))

    async def publish_all(
        self, messages: Sequence[Outgoing], *, written: Callable[[], None] = lambda: None
    ) -> list[Exception | None]:
        """Publishes messages as `publish` does, all of them in flight at a time; they are routed in their order.

        Ids must be unique among them. One deadline holds for all.

        Params:
            written: called when all of them are on their way.

        Returns:
            What became of each: None if it was confirmed, otherwise what `publish` would have raised for it. If the
            channel is lost over one of several, nobody can tell over which: each that had no answer by then is
            BrokerUnavailable.

        Raises:
            BrokerUnavailable: the channel was lost before.
        """
        pipeline = Pipeline(self._connection, self._open, messages)
        outcomes = await pipeline.run(written)
        if pipeline.lost is not None:  # aiormq says so a little later, and something could be sent into the void
            self._lose(pipeline.lost)
        return outcomes

    async def aclose(self) -> None:
        """Closes it once the broker has read everything that was sent, acks included; nothing is raised."""
        if not (self._raw.is_closed or self._connection.lost.is_set()):
            try:
                await self._call("channel.close", self._raw.close(None))
            except BrokerUnavailable as error:
                self._lose(str(error))
        self._lose("closed")

    def _delivery(self, message: DeliveredMessage) -> Delivery:
        return Delivery(
            body=message.body,
            properties=unseal(message.header.properties),
            exchange=message.exchange or "",
            routing_key=message.routing_key or "",
            redelivered=bool(message.redelivered),
            tag=message.delivery_tag or 0,
            channel=self,
        )

    async def _declare(self, what: str, action: Awaitable[Any]) -> None:
        try:
            await self._connection.call(what, action)
        except Exception as error:
            if isinstance(error, exceptions.ChannelClosed):  # known here before its callback has run
                self._lose(said(error))
            raise refused_declaration(self._connection.broker, error) from error

    async def _call(self, what: str, action: Awaitable[T]) -> T:
        try:
            return await self._connection.call(what, action)
        except Exception as error:
            raise unavailable(self._connection.broker, error) from error

    async def _send(self, what: str, action: Awaitable[None]) -> None:
        if self._raw.write_queue.full():  # the writer waits for the network: this call could wait with it
            return await self._call(what, action)
        try:
            with self._connection.explaining():
                await action
        except Exception as error:
            raise unavailable(self._connection.broker, error) from error

    def _on_connection_lost(self) -> None:
        self._lose(self._connection.reason)

    def _on_closing(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._lose("the channel was closed" if error is None else said(error))

    def _on_cancelled(self, _: object) -> None:
        self._lose("the broker cancelled the subscription (was the queue deleted?)")

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self._reason = reason
            self.lost.set()
            self._connection.on_lost.discard(self._on_connection_lost)
