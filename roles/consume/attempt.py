"""One attempt: the message is decoded, claimed and handled, the latter two in one transaction.

The claim is what makes a second delivery of a message without effect (`db.inbox`). How an attempt can fail, and
what that means:

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
from datetime import timedelta

import anyio
import anyio.lowlevel
import psycopg
from psycopg.errors import QueryCanceled
from pydantic import BaseModel, ValidationError

from db import inbox
from db.pool import DatabaseUnavailable, Work, unit_of_work
from roles.amqp import BrokerUnavailable
from roles.cancellation import StrayCancellation
from roles.consume.declarations import Handler
from roles.consume.retry import Reject, describe
from schema.duration import format_duration
from schema.steps import Step, reached

CONFLICT_TRIES = 5
CLAIM_TIMEOUT = 2.0
"""Seconds to wait for the end of another delivery's transaction, with a connection in hand."""
_CONFLICTS = ("40001", "40P01")
"""SQLSTATE of a serialization failure and of a deadlock."""


class Undecodable(Reject):
    """The body is not what the consumer's model describes."""


class HandlerTimeout(Exception):
    """The handler took too long; its transaction was rolled back."""


class ClaimHeld(Exception):
    """Another delivery of the same message is being handled, here or elsewhere, and has not ended yet."""


class Attempt:
    """A handler, ready to be tried on a message.

    Params:
        queue: what message ids are unique in.
    """

    def __init__(
        self, handler: Handler[BaseModel], model: type[BaseModel], *, queue: str, timeout: timedelta
    ) -> None:
        self._handler = handler
        self._model = model
        self._queue = queue
        self._timeout = timeout

    async def __call__(self, body: bytes, message_id: bytes | None) -> bool:
        """Handles one message, whole or not at all.

        Params:
            message_id: what the message is claimed by; without one it is handled as if it were the first of its kind.

        Returns:
            Whether it has taken effect now; else it had before, and this delivery is a duplicate.

        Raises:
            Exception: see the table above.
        """
        message = self._decode(body)
        for _ in range(CONFLICT_TRIES - 1):
            try:
                return await self._in_transaction(message, message_id)
            except psycopg.OperationalError as error:
                if error.sqlstate not in _CONFLICTS:
                    raise
        return await self._in_transaction(message, message_id)

    def _decode(self, body: bytes) -> BaseModel:
        try:
            return self._model.model_validate_json(body)
        except ValidationError as error:
            raise Undecodable(describe(error)) from error

    async def _in_transaction(self, message: BaseModel, message_id: bytes | None) -> bool:
        async with unit_of_work() as work:
            if message_id and not await self._claim(work, message_id):
                return False
            reached(Step.CONSUME_CLAIMED)
            await self._handle(message, work)
            reached(Step.CONSUME_HANDLED)
        reached(Step.CONSUME_COMMITTED)
        return True

    async def _claim(self, work: Work, message_id: bytes) -> bool:
        try:
            async with asyncio.timeout(CLAIM_TIMEOUT):  # it cancels once, and psycopg ends the statement in peace
                return await inbox.claim(work.connection, self._queue, message_id)
        except (TimeoutError, QueryCanceled) as error:
            raise ClaimHeld("another delivery of the message is being handled") from error

    async def _handle(self, message: BaseModel, work: Work) -> None:
        try:
            with anyio.move_on_after(self._timeout.total_seconds()) as scope:
                await self._handler(message, work)
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
