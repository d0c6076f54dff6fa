"""A unit of work that others join: what its task does inside of it is a part of it, and is committed with it.

A route opens its own `unit_of_work()`, or several, and knows nothing of the larger one around it (`Idempotency-Key`,
see `roles.api.idempotency`). Each of its blocks stays whole or not at all: it is a savepoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import anyio
from psycopg.pq import TransactionStatus

from db.pooled_connection import PooledConnection

if TYPE_CHECKING:
    from db.pool import Work

ROLLBACK_TIMEOUT = 10.0
"""Seconds that undoing a block may take, even if its task is cancelled meanwhile."""


FIRST: Final = b"SAVEPOINT block_1"
"""The savepoint of the first block, which is set when the transaction begins: that saves a round trip."""


class Joined:
    """A unit of work that its own task has joined. Other tasks would disturb it: theirs stand for themselves."""

    __slots__ = ("_count", "_task", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self._task = asyncio.current_task()
        self._count = 0

    def is_ours(self) -> bool:
        return asyncio.current_task() is self._task

    @asynccontextmanager
    async def block(self) -> AsyncIterator[PooledConnection]:
        """A part of it: undone if it raises."""
        conn = self.work.connection
        self._count += 1
        name = b"block_%d" % self._count
        if self._count > 1:
            await conn.command(b"SAVEPOINT " + name)
        try:
            yield conn
        except BaseException:
            await self._undo(name)
            raise
        if conn.pgconn.transaction_status == TransactionStatus.INERROR:
            await self._undo(name)

    async def _undo(self, name: bytes) -> None:
        conn = self.work.connection
        if conn.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            conn.forget()  # it would be undone at once, and if it failed, so would this
            with anyio.move_on_after(ROLLBACK_TIMEOUT, shield=True):
                await conn.command(b"ROLLBACK TO " + name)


_joined: ContextVar[Joined | None] = ContextVar("joined", default=None)


@contextmanager
def joining(work: Work) -> Iterator[None]:
    """Has what this task does in the block, with `connection()` and `unit_of_work()`, be a part of `work`.

    Params:
        work: begun with the savepoint `FIRST`.
    """
    token = _joined.set(Joined(work))
    try:
        yield
    finally:
        _joined.reset(token)


def joined() -> Joined | None:
    """What a block that begins here is a part of; None if it stands for itself."""
    found = _joined.get()
    return found if found is not None and found.is_ours() else None
