"""What is done to students, and said of them, by the clock."""

from __future__ import annotations

import structlog

from db import students
from db.pool import Work
from roles.schedule import cron, every

log = structlog.get_logger(__name__)


@every(minutes=1)
async def rename_students(work: Work) -> None:
    """Append `_new` to the name of every active student."""
    renamed = await students.rename_active(work.connection, suffix="_new")
    log.info("students renamed", students=renamed)


@cron("0 * * * *", timezone="UTC", missed="latest", overlap="skip", timeout="60s")
async def hourly_report(work: Work) -> None:
    """Log how many students are active."""
    log.info("hourly report", active_students=await students.count_active(work.connection))
