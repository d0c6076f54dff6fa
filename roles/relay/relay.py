"""The relay of one broker: when it looks at the outbox, and what it says of itself.

It looks as soon as a transaction with messages was committed in this process, when a message that was delayed comes
due, and otherwise every `relay.poll_interval`, for those of other processes. It goes on until nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import anyio
import structlog
from psycopg.errors import QueryCanceled

from db import outbox_relay
from db.outbox_relay import Waiting
from db.pool import DatabaseUnavailable, Pool, unit_of_work
from roles.amqp import Broker, BrokerUnavailable, Channel, TopologyMismatch
from roles.backoff import Backoff
from roles.board import OutboxDestination, OutboxStatus
from roles.relay.batch import Flights
from roles.relay.destinations import Destinations
from roles.relay.round import Rounds
from roles.resources import Resources
from roles.timers import until
from schema.topic import Topic

SOON = timedelta(milliseconds=10)
"""How soon to look again when another relay was at it; doubles up to the poll interval."""
LINGER = timedelta(milliseconds=20)
"""How long messages gather for the next batch while they come faster than one by one."""
FLUSH_TRIES = 100
"""How often to look, so soon after each other, at the end: then others are at it, and send ours as well."""
SURVEY_INTERVAL = timedelta(seconds=5)
SURVEY_SHARE = 0.01
"""Of the time, at the most, that a survey of the outbox may take."""
SURVEY_TIMEOUT = timedelta(seconds=2)
"""A survey that takes longer is given up, and `/status` is not brought up to date."""

_DOUBLINGS = 16

log = structlog.get_logger(__name__)


class Relay:
    """Relays to one broker.

    Params:
        topics: those of this broker; their exchanges are declared on each new channel.
        stop: when it is set, what was committed by then is sent, and `run` returns.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Sequence[Topic[Any]],
        status: OutboxStatus,
        resources: Resources,
        stop: anyio.Event,
    ) -> None:
        settings = resources.settings.relay
        self._broker = broker
        self._exchanges = {topic.exchange: topic.exchange_type for topic in topics if topic.exchange}
        self._status = status
        self._pool: Pool = resources.pool
        self._clock = resources.clock
        self._stop = stop
        self._poll = settings.poll_interval.total_seconds()
        self._backoff = Backoff(self._clock, resources.settings.supervisor)
        self._channel: Channel | None = None
        self._woken = anyio.Event()
        self._busy = 0
        by_headers = frozenset(name for name, kind in self._exchanges.items() if kind == "headers")
        self._flights = Flights(Destinations(ceiling=settings.backoff_max), headers_exchanges=by_headers)
        self._look = Rounds(
            broker.name,
            self._flights,
            channel=self._open_channel,
            limit=settings.batch,
            clock=self._clock,
            tally=resources.board.tally("relay"),
        )

    async def start(self) -> None:
        """Declares the exchanges of the topics, if the broker is there.

        Raises:
            TopologyMismatch: one exists, and is not what the topic says.
        """
        try:
            await self._open_channel()
        except BrokerUnavailable as error:
            self._paused(error)

    async def run(self) -> None:
        """Relays until `stop` is set; then what is left, if the broker and the database are there, and returns."""
        self._pool.on_published.add(self._on_published)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._survey)
                while not self._stop.is_set():
                    await self._turn()
                group.cancel_scope.cancel()
            await self._flush()
        finally:
            self._pool.on_published.discard(self._on_published)
            self._status.connected = False

    async def _turn(self) -> None:
        """Looks once, and waits as long as there is nothing to do."""
        self._woken = woken = anyio.Event()
        try:
            done = await self._look()
        except (BrokerUnavailable, TopologyMismatch, DatabaseUnavailable) as error:
            self._paused(error)
            async with until(self._stop):
                await self._clock.sleep(self._backoff.next())
            return
        self._going_on()
        if done.now is None:  # whoever is at it may have looked before our own message was there
            pause = min(self._poll, SOON.total_seconds() * 2 ** min(self._busy, _DOUBLINGS))
            self._busy += 1
            async with until(self._stop):
                await self._clock.sleep(pause)
            return
        self._busy = 0
        if done.oldest is None:
            pause = self._poll if done.next_in is None else min(self._poll, max(0.0, done.next_in))
            async with until(self._stop), until(woken):
                await self._clock.sleep(pause)
        elif done.taken > 1 and not done.full:
            async with until(self._stop):
                await self._clock.sleep(LINGER.total_seconds())

    async def _flush(self) -> None:
        """Sends what was committed before now, and leaves what fails for the next start."""
        asked_at = None
        tries = 0
        while tries < FLUSH_TRIES:
            try:
                done = await self._look()
            except (BrokerUnavailable, TopologyMismatch, DatabaseUnavailable) as error:
                log.warning("outbox not flushed", broker=self._broker.name, reason=str(error))
                return
            if done.now is None:
                tries += 1
                await self._clock.sleep(SOON.total_seconds())
                continue
            asked_at = asked_at or done.now
            if done.oldest is None or done.oldest > asked_at:
                return

    async def _open_channel(self) -> Channel:
        if self._channel is None or self._channel.lost.is_set():
            channel = await self._broker.channel("publish")
            try:
                for exchange, kind in self._exchanges.items():
                    await channel.declare_exchange(exchange, kind)
            except Exception:
                await channel.aclose()
                raise
            self._channel = channel
            self._flights.known_exchanges = {"", *self._exchanges}
        return self._channel

    def _on_published(self, broker: str) -> None:
        if broker == self._broker.name:
            self._woken.set()

    def _paused(self, error: Exception) -> None:
        if str(error) != self._status.reason:
            log.warning("relay paused", broker=self._broker.name, reason=str(error))
        self._status.reason = str(error)
        self._status.connected = not isinstance(error, BrokerUnavailable | TopologyMismatch)

    def _going_on(self) -> None:
        if self._status.reason is not None:
            log.info("relay resumed", broker=self._broker.name, reason=self._status.reason)
        self._status.connected, self._status.reason = True, None
        self._backoff.reset()

    async def _survey(self) -> None:
        """Tells the board what waits, as often as that is cheap."""
        while True:
            began = self._clock.monotonic()
            try:
                with anyio.CancelScope(shield=True):  # a statement that is cancelled costs a connection
                    async with unit_of_work() as work:
                        waiting = await outbox_relay.survey(work.connection, self._broker.name, limit=SURVEY_TIMEOUT)
                self._report(waiting)
            except (DatabaseUnavailable, QueryCanceled) as error:
                log.debug("outbox not surveyed", broker=self._broker.name, reason=str(error))
            took = self._clock.monotonic() - began
            await self._clock.sleep(max(SURVEY_INTERVAL.total_seconds(), took / SURVEY_SHARE))

    def _report(self, waiting: Sequence[Waiting]) -> None:
        self._status.waiting = waiting[0].total if waiting else 0
        self._status.oldest_at = waiting[0].total_oldest_at if waiting else None
        self._status.destinations = [
            OutboxDestination(each.exchange, each.routing_key, each.waiting, each.failing, each.oldest_at, each.error)
            for each in waiting
        ]
