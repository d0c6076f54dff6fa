"""The leases of long runs, on rows of the book. A row with a lease is a run that goes on, or was cut off.

Who holds a run is told by its fence, a number that moves when the run is taken over. Each write of a run names the
fence that it knows, so that one which was taken over changes nothing when it wakes up. Leases are compared with the
database's clock, for it is the only one that all replicas share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Interval,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    update,
)

from db.cron_runs import CronRun, RunStatus, cron_run
from db.query import Connection, Query
from schema.text import storable

_now = func.clock_timestamp()
_until = _now + bindparam("lease", type_=Interval)
_this = (cron_run.c.id == bindparam("id_"), cron_run.c.fence == bindparam("fence_"))
_held = (*_this, cron_run.c.lease_expires_at.is_not(None))
_renewed = (
    func.unnest(
        bindparam("ids", type_=ARRAY(BigInteger)),
        bindparam("fences", type_=ARRAY(Integer)),
        bindparam("notes", type_=ARRAY(Text)),
    )
    .table_valued("id", "fence", "note")
    .render_derived("renewed")
)

BEGIN = Query(update(cron_run).where(cron_run.c.id == bindparam("id_")).values(lease_expires_at=_until, attempts=1))
RUNNING = Query(
    select(cron_run)
    .where(cron_run.c.job == func.any(bindparam("jobs", type_=ARRAY(Text))), cron_run.c.lease_expires_at.is_not(None))
    .order_by(cron_run.c.scheduled_at)
)
_others = (
    select(func.count())
    .select_from(cron_run)
    .where(cron_run.c.job == bindparam("job"), cron_run.c.id != bindparam("id_"))
)
OTHERS = Query(_others.where(cron_run.c.lease_expires_at.is_not(None)))
OTHERS_ALIVE = Query(_others.where(cron_run.c.lease_expires_at > _now))
RENEW = Query(
    update(cron_run)
    .where(
        cron_run.c.id == _renewed.c.id,
        cron_run.c.fence == _renewed.c.fence,
        cron_run.c.lease_expires_at.is_not(None),
    )
    .values(lease_expires_at=_until, progress=_renewed.c.note)
    .returning(cron_run)
)
HOLD = Query(select(literal_column("1")).select_from(cron_run).where(*_held).with_for_update(read=True))
SETTLE = Query(
    update(cron_run)
    .where(*_held)
    .values(
        status=bindparam("status_"),
        finished_at=bindparam("finished_at_"),
        attempts=bindparam("attempts_"),
        error=bindparam("error_"),
        progress=bindparam("progress_"),
        lease_expires_at=None,
    )
    .returning(cron_run)
)
RELEASE = Query(update(cron_run).where(*_held).values(lease_expires_at=_now, error=bindparam("error_")))
EXPIRED = Query(
    select(cron_run)
    .where(cron_run.c.job == func.any(bindparam("jobs", type_=ARRAY(Text))), cron_run.c.lease_expires_at <= _now)
    .order_by(cron_run.c.scheduled_at)
    .with_for_update(skip_locked=True)
)
TAKE_OVER = Query(
    update(cron_run)
    .where(*_held)
    .values(
        fence=cron_run.c.fence + 1,
        attempts=cron_run.c.attempts + 1,
        host=bindparam("host_"),
        started_at=bindparam("started_at_"),
        lease_expires_at=_until,
    )
    .returning(cron_run)
)


async def begin(connection: Connection, run_id: int, lease: timedelta) -> None:
    """Gives a run that was claimed in this transaction its lease."""
    await BEGIN.execute(connection, id_=run_id, lease=lease)


async def running(connection: Connection, jobs: Sequence[str]) -> list[CronRun]:
    """The long runs of these jobs that go on somewhere, or were cut off and not taken over yet."""
    return await RUNNING.all(connection, CronRun, jobs=list(jobs))


async def others(connection: Connection, job: str, run_id: int) -> bool:
    """Whether another long run of the job goes on, or was cut off and is to be taken over.

    Have the lock of the job, or one may begin right afterwards.
    """
    return bool(await OTHERS.scalar(connection, job=job, id_=run_id))


async def others_alive(connection: Connection, job: str, run_id: int) -> bool:
    """Whether another long run of the job goes on. Have the lock of the job here too."""
    return bool(await OTHERS_ALIVE.scalar(connection, job=job, id_=run_id))


async def renew(
    connection: Connection, runs: Mapping[tuple[int, int], str | None], lease: timedelta
) -> set[tuple[int, int]]:
    """Renews leases, and writes down how far the runs are; returns those that are still held.

    Params:
        runs: by id and fence, the progress of each.
    """
    renewed = await RENEW.all(
        connection,
        CronRun,
        ids=[run_id for run_id, _ in runs],
        fences=[fence for _, fence in runs],
        notes=[storable(note) for note in runs.values()],
        lease=lease,
    )
    return {(run.id, run.fence) for run in renewed}


async def hold(connection: Connection, run_id: int, fence: int) -> bool:
    """Whether the run has not been taken over; if so, it is not until this transaction has ended."""
    return await HOLD.scalar(connection, id_=run_id, fence_=fence) is not None


async def settle(
    connection: Connection,
    run_id: int,
    fence: int,
    *,
    status: RunStatus,
    finished_at: datetime,
    attempts: int,
    error: str | None,
    progress: str | None,
) -> CronRun | None:
    """Writes down what became of a run, and ends its lease; None if it has been taken over."""
    return await SETTLE.one(
        connection,
        CronRun,
        id_=run_id,
        fence_=fence,
        status_=status.value,
        finished_at_=finished_at,
        attempts_=attempts,
        error_=storable(error),
        progress_=storable(progress),
    )


async def release(connection: Connection, run_id: int, fence: int, *, error: str) -> bool:
    """Lets the lease expire now, so that the run is taken over at once; False if it has been already."""
    return await RELEASE.execute(connection, id_=run_id, fence_=fence, error_=storable(error)) == 1


async def expired(connection: Connection, jobs: Sequence[str]) -> list[CronRun]:
    """The runs of these jobs whose lease has expired; nobody else takes them over while this transaction lasts."""
    return await EXPIRED.all(connection, CronRun, jobs=list(jobs))


async def take_over(
    connection: Connection, run: CronRun, *, host: str, started_at: datetime, lease: timedelta
) -> CronRun | None:
    """Moves the fence of a run and makes it this replica's; None if somebody has done so already."""
    return await TAKE_OVER.one(
        connection, CronRun, id_=run.id, fence_=run.fence, host_=host, started_at_=started_at, lease=lease
    )
