"""What the roles report about themselves, for `/status`, `/health/ready` and the console. Plain mutable data.

Roles do not know each other; they write here and ops reads. An entry outlives the restarts of its role.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from roles.tally import Tally
from schema.settings import Address


@dataclass(slots=True)
class ParkingLotStatus:
    """The parking lot of a consumer, as far as it is in the database."""

    open: int | None = None
    """Messages that wait for a person, whoever parked them; None if nobody could ask."""
    oldest_at: datetime | None = None
    """When the first of them was parked."""
    archived: int = 0
    """Messages that this process has moved there from the broker."""
    reason: str | None = None
    """Why none is moved at the moment."""


@dataclass(slots=True)
class ConsumerStatus:
    """One consumer: a handler on a queue."""

    queue: str
    broker: str
    subscribed: bool = False
    reason: str | None = None
    """Why it is not subscribed, or why it does not take messages although it is."""
    since: datetime | None = None
    """When `subscribed` last changed."""
    tally: Tally = field(default_factory=Tally)
    retried: int = 0
    parked: int = 0
    unidentified: int = 0
    """Messages without a message id, which cannot be deduplicated."""
    duplicates: int = 0
    """Messages that had taken effect before, and were acked without being handled again."""
    parking_lot: ParkingLotStatus = field(default_factory=ParkingLotStatus)


@dataclass(slots=True)
class JobStatus:
    """One scheduled job."""

    job: str
    schedule: str
    """As declared: `0 * * * * (UTC)` or `every 1m`."""
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_status: str | None = None
    last_error: str | None = None
    last_seconds: float | None = None
    paused: str | None = None
    """By whom it is paused and since when; None if it is not."""
    running_on: str | None = None
    """Where a long run of it goes on, as `host:pid`; None if none does."""
    progress: str | None = None
    """What that run last said of itself."""


@dataclass(frozen=True, slots=True)
class OutboxDestination:
    """What waits in the outbox for one destination."""

    exchange: str
    routing_key: str
    waiting: int
    failing: int
    oldest_at: datetime
    error: str | None


@dataclass(slots=True)
class OutboxStatus:
    """The messages that are to be published to one broker, by whichever process."""

    broker: str
    connected: bool = False
    """Whether this process could publish them."""
    reason: str | None = None
    """Why it does not."""
    waiting: int = 0
    oldest_at: datetime | None = None
    """When the first of these was written."""
    destinations: list[OutboxDestination] = field(default_factory=list)


@dataclass(slots=True)
class Board:
    """All of it."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    """By role."""
    consumers: dict[str, ConsumerStatus] = field(default_factory=dict)
    """By queue."""
    jobs: dict[str, JobStatus] = field(default_factory=dict)
    """By job name."""
    outbox: dict[str, OutboxStatus] = field(default_factory=dict)
    """By broker."""

    addresses: dict[str, Address] = field(default_factory=dict)
    """Where the roles that serve HTTP listen; with port 0 in the settings, the port that they got."""

    def tally(self, role: str) -> Tally:
        """The role's counters, made at the first call."""
        return self.tallies.setdefault(role, Tally())
