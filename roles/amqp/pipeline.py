"""Many messages at once: written in one piece, and confirmed in whatever order the broker likes.

aiormq publishes a message per call, and each call in flight is a task with a lock, a deadline and a write of its own:
five times the cost of this. What is used of aiormq here is what its own `basic_publish` does.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

import aiormq
from aiormq import exceptions, spec
from aiormq.abc import ChannelFrame, FrameType
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from roles.amqp.connection import Connection
from roles.amqp.errors import BrokerUnavailable, MessageRefused, refused_publication, said
from roles.amqp.properties import Properties
from roles.amqp.transport import Published

PERSISTENT = b"\x02"
_HEADER_FRAME_OVERHEAD = 12
"""Bytes in a content header before the properties."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish."""

    body: bytes
    properties: Properties
    exchange: str
    routing_key: str


def publishable(properties: Properties, max_content_size: int) -> Published:
    """The properties to publish with: persistent, and with a message id, by which a message that comes back is known.

    Raises:
        MessageRefused: they do not fit into a frame.
    """
    changes: dict[str, bytes | None] = {"delivery_mode": PERSISTENT}
    if not properties.fields.get("message_id"):
        changes["message_id"] = uuid4().hex.encode()
    published = Published(properties.with_fields(changes))
    if len(published.marshal()) > max_content_size - _HEADER_FRAME_OVERHEAD:
        raise MessageRefused("its properties and headers do not fit into a frame")
    return published


class Pipeline:
    """One call of `Channel.publish_all`."""

    def __init__(self, connection: Connection, raw: aiormq.Channel, messages: Sequence[Outgoing]) -> None:
        self._connection = connection
        self._raw = raw
        self._messages = messages
        self.lost: str | None = None
        """Why the channel can no longer be used, once that is known."""
        self._outcomes: dict[int, Exception | None] = {}
        """By the index of their message; what is not here was not sent."""
        self._in_flight: dict[int, asyncio.Future[object]] = {}
        """Confirmations, by the index of their message. aiormq keeps no account of them, which would be a fifth of
        what a message costs: it rejects `_closed` when the channel is lost, for all of them."""
        self._closed: asyncio.Future[object] = raw.create_future()
        self._missing = 0
        self._answered: asyncio.Future[object] = raw.loop.create_future()
        """Done when nothing is missing."""

    async def run(self, written: Callable[[], None]) -> list[Exception | None]:
        """See `Channel.publish_all`."""
        try:
            await self._connection.call("basic.publish", self._publish(written))
        except Exception as error:  # noqa: BLE001 - it is in the outcome of each message that it concerns
            self.lost = said(error).removeprefix(f"broker {self._connection.broker}: ")
        finally:
            for index, confirmation in self._in_flight.items():
                self._outcomes[index] = self._outcome(index, confirmation)
                confirmation.cancel()
            self._closed.cancel()
        return [
            self._outcomes[index] if index in self._outcomes else self._unanswered()
            for index in range(len(self._messages))
        ]

    async def _publish(self, written: Callable[[], None]) -> None:
        raw = self._raw
        async with raw.lock:
            payload = b"".join([self._begin(index, message) for index, message in enumerate(self._messages)])
            if not self._in_flight:
                return
            drained = raw.create_future()
            await raw.write_queue.put(ChannelFrame(payload=payload, should_close=False, drain_future=drained))
            await drained
        written()
        await asyncio.wait([self._closed, self._answered], return_when=asyncio.FIRST_COMPLETED)

    def _begin(self, index: int, message: Outgoing) -> bytes:
        """The message as on the wire, from now on in flight; nothing if it cannot be written."""
        size = self._raw.max_content_size
        try:
            properties = publishable(message.properties, size)
            frames: list[FrameType] = [
                spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=True),
                ContentHeader(body_size=len(message.body), properties=properties),
            ]
            frames += [ContentBody(message.body[start : start + size]) for start in range(0, len(message.body), size)]
            payload = ChannelFrame.marshall(self._raw.number, frames).payload
        except MessageRefused as error:
            self._outcomes[index] = error
        except (OverflowError, ValueError, TypeError, struct.error) as error:
            self._outcomes[index] = MessageRefused(f"it cannot be written: {error}")
        else:
            self._in_flight[index] = self._expect(properties.message_id or "")
            return payload
        return b""

    def _expect(self, message_id: str) -> asyncio.Future[object]:
        raw = self._raw
        raw.delivery_tag += 1
        tag = raw.delivery_tag
        confirmation: asyncio.Future[object] = raw.loop.create_future()
        raw.confirmations[tag] = confirmation
        raw.message_id_delivery_tag[message_id] = tag
        self._missing += 1

        def answered(_: object) -> None:
            if raw.message_id_delivery_tag.get(message_id) == tag:
                del raw.message_id_delivery_tag[message_id]
            self._missing -= 1
            if self._missing == 0 and not self._answered.done():
                self._answered.set_result(None)

        confirmation.add_done_callback(answered)
        return confirmation

    def _outcome(self, index: int, confirmation: asyncio.Future[object]) -> Exception | None:
        answer = confirmation if confirmation.done() else self._closed
        if not answer.done() or answer.cancelled():
            return self._unanswered()
        error = answer.exception()
        if error is None:
            return None
        if not isinstance(error, exceptions.DeliveryError):
            self.lost = said(error)
            if len(self._in_flight) > 1 or not isinstance(error, Exception):
                return self._unanswered()  # who knows by whose fault
        message = self._messages[index]
        broker = self._connection.broker
        return refused_publication(broker, error, exchange=message.exchange, routing_key=message.routing_key)

    def _unanswered(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"broker {self._connection.broker}: {self.lost or 'the channel was lost'}")
