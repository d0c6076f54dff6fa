"""`cron run`: a job here and now, through the same claim as its ticks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from clients import open_clients
from commands.command import database, failure, print_json, who
from commands.cron.jobs import declared
from commands.cron.runs import details, print_run
from db.cron_runs import RunStatus
from db.pool import current_pool
from roles.logs import configure
from roles.resources import Resources
from roles.schedule.declarations import Job
from roles.schedule.manual import run_by_hand
from schema.settings import Settings


async def run_job(settings: Settings, *, name: str, jobs: Sequence[Job], as_json: bool) -> int:
    """Runs a job, its logs and what it prints on standard error, and prints its row in the book.

    Returns:
        The exit code: 0 if the job finished, 1 if it failed, or was not run.
    """
    job = declared(name, jobs)
    async with database(settings), open_clients(settings.clients):
        configure("plain", settings.log.level, stream=sys.stderr)
        resources = Resources(settings=settings, pool=current_pool.get(), amqp_urls={})
        with redirect_stdout(sys.stderr):  # what the job prints is no part of its row
            run = await run_by_hand(jobs, name, user=who(), resources=resources)
    if run is None:
        raise failure(f"{name} was given up for dead elsewhere: `python app.py cron runs {name}` has the outcome", 1)
    if as_json:
        print_json(details(run))
    else:
        print_run(run, job.schedule.zone)
    return 0 if run.status is RunStatus.FINISHED else 1
