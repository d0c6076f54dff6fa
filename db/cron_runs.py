"""The book of the scheduler: the table, then the queries of a tick. A row is a tick of a job and what became of it.

The key `(job, scheduled_at, trigger)` is the claim: of all replicas one inserts the row. A job that is one
transaction does so in that transaction, so that there are both claim and effects or neither. An uncommitted insert
would block the others' inserts, so each first asks for the lock of the tick, and nobody waits with a connection in
hand. The lock of the job is another: who has it is the one run of the job that goes on.

A run by hand has the trigger `manual` and the moment at which it was asked for, so that it is no tick and takes
none away. What long jobs need of the table is in `db.cron_leases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b

from pydantic import BaseModel
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    func,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query
from schema.settings import LONGEST_WAIT
from schema.text import storable

cron_run = Table(
    "cron_run",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job", Text, nullable=False),
    Column("scheduled_at", DateTime(timezone=True), nullable=False),
    Column("trigger", Text, nullable=False, server_default=text("'schedule'")),
    Column("triggered_by", Text),
    Column("status", Text, nullable=False),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("host", Text, nullable=False),
    Column("through", DateTime(timezone=True)),
    Column("progress", Text),
    Column("lease_expires_at", DateTime(timezone=True)),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("job", "scheduled_at", "trigger"),
)
Index("cron_run_lease_idx", cron_run.c.job, postgresql_where=cron_run.c.lease_expires_at.is_not(None))


class RunStatus(StrEnum):
    """What became of a tick."""

    CLAIMED = "claimed"
    """Being run. Of a job that is one transaction only the run itself sees this: the claim is committed together
    with the outcome. A long job's is there for all to see, with a lease."""
    FINISHED = "finished"
    FAILED = "failed"
    """The job raised or took too long, and its effects were rolled back; or the lease of a long run expired."""
    MISSED = "missed"
    """Nothing could run it when it was due, and the job does not make up for it; it was not run."""
    SKIPPED = "skipped"
    """An earlier run of the job still went on, or the job was paused; it was not run."""


class Trigger(StrEnum):
    """What a run came from."""

    SCHEDULE = "schedule"
    MANUAL = "manual"


class CronRun(BaseModel):
    """A row of the book."""

    id: int
    job: str
    scheduled_at: datetime
    """When the tick was due; of a run by hand, when it was asked for."""
    trigger: Trigger
    triggered_by: str | None
    """Who ran it by hand."""
    status: RunStatus
    started_at: datetime | None
    """None if it was not run. Of a run that was tried again elsewhere, when that began."""
    finished_at: datetime | None
    """When it ended, or when it was decided that it is not run."""
    attempts: int
    """How often the job was called for it, the runs of replicas that died included where they are known of."""
    error: str | None
    """Why it failed, or was not run: one line, and after it the traceback if there is one."""
    host: str
    """Where it was run or given up, as `host:pid`."""
    through: datetime | None
    """The row stands for all ticks from `scheduled_at` to this one; None if it stands for one."""
    progress: str | None
    """What a long run last said of itself."""
    lease_expires_at: datetime | None
    """Until when a long run is believed to go on, by the database's clock; None if it has ended."""
    fence: int
    """How often the run was taken over from a replica that died."""

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it goes on or was not run."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def reason(self) -> str | None:
        """The first line of `error`."""
        return None if self.error is None else self.error.partition("\n")[0]


_tick = (
    cron_run.c.job == bindparam("job_"),
    cron_run.c.scheduled_at == bindparam("scheduled_at_"),
    cron_run.c.trigger == Trigger.SCHEDULE.value,
)
_names = func.unnest(bindparam("jobs", type_=ARRAY(Text))).table_valued("job").render_derived("name")
_last = (
    select(cron_run)
    .where(cron_run.c.job == _names.c.job, cron_run.c.trigger == Trigger.SCHEDULE.value)
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
    .values(
        {
            name: bindparam(name)
            for name in ("job", "scheduled_at", "trigger", "triggered_by", "started_at", "status", "host")
        }
    )
    .on_conflict_do_nothing()
    .returning(cron_run.c.id)
)
SETTLE = Query(
    update(cron_run)
    .where(cron_run.c.id == bindparam("id_"))
    .values(
        status=bindparam("status_"),
        started_at=bindparam("started_at_"),
        finished_at=bindparam("finished_at_"),
        attempts=bindparam("attempts_"),
        error=bindparam("error_"),
    )
    .returning(cron_run)
)
GET = Query(select(cron_run).where(cron_run.c.id == bindparam("id_")))
OF_TICK = Query(select(cron_run).where(*_tick))
LAST = Query(select(_last).select_from(_names.join(_last, true())))


async def lock_tick(connection: Connection, job: str, scheduled_at: datetime) -> bool:
    """Whether this transaction is the one that deals with the tick; it stays so until it ends."""
    return bool(await TRY_LOCK.scalar(connection, key=tick_key(job, scheduled_at)))


async def lock_job(connection: Connection, job: str) -> bool:
    """Whether no other transaction runs the job; then this one does, until it ends."""
    return bool(await TRY_LOCK.scalar(connection, key=_key("job", job)))


async def claim(
    connection: Connection,
    job: str,
    scheduled_at: datetime,
    *,
    started_at: datetime,
    host: str,
    trigger: Trigger = Trigger.SCHEDULE,
    triggered_by: str | None = None,
) -> int | None:
    """Enters the tick into the book; returns the id of its row, or None if there is one already.

    Ask `lock_tick` first, or it may wait.
    """
    found = await CLAIM.scalar(
        connection,
        job=job,
        scheduled_at=scheduled_at,
        trigger=trigger.value,
        triggered_by=triggered_by,
        started_at=started_at,
        status=RunStatus.CLAIMED.value,
        host=host,
    )
    return None if found is None else int(found)


async def settle(
    connection: Connection,
    run_id: int,
    *,
    status: RunStatus,
    started_at: datetime | None,
    finished_at: datetime,
    attempts: int = 0,
    error: str | None = None,
) -> CronRun:
    """Writes down what became of a tick that was claimed in this transaction."""
    run = await SETTLE.one(
        connection,
        CronRun,
        id_=run_id,
        status_=status.value,
        started_at_=started_at,
        finished_at_=finished_at,
        attempts_=attempts,
        error_=storable(error),
    )
    if run is None:
        raise LookupError(f"run {run_id} has left the book: who deletes from cron_run?")
    return run


async def get(connection: Connection, run_id: int) -> CronRun | None:
    """The row, or None if there is none."""
    return await GET.one(connection, CronRun, id_=run_id)


async def of_tick(connection: Connection, job: str, scheduled_at: datetime) -> CronRun | None:
    """The row of a tick, or None if there is none."""
    return await OF_TICK.one(connection, CronRun, job_=job, scheduled_at_=scheduled_at)


async def last(connection: Connection, jobs: Sequence[str]) -> dict[str, CronRun]:
    """The row of the latest tick of each of these jobs, by name; a job without any is not among them."""
    return {run.job: run for run in await LAST.all(connection, CronRun, jobs=list(jobs))}


async def limit_idle(connection: Connection, limit: timedelta) -> None:
    """How long this transaction may wait for its client: as long as a job that asks others takes for that."""
    milliseconds = round(min(limit, LONGEST_WAIT) / timedelta(milliseconds=1))
    await LIMIT_IDLE.execute(connection, limit=f"{milliseconds}ms")


def tick_key(job: str, scheduled_at: datetime) -> int:
    """The key of the lock of a tick."""
    return _key("tick", job, scheduled_at.astimezone(UTC).isoformat())


def _key(*parts: str) -> int:
    """A key for an advisory lock. Two that collide make one wait for the other, no more."""
    digest = blake2b("\x00".join(("cron_run", *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
