"""One attempt: the message is decoded, claimed and handled, the latter two in one transaction.

A handler with `transaction=False` claims when it opens its transaction (`roles.consume.delivery`). The claim is what
makes a second delivery of a message without effect (`db.inbox`). How an attempt can fail, and what that means:

| failure | means |
|---|---|
| `Undecodable`, `Reject` | no other attempt can succeed: parked at once |
| `DatabaseUnavailable`, `BrokerUnavailable` | the world's: tried again in place, burns no attempt |
| `ClaimHeld` | another delivery of the message is being handled: tried again in place, burns no attempt |
| deadlock, serialization failure | bad luck: tried again at once, a few times |
| anything else, a timeout or a stray `CancelledError` included | the handler's own: next attempt after a delay |
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from datetime import timedelta
from typing import Any, cast

import anyio
import anyio.lowlevel
import psycopg
import structlog
from pydantic import BaseModel, ValidationError

from db.pool import DatabaseUnavailable, Work, transaction
from roles import amqp
from roles.amqp import BrokerUnavailable, Properties
from roles.cancellation import StrayCancellation
from roles.consume.claim import Claim
from roles.consume.declarations import Consumer
from roles.consume.delivery import Delivery
from roles.consume.retry import Reject, describe
from roles.failures import contained
from schema.duration import format_duration
from schema.steps import Step, reached

CONFLICT_TRIES = 5
_CONFLICTS = ("40001", "40P01")
"""SQLSTATE of a serialization failure and of a deadlock."""

log = structlog.get_logger(__name__)


class Undecodable(Reject):
    """The body is not what the consumer's model describes."""


class HandlerTimeout(Exception):
    """The handler took too long; its transaction was rolled back."""


class Attempt:
    """A consumer's handler, ready to be tried on a message."""

    def __init__(self, consumer: Consumer[Any], timeout: timedelta) -> None:
        self._handler = consumer.handler
        self._model = consumer.model()
        self._queue = consumer.queue
        self._alone = consumer.alone
        self._key = consumer.key
        self._timeout = timeout
        self._try = self._in_transaction if consumer.transaction else self._with_delivery

    async def __call__(self, body: bytes, properties: Properties) -> bool:
        """Handles one message, whole or not at all.

        Returns:
            Whether it has taken effect now; else it had before, and this delivery is a duplicate.

        Raises:
            Exception: see the table above.
        """
        message = self.decode(body)
        self.key_of(message)
        for _ in range(CONFLICT_TRIES - 1):
            try:
                return await self._try(message, properties)
            except psycopg.OperationalError as error:
                if error.sqlstate not in _CONFLICTS:
                    raise
        return await self._try(message, properties)

    def decode(self, body: bytes) -> BaseModel:
        """The message in a body.

        Raises:
            Undecodable: there is none.
        """
        try:
            return cast("BaseModel", self._model.model_validate_json(body))
        except ValidationError as error:
            raise Undecodable(describe(error)) from error

    def lane(self, delivery: amqp.Delivery) -> Hashable:
        """What the consumer's key says, for the intake. None if nothing can be said; `__call__` then raises why."""
        try:
            return self.key_of(self.decode(delivery.body))
        except Exception:  # noqa: BLE001 - a key is a function of the user's
            return None

    def key_of(self, message: BaseModel) -> Hashable:
        """What the consumer's key says of a message; None if it has none.

        Raises:
            Exception: it is a function of the user's, and what it returns must be hashable and comparable.
        """
        key = None if self._key is None else self._key(message)
        hash(key)
        bool(key == key)  # noqa: PLR0124 - the lanes are a dict, which would raise in the middle of taking it in
        return key

    async def _in_transaction(self, message: BaseModel, properties: Properties) -> bool:
        claim = Claim(self._queue, properties.fields.get("message_id"))
        async with transaction(claim.begin) as work:
            if claim.duplicate:
                return False
            reached(Step.CONSUME_CLAIMED)
            await self.handle(self._alone(message), work)
            reached(Step.CONSUME_HANDLED)
        reached(Step.CONSUME_COMMITTED)
        return True

    async def _with_delivery(self, message: BaseModel, properties: Properties) -> bool:
        delivery = Delivery(self._queue, properties)
        failure: Exception | None = None
        try:
            await self.handle(message, delivery)
        except Exception as error:  # noqa: BLE001 - what it means depends on what became of the claim
            failure = error
        if delivery.duplicate:
            return False
        if delivery.committed:
            if failure is not None:
                log.error("handler failed after its commit", error=describe(failure), exc_info=failure)
            return True
        if failure := delivery.unsettled or failure:
            raise failure
        return True

    async def handle(self, message: BaseModel | list[BaseModel], second: Work | Delivery) -> None:
        """Calls the handler, for as long as it may take.

        Raises:
            HandlerTimeout, StrayCancellation: and whatever else the handler raises, contained (`roles.failures`).
        """
        try:
            with anyio.move_on_after(self._timeout.total_seconds()) as scope:
                with contained():
                    await self._handler(message, second)
            timed_out = scope.cancelled_caught
        except asyncio.CancelledError as stray:
            # Libraries replace the error that anyio cancels with by one that it does not know, and lets through.
            # Only if this task is cancelled from outside is it one that must go on.
            await anyio.lowlevel.checkpoint_if_cancelled()
            timed_out = scope.cancel_called
            if not timed_out:
                raise StrayCancellation("the handler ended as if it had been cancelled, but nobody had") from stray
        if timed_out:
            raise HandlerTimeout(f"the handler had not ended after {format_duration(self._timeout)}")


def forget_cancellations() -> None:
    """Resets this task's count of cancellations, of which an `asyncio.TaskGroup` in a handler can leave some behind.

    Before Python 3.13 it does when a child fails, and the next stray cancellation would pass for a real one.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def is_world(error: Exception) -> bool:
    """Whether the database or the broker is away, also if only one of several tasks of a handler noticed."""
    if isinstance(error, ExceptionGroup):
        return any(is_world(inner) for inner in error.exceptions if isinstance(inner, Exception))
    return isinstance(error, DatabaseUnavailable | BrokerUnavailable)
