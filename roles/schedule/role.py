"""The `schedule` role: waits for the next tick of any job and sees each tick that is due through to its outcome.

What becomes of ticks, by the book (`cron_run`):

- **On time.** Every replica tries every tick; one claims it, the others find its row.
- **Handover.** Who finds that another is at a tick looks again every second until its row is there. If that
  replica dies, its claim is gone, and the next to look runs the tick.
- **Missed.** What came due after the last row of the job while nothing ran is decided when something runs
  again: the latest such tick is run, those before it are not. The same after a laptop slept, and when a tick
  waited so long for the database or for its turn that the next one has come due; but one that was running is
  not given up within `schedule.grace`. A job without a row is new: it looks back no further than that.
  What is missed is in the log, and not in the book.
- **Overlap.** A tick that comes due while an earlier run of its job still goes on, anywhere, is skipped, and in
  the book as such. Clocks that differ by more than a job's interval can make one of its ticks look like that.
- **The database is away.** When it starts, the role needs the book and fails without. Later it stays, because
  no restart would help: each tick that is due is tried again until the database is back or the next is due.

At most `schedule.concurrency` ticks are dealt with at a time, so that a thousand jobs of the same second leave
connections to the other roles, and each in a task of its own, so that a job that hangs harms no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from heapq import heapify, heapreplace
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus
from structlog.contextvars import bound_contextvars

from db import cron_runs
from db.cron_runs import CronRun, RunStatus
from db.pool import DatabaseUnavailable, connection
from roles.board import JobStatus
from roles.resources import Resources
from roles.schedule.declarations import Job, validate
from roles.schedule.jobs import JOBS
from roles.schedule.tick import Runner, Tick
from roles.timers import until

SLICE: Final = timedelta(seconds=1)
"""The longest sleep: a laptop that slept, or a clock that was put forward, is noticed after it."""
STEP_BACK: Final = timedelta(seconds=1)
"""By how much the clock may go back before what is due next is worked out anew."""
LOOK_AGAIN: Final = timedelta(seconds=1)
"""The pause between two attempts at a tick: another replica was at it, or the database was away."""

log = structlog.get_logger(__name__)


class ScheduleRole:
    """Runs jobs when they are due.

    Raises:
        ConfigurationError: a declaration can never work.
    """

    def __init__(self, resources: Resources, *, jobs: Sequence[Job] = JOBS) -> None:
        validate(jobs)
        self._jobs = jobs
        self._clock = resources.clock
        self._settings = resources.settings.schedule
        self._runner = Runner(clock=self._clock, settings=self._settings, tally=resources.board.tally("schedule"))
        self._board = resources.board.jobs
        self._turns = anyio.CapacityLimiter(self._settings.concurrency)
        for job in jobs:
            self._board.setdefault(job.name, JobStatus(job.name, str(job.schedule)))

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Fires ticks until it is asked to stop; then fires no more, and returns when those in hand have ended.

        Raises:
            DependencyUnavailable: the database is away, and with it the book that says what has been run.
        """
        async with connection() as conn:
            book = await cron_runs.last(conn, [job.name for job in self._jobs])
        for run in book.values():
            self._report(run)
        async with anyio.create_task_group() as ticks:
            task_status.started()
            async with until(stop):
                await self._fire(ticks, stop, book)

    async def _fire(self, ticks: TaskGroup, stop: anyio.Event, book: Mapping[str, CronRun]) -> None:
        seen = self._clock.now()
        upcoming = self._upcoming([self._since(book.get(job.name), seen) for job in self._jobs])
        while True:
            now = self._clock.now()
            if now < seen - STEP_BACK:
                log.warning("the clock went back", seconds=(seen - now).total_seconds())
                upcoming = self._upcoming([now] * len(self._jobs))
            seen = now
            while upcoming and upcoming[0][0] <= now:
                due, index = upcoming[0]
                ticks.start_soon(self._see_through, _latest(self._jobs[index], due, now), stop)
                heapreplace(upcoming, (self._next_due(index, now), index))
            pause = min(SLICE, upcoming[0][0] - now) if upcoming else SLICE
            await self._clock.sleep(pause.total_seconds())

    def _since(self, last: CronRun | None, now: datetime) -> datetime:
        """The time after which ticks of a job may still be open, judged by its last row in the book."""
        return now - self._settings.grace if last is None else min(last.scheduled_at, now)

    def _upcoming(self, since: Sequence[datetime]) -> list[tuple[datetime, int]]:
        """A heap of when each job (by index) is due next."""
        upcoming = [(self._next_due(index, after), index) for index, after in enumerate(since)]
        heapify(upcoming)
        return upcoming

    def _next_due(self, index: int, after: datetime) -> datetime:
        job = self._jobs[index]
        due = job.schedule.next_due(after)
        self._board[job.name].next_at = due
        return due

    async def _see_through(self, tick: Tick, stop: anyio.Event) -> None:
        """Attempts a tick until nothing more is to be done for it here."""
        with bound_contextvars(job=tick.job.name, scheduled_at=tick.scheduled_at.isoformat()):
            while True:
                async with self._turns:
                    if stop.is_set() or await self._settled(tick):
                        return
                async with until(stop):
                    await self._clock.sleep(LOOK_AGAIN.total_seconds())

    async def _settled(self, tick: Tick) -> bool:
        """Attempts a tick; whether nothing more is to be done for it here."""
        try:
            settled = await self._runner.attempt(tick)
        except DatabaseUnavailable as error:
            log.warning("tick waits for the database", error=str(error))
            return False
        if tick.run is not None:
            self._report(tick.run)
        return settled

    def _report(self, run: CronRun) -> None:
        status = self._board[run.job]
        if run.status is RunStatus.SKIPPED or run.started_at is None:
            return
        if status.last_at is not None and run.started_at < status.last_at:
            return
        status.last_at = run.started_at
        status.last_status = run.status.value
        status.last_error = run.error
        status.last_seconds = run.seconds


def _latest(job: Job, due: datetime, now: datetime) -> Tick:
    """The tick that is to be run when one at `due` has come due, though perhaps long ago."""
    latest = job.schedule.latest(due, now)
    if latest is not None:
        log.warning("ticks missed", job=job.name, first=due.isoformat(), run_instead=latest.isoformat())
    return Tick(job, latest or due)
