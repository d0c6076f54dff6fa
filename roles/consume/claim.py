"""Claiming messages in a transaction, without waiting for longer than a moment for somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from typing import TypeVar

from psycopg.errors import QueryCanceled

from db import inbox
from db.pool import Work

T = TypeVar("T")

CLAIM_TIMEOUT = 2.0
"""Seconds to wait for the end of another delivery's transaction, with a connection in hand."""


class ClaimHeld(Exception):
    """Another delivery of the same message is being handled, here or elsewhere, and has not ended yet."""


async def claimed(work: Work, queue: str, message_id: bytes | None) -> bool:
    """Whether the message has not taken effect yet. One without an id never has, as far as can be told.

    Raises:
        ClaimHeld: that is being decided elsewhere. The transaction can only be rolled back.
    """
    return not message_id or await _in_time(inbox.claim(work.connection, queue, message_id))


async def newly_claimed(work: Work, queue: str, message_ids: Collection[bytes]) -> set[bytes]:
    """Those of the messages that have not taken effect yet. Raises as `claimed`."""
    return await _in_time(inbox.claim_all(work.connection, queue, message_ids)) if message_ids else set()


async def _in_time(claiming: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT):  # it cancels once, and psycopg ends the statement in peace
            return await claiming
    except (TimeoutError, QueryCanceled) as error:
        raise ClaimHeld("another delivery of the message is being handled") from error
