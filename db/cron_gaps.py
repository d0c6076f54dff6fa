"""What the book does not have: the queries by which ticks that nobody ran are found, and entered as missed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import ARRAY, BigInteger, DateTime, Text, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import insert

from db.cron_runs import RunStatus, Trigger, cron_run, tick_key
from db.query import Connection, Query
from schema.text import storable


class BookedTick(BaseModel):
    """A tick that has a row, or the ticks from one to another that share it."""

    job: str
    scheduled_at: datetime
    through: datetime | None


_floors = (
    func.unnest(bindparam("jobs", type_=ARRAY(Text)), bindparam("floors", type_=ARRAY(DateTime(timezone=True))))
    .table_valued("job", column("floor", DateTime(timezone=True)))
    .render_derived("floors")
)
_before = cron_run.alias("before")
_before_the_floor = (
    select(func.max(_before.c.scheduled_at))
    .where(
        _before.c.job == _floors.c.job,
        _before.c.trigger == Trigger.SCHEDULE.value,
        _before.c.scheduled_at < _floors.c.floor,
    )
    .scalar_subquery()
)
_ticks = (
    func.unnest(
        bindparam("keys", type_=ARRAY(BigInteger)),
        bindparam("scheduled_at", type_=ARRAY(DateTime(timezone=True))),
        bindparam("through", type_=ARRAY(DateTime(timezone=True))),
    )
    .table_valued("key", "scheduled_at", "through")
    .render_derived("tick")
)

SINCE = Query(
    select(cron_run.c.job, cron_run.c.scheduled_at, cron_run.c.through)
    .select_from(_floors.join(cron_run, cron_run.c.job == _floors.c.job))
    .where(
        cron_run.c.trigger == Trigger.SCHEDULE.value,
        cron_run.c.scheduled_at >= func.coalesce(_before_the_floor, _floors.c.floor),
    )
    .order_by(cron_run.c.job, cron_run.c.scheduled_at)
)
MISSED = Query(
    insert(cron_run)
    .from_select(
        ["job", "scheduled_at", "through", "trigger", "status", "finished_at", "error", "host"],
        select(
            bindparam("job", type_=Text),
            _ticks.c.scheduled_at,
            _ticks.c.through,
            bindparam("trigger", Trigger.SCHEDULE.value, type_=Text),
            bindparam("status", RunStatus.MISSED.value, type_=Text),
            bindparam("decided_at", type_=DateTime(timezone=True)),
            bindparam("error", type_=Text),
            bindparam("host", type_=Text),
        ).where(func.pg_try_advisory_xact_lock(_ticks.c.key)),
    )
    .on_conflict_do_nothing()
    .returning(cron_run.c.job, cron_run.c.scheduled_at, cron_run.c.through)
)


async def since(connection: Connection, floors: Mapping[str, datetime]) -> dict[str, list[BookedTick]]:
    """The ticks of each of these jobs that are in the book since its floor, and the one before; in order."""
    found: dict[str, list[BookedTick]] = {}
    for tick in await SINCE.all(connection, BookedTick, jobs=list(floors), floors=list(floors.values())):
        found.setdefault(tick.job, []).append(tick)
    return found


async def miss(
    connection: Connection,
    job: str,
    ticks: Mapping[datetime, datetime | None],
    *,
    decided_at: datetime,
    error: str,
    host: str,
) -> set[datetime]:
    """Enters ticks as missed; returns those that were: not what has a row already, or is being dealt with.

    Params:
        ticks: when they were due; each with the last tick that its row stands for, or None if it is for that one.
    """
    entered = await MISSED.all(
        connection,
        BookedTick,
        job=job,
        keys=[tick_key(job, tick) for tick in ticks],
        scheduled_at=list(ticks),
        through=list(ticks.values()),
        decided_at=decided_at,
        error=storable(error),
        host=host,
    )
    return {tick.scheduled_at for tick in entered}
