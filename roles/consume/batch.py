"""Many messages in one transaction, as long as that goes well.

Whatever goes wrong with a batch, whether its handler, its claims or the world, its transaction is rolled back and its
messages are handled one by one instead, in their order, as if there were no batches (`roles.consume.processor`): so
only the guilty one is retried or parked. So are suspects (`roles.consume.quarantine`) and what came with them.
Bodies that do not decode are left out before, and parked after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import structlog
from pydantic import BaseModel

from db.pool import unit_of_work
from roles.amqp import BrokerUnavailable, Delivery
from roles.consume.attempt import Attempt, Undecodable, forget_cancellations
from roles.consume.claim import newly_claimed
from roles.consume.processor import Processor
from roles.consume.quarantine import Quarantine
from roles.consume.retry import describe
from schema.steps import Step, reached

log = structlog.get_logger(__name__)

Decoded = Sequence[tuple[Delivery, BaseModel]]


class Batches:
    """Handles the batches of one consumer."""

    def __init__(self, queue: str, attempt: Attempt, processor: Processor, quarantine: Quarantine) -> None:
        self._queue = queue
        self._attempt = attempt
        self._processor = processor
        self._quarantine = quarantine

    async def process(self, deliveries: Sequence[Delivery]) -> None:
        """Brings messages that were taken to their end. Nothing is raised but cancellation, which gives them back."""
        left = deque(each for each in deliveries if not self._processor.is_lost(each))
        self._processor.give_back(len(deliveries) - len(left))
        try:
            if len(left) > 1 and self._quarantine.enter(left):
                try:
                    left = await self._together(left)
                finally:
                    self._quarantine.leave()
            while left:  # what has not been begun when we are to stop is given back there
                await self._processor.process(left.popleft())
        finally:
            self._processor.give_back(len(left))

    async def _together(self, deliveries: Sequence[Delivery]) -> deque[Delivery]:
        """Handles a batch; returns those that have to be handled one by one."""
        decoded: list[tuple[Delivery, BaseModel]] = []
        undecodable: deque[Delivery] = deque()
        for each in deliveries:
            try:
                decoded.append((each, self._attempt.decode(each.body)))
            except Undecodable:
                undecodable.append(each)
        try:
            duplicates = await self._in_transaction(decoded)
        except Exception as error:  # noqa: BLE001 - whatever it is, it will be met again by whom it concerns
            forget_cancellations()
            log.warning("batch failed", messages=len(deliveries), error=describe(error), then="one by one")
            return deque(deliveries)
        await self._ack([each for each, _ in decoded], duplicates)
        return undecodable

    async def _in_transaction(self, decoded: Decoded) -> int:
        """Returns how many had taken effect before, or are there twice."""
        async with unit_of_work() as work:
            ids = {message_id for each, _ in decoded if (message_id := each.properties.fields.get("message_id"))}
            new = await newly_claimed(work, self._queue, ids)
            reached(Step.CONSUME_CLAIMED)
            messages: list[BaseModel] = []
            for each, message in decoded:
                message_id = each.properties.fields.get("message_id")
                if not message_id or message_id in new:
                    messages.append(message)
                    new.discard(message_id or b"")
            if messages:
                await self._attempt.handle(messages, work)
            reached(Step.CONSUME_HANDLED)
        reached(Step.CONSUME_COMMITTED)
        return len(decoded) - len(messages)

    async def _ack(self, deliveries: Sequence[Delivery], duplicates: int) -> None:
        try:
            if deliveries:
                await deliveries[0].channel.ack(*deliveries)
        except BrokerUnavailable as error:
            log.warning("batch given back", reason=f"handled, but the broker could not be told: {error}")
            self._processor.give_back(len(deliveries))
        else:
            reached(Step.CONSUME_ACKED)
            self._processor.finished(len(deliveries), duplicates=duplicates)
