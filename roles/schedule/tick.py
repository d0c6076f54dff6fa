"""One tick: the claim, the job and the outcome, in one transaction.

```
BEGIN
  lock of the tick      another has it: leave it to that one, and look again later
  is it still the time? the next tick has come due meanwhile: give way to it
  insert into cron_run  it is there already: nothing to do
  lock of the job       an earlier run still goes on: the outcome is "skipped"
  SAVEPOINT
    the job             it raises or takes too long: ROLLBACK TO SAVEPOINT, the outcome is "failed"
  update cron_run       the outcome
COMMIT
```
Effects and book are committed together, so at no instruction can a crash leave one without the other: what had
not been committed never happened, both locks are free, and whoever looks next runs the tick. A failure keeps the
claim, because it undoes no more than the savepoint: no other replica repeats what has failed.

The row comes before the lock of the job, so that a replica with a slow clock that looks at a tick of the past
does not hold that lock even for a moment: it would make a run of the next tick believe in an overlap.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from db import cron_runs
from db.cron_runs import CronRun, RunStatus
from db.pool import DatabaseUnavailable, Work, unit_of_work
from roles.cancellation import StrayCancellation, stray_cancellation_as
from roles.clock import Clock
from roles.failures import describe
from roles.schedule.declarations import Job
from roles.tally import Tally
from schema.duration import format_duration
from schema.settings import Schedule

IDLE_MARGIN = timedelta(seconds=10)
"""How much longer than a run may take the server waits for it between two statements."""

OVERLAP = "an earlier run of the job still went on"
_LEVELS = {RunStatus.FINISHED: logging.INFO, RunStatus.FAILED: logging.WARNING, RunStatus.SKIPPED: logging.WARNING}

log = structlog.get_logger(__name__)


class JobTimeout(Exception):
    """A run took longer than its job may."""


@dataclass(slots=True)
class Tick:
    """A moment at which a job is due, while it is dealt with here."""

    job: Job
    scheduled_at: datetime
    seen_running: float | None = None
    """When (by the monotonic clock) a run of it was last known to go on, here or elsewhere; None if never."""
    run: CronRun | None = None
    """Its row in the book, once it is there."""


class Runner:
    """Attempts ticks.

    Params:
        tally: counts the runs; one that neither finished nor failed was given back.
    """

    def __init__(self, *, clock: Clock, settings: Schedule, tally: Tally) -> None:
        self._clock = clock
        self._settings = settings
        self._tally = tally
        self._host = f"{socket.gethostname()}:{os.getpid()}"

    async def attempt(self, tick: Tick) -> bool:
        """Runs the tick, unless somebody has; whether nothing more is to be done for it here.

        Raises:
            DatabaseUnavailable: the database is away, or went away; then the run left nothing behind.
        """
        job, at = tick.job, tick.scheduled_at
        running = False
        error: str | None = None
        try:
            async with unit_of_work() as work:
                if not await cron_runs.lock_tick(work.connection, job.name, at):
                    tick.seen_running = self._clock.monotonic()
                    return False
                started_at = self._clock.now()
                if self._gives_way(tick, started_at):
                    log.warning("tick missed", reason="it could not be run before the next one came due")
                    return True
                run_id = await cron_runs.claim(work.connection, job.name, at, started_at=started_at, host=self._host)
                if run_id is None:
                    tick.run = await cron_runs.of_tick(work.connection, job.name, at)
                    return True
                if await cron_runs.lock_job(work.connection, job.name):
                    running = True
                    self._tally.taken += 1
                    error = await _run(job, work, job.limit(self._settings.timeout))
                    status = RunStatus.FAILED if error else RunStatus.FINISHED
                else:
                    error, status = OVERLAP, RunStatus.SKIPPED
                run = await cron_runs.settle(
                    work.connection,
                    run_id,
                    status=status,
                    started_at=started_at,
                    finished_at=self._clock.now(),
                    attempts=int(running),
                    error=error,
                )
        except BaseException:
            if running:
                tick.seen_running = self._clock.monotonic()
                self._tally.given_back += 1
            raise
        self._tally.finished += status is RunStatus.FINISHED
        self._tally.failed += status is RunStatus.FAILED
        tick.run = run
        log.log(_LEVELS[status], "tick ended", status=status.value, seconds=run.seconds, error=error)
        return True

    def _gives_way(self, tick: Tick, now: datetime) -> bool:
        """Whether the next tick has come due, and it was not on account of this one that it was skipped."""
        grace = self._settings.grace.total_seconds()
        in_hand = tick.seen_running is not None and self._clock.monotonic() < tick.seen_running + grace
        return not in_hand and tick.job.schedule.next_due(tick.scheduled_at) <= now


async def _run(job: Job, work: Work, limit: timedelta) -> str | None:
    """Runs the job behind a savepoint; returns what it failed with, once its effects are undone."""
    await cron_runs.limit_idle(work.connection, limit + IDLE_MARGIN)
    await work.connection.execute(b"SAVEPOINT job")
    failure = await _call(job, work, limit)
    if failure is None:
        return None
    if work.connection.closed:
        raise DatabaseUnavailable(f"PostgreSQL: the connection of a run was lost: {describe(failure)}") from failure
    await work.connection.execute(b"ROLLBACK TO SAVEPOINT job")
    log.error("job failed", error=describe(failure), exc_info=failure)
    return describe(failure)


async def _call(job: Job, work: Work, limit: timedelta) -> Exception | None:
    # asyncio's own timeout, for it cancels once. A scope of anyio's would cancel psycopg's clean-up as well: the
    # connection would be thrown away, with the claim, while the server went on with the statement and the locks.
    deadline = asyncio.timeout(limit.total_seconds())
    failure: Exception | None = None
    try:
        async with deadline:
            with stray_cancellation_as(StrayCancellation):
                await job(work)
                await work.connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")  # or they would fail at the commit
    except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this run alone
        failure = error
    if not deadline.expired():
        return failure
    late = JobTimeout(f"took longer than {format_duration(limit)}")
    late.__cause__ = failure
    return late
