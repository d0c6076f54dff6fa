"""One batch on its way to the broker: what is sent together, what alone, and what becomes of each message.

Messages go out in flights, pipelined. One that may cost the others their channel flies alone: it failed before, was
in flight when a channel was lost, is large, has properties that the broker looks at, goes to an exchange that may
not be there, or to a destination that failed when it was last tried. When there is no answer, because the channel or
the broker was lost, the messages of the flight are suspects, and fly alone; one that gets none again is to blame. A
broker that is short of memory answers to nobody, so it has to answer to a message that goes nowhere right before.

| the broker's answer | what follows |
|---|---|
| confirmed | the row is deleted |
| no queue takes it, or a queue is full | the destination is left alone for a while, with all that is for it |
| the channel is closed over it alone | this message is held back, longer each time |
| none | tried again, alone; if there is none again, it is held back as well |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import structlog

from db.outbox_relay import OutboxMessage
from roles.amqp import BrokerUnavailable, Channel, NotAccepted, Outgoing, TopologyMismatch, Unroutable
from roles.relay.destinations import Destination, Destinations, Trouble
from roles.relay.envelope import Unsendable, is_risky, outgoing
from roles.tally import Tally
from schema.steps import Step, reached

MESSAGE_PAUSE = timedelta(seconds=30)
"""How long a message that nobody else is to blame for is held back at first; it doubles with each attempt."""
LONGEST_MESSAGE_PAUSE = timedelta(minutes=10)

_DOUBLINGS = 16

log = structlog.get_logger(__name__)


class Flights:
    """What one relay remembers between batches about its broker.

    Params:
        headers_exchanges: exchanges that route by the headers of each message, so that one that is not routed says
            nothing of the next.
    """

    def __init__(self, destinations: Destinations, *, headers_exchanges: frozenset[str] = frozenset()) -> None:
        self.destinations = destinations
        self.headers_exchanges = headers_exchanges
        self.known_exchanges: set[str] = {""}
        """That are there, as far as this channel has shown."""
        self.suspects: set[int] = set()
        """Rows that were in flight with others when a channel was lost."""


class Batch:
    """The rows of one transaction, and what became of them.

    Params:
        channel: gives the channel to publish on, a new one if the last was lost.
        now: the database's clock.
    """

    def __init__(
        self,
        rows: Sequence[OutboxMessage],
        flights: Flights,
        *,
        channel: Callable[[], Awaitable[Channel]],
        now: Callable[[], datetime],
        tally: Tally,
    ) -> None:
        self.confirmed: list[int] = []
        self.failed: list[tuple[int, str, datetime]] = []
        """Row, error, and until when it is held back."""
        self.postponed: dict[Destination, Trouble] = {}
        """Destinations that are to be left alone, with all that waits for them."""
        self.lost: Exception | None = None
        """Why the batch was not ended, if it was not: the broker is away."""
        self._waiting = deque(rows)
        self._flights = flights
        self._destinations = flights.destinations
        self._channel = channel
        self._now = now
        self._tally = tally

    async def run(self, may_go_on: Callable[[], bool]) -> None:
        """Sends the messages, as far as the broker is there and `may_go_on()`. Nothing is raised but cancellation."""
        while self._waiting and self.lost is None and may_go_on():
            if flight := self._next_flight():
                await self._fly(flight)

    def _next_flight(self) -> list[tuple[OutboxMessage, Outgoing]]:
        flight: list[tuple[OutboxMessage, Outgoing]] = []
        ids: set[bytes] = set()
        while self._waiting:
            row = self._waiting[0]
            destination = (row.exchange, row.routing_key)
            if trouble := self._destinations.trouble(destination, self._now()):
                self.postponed[destination] = trouble
                self._waiting.popleft()
                continue
            try:
                message = outgoing(row)
            except Unsendable as error:
                self._tally.taken += 1
                self._hold_back(row, error)
                self._waiting.popleft()
                continue
            message_id = message.properties.fields.get("message_id", b"")[:255]
            alone = self._flies_alone(row, message)
            if flight and (alone or message_id in ids):
                break
            flight.append((row, message))
            if message_id:
                ids.add(message_id)
            self._waiting.popleft()
            if alone:
                break
        return flight

    def _flies_alone(self, row: OutboxMessage, message: Outgoing) -> bool:
        return (
            row.attempts > 0
            or row.id in self._flights.suspects
            or row.exchange not in self._flights.known_exchanges
            or self._destinations.is_doubtful((row.exchange, row.routing_key))
            or is_risky(message)
        )

    async def _fly(self, flight: Sequence[tuple[OutboxMessage, Outgoing]]) -> None:
        self._tally.taken += len(flight)
        try:
            channel = await self._channel()
            if any(row.id in self._flights.suspects for row, _ in flight):
                await channel.probe()
                channel = await self._channel()
            outcomes = await channel.publish_all(
                [message for _, message in flight], written=lambda: reached(Step.RELAY_PUBLISHED)
            )
        except (BrokerUnavailable, TopologyMismatch) as error:
            self.lost = error
            self._tally.given_back += len(flight)
            return
        except BaseException:
            self._tally.given_back += len(flight)
            raise
        reached(Step.RELAY_CONFIRMED)
        settled = [(row, outcome) for (row, _), outcome in zip(flight, outcomes, strict=True)]
        for row, outcome in sorted(settled, key=lambda each: each[1] is not None):  # a failure has the last word
            self._settle(row, outcome, alone=len(flight) == 1)
        if not channel.lost.is_set():
            self._flights.known_exchanges.update(row.exchange for row, _ in flight)

    def _settle(self, row: OutboxMessage, outcome: Exception | None, *, alone: bool) -> None:
        destination = (row.exchange, row.routing_key)
        of_the_message = isinstance(outcome, Unroutable) and row.exchange in self._flights.headers_exchanges
        if isinstance(outcome, NotAccepted | Unroutable) and not of_the_message:
            self._blame(destination, row, outcome)
        elif isinstance(outcome, BrokerUnavailable) and not (alone and row.id in self._flights.suspects):
            self.lost = outcome
            self._flights.suspects.add(row.id)
            self._tally.given_back += 1
            return
        elif outcome is None:
            self.confirmed.append(row.id)
            self._tally.finished += 1
            if self._destinations.worked(destination):
                log.info("destination recovered", exchange=row.exchange, routing_key=row.routing_key)
        else:
            if isinstance(outcome, BrokerUnavailable):
                self.lost = outcome
            self._hold_back(row, outcome)
        self._flights.suspects.discard(row.id)

    def _blame(self, destination: Destination, row: OutboxMessage, error: Exception) -> None:
        now = self._now()
        trouble = self._destinations.trouble(destination, now)
        if trouble is None:  # else it is another message of the same flight
            trouble = self._destinations.failed(destination, str(error), now)
            pause = round((trouble.until - now).total_seconds(), 3)
            log.warning(
                "destination failed",
                exchange=row.exchange,
                routing_key=row.routing_key,
                error=trouble.error,
                again_in=pause,
            )
        self.postponed[destination] = trouble
        self.failed.append((row.id, str(error), trouble.until))
        self._tally.failed += 1

    def _hold_back(self, row: OutboxMessage, error: Exception) -> None:
        pause = min(LONGEST_MESSAGE_PAUSE, MESSAGE_PAUSE * 2 ** min(row.attempts, _DOUBLINGS))
        log.error(
            "message not published",
            outbox_id=row.id,
            message_id=row.message_id,
            exchange=row.exchange,
            routing_key=row.routing_key,
            error=str(error),
            attempt=row.attempts + 1,
            again_in=pause.total_seconds(),
        )
        self.failed.append((row.id, str(error), self._now() + pause))
        self._tally.failed += 1
