"""What the book of the scheduler tells people: its runs, and the sums over them. The table is in `db.cron_runs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Text,
    bindparam,
    column,
    func,
    literal,
    select,
    table,
    true,
)

from db.cron_runs import CronRun, RunStatus, Trigger, cron_run, tick_key
from db.query import Connection, Query


class Figures(BaseModel):
    """What became of the runs of a job, by hand or not, within some time."""

    job: str
    claimed: int = 0
    """Long runs that go on, or whose process died and nobody has noticed."""
    finished: int = 0
    failed: int = 0
    missed: int = 0
    """Rows, of which each may stand for many ticks in a row (`through`)."""
    skipped: int = 0
    mean_seconds: float | None = None
    """Of the runs that finished; None if none did."""
    p95_seconds: float | None = None
    """No more than this took nineteen in twenty of them, interpolated."""

    @property
    def success_rate(self) -> float | None:
        """The share that finished of what finished or failed; None if nothing did."""
        ended = self.finished + self.failed
        return self.finished / ended if ended else None


class _Holder(BaseModel):
    xact_start: datetime | None


_of_job = cron_run.c.job == bindparam("job")
_is_tick = cron_run.c.trigger == Trigger.SCHEDULE.value
_seconds = func.extract("epoch", cron_run.c.finished_at - cron_run.c.started_at)
_finished = cron_run.c.status == RunStatus.FINISHED.value
_names = func.unnest(bindparam("jobs", type_=ARRAY(Text))).table_valued("job").render_derived("name")
_latest = (
    select(cron_run)
    .where(cron_run.c.job == _names.c.job)
    .order_by(cron_run.c.scheduled_at.desc())
    .limit(1)
    .lateral("latest")
)
_lock = table(
    "pg_locks", *map(column, ("pid", "locktype", "database", "classid", "objid", "objsubid", "granted"))
).alias("held")
_session = table("pg_stat_activity", *map(column, ("pid", "datid", "datname", "xact_start"))).alias("session")

FIGURES = Query(
    select(
        cron_run.c.job,
        *(func.count().filter(cron_run.c.status == status.value).label(status.value) for status in RunStatus),
        func.avg(_seconds).filter(_finished).label("mean_seconds"),
        func.percentile_cont(literal(0.95)).within_group(_seconds).filter(_finished).label("p95_seconds"),
    )
    .where(cron_run.c.job == func.any(bindparam("jobs", type_=ARRAY(Text))))
    .where(cron_run.c.scheduled_at >= bindparam("since", type_=DateTime(timezone=True)))
    .group_by(cron_run.c.job)
)
LATEST = Query(select(_latest).select_from(_names.join(_latest, true())))
RUNS = Query(
    select(cron_run)
    .where(_of_job)
    .where(cron_run.c.status == func.any(bindparam("statuses", type_=ARRAY(Text))))
    .where(cron_run.c.scheduled_at >= bindparam("since"))
    .order_by(cron_run.c.scheduled_at.desc(), cron_run.c.id.desc())
    .limit(bindparam("limit"))
)
AT = Query(select(cron_run).where(_of_job, cron_run.c.scheduled_at == bindparam("at")).order_by(cron_run.c.id))
UP_TO = Query(
    select(cron_run)
    .where(_of_job, _is_tick, cron_run.c.scheduled_at <= bindparam("at"))
    .order_by(cron_run.c.scheduled_at.desc())
    .limit(1)
)
SHARED = Query(
    select(cron_run)
    .where(_of_job, _is_tick, cron_run.c.scheduled_at <= bindparam("at"), cron_run.c.through >= bindparam("at"))
    .order_by(cron_run.c.scheduled_at.desc())
    .limit(1)
)
FIRST = Query(select(cron_run).where(_of_job, _is_tick).order_by(cron_run.c.scheduled_at).limit(1))
HOLDER = Query(
    select(_session.c.xact_start)
    .select_from(_lock.join(_session, _lock.c.pid == _session.c.pid))
    .where(_session.c.datname == func.current_database(), _lock.c.database == _session.c.datid, _lock.c.granted)
    .where(_lock.c.locktype == "advisory", _lock.c.objsubid == 1)  # 1: a key of 64 bits, kept in two halves
    .where(_lock.c.classid == bindparam("high", type_=BigInteger))
    .where(_lock.c.objid == bindparam("low", type_=BigInteger))
)


async def figures(connection: Connection, jobs: Iterable[str], *, since: datetime) -> dict[str, Figures]:
    """The sums over the runs of each job since then, by name; a job without any is not among them."""
    return {each.job: each for each in await FIGURES.all(connection, Figures, jobs=list(jobs), since=since)}


async def latest(connection: Connection, jobs: Iterable[str]) -> dict[str, CronRun]:
    """The latest row of each job, of a tick or of a run by hand, by name; a job without any is not among them."""
    return {run.job: run for run in await LATEST.all(connection, CronRun, jobs=list(jobs))}


async def runs(
    connection: Connection, job: str, *, statuses: Sequence[RunStatus], since: datetime, limit: int
) -> list[CronRun]:
    """The newest runs that came to one of these statuses, newest first."""
    return await RUNS.all(connection, CronRun, job=job, statuses=[*statuses], since=since, limit=limit)


async def at(connection: Connection, job: str, moment: datetime) -> list[CronRun]:
    """The row of the tick of that moment and that of a run that was asked for in it; mostly one, or none."""
    return await AT.all(connection, CronRun, job=job, at=moment)


async def of_tick(connection: Connection, job: str, scheduled_at: datetime) -> CronRun | None:
    """The row that tells of the tick: its own, or one that stands for many in a row; None if there is none."""
    latest = await UP_TO.one(connection, CronRun, job=job, at=scheduled_at)
    if latest is not None and (latest.through or latest.scheduled_at) >= scheduled_at:
        return latest
    return latest and await SHARED.one(connection, CronRun, job=job, at=scheduled_at)


async def first(connection: Connection, job: str) -> CronRun | None:
    """The row of the first tick that the book still has."""
    return await FIRST.one(connection, CronRun, job=job)


async def running_since(connection: Connection, job: str, scheduled_at: datetime) -> datetime | None:
    """When the transaction began that deals with the tick at this moment, somewhere; None if there is none.

    It looks at the lock without asking for it, for that could make a replica believe that another one is at the tick.
    """
    high, low = divmod(tick_key(job, scheduled_at) % 2**64, 2**32)
    holder = await HOLDER.one(connection, _Holder, high=high, low=low)
    return None if holder is None else holder.xact_start
