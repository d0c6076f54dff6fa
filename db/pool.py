"""The one pool of connections that all roles share, and the two ways to use it.

```
async with connection() as conn:        # reads: autocommit, no transaction
async with unit_of_work() as work:      # writes: one transaction, committed at the end of the block
```
Inside of a larger unit of work (`db.joining`) both are a part of that.

The composition root opens one pool and makes it `current_pool`; tasks inherit it. Errors:

```
DatabaseUnavailable (DependencyUnavailable)    the server is away, shutting down or not reachable
└── PoolExhausted                              it is there, but all connections are taken, for `pool_timeout`
psycopg.Error                                  anything else: the statement's own failure
```
A connection that the block itself has ruined is no sign of a server that is away: a statement on it was cancelled
from here, or the server ended a transaction that its client had left idle. It is the block's own failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from types import TracebackType, coroutine
from typing import Any, Self

import anyio
import psycopg
import psycopg_pool
from psycopg.errors import InFailedSqlTransaction, NoActiveSqlTransaction
from psycopg.pq import TransactionStatus

from db import outbox
from db.begun import Rest
from db.joining import joined
from db.pooled_connection import PooledConnection
from db.readiness import POSSIBLE, Readiness
from db.times import load_all_times
from schema.errors import DependencyUnavailable
from schema.settings import Database
from schema.steps import Step, reached
from schema.topic import Message, Topic


class Pool(psycopg_pool.AsyncConnectionPool[PooledConnection]):
    """psycopg's pool, which also remembers why the last attempt to connect failed, and tells of new messages."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.last_failure: Exception | None = None
        """None if it succeeded."""
        self.on_published: set[Callable[[str], None]] = set()
        """Called after each commit with messages in it, once for each broker that these are for, by name."""
        self.readiness = Readiness() if POSSIBLE else None

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - psycopg's signature
        await super().close(timeout)
        if self.readiness is not None:
            self.readiness.close()


current_pool: ContextVar[Pool] = ContextVar("current_pool")
"""The pool of this process; set once, by the composition root."""

COMMIT_TIMEOUT = 10.0
"""Seconds that a commit may take once it has begun, even if the task is cancelled meanwhile."""

CHECK_TIMEOUT = 1.0
"""Seconds that a suspect connection has to prove itself."""


class DatabaseUnavailable(DependencyUnavailable):
    """PostgreSQL is away, shutting down, or cannot be reached."""


class PoolExhausted(DatabaseUnavailable):
    """No connection came free in time: more work than connections, or a server that has become slow."""


@dataclass(frozen=True, slots=True)
class Work:
    """One unit of work: a transaction, whole or not at all."""

    connection: PooledConnection
    brokers: set[str] = field(default_factory=set, repr=False, compare=False)
    """For which there are messages among it; whoever puts one into the outbox by other means adds its broker."""

    async def publish(
        self,
        topic: Topic[Message],
        message: Message,
        *,
        delay: timedelta | str | None = None,
        headers: Mapping[str, str | int] | None = None,
    ) -> str:
        """Publishes a message if, and only if, this transaction is committed.

        It is written to the outbox, right before the next statement or the commit, which raises what PostgreSQL has
        against it. The relay sends it when the transaction has been committed: at least once,
        always with the same message id, by which a consumer drops the second of two.

        Params:
            delay: how long it is held back, from now; such as `"30s"`.
            headers: AMQP headers, texts or 32-bit numbers.

        Returns:
            The message id, a UUID.

        Raises:
            TypeError: the message is not of the topic's model.
            ValueError: a header, or the delay, is none.
        """
        message_id = await outbox.add(self.connection, topic, message, delay=delay, headers=headers)
        self.brokers.add(topic.broker)
        return message_id


def create_pool(url: str, settings: Database) -> Pool:
    """The pool, not opened yet. `await pool.open()` does not wait for the server; the first use does."""
    milliseconds = {
        "statement_timeout": settings.statement_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_session_timeout,
        "client_connection_check_interval": settings.client_connection_check_interval,
    }
    options = " ".join(f"-c {name}={round(value.total_seconds() * 1000)}" for name, value in milliseconds.items())
    keywords: dict[str, Any] = {
        "autocommit": True,
        "application_name": settings.application_name,
        "connect_timeout": max(2, round(settings.connect_timeout.total_seconds())),
        "options": options,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    if not settings.prepare_statements:
        keywords["prepare_threshold"] = None

    class Noting(PooledConnection):
        @classmethod
        async def connect(cls, *arguments: Any, **options: Any) -> Self:
            try:
                made = await super().connect(*arguments, **options)
            except psycopg.Error as error:
                pool.last_failure = error
                raise
            pool.last_failure = None
            made.readiness = pool.readiness
            load_all_times(made)
            return made

    pool = Pool(
        url,
        connection_class=Noting,
        kwargs=keywords,
        open=False,
        name="rolecall",
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        max_waiting=settings.max_waiting,
        timeout=settings.pool_timeout.total_seconds(),
        reconnect_timeout=1.0,
    )
    return pool


def connection() -> AbstractAsyncContextManager[PooledConnection]:
    """A connection in autocommit mode, for reads: a transaction would cost two more round trips.

    Raises:
        DatabaseUnavailable: there is none to be had, or it broke while it was used.
    """
    outer = joined()
    return _Lent() if outer is None else outer.block()


class _Lent:
    """A connection of the pool, for a block. Not a generator, which costs more than what it has to do here."""

    __slots__ = ("_conn", "_pool")
    _conn: PooledConnection

    async def __aenter__(self) -> PooledConnection:
        self._pool = current_pool.get()
        self._conn = await _checked_out(self._pool)
        return self._conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn = self._conn
        try:
            if not isinstance(error, Exception) or conn.ruined:
                return
            if conn.broken or (isinstance(error, psycopg.Error) and is_unavailable(error)):
                raise DatabaseUnavailable(f"PostgreSQL: {one_line(error)}") from error
        finally:
            await _shielded(self._pool.putconn(conn))


@coroutine
def _shielded(call: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Awaits a call that no scope is to cancel, and that hardly ever waits: a shield would cost as much as it."""
    try:
        awaited = call.send(None)
    except StopIteration:
        return
    with anyio.CancelScope(shield=True):  # noqa: ASYNC100 - a `yield from` in a coroutine is an await
        yield from Rest(call, awaited)


@asynccontextmanager
async def unit_of_work() -> AsyncIterator[Work]:
    """One transaction: committed when the block ends, rolled back when it raises.

    A commit that has begun is not interrupted by cancellation: its outcome would be unknown.

    Raises:
        InFailedSqlTransaction: the block caught the error of a statement and went on. PostgreSQL would answer the
            commit with a rollback. What may fail belongs into `async with work.connection.transaction()`.
        NoActiveSqlTransaction: the block itself has ended the transaction.
        DatabaseUnavailable: there is no connection to be had, or it broke; nothing was committed, unless it
            broke, or fell silent, during the commit itself.
    """
    if (outer := joined()) is not None:
        async with outer.block() as conn:
            yield outer.work
            if problem := _uncommittable(conn.pgconn.transaction_status):
                raise problem
        return
    async with transaction(_begin) as work:
        yield work


async def _begin(conn: PooledConnection) -> None:
    await conn.command(b"BEGIN")


@asynccontextmanager
async def transaction(begin: Callable[[PooledConnection], Awaitable[None]]) -> AsyncIterator[Work]:
    """A transaction that stands for itself and is begun by `begin`, perhaps with a statement in the same round trip.

    Raises:
        Exception: as `unit_of_work`.
    """
    async with connection() as conn:
        work = Work(conn)
        try:
            await begin(conn)
            yield work
            if problem := _uncommittable(conn.pgconn.transaction_status):
                raise problem
            with anyio.move_on_after(COMMIT_TIMEOUT, shield=True) as commit:
                await conn.command(b"COMMIT")
            if commit.cancelled_caught:
                raise DatabaseUnavailable(f"PostgreSQL: no answer to a commit in {COMMIT_TIMEOUT:g} s")
        except BaseException:
            conn.forget()
            if conn.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                with anyio.move_on_after(COMMIT_TIMEOUT, shield=True):
                    await conn.command(b"ROLLBACK")
            raise
        if work.brokers:
            reached(Step.OUTBOX_COMMITTED)
        for broker in work.brokers:
            for tell in tuple(current_pool.get().on_published):
                tell(broker)


def _uncommittable(status: int) -> psycopg.Error | None:
    """Why a transaction in this state must not be committed, if it must not."""
    if status == TransactionStatus.INERROR:
        return InFailedSqlTransaction(
            "a statement failed, its error was caught, and nothing can be committed any more: "
            "put what may fail into `async with work.connection.transaction()`"
        )
    if status == TransactionStatus.IDLE:
        return NoActiveSqlTransaction("the transaction was ended within its block: a unit of work commits itself")
    return None


def one_line(error: BaseException) -> str:
    """What libpq has to say, without its line breaks."""
    return " ".join(str(error).split())


def is_unavailable(error: psycopg.Error) -> bool:
    """Whether `error` tells of the world and not of the statement: SQLSTATE 08xxx, 57P0x, or no answer at all."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state.startswith(("08", "57P0"))


async def _checked_out(pool: Pool) -> PooledConnection:
    """A connection that is alive, as far as can be told for free.

    Not the pool's own `check`: it sleeps longer and longer between dead connections, seconds in all after a
    restart of the server. Here each dead one costs nothing but its place, which the pool fills again.
    """
    deadline = monotonic() + pool.timeout
    while True:
        try:
            conn = await pool.getconn(timeout=deadline - monotonic())
        except (psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests) as error:
            if pool.last_failure is not None:
                raise DatabaseUnavailable(f"PostgreSQL: {one_line(pool.last_failure)}") from error
            raise PoolExhausted(f"PostgreSQL: {error}") from error
        except psycopg_pool.PoolClosed as error:
            raise DatabaseUnavailable("PostgreSQL: the pool is not open") from error
        if not conn.is_suspect():
            return conn
        try:
            with anyio.fail_after(CHECK_TIMEOUT):
                await psycopg_pool.AsyncConnectionPool.check_connection(conn)
        except (psycopg.Error, TimeoutError):
            await pool.putconn(conn)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await pool.putconn(conn)
            raise
        else:
            return conn
