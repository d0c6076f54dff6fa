"""One tick: the claim, and for a job that is one transaction also the job and the outcome, in that transaction.

```
BEGIN
  lock of the tick      another has it: leave it to that one, and look again later
  is it still the time? it is later than its grace: the policy decides (`roles.schedule.policy`)
  insert into cron_run  it is there already: nothing to do
  is the job paused?    the outcome is "skipped"
  lock of the job       an earlier run still goes on: the outcome is "skipped", or ROLLBACK and look again later
  SAVEPOINT
    the job             it raises or takes too long: ROLLBACK TO SAVEPOINT, again or the outcome is "failed"
  update cron_run       the outcome
COMMIT
```
Effects and book are committed together, so at no instruction can a crash leave one without the other: what had
not been committed never happened, both locks are free, and whoever looks next runs the tick. A failure keeps the
claim, because it undoes no more than the savepoint: no other replica repeats what has failed. A long job's claim is
committed before it is called (`roles.schedule.long`).

The row comes before the lock of the job, so that a replica with a slow clock that looks at a tick of the past
does not hold that lock even for a moment: it would make a run of the next tick believe in an overlap.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

import anyio
import structlog

from db import cron_leases, cron_pauses, cron_runs
from db.cron_runs import CronRun, RunStatus, Trigger
from db.pool import Work, unit_of_work
from roles.clock import Clock
from roles.schedule.attempts import Ruined, in_full, run_in_transaction
from roles.schedule.declarations import Job
from roles.schedule.policy import ON_TIME, Timetable
from roles.tally import Tally
from schema.settings import Schedule
from schema.steps import Step, reached

HOST = f"{socket.gethostname()}:{os.getpid()}"
"""What the book calls this process."""
OVERLAP = "an earlier run of the job still went on"
_LEVELS = {RunStatus.FINISHED: logging.INFO, RunStatus.FAILED: logging.WARNING, RunStatus.SKIPPED: logging.WARNING}

log = structlog.get_logger(__name__)


class Outcome(Enum):
    """What an attempt at a tick came to."""

    RUN = auto()
    """It was run here, or skipped."""
    SETTLED = auto()
    """It is in the book already."""
    BUSY = auto()
    """Somebody is at it, or at another run of the job that it waits for: look again."""
    LATE = auto()
    """It could not be started within its grace: the policy decides."""
    CLAIMED = auto()
    """It is a long run of ours, to be carried out."""


@dataclass(slots=True, eq=False)
class Tick:
    """A moment at which a job is due, while it is dealt with here."""

    table: Timetable
    scheduled_at: datetime
    trigger: Trigger = Trigger.SCHEDULE
    triggered_by: str | None = None
    waits: bool = False
    """Whether it waits when another run of the job goes on, rather than being skipped."""
    chosen: bool = False
    """Whether the policy wants it run however late it is."""
    refused: str | None = None
    """Why it is skipped whatever else."""
    is_running: bool = False
    """Whether the job has been called for it here, in a transaction that has not ended."""
    seen_running: float | None = None
    """When (by the monotonic clock) a run of it was last known to go on, here or elsewhere; None if never."""
    failed_with: BaseException | None = None
    """What it failed with, if the claim was lost on account of that."""
    run: CronRun | None = None
    """Its row in the book, once it is there."""

    @property
    def job(self) -> Job:
        return self.table.job


class _Waits(Exception):
    """Another run of the job goes on: the claim is taken back."""


class Runner:
    """Attempts ticks.

    Params:
        tally: counts the runs; one that neither finished nor failed was given back.
    """

    def __init__(self, *, clock: Clock, settings: Schedule, tally: Tally) -> None:
        self._clock = clock
        self._settings = settings
        self._tally = tally

    async def attempt(self, tick: Tick, *, stop: anyio.Event | None = None) -> Outcome:
        """Runs the tick, unless somebody has; of a long job it makes the claim only.

        Params:
            stop: when it is set nothing is begun any more, also not after a wait for a connection.

        Raises:
            DatabaseUnavailable: the database is away, or went away; then the run left nothing behind.
        """
        try:
            async with unit_of_work() as work:
                drains = stop is not None and stop.is_set()
                outcome = Outcome.BUSY if drains else await self._deal_with(tick, work)
        except _Waits:
            return Outcome.BUSY
        except BaseException as error:
            if tick.is_running:
                tick.is_running = False
                tick.seen_running = self._clock.monotonic()
                self._tally.given_back += 1
            if not isinstance(error, Ruined):
                raise
            tick.failed_with = error.__cause__ or error
            return Outcome.BUSY
        if outcome is Outcome.CLAIMED:
            reached(Step.SCHEDULE_LONG_CLAIMED)
        elif outcome is Outcome.RUN and tick.run is not None:
            if tick.is_running:
                reached(Step.SCHEDULE_COMMITTED)
            tick.is_running = False
            tell(tick.run, self._tally)
        return outcome

    async def _deal_with(self, tick: Tick, work: Work) -> Outcome:
        """What is done in the transaction of an attempt."""
        claimed = await self._claim(tick, work)
        if isinstance(claimed, Outcome):
            return claimed
        if isinstance(claimed, CronRun):
            tick.run = claimed
            return Outcome.RUN
        if not tick.job.transaction:
            await cron_leases.begin(work.connection, claimed, self._settings.lease)
            tick.run = await cron_runs.get(work.connection, claimed)
            return Outcome.CLAIMED
        tick.is_running = True
        self._tally.taken += 1
        tick.run = await self._run(tick, work, claimed)
        return Outcome.RUN

    async def _claim(self, tick: Tick, work: Work) -> int | CronRun | Outcome:
        """The id of the row, if this is where the job is to be called for it; the row, if it is skipped."""
        name, at = tick.job.name, tick.scheduled_at
        if not await cron_runs.lock_tick(work.connection, name, at):
            tick.seen_running = self._clock.monotonic()
            return Outcome.BUSY
        started_at = self._clock.now()
        if self._is_late(tick, started_at):
            return Outcome.LATE
        run_id = await cron_runs.claim(
            work.connection,
            name,
            at,
            started_at=started_at,
            host=HOST,
            trigger=tick.trigger,
            triggered_by=tick.triggered_by,
        )
        if run_id is None:
            tick.run = await cron_runs.of_tick(work.connection, name, at)
            return Outcome.SETTLED
        refused = tick.refused or await self._pause(tick, work)
        if refused is None and not await self._is_alone(tick, work, run_id):
            if tick.waits or started_at > tick.table.starts_at(at) + ON_TIME:
                raise _Waits  # it did not come due during that run: it comes late itself
            refused = OVERLAP
        if refused is None:
            reached(Step.SCHEDULE_CLAIMED)
            return run_id
        now = self._clock.now()
        return await cron_runs.settle(
            work.connection, run_id, status=RunStatus.SKIPPED, started_at=None, finished_at=now, error=refused
        )

    async def _run(self, tick: Tick, work: Work, run_id: int) -> CronRun:
        started_at = self._clock.now()
        attempts, failure = 1, tick.failed_with
        if failure is None:
            attempts, failure = await run_in_transaction(tick.job, tick.table.terms, work, self._clock)
        reached(Step.SCHEDULE_HANDLED)
        run = await cron_runs.settle(
            work.connection,
            run_id,
            status=RunStatus.FAILED if failure else RunStatus.FINISHED,
            started_at=started_at,
            finished_at=self._clock.now(),
            attempts=attempts,
            error=in_full(failure) if failure else None,
        )
        reached(Step.SCHEDULE_MARKED)
        return run

    async def _pause(self, tick: Tick, work: Work) -> str | None:
        if tick.trigger is Trigger.MANUAL:
            return None
        pause = await cron_pauses.get(work.connection, tick.job.name)
        return None if pause is None else f"the job is paused {pause.in_words}"

    async def _is_alone(self, tick: Tick, work: Work, run_id: int) -> bool:
        """Whether no other run of the job goes on; then none begins while this transaction lasts."""
        name = tick.job.name
        return await cron_runs.lock_job(work.connection, name) and (
            tick.job.transaction or not await cron_leases.others(work.connection, name, run_id)
        )

    def _is_late(self, tick: Tick, now: datetime) -> bool:
        """Whether it could not be started within its grace, and not on account of a run of it."""
        if tick.chosen or tick.waits or tick.trigger is Trigger.MANUAL:
            return False
        grace = tick.table.terms.grace
        in_hand = (
            tick.seen_running is not None and self._clock.monotonic() < tick.seen_running + grace.total_seconds()
        )
        return not in_hand and now > tick.table.starts_at(tick.scheduled_at) + grace


def tell(run: CronRun, tally: Tally) -> None:
    """Counts and logs what became of a run of this process."""
    tally.finished += run.status is RunStatus.FINISHED
    tally.failed += run.status is RunStatus.FAILED
    level = _LEVELS[run.status]
    log.log(
        level, "tick ended", status=run.status.value, seconds=run.seconds, attempts=run.attempts, error=run.reason
    )
