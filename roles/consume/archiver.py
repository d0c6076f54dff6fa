"""Moves what is in the parking lot of a consumer, `q.parked`, into the table of parked messages.

A batch is stored in one transaction and acked after its commit. What was not acked when the process died is delivered
again, and the table knows it (see `roles.consume.parking`). So it may be stopped anywhere.

Messages are safe in their queue as long as nobody can store them. Whatever goes wrong is tried again, for ever, and
`/status` says what it is; it does not concern the consumer beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from db import parked_messages
from db.parked_messages import NewParkedMessage
from db.pool import DatabaseUnavailable, connection, unit_of_work
from db.query import Connection
from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery
from roles.backoff import Backoff
from roles.board import ConsumerStatus
from roles.clock import Clock
from roles.consume import topology
from roles.consume.declarations import Consumer
from roles.consume.parking import as_another, to_be_archived
from roles.failures import describe
from roles.resources import Resources
from roles.timers import until
from schema.errors import ConfigurationError
from schema.steps import Step, reached

PREFETCH = 50
"""Messages in one batch at the most."""
BATCH_SIZE = 8 * 1024 * 1024
"""Bytes of bodies after which a batch is full."""

COUNT_INTERVAL = 5.0
"""Seconds between two looks at how many messages wait for a person."""

log = structlog.get_logger(__name__)


class NotStored(Exception):
    """The database refuses a message."""


class Archiver:
    """Keeps the parking lot of one consumer empty."""

    def __init__(
        self, consumer: Consumer[Any], broker: Broker, status: ConsumerStatus, resources: Resources, stop: anyio.Event
    ) -> None:
        self._queue = consumer.queue
        self._parked = topology.parking_lot(consumer)
        self._broker = broker
        self._status = status.parking_lot
        self._clock = resources.clock
        self._backoff = Backoff(resources.clock, resources.settings.supervisor)
        self._stop = stop

    async def run(self) -> None:
        """Archives until `stop` is set; then what is in hand goes back to the queue."""
        async with until(self._stop):
            while True:
                self._report(await self._until_trouble())
                await self._clock.sleep(self._backoff.next())

    async def _until_trouble(self) -> str:
        """Archives on one channel, until something is wrong with it or with a message; returns what."""
        send, receive = anyio.create_memory_object_stream[Delivery](PREFETCH)
        trouble = ""
        with send, receive:
            try:
                channel = await self._subscribe(send)
            except (BrokerUnavailable, ConfigurationError) as error:
                return str(error)
            self._report(None)
            async with closing(channel), until(channel.lost):
                try:
                    while True:
                        await self._archive(channel, await _batch(receive))
                except (BrokerUnavailable, NotStored) as error:
                    trouble = str(error)
        return trouble or channel.reason

    async def _subscribe(self, deliveries: MemoryObjectSendStream[Delivery]) -> Channel:
        channel = await self._broker.channel("consume")
        try:
            await channel.declare_queue(self._parked.name, self._parked.arguments)
            await channel.consume(self._parked.name, prefetch=PREFETCH, deliver=deliveries.send_nowait)
        except Exception:
            await channel.aclose()
            raise
        return channel

    async def _archive(self, channel: Channel, batch: Sequence[Delivery]) -> None:
        try:
            await self._store(batch)
        except psycopg.Error as error:
            if len(batch) == 1:
                message_id = batch[0].properties.text("message_id")
                raise NotStored(f"message {message_id} cannot be stored: {describe(error)}") from error
            await self._archive_each(channel, batch)
        else:
            reached(Step.CONSUME_ARCHIVED)
            for delivery in batch:
                await channel.ack(delivery)
                self._status.archived += 1
            reached(Step.CONSUME_ARCHIVE_ACKED)
            self._backoff.reset()
            self._report(None)

    async def _archive_each(self, channel: Channel, batch: Sequence[Delivery]) -> None:
        """Archives one by one, so that a message that the database refuses keeps no other one back."""
        refused: NotStored | None = None
        for delivery in batch:
            try:
                await self._archive(channel, [delivery])
            except NotStored as error:
                refused = error
        if refused is not None:
            raise refused

    async def _store(self, batch: Sequence[Delivery]) -> None:
        """Stores a batch, however often the database has to be waited for meanwhile."""
        now = self._clock.now()
        found = [
            (delivery, to_be_archived(delivery, broker=self._broker.name, queue=self._queue, now=now))
            for delivery in batch
        ]
        while True:
            try:
                async with unit_of_work() as work:
                    await store(work.connection, found)
            except DatabaseUnavailable as error:
                self._report(str(error))
                await self._clock.sleep(self._backoff.next())
            else:
                return

    def _report(self, reason: str | None) -> None:
        if reason != self._status.reason:
            if reason is not None:
                log.warning("not archiving", queue=self._queue, reason=reason)
            else:
                log.info("archiving", queue=self._queue)
        self._status.reason = reason


@asynccontextmanager
async def closing(channel: Channel) -> AsyncIterator[None]:
    """Closes the channel at the end of the block, also if that is cancelled."""
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):  # it has a deadline of its own
            await channel.aclose()


async def keep_counting(statuses: Iterable[ConsumerStatus], clock: Clock, stop: anyio.Event) -> None:
    """Says on the board how many messages wait for a person, until `stop` is set."""
    lots = {status.queue: status.parking_lot for status in statuses}
    async with until(stop):
        while True:
            try:
                async with connection() as conn:
                    counts = {each.queue: each for each in await parked_messages.open_counts(conn)}
            except (DatabaseUnavailable, psycopg.Error):  # the pool and the archiver say why
                for lot in lots.values():
                    lot.open = lot.oldest_at = None
            else:
                for queue, lot in lots.items():
                    found = counts.get(queue)
                    lot.open, lot.oldest_at = (found.count, found.oldest) if found else (0, None)
            await clock.sleep(COUNT_INTERVAL)


async def store(conn: Connection, found: Sequence[tuple[Delivery, NewParkedMessage]]) -> None:
    """Stores what is not there yet, and also what only looks as if it were."""
    first: dict[str, tuple[Delivery, NewParkedMessage]] = {}
    left = []
    for delivery, message in found:
        if message.parking in first:
            left.append((delivery, message))
        else:
            first[message.parking] = (delivery, message)
    stored = await parked_messages.archive(conn, [message for _, message in first.values()])
    left += [first[parking] for parking in first.keys() - stored]
    others = [another for delivery, message in left if (another := as_another(delivery, message)) is not None]
    if others:
        await parked_messages.archive(conn, others)


async def _batch(deliveries: MemoryObjectReceiveStream[Delivery]) -> list[Delivery]:
    """What is there, at least one message."""
    batch = [await deliveries.receive()]
    size = len(batch[0].body)
    while size < BATCH_SIZE:
        try:
            delivery = deliveries.receive_nowait()
        except anyio.WouldBlock:
            break
        batch.append(delivery)
        size += len(delivery.body)
    return batch
