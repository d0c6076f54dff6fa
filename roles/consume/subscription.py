"""One consumer at work: subscribed for as long as the role runs, whatever becomes of its queue or channel.

Each consumer repairs its own subscription. Raising out of the role would have the supervisor do it, but would
also cut off the handlers of every other queue; and the supervisor's count of restarts says nothing about which
queue is concerned, while the board does. Before its first subscription a consumer's failure is the role's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import structlog

from db.pool import connection
from roles.amqp import Broker, BrokerUnavailable, Channel, Delivery
from roles.backoff import Backoff
from roles.board import ConsumerStatus
from roles.consume import topology
from roles.consume.attempt import Attempt
from roles.consume.batch import Batches
from roles.consume.declarations import Consumer
from roles.consume.hold import Hold
from roles.consume.intake import Intake
from roles.consume.kill_switch import KillSwitch
from roles.consume.outage import Outage
from roles.consume.processor import Processor
from roles.consume.quarantine import Quarantine
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
        self,
        consumer: Consumer[Any],
        broker: Broker,
        status: ConsumerStatus,
        resources: Resources,
        quarantine: Quarantine,
        stop: anyio.Event,
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
        settings = resources.settings.consume
        self._hold = Hold(clock=self._clock, limit=settings.give_back_after, stop=stop)
        self._kill_switch = KillSwitch(
            consumer.queue, consumer.breaker, clock=self._clock, hold=self._hold, changed=self._report
        )
        self._republisher = Republisher(consumer, broker, delivery_limit=self._delivery_limit)
        self._database, self._publishing = (
            Outage(
                consumer.queue,
                answers=answers,
                patience=settings.give_back_after.total_seconds(),
                clock=self._clock,
                backoff=Backoff(self._clock, self._policy),
                changed=self._report,
            )
            for answers in (_database_answers, self._republisher.answers)
        )
        timeout = settings.handler_timeout if consumer.timeout is None else consumer.timeout
        attempt = Attempt(consumer, parse_duration(timeout))
        self._processor = Processor(
            attempt,
            self._republisher,
            database=self._database,
            publishing=self._publishing,
            hold=self._hold,
            quarantine=quarantine,
            record=self._kill_switch.record,
            status=status,
            steps=consumer.retry.steps(),
            user=broker.user,
            clock=self._clock,
            tallies=[resources.board.tally("consume")],
        )
        self._batches = Batches(consumer.queue, attempt, self._processor, quarantine)
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
            await self._until_welcome()
            try:
                await (self._consume_one() if self._kill_switch.probing else self._consume())
            except (BrokerUnavailable, ConfigurationError) as error:
                self.failure = error
                self._lose(str(error))
            self.tried.set()
            await self._clock.sleep(self._backoff.next())

    async def _until_welcome(self) -> None:
        """Returns when there is a point in taking messages, if those in hand had to be given back."""
        await self._kill_switch.pause()
        if self._hold.recalled.is_set():
            await self._database.seems_over()
            await self._publishing.seems_over()
            self._hold.renew()

    async def _consume(self) -> None:
        """Returns when the subscription has ended, for whatever reason."""
        channel = await self._subscribe(self._deliver, prefetch=self._consumer.prefetch)
        began = self._clock.monotonic()
        async with until(self._hold.recalled):
            await channel.lost.wait()
        recalled = not channel.lost.is_set()
        self._lose(self._hold.reason if recalled else channel.reason)
        if recalled:
            await self._cancel(channel)
            self._take_back()
            async with until(channel.lost):
                await self._processor.idle()
        self._take_back()
        await channel.aclose()
        if recalled or self._clock.monotonic() - began >= self._policy.backoff_reset.total_seconds():
            self._backoff.reset()

    async def _consume_one(self) -> None:
        """Takes one message and no more, and returns when it is done with."""
        send, receive = anyio.create_memory_object_stream[Delivery](1)
        with send, receive:
            channel = await self._subscribe(send.send_nowait, prefetch=1)
            async with until(channel.lost):
                delivery = await receive.receive()
            if not channel.lost.is_set():
                await self._cancel(channel)  # before it is acked, and the next one comes
                self._deliver(delivery)
            async with until(channel.lost):
                await self._processor.idle()
        if channel.lost.is_set() or self._kill_switch.reason is not None:
            self._lose(self._kill_switch.reason or channel.reason)
        self._take_back()
        await channel.aclose()

    def _deliver(self, delivery: Delivery) -> None:
        if not self._stop.is_set():  # else it goes back with the channel
            self._processor.take(delivery)
            self._intake.put(delivery)

    async def _subscribe(self, deliver: Callable[[Delivery], None], *, prefetch: int) -> Channel:
        consumer = self._consumer
        channel = await self._broker.channel("consume")
        try:
            await topology.declare(channel, consumer, delivery_limit=self._delivery_limit)
            await channel.consume(consumer.queue, prefetch=prefetch, deliver=deliver)
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
            await self._cancel(self._channel)
        self._lost = "asked to stop"
        self._set_subscribed(subscribed=False)

    async def _cancel(self, channel: Channel) -> None:
        try:
            await channel.cancel()
        except BrokerUnavailable as error:
            log.warning("not unsubscribed", queue=self._consumer.queue, reason=str(error))

    def _set_subscribed(self, *, subscribed: bool) -> None:
        if subscribed is not self._status.subscribed:
            self._status.subscribed = subscribed
            self._status.since = self._clock.now()
        self._report()

    def _take_back(self) -> None:
        self._processor.give_back(self._intake.take_back())

    def _report(self) -> None:
        away = self._database.reason or self._publishing.reason
        subscription = "; ".join(filter(None, (self._lost, away)))
        self._status.reason = self._kill_switch.reason or subscription or None


async def _database_answers() -> None:
    async with connection() as conn:
        await conn.execute("SELECT 1")
