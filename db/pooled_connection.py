"""A connection that holds statements back until the next one, and that knows whether its own user has ruined it.

A statement whose result nobody waits for need not have a round trip to itself: `hold` keeps it until something else
is sent, and then it goes first. With `command` both go in one piece, so that what a unit of work puts into the outbox
at its end travels with its commit. To the transaction it makes no difference: whatever follows a statement on this
connection finds it done, be it a query, a savepoint or the commit.

A connection that breaks is a sign of a server that is away, unless it was ended on account of what its user did: it
cancelled a statement and could not wait for the server's answer (as every scope of anyio's does), or it left its
transaction idle for so long that the server ended it. Taken for an outage, that would be tried again for ever.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import DictRow, TupleRow, dict_row
from psycopg.waiting import READY_R, WAIT_R

from db.begun import Rest
from db.readiness import Readiness

T = TypeVar("T")

HELD_AT_MOST = 64 * 1024
"""Bytes of statements; with more they do not wait any longer."""

_ENDED_FOR_ITS_CLIENT = ("25P03", "25P04")
"""SQLSTATE: the transaction had been idle, or had gone on, for longer than it may."""


class PooledConnection(psycopg.AsyncConnection[TupleRow]):
    """What the pool is made of."""

    readiness: Readiness | None = None
    """What tells of its answers, if nothing else is to."""
    ruined = False
    _held = b""
    """Statements, each with a semicolon."""
    _when_run: tuple[Callable[[], None], ...] = ()
    _spare: psycopg.AsyncCursor[DictRow] | None = None

    def merged(self, sql: bytes, parameters: Mapping[str, Any]) -> bytes:
        """One or more statements with their parameters written into them, for `command`."""
        return sql % {name.encode(): self._quoted(value) for name, value in parameters.items()}

    async def hold(self, sql: bytes, parameters: Mapping[str, Any], *, then: Callable[[], None]) -> None:
        """Has a statement run right before the next one, whose it is to raise its errors. It is run at once if it
        is large, or if there is no transaction that it could be a part of.

        Params:
            then: called when it has been run and its transaction goes on.
        """
        pgconn = self.pgconn
        if pgconn.transaction_status != TransactionStatus.INTRANS or pgconn.pipeline_status != PipelineStatus.OFF:
            await self.execute(sql, parameters)
            then()
            return
        self._held += self.merged(sql, parameters) + b"; "
        self._when_run += (then,)
        if len(self._held) > HELD_AT_MOST:
            await self.command(b"")

    async def command(self, sql: bytes) -> list[PGresult]:
        """Runs statements whose rows nobody wants, after those that are held, in one round trip. The first that fails
        is the last that is run.

        Returns:
            The result of each, those of the held ones before the others.
        """
        async with self.lock:
            return await self._command(sql)

    def forget(self) -> None:
        """Drops what is held, before its transaction or savepoint is rolled back."""
        self._held, self._when_run = b"", ()

    @asynccontextmanager
    async def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's signature
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """See psycopg's. What is held is run before it begins and before it ends, so that each fails in its place:
        psycopg counts how deep transactions are nested, and would lose count on this connection for all who use it
        later.
        """
        await self._run_held()
        async with super().transaction(savepoint_name, force_rollback) as inner:
            try:
                yield inner
                await self._run_held()
            except BaseException:
                self.forget()
                raise

    async def first(self, sql: bytes, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first row that a statement returns; None if there is none.

        The cursor is kept for the next one: to set up a new one takes a quarter of a small statement's time. Who
        comes while it is in use, on the same connection, gets another.
        """
        spare, self._spare = self._spare, None
        cursor = self.cursor(row_factory=dict_row) if spare is None or self.closed else spare
        await cursor.execute(sql, parameters)
        row = await cursor.fetchone()
        assert cursor.pgresult is not None, "there are rows, or an error"
        cursor.pgresult.clear()  # it would keep all that it was sent until the next time
        self._spare = cursor
        return row

    async def close(self) -> None:
        if self.readiness is not None and not self.closed:
            self.readiness.wake(self.pgconn.socket)
        self._spare = None
        await super().close()

    async def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        if self._held:
            await self._command(b"")
        try:
            if self.readiness is None or arguments or options:
                return await super().wait(gen, *arguments, **options)
            return await self._answered(gen, self.readiness)
        except asyncio.CancelledError:
            self.ruined = self.broken
            raise
        except psycopg.Error as error:
            self.ruined = self.ruined or error.sqlstate in _ENDED_FOR_ITS_CLIENT
            raise

    async def _answered(self, gen: PQGen[T], readiness: Readiness) -> T:
        """Waits for answers in a cheaper way than psycopg, and leaves all else to it: what has to be sent in parts;
        what does not wait, and may have kept others from their turn; and to end the statement of who was cancelled.
        """
        state = WAIT_R
        interruption: BaseException | None = None
        try:
            state = next(gen)
        except StopIteration as end:
            return await super().wait(_finished(end.value))
        try:
            while state == WAIT_R and not readiness.closed:
                await readiness.readable(self.pgconn.socket)
                state = gen.send(READY_R)
        except StopIteration as end:
            return cast("T", end.value)
        except OSError as error:
            raise psycopg.OperationalError("connection socket closed") from error
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            interruption = error
        return await super().wait(cast("PQGen[T]", Rest(gen, state, interruption)))

    def is_suspect(self) -> bool:
        """Whether it has something to read while it is idle: an end of file, a server's last words, or a notice."""
        return bool(self._readable.poll(0))

    @cached_property
    def _readable(self) -> select.poll:
        readable = select.poll()
        readable.register(self.pgconn.socket, select.POLLIN)
        return readable

    @cached_property
    def _quoted(self) -> Callable[[Any], Buffer]:
        """Kept, for it remembers how values of each type are written, which is half of the work."""
        return Transformer(self).as_literal

    async def _run_held(self) -> None:
        if self._held:
            await self.command(b"")

    async def _command(self, sql: bytes) -> list[PGresult]:
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        held, when_run = self._held, self._when_run
        self.forget()
        results = await self.wait(_results(self.pgconn, held + sql))
        if self.pgconn.transaction_status == TransactionStatus.INTRANS:
            for then in when_run:
                then()
        return results


def _finished(value: T) -> PQGen[T]:
    return value
    yield


def _results(pgconn: PGconn, sql: bytes) -> PQGen[list[PGresult]]:
    pgconn.send_query(sql)
    results: list[PGresult] = yield from execute(pgconn)
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result)
    return results
