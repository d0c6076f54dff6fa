"""The book of the scheduler: the table, then its queries. A row is a tick of a job and what became of it.

The primary key is the claim: of all replicas one inserts the row, in the transaction that holds the effects of
the job, so that there are both or neither. An uncommitted insert would block the others' inserts, so each first
asks for the lock of the tick, and nobody waits with a connection in hand. The lock of the job is another: who
has it is the one run of the job that goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b

from pydantic import BaseModel
from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Table, Text, bindparam, func, select, true, update
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query

cron_run = Table(
    "cron_run",
    metadata,
    Column("job", Text, primary_key=True),
    Column("scheduled_at", DateTime(timezone=True), primary_key=True),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True)),
    Column("status", Text, nullable=False),
    Column("error", Text),
    Column("host", Text, nullable=False),
)


class RunStatus(StrEnum):
    """What became of a tick."""

    CLAIMED = "claimed"
    """Being run; only the run itself sees this one, for the claim is committed together with the outcome."""
    FINISHED = "finished"
    FAILED = "failed"
    """The job raised or took too long; its effects were rolled back."""
    SKIPPED = "skipped"
    """An earlier run of the job still went on."""


class CronRun(BaseModel):
    """A row of the book."""

    job: str
    scheduled_at: datetime
    started_at: datetime
    finished_at: datetime | None
    status: RunStatus
    error: str | None
    host: str

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return None if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()


_this = (cron_run.c.job == bindparam("job_"), cron_run.c.scheduled_at == bindparam("scheduled_at_"))
_names = func.unnest(bindparam("jobs", type_=ARRAY(Text))).table_valued("job").render_derived("name")
_last = (
    select(cron_run)
    .where(cron_run.c.job == _names.c.job)
    .order_by(cron_run.c.scheduled_at.desc())
    .limit(1)
    .lateral("last_run")
)

TRY_LOCK = Query(select(func.pg_try_advisory_xact_lock(bindparam("key", type_=BigInteger))))
LIMIT_IDLE = Query(
    select(func.set_config("idle_in_transaction_session_timeout", bindparam("limit", type_=Text), true()))
)
CLAIM = Query(
    insert(cron_run)
    .values({name: bindparam(name) for name in ("job", "scheduled_at", "started_at", "status", "host")})
    .on_conflict_do_nothing()
)
SETTLE = Query(
    update(cron_run)
    .where(*_this)
    .values(status=bindparam("status_"), finished_at=bindparam("finished_at_"), error=bindparam("error_"))
    .returning(cron_run)
)
GET = Query(select(cron_run).where(*_this))
LAST = Query(select(_last).select_from(_names.join(_last, true())))


async def lock_tick(connection: Connection, job: str, scheduled_at: datetime) -> bool:
    """Whether this transaction is the one that deals with the tick; it stays so until it ends."""
    return bool(await TRY_LOCK.scalar(connection, key=_key("tick", job, scheduled_at.astimezone(UTC).isoformat())))


async def lock_job(connection: Connection, job: str) -> bool:
    """Whether no other transaction runs the job; then this one does, until it ends."""
    return bool(await TRY_LOCK.scalar(connection, key=_key("job", job)))


async def claim(connection: Connection, job: str, scheduled_at: datetime, *, started_at: datetime, host: str) -> bool:
    """Enters the tick into the book; False if it is there already. Ask `lock_tick` first, or it may wait."""
    values = {"job": job, "scheduled_at": scheduled_at, "started_at": started_at, "host": host}
    return await CLAIM.execute(connection, **values, status=RunStatus.CLAIMED.value) == 1


async def settle(
    connection: Connection,
    job: str,
    scheduled_at: datetime,
    *,
    status: RunStatus,
    finished_at: datetime,
    error: str | None = None,
) -> CronRun:
    """Writes down what became of a claimed tick."""
    run = await SETTLE.one(
        connection,
        CronRun,
        job_=job,
        scheduled_at_=scheduled_at,
        status_=status.value,
        finished_at_=finished_at,
        error_=None if error is None else _storable(error),
    )
    if run is None:
        raise LookupError(f"the claim of {job} at {scheduled_at} has left the book: who deletes from cron_run?")
    return run


async def get(connection: Connection, job: str, scheduled_at: datetime) -> CronRun | None:
    """The row of a tick, or None if there is none."""
    return await GET.one(connection, CronRun, job_=job, scheduled_at_=scheduled_at)


async def last(connection: Connection, jobs: Sequence[str]) -> dict[str, CronRun]:
    """The latest row of each of these jobs, by name; a job without any is not among them."""
    return {run.job: run for run in await LAST.all(connection, CronRun, jobs=list(jobs))}


async def limit_idle(connection: Connection, limit: timedelta) -> None:
    """How long this transaction may wait for its client: as long as a job that asks others takes for that."""
    await LIMIT_IDLE.execute(connection, limit=f"{round(limit / timedelta(milliseconds=1))}ms")


def _key(*parts: str) -> int:
    """A key for an advisory lock. Two that collide make one wait for the other, no more."""
    digest = blake2b("\x00".join(("cron_run", *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _storable(text: str) -> str:
    """What PostgreSQL can store of it: no NUL, no half characters."""
    return text.replace("\x00", "").encode(errors="replace").decode()
