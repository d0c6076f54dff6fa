"""Long runs (`transaction=False`): their leases, their outcome, and what becomes of those that were cut off.

The claim was committed with a lease. While the job goes on, the leases of all long runs of this process are renewed
together, three times before they would expire. What can become of such a run:

- It ends, and the outcome goes into the book, if the fence has not moved.
- The process dies: the lease expires. Any replica that knows the job moves the fence and runs it again (`rerun`, at
  most `RERUNS` times), or enters it as failed.
- The process cannot reach the database for as long as the lease lasts: the job is cancelled here, for by then
  somebody else may be at it. Should it go on all the same, its fence has moved: it commits nothing more.
- The process drains: the run is told (`Run.stopping`), cancelled at the deadline, and its lease is ended, so that it
  is taken over at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import anyio
import structlog

from db import cron_leases, cron_runs
from db.cron_runs import CronRun, RunStatus, Trigger
from db.pool import DatabaseUnavailable, connection, unit_of_work
from db.query import Connection
from roles.failures import describe
from roles.resources import Resources
from roles.schedule.attempts import in_full, run_on_its_own
from roles.schedule.policy import Timetable
from roles.schedule.run import HandedOver, LeaseLost, Run
from roles.schedule.tick import HOST, tell
from schema.steps import Step, reached

RERUNS: Final = 5
"""How often a run is taken over: one that kills each process that it is run in must come to an end."""
RELEASE_TIMEOUT: Final = 0.15
"""Seconds that a run which is cut off may take to end its lease; the supervisor waits no longer than 0.2 s."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    """A run with a lease, and when (by the monotonic clock) that was last known to be renewed."""

    run: Run
    renewed_at: float


class LongRuns:
    """The long runs of this process.

    Params:
        tables: of all jobs, by name.
        turns: what units of work of runs have to share with other ticks.
    """

    def __init__(self, resources: Resources, tables: Iterable[Timetable], turns: anyio.CapacityLimiter) -> None:
        self._clock = resources.clock
        self._lease = resources.settings.schedule.lease
        self._tables = {table.job.name: table for table in tables}
        self._turns = turns
        self._board = resources.board
        self._tally = resources.board.tally("schedule")
        self._held: dict[int, _Held] = {}
        self._stopping = False

    def stop(self) -> None:
        """Tells all runs that the process is draining."""
        self._stopping = True
        for held in self._held.values():
            held.run.stopping = True

    async def keep(self) -> None:
        """Renews the leases of all runs, until it is cancelled."""
        while True:
            await self._clock.sleep(self._lease.total_seconds() / 3)
            if self._held:
                await self._renew()

    async def carry_out(self, claimed: CronRun) -> CronRun | None:
        """Runs a long run that has been claimed, or taken over, by this process.

        Returns:
            Its row with the outcome; None if it was taken over, or is to be.
        """
        table = self._tables[claimed.job]
        run = self._begin(claimed)
        self._tally.taken += 1
        ended: CronRun | None = None
        try:
            failure: Exception | None = None
            with run.scope:
                failure = await run_on_its_own(table.job, table.terms, run, self._clock)
                reached(Step.SCHEDULE_LONG_HANDLED)
            if run.lost is None:
                ended = await self._settle(run, failure)
            if ended is None:
                log.warning("run lost", reason=run.lost or "it had been taken over")
        except LeaseLost as lost:
            log.warning("run lost", reason=str(lost))
        except (HandedOver, DatabaseUnavailable) as reason:
            log.warning("run given back", reason=describe(reason))
            await self._give_back(run, describe(reason))
        except BaseException:
            await self._give_back(run, f"cut off: {HOST} was stopped")
            raise
        finally:
            del self._held[run.id]
            self._show(run.job, None, None)
            self._tally.given_back += ended is None
        if ended is not None:
            reached(Step.SCHEDULE_LONG_MARKED)
            tell(ended, self._tally)
        return ended

    async def take_over(self) -> list[CronRun]:
        """Looks for runs that were cut off, anywhere; returns those that are to be carried out here now.

        Raises:
            DatabaseUnavailable: it cannot be asked.
        """
        names = [name for name, table in self._tables.items() if not table.job.transaction]
        if not names or self._stopping:
            return []
        async with connection() as conn:
            if not [run for run in await cron_leases.running(conn, names) if run.id not in self._held]:
                return []
        taken: list[CronRun] = []
        async with unit_of_work() as work:
            for run in await cron_leases.expired(work.connection, names):
                if run.id in self._held:
                    continue
                rerun = self._tables[run.job].job.rerun and run.trigger is Trigger.SCHEDULE
                if not rerun or run.fence >= RERUNS:
                    why = f"taken over {run.fence} times: it is not run again" if rerun else "it is not run again"
                    await self._give_up(run, work.connection, why)
                elif await cron_runs.lock_job(work.connection, run.job) and not await cron_leases.others_alive(
                    work.connection, run.job, run.id
                ):
                    now = self._clock.now()
                    again = await cron_leases.take_over(
                        work.connection, run, host=HOST, started_at=now, lease=self._lease
                    )
                    taken += [again] if again else []
        for run in taken:
            log.warning("run taken over", job=run.job, scheduled_at=run.scheduled_at.isoformat(), fence=run.fence)
        return taken

    def show(self, running: Iterable[CronRun]) -> None:
        """Puts what goes on elsewhere on the board."""
        elsewhere = {run.job: run for run in running if run.id not in self._held}
        here = {held.run.job for held in self._held.values()}
        for name, table in self._tables.items():
            if not table.job.transaction and name not in here:
                run = elsewhere.get(name)
                self._show(name, run.host if run else None, run.progress if run else None)

    def _begin(self, claimed: CronRun) -> Run:
        def tell_progress(progress: str) -> None:
            self._show(claimed.job, HOST, progress)

        run = Run(
            id=claimed.id,
            job=claimed.job,
            scheduled_at=claimed.scheduled_at,
            attempt=claimed.attempts,
            declared=tuple(table.job for table in self._tables.values()),
            fence=claimed.fence,
            turns=self._turns,
            tell=tell_progress,
            stopping=self._stopping,
        )
        self._held[run.id] = _Held(run, self._clock.monotonic())
        self._show(run.job, HOST, None)
        return run

    def _show(self, job: str, host: str | None, progress: str | None) -> None:
        status = self._board.jobs.get(job)
        if status is not None:
            status.running_on, status.progress = host, progress

    async def _renew(self) -> None:
        now = self._clock.monotonic()
        runs = {(held.run.id, held.run.fence): held.run.progress for held in self._held.values()}
        try:
            async with connection() as conn:
                renewed = await cron_leases.renew(conn, runs, self._lease)
        except DatabaseUnavailable as error:
            log.warning("leases not renewed", runs=len(runs), error=str(error))
            for held in tuple(self._held.values()):
                if now - held.renewed_at >= self._lease.total_seconds():
                    _lose(held.run, f"its lease could not be renewed: {error}")
            return
        for held in tuple(self._held.values()):
            key = (held.run.id, held.run.fence)
            if key in renewed:
                held.renewed_at = now
            elif key in runs:
                _lose(held.run, "it has been taken over")

    async def _settle(self, run: Run, failure: Exception | None) -> CronRun | None:
        """Writes the outcome down, however long the database is away; None if the run was taken over."""
        while True:
            try:
                async with connection() as conn:
                    return await cron_leases.settle(
                        conn,
                        run.id,
                        run.fence,
                        status=RunStatus.FAILED if failure else RunStatus.FINISHED,
                        finished_at=self._clock.now(),
                        attempts=run.attempt,
                        error=in_full(failure) if failure else None,
                        progress=run.progress,
                    )
            except DatabaseUnavailable as error:
                log.warning("outcome waits for the database", error=str(error))
            await self._clock.sleep(1)

    async def _give_back(self, run: Run, reason: str) -> None:
        """Ends the lease: the run is taken over if it may be run again, and has failed if not."""
        with anyio.move_on_after(RELEASE_TIMEOUT, shield=True):
            try:
                async with connection() as conn:
                    if self._tables[run.job].job.rerun:
                        await cron_leases.release(conn, run.id, run.fence, error=reason)
                    else:
                        await cron_leases.settle(
                            conn,
                            run.id,
                            run.fence,
                            status=RunStatus.FAILED,
                            finished_at=self._clock.now(),
                            attempts=run.attempt,
                            error=reason,
                            progress=run.progress,
                        )
            except DatabaseUnavailable as error:
                log.warning("lease not ended: it expires by itself", error=str(error))

    async def _give_up(self, run: CronRun, conn: Connection, why: str) -> None:
        """Enters a run that was cut off as failed."""
        reason = run.reason or f"its lease expired: {run.host} died, or could not reach the database"
        await cron_leases.settle(
            conn,
            run.id,
            run.fence,
            status=RunStatus.FAILED,
            finished_at=self._clock.now(),
            attempts=run.attempts,
            error=f"{reason}; {why}",
            progress=run.progress,
        )
        log.warning("run given up", job=run.job, scheduled_at=run.scheduled_at.isoformat(), reason=reason)


def _lose(run: Run, reason: str) -> None:
    run.lost = reason
    run.scope.cancel()
