"""Claiming messages in a transaction, without waiting for longer than a moment for somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from typing import TypeVar

from psycopg.errors import QueryCanceled

from db import inbox
from db.pool import Work
from db.pooled_connection import PooledConnection

T = TypeVar("T")

CLAIM_TIMEOUT = 2.0
"""Seconds to wait for the end of another delivery's transaction, with a connection in hand."""


class ClaimHeld(Exception):
    """Another delivery of the same message is being handled, here or elsewhere, and has not ended yet."""


class Claim:
    """The claim of one message, with which a transaction is begun (`db.pool.transaction`).

    A message without an id has never taken effect, as far as can be told.
    """

    __slots__ = ("_message_id", "_queue", "duplicate")

    def __init__(self, queue: str, message_id: bytes | None) -> None:
        self.duplicate = False
        """Whether the message had taken effect before; known once the transaction has begun."""
        self._queue = queue
        self._message_id = message_id

    async def begin(self, connection: PooledConnection) -> None:
        """Begins a transaction on the connection.

        Raises:
            ClaimHeld: whether the message has taken effect is being decided elsewhere.
        """
        if self._message_id:
            self.duplicate = not await _in_time(inbox.begin(connection, self._queue, self._message_id))
        else:
            await connection.command(b"BEGIN")


async def newly_claimed(work: Work, queue: str, message_ids: Collection[bytes]) -> set[bytes]:
    """Those of the messages that have not taken effect yet.

    Raises:
        ClaimHeld: of one that is being decided elsewhere. The transaction can only be rolled back.
    """
    return await _in_time(inbox.claim_all(work.connection, queue, message_ids)) if message_ids else set()


async def _in_time(claiming: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT):  # it cancels once, and psycopg ends the statement in peace
            return await claiming
    except (TimeoutError, QueryCanceled) as error:
        raise ClaimHeld("another delivery of the message is being handled") from error
