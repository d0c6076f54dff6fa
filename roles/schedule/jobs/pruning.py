"""What this service forgets: rows that are of no use any more, a few at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from db import cron_pruning, idempotency_keys, inbox, parked_messages
from db.pool import connection
from db.query import Connection
from roles.schedule.declarations import Job, cron, every
from roles.schedule.run import Run
from schema.settings import current_settings

AT_MOST = 20_000
"""Rows that are deleted in one transaction: they take some 25 ms, so that it is in nobody's way."""
BODIES_AT_MOST = 1_000
"""The same for rows that have bodies in them."""

log = structlog.get_logger(__name__)


@every(minutes=1, transaction=False, rerun=True)
async def prune_inbox(run: Run) -> None:
    """Forget messages that are older than `consume.inbox_retention`: no second delivery of them is to come."""
    retention = current_settings.get().consume.inbox_retention
    prune = partial(inbox.prune, older_than=retention, at_most=AT_MOST)
    if total := await _in_steps(run, prune, at_most=AT_MOST, what="messages"):
        log.info("inbox pruned", messages=total)


@every(minutes=1, transaction=False, rerun=True)
async def prune_parked_messages(run: Run) -> None:
    """Forget messages that were replayed or dropped longer ago than `consume.parked_retention`; open ones stay."""
    retention = current_settings.get().consume.parked_retention
    prune = partial(parked_messages.prune, older_than=retention, at_most=BODIES_AT_MOST)
    if total := await _in_steps(run, prune, at_most=BODIES_AT_MOST, what="parked messages"):
        log.info("parked messages pruned", messages=total)


@every(minutes=1, transaction=False, rerun=True)
async def prune_idempotency_keys(run: Run) -> None:
    """Forget answers that are older than `api.idempotency_retention`: a request with such a key is a new one."""
    retention = current_settings.get().api.idempotency_retention
    prune = partial(idempotency_keys.prune, older_than=retention, at_most=BODIES_AT_MOST)
    if total := await _in_steps(run, prune, at_most=BODIES_AT_MOST, what="answers"):
        log.info("idempotency keys pruned", keys=total)


@cron("17 * * * *", transaction=False, rerun=True)
async def prune_cron_runs(run: Run) -> None:
    """Forget runs that are older than their job's retention, but not the last tick of a job."""
    defaults = current_settings.get().schedule
    retentions = {job.name: job.terms(defaults).retention for job in run.declared}
    async with connection() as conn:
        names = await cron_pruning.names(conn)
    total = 0
    for name in names:
        before = datetime.now(UTC) - retentions.get(name, defaults.retention)
        prune = partial(cron_pruning.prune, job=name, before=before, at_most=AT_MOST)
        total = await _in_steps(run, prune, at_most=AT_MOST, what="runs", before=total)
    if total:
        log.info("book pruned", runs=total)


async def _in_steps(
    run: Run, prune: Callable[[Connection], Awaitable[int]], *, at_most: int, what: str, before: int = 0
) -> int:
    """Prunes `at_most` rows in a transaction until there are no more; returns how many in all."""
    total, pruned = before, at_most
    while pruned == at_most and not run.stopping:
        async with run.unit_of_work() as work:
            pruned = await prune(work.connection)
        total += pruned
        run.report(f"{total} {what} forgotten")
    return total


BUILT_IN: Final[tuple[Job, ...]] = (
    prune_inbox,
    prune_parked_messages,
    prune_idempotency_keys,
    prune_cron_runs,
)
"""What runs in every service beside its own jobs."""
