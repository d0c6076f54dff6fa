"""The application with jobs that write down what they did, on a clock that may be wrong, and that may die at a step.

Environment: CLOCK_SHIFT, seconds that its clock is ahead; JOBS, which jobs it has. Each of its lives (see
`tests.crash.lives`) is told the step at which it kills itself, by an empty line none.
"""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta

from structlog.contextvars import get_contextvars

import roles.clock
import roles.schedule.jobs
from db.pool import Work
from roles.schedule import Job, Run, every
from schema.steps import Step, observe
from tests.crash.lives import import_roles, live_on_request, run

SHIFT = timedelta(seconds=float(os.environ.get("CLOCK_SHIFT", "0")))
JOBS = os.environ.get("JOBS", "storm")

right = roles.clock.SystemClock.now


def shifted(self: roles.clock.SystemClock) -> datetime:
    return right(self) + SHIFT


async def leave_a_trace(work: Work) -> None:
    bound = get_contextvars()
    await work.connection.execute(
        "INSERT INTO effect (job, scheduled_at) VALUES (%s, %s)", (bound["job"], bound["scheduled_at"])
    )


async def leave_a_trace_later(run: Run) -> None:
    async with run.unit_of_work() as work:
        await leave_a_trace(work)


def jobs() -> tuple[Job, ...]:
    match JOBS:
        case "storm":
            return tuple(
                every(seconds=1, name=f"job {number}", overlap="queue")(leave_a_trace) for number in range(10)
            )
        case "short":
            return (every(seconds=1, name="short", missed="skip", overlap="queue")(leave_a_trace),)
        case _:
            return (
                every(seconds=1, name="long", missed="skip", overlap="queue", transaction=False, rerun=True)(
                    leave_a_trace_later
                ),
            )


def live(dies_at: str) -> None:
    def die(step: Step) -> None:
        if step == dies_at and get_contextvars().get("job") in ("short", "long"):
            os.kill(os.getpid(), signal.SIGKILL)

    observe(die)
    run()


if __name__ == "__main__":
    roles.clock.SystemClock.now = shifted  # type: ignore[method-assign]
    roles.schedule.jobs.JOBS = jobs()  # type: ignore[misc]
    import_roles()
    live_on_request(live)
