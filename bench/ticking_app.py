"""Rolecall with the jobs of a measurement: JOBS_DUE of every second, and JOBS_IDLE that are not due meanwhile."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import roles.schedule.jobs
from app import cli
from db.pool import Work
from roles.schedule import Job, cron


async def nothing(work: Work) -> None:
    """Does nothing."""


def jobs() -> tuple[Job, ...]:
    later = datetime.now(UTC) + timedelta(hours=12)
    idle = f"{later.minute} {later.hour} * * *"
    return (
        *(cron("* * * * * *", name=f"due {number}")(nothing) for number in range(int(os.environ["JOBS_DUE"]))),
        *(cron(idle, name=f"idle {number}")(nothing) for number in range(int(os.environ["JOBS_IDLE"]))),
    )


roles.schedule.jobs.JOBS = jobs()  # type: ignore[misc]

if __name__ == "__main__":
    cli()
