"""What this service forgets: rows that are of no use any more, a few at a time."""

from __future__ import annotations

import structlog

from db import inbox, parked_messages
from db.pool import Work
from roles.schedule import every
from schema.settings import current_settings

AT_MOST = 20_000
"""Rows that are deleted in one transaction: they take some 25 ms, so that it is in nobody's way."""
BODIES_AT_MOST = 1_000
"""The same for rows that have the bodies of messages in them."""

log = structlog.get_logger(__name__)


@every(minutes=1)
async def prune_inbox(work: Work) -> None:
    """Forget messages that are older than `consume.inbox_retention`: no second delivery of them is to come."""
    retention = current_settings.get().consume.inbox_retention
    if pruned := await inbox.prune(work.connection, older_than=retention, at_most=AT_MOST):
        log.info("inbox pruned", messages=pruned)


@every(minutes=1)
async def prune_parked_messages(work: Work) -> None:
    """Forget messages that were replayed or dropped longer ago than `consume.parked_retention`; open ones stay."""
    retention = current_settings.get().consume.parked_retention
    if pruned := await parked_messages.prune(work.connection, older_than=retention, at_most=BODIES_AT_MOST):
        log.info("parked messages pruned", messages=pruned)
