"""Calling a job's function: with its timeout, again after a backoff, and with what it failed with for the book."""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import timedelta

import structlog

from db import cron_runs
from db.pool import DatabaseUnavailable, Work
from roles.cancellation import StrayCancellation, stray_cancellation_as
from roles.clock import Clock
from roles.failures import contained, describe
from roles.schedule.declarations import Job, Terms
from roles.schedule.run import HandedOver, LeaseLost, Run
from schema.duration import format_duration

IDLE_MARGIN = timedelta(seconds=10)
"""How much longer than a run may take the server waits for it between two statements."""
LONGEST_TRACEBACK = 16_000
"""Characters of a traceback that the book keeps: the last ones."""
LONGEST_LINE = 1_000
"""Characters of what comes before it: the first ones."""

log = structlog.get_logger(__name__)


class Ruined(Exception):
    """The job ended its own connection, such as by cancelling a statement; its cause is what it failed with."""


class JobTimeout(Exception):
    """A run took longer than its job may."""


async def run_in_transaction(job: Job, terms: Terms, work: Work, clock: Clock) -> tuple[int, Exception | None]:
    """Calls the job behind a savepoint, until it succeeds or its retries are used up.

    Returns:
        How often it was called, and what it failed with in the end; then its effects are undone.

    Raises:
        DatabaseUnavailable: the connection was lost, and with it the claim.
        Ruined: the same, and it was the job's own doing.
    """
    await cron_runs.limit_idle(work.connection, max(terms.timeout, terms.pause(job.retries)) + IDLE_MARGIN)
    await work.connection.execute(b"SAVEPOINT job")
    attempt = 1
    while True:
        failure = await _call(job, work, terms.timeout)
        if failure is None:
            return attempt, None
        if work.connection.closed:
            if work.connection.ruined:
                raise Ruined from failure
            message = f"PostgreSQL: the connection of a run was lost: {describe(failure)}"
            raise DatabaseUnavailable(message) from failure
        work.connection.forget()
        await work.connection.execute(b"ROLLBACK TO SAVEPOINT job")
        if not await _again(job, terms, failure, attempt, clock):
            return attempt, failure
        attempt += 1


async def run_on_its_own(job: Job, terms: Terms, run: Run, clock: Clock) -> Exception | None:
    """Calls a long job until it succeeds or its retries are used up; `run.attempt` counts on.

    Returns:
        What it failed with in the end.

    Raises:
        LeaseLost: the run has been taken over.
        HandedOver: the job wants that.
        DatabaseUnavailable: the database went away, and the job may be run again.
    """
    for called in range(1, job.retries + 2):
        failure = await _call(job, run, terms.timeout)
        if failure is None:
            return None
        if isinstance(failure, LeaseLost | HandedOver) or (job.rerun and isinstance(failure, DatabaseUnavailable)):
            raise failure
        if not await _again(job, terms, failure, called, clock):
            break
        run.attempt += 1
    return failure


def in_full(failure: BaseException) -> str:
    """What the book says of a failure: one line, and after it the traceback."""
    text = "".join(traceback.format_exception(failure))
    return f"{' '.join(describe(failure).split())[:LONGEST_LINE]}\n\n{text[-LONGEST_TRACEBACK:]}"


async def _again(job: Job, terms: Terms, failure: Exception, attempt: int, clock: Clock) -> bool:
    """Waits before the next attempt; False if there is none."""
    last = attempt > job.retries
    pause = timedelta(0) if last else terms.pause(attempt)
    log.log(
        logging.ERROR if last else logging.WARNING,
        "job failed",
        error=describe(failure),
        attempt=attempt,
        retry_in=None if last else pause.total_seconds(),
        exc_info=failure,
    )
    if not last:
        await clock.sleep(pause.total_seconds())
    return not last


async def _call(job: Job, unit: Work | Run, limit: timedelta) -> Exception | None:
    # asyncio's own timeout, for it cancels once. A scope of anyio's would cancel psycopg's clean-up as well: the
    # connection would be thrown away, with the claim, while the server went on with the statement and the locks.
    deadline = asyncio.timeout(limit.total_seconds())
    failure: Exception | None = None
    try:
        async with deadline:
            with stray_cancellation_as(StrayCancellation), contained():
                await job(unit)
                if isinstance(unit, Work):  # or they would fail at the commit
                    await unit.connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")
    except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this run alone
        failure = error
    if not deadline.expired():
        return failure
    late = JobTimeout(f"took longer than {format_duration(limit)}")
    late.__cause__ = failure
    return late
