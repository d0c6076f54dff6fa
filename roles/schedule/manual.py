"""Running a job by hand: through the same claim, with the trigger `manual` and the name of who asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import anyio
from structlog.contextvars import bound_contextvars

from db.cron_runs import CronRun, Trigger
from roles.resources import Resources
from roles.schedule.declarations import Job
from roles.schedule.long import LongRuns
from roles.schedule.policy import Timetable
from roles.schedule.tick import Outcome, Runner, Tick
from schema.errors import ConfigurationError
from schema.meant import meant

LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at a run that this one waits for."""


async def run_by_hand(jobs: Sequence[Job], name: str, *, user: str, resources: Resources) -> CronRun | None:
    """Runs the job `name` here and now, whether it is paused or not.

    It takes no tick away. It counts as a run of the job: while it goes on ticks of the job overlap with it, and while
    one of those goes on it is skipped, or waits for it, as `overlap` says. A long run is not run again if it dies.

    Params:
        jobs: all that there are, the built-in ones included.
        user: who asked for it.

    Returns:
        Its row in the book; None if a long run was given up for dead elsewhere before it ended here.

    Raises:
        ConfigurationError: there is no such job.
        DatabaseUnavailable: the database is away; of a job that is one transaction nothing is left behind.
    """
    settings = resources.settings.schedule
    tables = {job.name: Timetable(job, job.terms(settings)) for job in jobs}
    if name not in tables:
        raise ConfigurationError(f"there is no job {name!r}: {meant(name, sorted(tables))}")
    clock = resources.clock
    runner = Runner(clock=clock, settings=settings, tally=resources.board.tally("schedule"))
    waits = tables[name].job.overlap == "queue"
    tick = Tick(tables[name], clock.now(), trigger=Trigger.MANUAL, triggered_by=user, waits=waits)
    with bound_contextvars(job=name, scheduled_at=tick.scheduled_at.isoformat()):
        while (outcome := await runner.attempt(tick)) in (Outcome.BUSY, Outcome.SETTLED):
            if outcome is Outcome.SETTLED:  # somebody asked for it in the same microsecond
                tick.scheduled_at += timedelta.resolution
            else:
                await clock.sleep(LOOK_AGAIN)
        if outcome is not Outcome.CLAIMED or tick.run is None:
            return tick.run
        long_runs = LongRuns(resources, tables.values(), anyio.CapacityLimiter(settings.concurrency))
        async with anyio.create_task_group() as group:
            group.start_soon(long_runs.keep)
            ended = await long_runs.carry_out(tick.run)
            group.cancel_scope.cancel()
        return ended
