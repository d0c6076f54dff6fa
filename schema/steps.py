"""The steps of every path on which something could be lost or done twice, for the tests that kill the process there.

`reached(step)` is called right after a step has happened. It does nothing unless a test observes; a step that no
test dies at fails the suite (`tests/crash`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """What has just happened, by path."""

    CONSUME_RECEIVED = "consume.received"
    """A message is in our hands."""
    CONSUME_CLAIMED = "consume.claimed"
    """Its inbox row is inserted, and not committed."""
    CONSUME_HANDLED = "consume.handled"
    """The handler has returned; nothing is committed."""
    CONSUME_COMMITTED = "consume.committed"
    """Its effects and its inbox row are there to stay; the broker does not know yet."""
    CONSUME_ACKED = "consume.acked"
    """The ack is on its way."""
    CONSUME_RETRY_PUBLISHED = "consume.retry_published"
    """The attempt has failed; the message is safe in a wait queue or in the parking lot, and in our hands as well."""
    CONSUME_ORIGINAL_ACKED = "consume.original_acked"
    """The ack of the message that failed is on its way."""
    CONSUME_ARCHIVED = "consume.archived"
    """A message of the parking lot is in the table to stay; the broker does not know yet."""
    CONSUME_ARCHIVE_ACKED = "consume.archive_acked"
    """The ack of a message that was archived is on its way."""
    OUTBOX_INSERTED = "outbox.inserted"
    """A message is in the outbox, and not committed; one that travels with its commit is never seen there."""
    OUTBOX_COMMITTED = "outbox.committed"
    """It is there to stay; the relay does not know yet."""
    SCHEDULE_CLAIMED = "schedule.claimed"
    """The row of a tick is inserted, and not committed."""
    SCHEDULE_HANDLED = "schedule.handled"
    """The job has returned; nothing is committed."""
    SCHEDULE_MARKED = "schedule.marked"
    """The outcome is in the row; nothing is committed."""
    SCHEDULE_COMMITTED = "schedule.committed"
    """Effects, claim and outcome are there to stay."""
    SCHEDULE_LONG_CLAIMED = "schedule.long.claimed"
    """The row of a long run is committed, with a lease; the job has not been called."""
    SCHEDULE_LONG_COMMITTED = "schedule.long.committed"
    """A unit of work of a long run is there to stay."""
    SCHEDULE_LONG_HANDLED = "schedule.long.handled"
    """The job of a long run has returned; the book does not know."""
    SCHEDULE_LONG_MARKED = "schedule.long.marked"
    """The outcome of a long run is there to stay."""
    RELAY_PUBLISHED = "relay.published"
    """Messages of the outbox are on their way to the broker."""
    RELAY_CONFIRMED = "relay.confirmed"
    """The broker has them safe; their rows are still there."""
    RELAY_DELETED = "relay.deleted"
    """Their rows are gone for good."""


_observer: Callable[[Step], None] | None = None


def observe(observer: Callable[[Step], None] | None) -> None:
    """Has `observer` called at each step from now on; None for nobody."""
    global _observer  # noqa: PLW0603 - one for the process, which is what is killed
    _observer = observer


def reached(step: Step) -> None:
    """To be called right after `step` has happened."""
    if _observer is not None:
        _observer(step)
