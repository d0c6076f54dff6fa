"""The `schedule` role: waits for the next tick of any job and sees each tick that is due through to its outcome.

What becomes of ticks, by the book (`cron_run`):

- **On time.** Every replica tries every tick; one claims it, the others find its row.
- **Handover.** Who finds that another is at a tick looks again, every second at the latest, until its row is there.
  If that replica dies, its claim is gone, and the next to look runs the tick. A long run leaves a lease behind.
- **Missed.** A job *is behind* when ticks of it are open that nobody looked at in time: at the start, after a laptop
  slept, after the database was away, and when a tick waited for its turn for longer than its grace. Then the book
  is read, and `roles.schedule.policy` decides which of them are run. The others are in the book as missed.
- **Overlap.** A tick that comes due while an earlier run of its job still goes on, anywhere, is skipped, and in
  the book as such, or waits. One that is late itself waits in any case. Clocks that differ by more than a job's
  interval can make one of its ticks look like an overlap.
- **The database is away.** When it starts, the role needs the book and fails without. Later it stays, because no
  restart would help: what came due meanwhile is decided when the database is back.

At most `schedule.concurrency` ticks are dealt with at a time, so that a thousand jobs of the same second leave
connections to the other roles, and each in a task of its own, so that a job that hangs harms no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import heapify, heapreplace
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus
from structlog.contextvars import bound_contextvars

from db import cron_leases, cron_pauses, cron_runs
from db.cron_runs import CronRun, RunStatus
from db.pool import DatabaseUnavailable, connection
from roles.board import JobStatus
from roles.resources import Resources
from roles.schedule.behind import Behind, catch_up
from roles.schedule.declarations import Job, validate
from roles.schedule.jobs import JOBS
from roles.schedule.jobs.pruning import BUILT_IN
from roles.schedule.lane import Lane
from roles.schedule.long import LongRuns
from roles.schedule.policy import Timetable
from roles.schedule.tick import Outcome, Runner, Tick
from roles.timers import until

SLICE: Final = timedelta(seconds=1)
"""The longest sleep: a laptop that slept, or a clock that was put forward, is noticed after it."""
STEP_BACK: Final = timedelta(seconds=1)
"""By how much the clock may go back before what is due next is worked out anew."""
LOOK_AGAIN: Final = timedelta(seconds=1)
"""The longest pause between two looks at a tick that another replica is at, or at a database that is away."""
FIRST_LOOK: Final = timedelta(milliseconds=100)
"""The first such pause; it doubles."""
ROUND: Final = timedelta(seconds=5)
"""How often runs that were cut off, and pauses, are looked for."""

Entry = tuple[datetime, int, datetime]
"""When a tick starts, its job by index, and when it is due."""

log = structlog.get_logger(__name__)


class ScheduleRole:
    """Runs jobs when they are due.

    Params:
        jobs: those of the service.
        built_in: those that come with it.

    Raises:
        ConfigurationError: a declaration can never work.
    """

    def __init__(
        self, resources: Resources, *, jobs: Sequence[Job] = JOBS, built_in: Sequence[Job] = BUILT_IN
    ) -> None:
        validate(jobs, built_in=built_in)
        declared = (*jobs, *built_in)
        settings = resources.settings.schedule
        self._clock = resources.clock
        self._tables = [Timetable(job, job.terms(settings)) for job in declared]
        self._turns = anyio.CapacityLimiter(settings.concurrency)
        self._runner = Runner(clock=self._clock, settings=settings, tally=resources.board.tally("schedule"))
        self._long_runs = LongRuns(resources, self._tables, self._turns)
        self._board = resources.board.jobs
        self._lanes = [Lane() for _ in self._tables]
        self._in_hand: list[set[datetime]] = [set() for _ in self._tables]
        self._behind: dict[int, datetime | None] = {}
        """Jobs by index, each with the first tick that is known to have been too late."""
        self._is_behind = anyio.Event()
        for job in declared:
            self._board.setdefault(job.name, JobStatus(job.name, str(job.schedule)))

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Fires ticks until it is asked to stop; then fires no more, and returns when those in hand have ended.

        Raises:
            DatabaseUnavailable: the database is away, and with it the book that says what has been run.
        """
        async with connection() as conn:
            for run in (await cron_runs.last(conn, [table.job.name for table in self._tables])).values():
                self._report(run)
        seen = self._clock.now()
        self._behind.update(dict.fromkeys(range(len(self._tables))))
        open_ticks = await self._catch_up()
        upcoming = self._upcoming(seen)
        async with anyio.create_task_group() as keeping:
            keeping.start_soon(self._long_runs.keep)
            async with anyio.create_task_group() as ticks:
                self._start(ticks, open_ticks, stop)
                task_status.started()
                async with until(stop), anyio.create_task_group() as group:
                    group.start_soon(self._fire, ticks, stop, seen, upcoming)
                    group.start_soon(self._make_up, ticks, stop)
                    group.start_soon(self._go_round, ticks)
                self._long_runs.stop()
            keeping.cancel_scope.cancel()

    async def _fire(self, ticks: TaskGroup, stop: anyio.Event, seen: datetime, upcoming: list[Entry]) -> None:
        """Starts each tick when it is due; what it comes too late for it leaves to `_make_up`."""
        while True:
            now = self._clock.now()
            if now < seen - STEP_BACK:
                log.warning("the clock went back", seconds=(seen - now).total_seconds())
                upcoming = self._upcoming(now)
            seen = now
            while upcoming and upcoming[0][0] <= now:
                start, index, due = upcoming[0]
                table = self._tables[index]
                following = table.job.schedule.next_due(due)
                if index in self._behind or table.starts_at(following) <= now or now - start > table.terms.grace:
                    self._is_late(index, due)
                    following = table.upcoming(now)
                else:
                    self._start(ticks, [(index, Tick(table, due))], stop)
                heapreplace(upcoming, self._entry(index, following))
            pause = min(SLICE, upcoming[0][0] - now) if upcoming else SLICE
            await self._clock.sleep(pause.total_seconds())

    def _upcoming(self, now: datetime) -> list[Entry]:
        """A heap of the next tick of each job."""
        upcoming = [self._entry(index, table.upcoming(now)) for index, table in enumerate(self._tables)]
        heapify(upcoming)
        return upcoming

    def _entry(self, index: int, due: datetime) -> Entry:
        table = self._tables[index]
        self._board[table.job.name].next_at = due
        return table.starts_at(due), index, due

    def _is_late(self, index: int, tick: datetime) -> None:
        self._behind[index] = min(tick, self._behind.get(index) or tick)
        self._is_behind.set()

    async def _make_up(self, ticks: TaskGroup, stop: anyio.Event) -> None:
        """Decides what becomes of the open ticks of jobs that are behind, as soon as the database can be asked."""
        while True:
            await self._is_behind.wait()
            try:
                open_ticks = await self._catch_up()
            except DatabaseUnavailable as error:
                log.warning("ticks wait for the database", jobs=len(self._behind), error=str(error))
                await self._clock.sleep(LOOK_AGAIN.total_seconds())
            else:
                self._start(ticks, open_ticks, stop)

    async def _catch_up(self) -> list[tuple[int, Tick]]:
        """The ticks that are to be dealt with of all jobs that are behind; those are not any more.

        Raises:
            DatabaseUnavailable: the book cannot be read. They still are.
        """
        behind, self._behind = self._behind, {}
        self._is_behind = anyio.Event()
        jobs = {index: Behind(self._tables[index], late, self._in_hand[index]) for index, late in behind.items()}
        try:
            return await catch_up(jobs, self._clock)
        except BaseException:
            for index, late in behind.items():
                self._is_late(index, late or self._clock.now())
            raise

    async def _go_round(self, ticks: TaskGroup) -> None:
        """Takes over runs that were cut off, and tells the board what all replicas know."""
        names = [table.job.name for table in self._tables]
        while True:
            try:
                for run in await self._long_runs.take_over():
                    ticks.start_soon(self._carry_out, run)
                async with connection() as conn:
                    pauses = await cron_pauses.all_paused(conn)
                    self._long_runs.show(await cron_leases.running(conn, names))
            except DatabaseUnavailable as error:
                log.debug("no round: the database is away", error=str(error))
            else:
                for name in names:
                    pause = pauses.get(name)
                    self._board[name].paused = None if pause is None else pause.in_words
            await self._clock.sleep(ROUND.total_seconds())

    def _start(self, ticks: TaskGroup, due: Iterable[tuple[int, Tick]], stop: anyio.Event) -> None:
        for index, tick in due:
            if tick.scheduled_at not in self._in_hand[index]:
                self._in_hand[index].add(tick.scheduled_at)
                ticks.start_soon(self._deal_with, index, tick, stop)

    async def _deal_with(self, index: int, tick: Tick, stop: anyio.Event) -> None:
        """Sees a tick through, in its turn if it is one of those that wait for each other."""
        lane = self._lanes[index]
        if tick.job.overlap == "queue" and not tick.waits:
            if lane.length < tick.table.terms.backlog:
                tick.waits = True
            else:
                tick.refused = f"{lane.length} earlier ticks of the job waited already"
        try:
            with bound_contextvars(job=tick.job.name, scheduled_at=tick.scheduled_at.isoformat()):
                if tick.waits:
                    async with lane.turn(tick.scheduled_at):
                        await self._see_through(index, tick, stop)
                else:
                    await self._see_through(index, tick, stop)
        finally:
            self._in_hand[index].discard(tick.scheduled_at)

    async def _see_through(self, index: int, tick: Tick, stop: anyio.Event) -> None:
        """Attempts a tick until nothing more is to be done for it here."""
        pause = FIRST_LOOK
        while not stop.is_set():
            async with self._turns:
                outcome = Outcome.BUSY if stop.is_set() else await self._attempt(tick, stop)
            if outcome is Outcome.CLAIMED and tick.run is not None:
                await self._carry_out(tick.run)
                return
            if outcome is Outcome.LATE:
                self._in_hand[index].discard(tick.scheduled_at)
                self._is_late(index, tick.scheduled_at)
                return
            if outcome in (Outcome.RUN, Outcome.SETTLED):
                return
            async with until(stop):
                await self._clock.sleep(pause.total_seconds())
            pause = min(2 * pause, LOOK_AGAIN)

    async def _attempt(self, tick: Tick, stop: anyio.Event) -> Outcome:
        try:
            outcome = await self._runner.attempt(tick, stop=stop)
        except DatabaseUnavailable as error:
            log.warning("tick waits for the database", error=str(error))
            return Outcome.LATE if tick.seen_running is None else Outcome.BUSY
        if tick.run is not None:
            self._report(tick.run)
        return outcome

    async def _carry_out(self, claimed: CronRun) -> None:
        with bound_contextvars(job=claimed.job, scheduled_at=claimed.scheduled_at.isoformat()):
            ended = await self._long_runs.carry_out(claimed)
            if ended is not None:
                self._report(ended)

    def _report(self, run: CronRun) -> None:
        status = self._board[run.job]
        if run.status is RunStatus.SKIPPED or run.started_at is None:
            return
        if status.last_at is not None and run.started_at < status.last_at:
            return
        status.last_at = run.started_at
        status.last_status = run.status.value
        status.last_error = run.reason
        status.last_seconds = run.seconds
