"""One consumer at work: subscribed for as long as the role runs, whatever becomes of its queue or channel.

Each consumer repairs its own subscription. Raising out of the role would have the supervisor do it, but would
also cut off the handlers of every other queue; and the supervisor's count of restarts says nothing about which
queue is concerned, while the board does. Before its first subscription a consumer's failure is the role's.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import structlog

from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery
from roles.board import ConsumerStatus
from roles.consume import topology
from roles.consume.attempt import Attempt
from roles.consume.backoff import Backoff
from roles.consume.batch import Batches
from roles.consume.declarations import Consumer
from roles.consume.intake import Intake
from roles.consume.outage import Outage
from roles.consume.processor import Processor
from roles.consume.republisher import Republisher
from roles.resources import Resources
from roles.timers import until
from schema.duration import parse_duration
from schema.errors import ConfigurationError

log = structlog.get_logger(__name__)


class Subscription:
    """Keeps one consumer subscribed, and hands its messages to as many workers as it may have.

    Workers outlive a lost channel: a handler that is at work finishes, and its commit stands, but the ack comes
    to nothing, so the broker delivers the message again, to the next free worker. There are never more handlers
    at a time than `concurrency`.
    """

    def __init__(
        self, consumer: Consumer[Any], broker: Broker, status: ConsumerStatus, resources: Resources, stop: anyio.Event
    ) -> None:
        self.tried = anyio.Event()
        """Set when the first try to subscribe has ended, one way or the other."""
        self.failure: Exception | None = None
        """What the last try failed with."""
        self._consumer = consumer
        self._broker = broker
        self._status = status
        self._clock = resources.clock
        self._stop = stop
        self._policy = resources.settings.supervisor
        self._delivery_limit = resources.settings.consume.delivery_limit
        self._backoff = Backoff(self._clock, self._policy)
        self._channel: Channel | None = None
        self._lost = ""
        self._database, self._publishing = (
            Outage(
                consumer.queue,
                clock=self._clock,
                backoff=Backoff(self._clock, self._policy),
                stop=stop,
                changed=self._report,
            )
            for _ in range(2)
        )
        timeout = resources.settings.consume.handler_timeout if consumer.timeout is None else consumer.timeout
        self._republisher = Republisher(consumer, broker, self._publishing, delivery_limit=self._delivery_limit)
        attempt = Attempt(consumer, parse_duration(timeout))
        self._processor = Processor(
            attempt,
            self._republisher,
            self._database,
            status=status,
            steps=consumer.retry.steps(),
            user=broker.user,
            clock=self._clock,
            stop=stop,
            tallies=[resources.board.tally("consume")],
        )
        self._batches = Batches(consumer.queue, attempt, self._processor)
        self._intake = Intake(None if consumer.key is None else attempt.lane)

    async def run(self) -> None:
        """Consumes until `stop` is set; then takes nothing new, gives back what has not been begun, and returns
        when all that was begun has come to an end.
        """
        work = self._work if self._consumer.batch is None else partial(self._work_in_batches, self._consumer.batch)
        with self._intake:
            try:
                async with anyio.create_task_group() as workers:
                    for _ in range(self._consumer.concurrency):
                        workers.start_soon(work)
                    async with until(self._stop):
                        await self._keep_subscribed()
                    await self._unsubscribe()
                    self._take_back()
                    self._intake.close()
                await self._republisher.aclose()
                if self._channel is not None:
                    await self._channel.aclose()
            finally:
                self._take_back()
                self._lost = self._lost or "the role has ended"
                self._set_subscribed(subscribed=False)

    async def _work(self) -> None:
        structlog.contextvars.bind_contextvars(queue=self._consumer.queue)
        with suppress(anyio.EndOfStream):
            while True:
                delivery, lane = await self._intake.get()
                try:
                    await self._processor.process(delivery)
                finally:
                    self._intake.done(lane)

    async def _work_in_batches(self, size: int) -> None:
        structlog.contextvars.bind_contextvars(queue=self._consumer.queue)
        linger = parse_duration(self._consumer.linger)
        with suppress(anyio.EndOfStream):
            while True:
                await self._batches.process(await self._intake.get_batch(size, linger))

    async def _keep_subscribed(self) -> None:
        while True:
            try:
                channel = await self._subscribe()
            except (BrokerUnavailable, ConfigurationError) as error:
                self.failure = error
                self._lose(str(error))
            else:
                began = self._clock.monotonic()
                await channel.lost.wait()
                self._lose(channel.reason)
                self._take_back()
                await channel.aclose()
                if self._clock.monotonic() - began >= self._policy.backoff_reset.total_seconds():
                    self._backoff.reset()
            self.tried.set()
            await self._clock.sleep(self._backoff.next())

    async def _subscribe(self) -> Channel:
        def deliver(delivery: Delivery) -> None:
            if not self._stop.is_set():  # else it goes back with the channel
                self._processor.take(delivery)
                self._intake.put(delivery)

        consumer = self._consumer
        channel = await self._broker.channel("consume")
        try:
            await topology.declare(channel, consumer, delivery_limit=self._delivery_limit)
            await channel.consume(consumer.queue, prefetch=consumer.prefetch, deliver=deliver)
        except Exception:
            await channel.aclose()
            raise
        self._channel, self.failure, self._lost = channel, None, ""
        self._set_subscribed(subscribed=True)
        self.tried.set()
        log.info("subscribed", queue=consumer.queue, broker=self._broker.name)
        return channel

    def _lose(self, reason: str) -> None:
        if reason != self._lost:
            log.warning("not subscribed", queue=self._consumer.queue, reason=reason)
        self._lost = reason
        self._set_subscribed(subscribed=False)

    async def _unsubscribe(self) -> None:
        if self._channel is not None and not self._channel.lost.is_set():
            try:
                await self._channel.cancel()
            except BrokerUnavailable as error:
                log.warning("not unsubscribed", queue=self._consumer.queue, reason=str(error))
        self._lost = "asked to stop"
        self._set_subscribed(subscribed=False)

    def _set_subscribed(self, *, subscribed: bool) -> None:
        if subscribed is not self._status.subscribed:
            self._status.subscribed = subscribed
            self._status.since = self._clock.now()
        self._report()

    def _take_back(self) -> None:
        self._processor.give_back(self._intake.take_back())

    def _report(self) -> None:
        self._status.reason = self._lost or self._database.reason or self._publishing.reason
