"""What happens to one message, from our hands to its end: acked, retried, parked, or given back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from enum import Enum, auto
from functools import partial

import anyio
import structlog

from roles.amqp import BrokerUnavailable, Delivery, MessageRefused
from roles.board import ConsumerStatus
from roles.clock import Clock
from roles.consume.attempt import Attempt, forget_cancellations, is_world
from roles.consume.breaker import Outcome
from roles.consume.claim import ClaimHeld
from roles.consume.hold import GivenBack, Hold, Pause
from roles.consume.names import parked_queue, wait_queue
from roles.consume.outage import Outage
from roles.consume.quarantine import Killer, Quarantine
from roles.consume.republisher import Republisher
from roles.consume.retry import Reject, attempt_of, describe, next_delay, stamped
from roles.tally import Tally
from schema.duration import format_duration
from schema.steps import Step, reached

HELD_PAUSE = 1.0
"""Seconds between two looks at a message whose other delivery is still being handled."""

log = structlog.get_logger(__name__)


class _End(Enum):
    FINISHED = auto()
    FAILED = auto()
    GIVEN_BACK = auto()


class Processor:
    """Handles the messages of one consumer, and counts them.

    Params:
        database, publishing: what may be away.
        record: is told what became of messages, as far as that says something about the consumer.
        steps: the delays of the ladder.
        user: our login at the broker.
        tallies: where to count besides `status`.
    """

    def __init__(
        self,
        attempt: Attempt,
        republisher: Republisher,
        *,
        database: Outage,
        publishing: Outage,
        hold: Hold,
        quarantine: Quarantine,
        record: Callable[[Outcome, int, str], None],
        status: ConsumerStatus,
        steps: Sequence[timedelta],
        user: str,
        clock: Clock,
        tallies: Iterable[Tally],
    ) -> None:
        self._attempt = attempt
        self._republisher = republisher
        self._database = database
        self._publishing = publishing
        self._hold = hold
        self._quarantine = quarantine
        self._record = record
        self._status = status
        self._steps = steps
        self._user = user
        self._clock = clock
        self._tallies = (status.tally, *tallies)
        self._idle = anyio.Event()

    def take(self, delivery: Delivery) -> None:
        """To be called when a message has come into our hands."""
        if not delivery.properties.fields.get("message_id"):
            self._status.unidentified += 1
        for tally in self._tallies:
            tally.taken += 1
        reached(Step.CONSUME_RECEIVED)

    def give_back(self, messages: int = 1) -> None:
        """To be called for messages that were taken and will not be processed."""
        self._count(_End.GIVEN_BACK, messages)

    def finished(self, messages: int, *, duplicates: int) -> None:
        """To be called for messages that were taken, handled together, and acked."""
        self._database.over()
        self._status.duplicates += duplicates
        self._record(Outcome.GOOD, messages - duplicates, "")
        self._count(_End.FINISHED, messages)

    async def idle(self) -> None:
        """Returns when no message is in hand."""
        while self._status.tally.in_flight:
            self._idle = anyio.Event()
            await self._idle.wait()

    def is_lost(self, delivery: Delivery) -> bool:
        """Whether there is no point in handling a message that was taken: it is, or is to be, given back."""
        return delivery.channel.lost.is_set() or self._hold.ended

    async def process(self, delivery: Delivery) -> None:
        """Brings a message that was taken to its end. Nothing is raised but cancellation, which gives it back."""
        if self.is_lost(delivery):
            self.give_back()
            return
        number = attempt_of(delivery.properties)
        structlog.contextvars.bind_contextvars(message_id=delivery.properties.text("message_id"), attempt=number)
        end = _End.GIVEN_BACK
        try:
            end = await self._to_the_end(delivery, number, self._hold.of(delivery))
        except GivenBack as reason:
            log.warning("message given back", reason=str(reason), **self._fields(delivery))
        except anyio.get_cancelled_exc_class():
            log.warning("message given back", reason="the handler was cut off", **self._fields(delivery))
            raise
        finally:
            self._count(end, 1)

    async def _to_the_end(self, delivery: Delivery, number: int, hold: Pause) -> _End:
        failure = await self._outcome(delivery, hold)
        try:
            if failure is None or await self._move(delivery, number, failure, hold):
                await delivery.channel.ack(delivery)
                reached(Step.CONSUME_ACKED if failure is None else Step.CONSUME_ORIGINAL_ACKED)
            else:
                await delivery.channel.reject(delivery)
        except BrokerUnavailable as error:
            raise GivenBack(f"handled, but the broker could not be told: {error}") from error
        if isinstance(failure, Killer):
            await self._quarantine.forget(self._status.queue, delivery)
        return _End.FINISHED if failure is None else _End.FAILED

    async def _outcome(self, delivery: Delivery, hold: Pause) -> Exception | None:
        """What the attempt failed with, if it did; however often the world has to be waited for meanwhile."""
        attempt = partial(self._attempt, delivery.body, delivery.properties)
        while True:
            try:
                applied = await self._quarantine.handle(self._status.queue, delivery, hold, attempt)
            except GivenBack:
                raise
            except ClaimHeld as error:
                log.info("message waits", reason=str(error), **self._fields(delivery))
                await hold(partial(self._clock.sleep, HELD_PAUSE))
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is the message's fate
                forget_cancellations()
                if not is_world(error):
                    if not isinstance(error, Killer):
                        outcome = Outcome.REFUSED if isinstance(error, Reject) else Outcome.FAILED
                        self._record(outcome, 1, describe(error))
                    return error
                await self._database.wait(error, hold)
            else:
                self._database.over()
                if applied:
                    self._record(Outcome.GOOD, 1, "")
                else:
                    self._status.duplicates += 1
                    log.info("duplicate dropped", **self._fields(delivery))
                return None

    async def _move(self, delivery: Delivery, number: int, failure: Exception, hold: Pause) -> bool:
        """Moves a failed message to where it belongs; False if that is for the broker to do."""
        delay = None if isinstance(failure, Reject) else next_delay(self._steps, number)
        fields = self._fields(delivery) | {"attempt": number, "error": describe(failure)}
        queue = self._status.queue
        try:
            await self._republisher.move(
                delivery,
                stamped(
                    delivery.properties,
                    attempt=number if delay is None else number + 1,
                    error=failure,
                    now=self._clock.now(),
                    user=self._user,
                ),
                to=parked_queue(queue) if delay is None else wait_queue(queue, delay),
                outage=self._publishing,
                hold=hold,
            )
            reached(Step.CONSUME_RETRY_PUBLISHED)
        except (MessageRefused, ValueError) as error:
            log.error("message cannot be published again: parked by the broker", refused=str(error), **fields)  # noqa: TRY400
            self._status.parked += 1
            return False
        trace = None if isinstance(failure, Reject) else failure
        if delay is None:
            self._status.parked += 1
            log.error("message parked", exc_info=trace, **fields)
        else:
            self._status.retried += 1
            log.warning("message retried", exc_info=trace, delay=format_duration(delay), **fields)
        return True

    def _fields(self, delivery: Delivery) -> dict[str, object]:
        return {"queue": self._status.queue, "message_id": delivery.properties.text("message_id")}

    def _count(self, end: _End, messages: int) -> None:
        for tally in self._tallies:
            match end:
                case _End.FINISHED:
                    tally.finished += messages
                case _End.FAILED:
                    tally.failed += messages
                case _End.GIVEN_BACK:
                    tally.given_back += messages
        if not self._status.tally.in_flight:
            self._idle.set()
