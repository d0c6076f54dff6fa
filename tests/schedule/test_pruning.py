"""The jobs that come with every service: the book forgets what is old, and names are not taken twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from db import cron_pruning
from db.cron_runs import RunStatus, Trigger
from db.pool import Pool, connection, create_pool, current_pool
from roles.resources import Resources
from roles.schedule.declarations import Job, validate
from roles.schedule.jobs import JOBS
from roles.schedule.jobs.pruning import BUILT_IN, prune_cron_runs
from roles.schedule.manual import run_by_hand
from schema.errors import ConfigurationError
from schema.settings import Database, Settings, current_settings
from tests.fakes import FakeClock
from tests.schedule.support import Gated, Witness, a_job, leave_a_trace, pass_time, replicas, until

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with create_pool(database_url, Database(pool_min_size=1)) as pool:
        current_pool.set(pool)
        current_settings.set(Settings())
        yield pool


def resources(pool: Pool) -> Resources:
    return Resources(settings=Settings(), pool=pool, amqp_urls={}, clock=FakeClock(NOW))


async def rows(witness: Witness, job: str, *days: int, trigger: str = "schedule") -> None:
    for day in days:
        await witness.query(
            "INSERT INTO cron_run (job, scheduled_at, trigger, status, host) "
            "VALUES (%s, %s, %s, 'finished', 'here') RETURNING 1",
            job,
            NOW - timedelta(days=day),
            trigger,
        )


async def left(witness: Witness, job: str) -> list[int]:
    book = await witness.query("SELECT scheduled_at FROM cron_run WHERE job = %s ORDER BY 1 DESC", job)
    return [(NOW - row["scheduled_at"]).days for row in book]


async def test_the_book_forgets_what_is_older_than_a_jobs_retention_but_not_its_last_tick(
    pool: Pool, witness: Witness
) -> None:
    short = a_job(leave_a_trace, name="short memory", retention="2d")
    await rows(witness, "short memory", 1, 3, 40)
    await rows(witness, "ours", 1, 3, 40)
    await rows(witness, "nobody's any more", 50, 60)
    await rows(witness, "ours", 35, trigger="manual")
    jobs = (short, a_job(leave_a_trace, name="ours"), *BUILT_IN)
    run = await run_by_hand(jobs, prune_cron_runs.name, user="ada", resources=resources(pool))
    assert run is not None
    assert (run.status, run.trigger, run.triggered_by) == (RunStatus.FINISHED, Trigger.MANUAL, "ada")
    assert await left(witness, "short memory") == [1]
    assert await left(witness, "ours") == [1, 3]
    assert await left(witness, "nobody's any more") == [50], "from it the job would know what it has missed"
    assert run.progress is not None
    assert run.progress.startswith("5 ")
    async with connection() as conn:
        assert await cron_pruning.names(conn) == ["nobody's any more", "ours", "prune_cron_runs", "short memory"]


async def test_a_run_by_hand_overlaps_with_a_tick_that_goes_on(
    pool: Pool, database_url: str, witness: Witness
) -> None:
    gated = Gated()
    job = gated.job()
    clock = FakeClock(NOW.replace(second=59))
    async with replicas(database_url, [job], clock) as [replica]:
        await pass_time(1, replica, gated=gated)
        await until(lambda: gated.calls >= 1)
        run = await run_by_hand([job], "example", user="ada", resources=resources(pool))
        assert run is not None
        assert (run.status, run.reason) == (RunStatus.SKIPPED, "an earlier run of the job still went on")
        gated.gate.set()
        await until(lambda: replica.tally.in_flight == 0)
    run = await run_by_hand([job], "example", user="ada", resources=resources(pool))
    assert run is not None
    assert (run.status, run.attempts) == (RunStatus.FINISHED, 1)


async def test_a_job_that_is_not_there_is_not_run(pool: Pool) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no job 'exmple': did you mean 'example'\?"):
        await run_by_hand([a_job(leave_a_trace)], "exmple", user="ada", resources=resources(pool))


def test_the_jobs_that_are_built_in_are_right_and_keep_their_names() -> None:
    validate(JOBS, built_in=BUILT_IN)
    assert all(job.name.startswith("prune_") for job in BUILT_IN)
    mine = a_job(leave_a_trace, name="prune_cron_runs")
    with pytest.raises(ConfigurationError, match="job prune_cron_runs: a built-in job has this name"):
        validate([mine], built_in=BUILT_IN)


async def test_built_in_jobs_are_on_the_board(database_url: str) -> None:
    jobs: list[Job] = []
    async with replicas(database_url, jobs, FakeClock(NOW), built_in=BUILT_IN) as [replica]:
        assert {job.name for job in BUILT_IN} <= replica.resources.board.jobs.keys()
        await anyio.lowlevel.checkpoint()
