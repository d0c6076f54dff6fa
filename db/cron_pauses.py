"""Jobs that are paused: the table, then its queries. All replicas look before each tick; a row is a paused job."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel
from sqlalchemy import Column, DateTime, Table, Text, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query

cron_pause = Table(
    "cron_pause",
    metadata,
    Column("job", Text, primary_key=True),
    Column("paused_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("paused_by", Text, nullable=False),
    Column("reason", Text),
)


class CronPause(BaseModel):
    """A job that is paused: its ticks are skipped, and in the book as such."""

    job: str
    paused_at: datetime
    paused_by: str
    reason: str | None

    @property
    def in_words(self) -> str:
        """By whom, since when, and why."""
        why = f": {self.reason}" if self.reason else ""
        return f"by {self.paused_by} since {self.paused_at.astimezone(UTC).isoformat(timespec='seconds')}{why}"


ALL = Query(select(cron_pause).order_by(cron_pause.c.job))
GET = Query(select(cron_pause).where(cron_pause.c.job == bindparam("job")))
PAUSE = Query(
    insert(cron_pause)
    .values(job=bindparam("job"), paused_by=bindparam("paused_by"), reason=bindparam("reason"))
    .on_conflict_do_nothing()
    .returning(cron_pause)
)
RESUME = Query(delete(cron_pause).where(cron_pause.c.job == bindparam("job")).returning(cron_pause))


async def all_paused(connection: Connection) -> dict[str, CronPause]:
    """The paused jobs, by name."""
    return {pause.job: pause for pause in await ALL.all(connection, CronPause)}


async def get(connection: Connection, job: str) -> CronPause | None:
    """Since when and by whom the job is paused; None if it is not."""
    return await GET.one(connection, CronPause, job=job)


async def pause(connection: Connection, job: str, *, paused_by: str, reason: str | None = None) -> CronPause | None:
    """Pauses the job; None if it is paused already, and stays so as it was."""
    return await PAUSE.one(connection, CronPause, job=job, paused_by=paused_by, reason=reason)


async def resume(connection: Connection, job: str) -> CronPause | None:
    """Lets the job run again; returns what the pause was, or None if there was none."""
    return await RESUME.one(connection, CronPause, job=job)
