"""One look at the outbox for one broker: takes a batch, publishes it, and deletes what was confirmed.

One at a time in the cluster: each round is a transaction that holds the broker's advisory lock. Nobody holds it for
longer than that, so there is no leader to lose: whoever has committed a message has it sent at once by the relay of
his own process, and a relay that dies leaves the lock to the next one that asks. While a round waits for the broker
it tells the server every second that it lives. One that does not, because its machine is gone, is ended by the
server after `LEASE`.

What a broker has confirmed and the database could not be told is remembered here, and deleted as soon as it can be.
So a message is sent twice only if the process dies between the confirm and the commit, or the lock is lost meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import psycopg
from psycopg.errors import IdleInTransactionSessionTimeout

from db import outbox_relay
from db.outbox_relay import OutboxMessage
from db.pool import DatabaseUnavailable, Work, unit_of_work
from db.query import Connection
from roles.amqp import Channel
from roles.clock import Clock
from roles.relay.batch import Batch, Flights
from roles.tally import Tally
from schema.steps import Step, reached

LEASE = timedelta(seconds=5)
"""How long the server lets a silent round keep the lock."""
BEAT = timedelta(seconds=1)
"""How often a round that waits for the broker says that it lives."""
MAX_BYTES = 4 * 1024 * 1024
"""Bodies of a batch, together; a single message may be larger."""
POSTPONED_AT_A_TIME = 10_000


@dataclass(frozen=True, slots=True)
class Round:
    """What one look at the outbox came to."""

    now: datetime | None
    """The database's clock; None if another relay was at it."""
    oldest: datetime | None = None
    """When the first of the messages that were taken was written; None if none was."""
    next_in: float | None = None
    """Seconds until the next message becomes available, if none was and there is one."""
    taken: int = 0
    """How many messages were available, as far as they fit into a batch."""
    full: bool = False
    """Whether more may be available than fitted."""


class Rounds:
    """Looks at the outbox for one broker.

    Params:
        channel: gives the channel to publish on, a new one if the last was lost.
        limit: messages in a batch.
        tally: counts messages; one that neither finished nor failed will be tried again.
    """

    def __init__(
        self,
        broker: str,
        flights: Flights,
        *,
        channel: Callable[[], Awaitable[Channel]],
        limit: int,
        clock: Clock,
        tally: Tally,
    ) -> None:
        self._broker = broker
        self._flights = flights
        self._channel = channel
        self._limit = limit
        self._clock = clock
        self._tally = tally
        self._confirmed: set[int] = set()
        """Rows that the broker has, and whose deletion is not committed."""

    async def __call__(self) -> Round:
        """One round.

        Raises:
            BrokerUnavailable, TopologyMismatch: the broker is away; what it had confirmed by then is deleted.
            DatabaseUnavailable: the database is away, or took the round for dead.
        """
        await self._channel()  # without a broker there is no use in asking the database
        lost: Exception | None = None
        try:
            async with unit_of_work() as work:
                now = await outbox_relay.lock(work.connection, self._broker, lease=LEASE)
                if now is None:
                    return Round(now=None)
                if self._confirmed:
                    await outbox_relay.remove(work.connection, self._confirmed)
                rows = await outbox_relay.take(work.connection, self._broker, limit=self._limit, max_bytes=MAX_BYTES)
                if rows:
                    lost = await self._send(work, rows, now)
                    done = Round(
                        now=now,
                        oldest=min(row.created_at for row in rows),
                        taken=len(rows),
                        full=len(rows) == self._limit or sum(len(row.body) for row in rows) >= MAX_BYTES,
                    )
                else:
                    done = Round(now=now, next_in=await outbox_relay.next_available(work.connection, self._broker))
        except IdleInTransactionSessionTimeout as error:
            raise DatabaseUnavailable(f"PostgreSQL: nothing was heard of this relay for {LEASE}") from error
        if self._confirmed:
            self._confirmed.clear()
            reached(Step.RELAY_DELETED)
        if lost is not None:
            raise lost
        return done

    async def _send(self, work: Work, rows: Sequence[OutboxMessage], now: datetime) -> Exception | None:
        """Publishes, and writes down what became of each; returns why the broker is away, if it is."""
        began = self._clock.monotonic()

        def database_now() -> datetime:
            return now + timedelta(seconds=self._clock.monotonic() - began)

        batch = Batch(rows, self._flights, channel=self._channel, now=database_now, tally=self._tally)
        conn = work.connection
        try:
            async with _kept_alive(conn, self._clock):
                await batch.run(lambda: not conn.closed)
        finally:
            self._confirmed.update(batch.confirmed)
        if self._confirmed:
            await outbox_relay.remove(conn, self._confirmed)
        for row, error, until in batch.failed:
            await outbox_relay.fail(conn, [row], error=error, until=until)
        for (exchange, routing_key), trouble in batch.postponed.items():
            await outbox_relay.postpone(
                conn,
                self._broker,
                exchange,
                routing_key,
                error=trouble.error,
                until=trouble.until,
                limit=POSTPONED_AT_A_TIME,
            )
        return batch.lost


@asynccontextmanager
async def _kept_alive(connection: Connection, clock: Clock) -> AsyncIterator[None]:
    """Has the connection say that it lives, for as long as the block lasts, or until it is lost."""

    async def beat() -> None:
        while not connection.closed:
            await clock.sleep(BEAT.total_seconds())
            try:
                with anyio.move_on_after(LEASE.total_seconds(), shield=True):  # a cancelled statement would cost it
                    await connection.execute(b"SELECT 1")
            except psycopg.Error:
                return  # whoever uses it next is told

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        yield
        group.cancel_scope.cancel()
