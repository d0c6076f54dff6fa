"""Old rows of the book: which jobs have rows, and the query that deletes some of them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import DateTime, Integer, Text, bindparam, delete, exists, func, select

from db.cron_runs import Trigger, cron_run
from db.query import Connection, Query


class _Name(BaseModel):
    job: str


_names = select(func.min(cron_run.c.job).label("job")).cte("names", recursive=True)
_names = _names.union_all(
    select(select(func.min(cron_run.c.job)).where(cron_run.c.job > _names.c.job).scalar_subquery()).where(
        _names.c.job.is_not(None)
    )
)
_later = cron_run.alias("later")
_is_not_the_last = exists().where(
    _later.c.job == cron_run.c.job,
    _later.c.trigger == Trigger.SCHEDULE.value,
    _later.c.scheduled_at > cron_run.c.scheduled_at,
)
_old = (
    select(cron_run.c.id)
    .where(
        cron_run.c.job == bindparam("job", type_=Text),
        cron_run.c.scheduled_at < bindparam("before", type_=DateTime(timezone=True)),
        cron_run.c.lease_expires_at.is_(None),
        (cron_run.c.trigger != Trigger.SCHEDULE.value) | _is_not_the_last,
    )
    .order_by(cron_run.c.scheduled_at)
    .limit(bindparam("at_most", type_=Integer))
)

NAMES = Query(select(_names.c.job).where(_names.c.job.is_not(None)))
"""By a look into the index for each, not by a walk through the table."""
PRUNE = Query(delete(cron_run).where(cron_run.c.id.in_(_old)))


async def names(connection: Connection) -> list[str]:
    """The names of all jobs that have rows, in order."""
    return [row.job for row in await NAMES.all(connection, _Name)]


async def prune(connection: Connection, job: str, *, before: datetime, at_most: int) -> int:
    """Deletes rows of the job that were due before a time, the oldest first; returns how many.

    The row of its last tick stays, for it says what the job has missed since; so does a run that goes on.
    """
    return await PRUNE.execute(connection, job=job, before=before, at_most=at_most)
