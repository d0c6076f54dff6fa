"""The application with jobs that write down what they did, on a clock that may be wrong, and that may die at a step.

Environment: CLOCK_SHIFT, seconds that its clock is ahead; JOBS, which jobs it has; DIES_AT, a step at which the
process kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

from structlog.contextvars import get_contextvars

import roles.clock
import roles.schedule.jobs
from app import cli
from db.pool import Work
from roles.schedule import Job, Run, every
from schema.steps import Step, observe

SHIFT = timedelta(seconds=float(os.environ.get("CLOCK_SHIFT", "0")))
DIES_AT = os.environ.get("DIES_AT")
JOBS = os.environ.get("JOBS", "storm")

right = roles.clock.SystemClock.now


def shifted(self: roles.clock.SystemClock) -> datetime:
    return right(self) + SHIFT


roles.clock.SystemClock.now = shifted  # type: ignore[method-assign]


async def leave_a_trace(work: Work) -> None:
    bound = get_contextvars()
    await work.connection.execute(
        "INSERT INTO effect (job, scheduled_at) VALUES (%s, %s)", (bound["job"], bound["scheduled_at"])
    )


async def leave_a_trace_slowly(work: Work) -> None:
    await work.connection.execute("SELECT pg_sleep(0.02)")
    await leave_a_trace(work)


async def leave_a_trace_later(run: Run) -> None:
    async with run.unit_of_work() as work:
        await leave_a_trace(work)


def jobs() -> tuple[Job, ...]:
    match JOBS:
        case "storm":
            return tuple(
                every(seconds=1, name=f"job {number}", overlap="queue")(leave_a_trace) for number in range(10)
            )
        case "rush":
            jobs = range(1000)
            return tuple(every(seconds=20, name=f"job {number}")(leave_a_trace_slowly) for number in jobs)
        case "short":
            return (every(seconds=1, name="short", missed="skip", overlap="queue")(leave_a_trace),)
        case _:
            return (
                every(seconds=1, name="long", missed="skip", overlap="queue", transaction=False, rerun=True)(
                    leave_a_trace_later
                ),
            )


def die(step: Step) -> None:
    if step == DIES_AT and get_contextvars().get("job") in ("short", "long"):
        os.kill(os.getpid(), signal.SIGKILL)


roles.schedule.jobs.JOBS = jobs()  # type: ignore[misc]
observe(die)

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve())
    cli()
