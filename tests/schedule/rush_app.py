"""The application with a thousand jobs of the same second, each of which takes a connection for a while."""

from __future__ import annotations

import sys
from pathlib import Path

import roles.schedule.jobs
from app import cli
from db.pool import Work
from roles.schedule import every
from tests.schedule.storm_app import leave_a_trace


async def leave_a_trace_slowly(work: Work) -> None:
    await work.connection.execute("SELECT pg_sleep(0.02)")
    await leave_a_trace(work)


roles.schedule.jobs.JOBS = tuple(  # type: ignore[misc]
    every(seconds=20, name=f"job {number}")(leave_a_trace_slowly) for number in range(1000)
)

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve())
    cli()
