"""What the ops port answers. Other programs read it: keys are added, never renamed or removed.

Times are ISO 8601 in UTC, durations are in seconds, counts are since the process started.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

VERSION = "0.1.0"
"""Of this program; the same as in `pyproject.toml`, which a container does not have (a test compares them)."""

StateName = Literal["starting", "running", "backoff", "draining", "stopped", "failed"]


class Counts(BaseModel):
    """Units of work: `taken == in_flight + finished + failed + given_back`."""

    taken: int
    in_flight: int
    finished: int
    failed: int
    given_back: int


class RoleReport(BaseModel):
    name: str
    state: StateName
    since: datetime
    restarts: int
    failure: Literal["unavailable", "configuration", "bug"] | None
    last_error: str | None
    counts: Counts


class ParkingLotReport(BaseModel):
    """The parking lot in the database: `open` is how many messages wait for a person, null if nobody could ask."""

    open: int | None
    oldest_at: datetime | None
    archived: int
    reason: str | None


class ConsumerReport(BaseModel):
    queue: str
    broker: str
    subscribed: bool
    since: datetime | None
    reason: str | None
    counts: Counts
    retried: int
    parked: int
    unidentified: int
    duplicates: int
    parking_lot: ParkingLotReport


class JobReport(BaseModel):
    name: str
    schedule: str
    next_at: datetime | None
    last_at: datetime | None
    last_status: str | None
    last_error: str | None
    last_seconds: float | None
    paused: str | None = None
    running_on: str | None = None
    progress: str | None = None


class DestinationReport(BaseModel):
    """Messages in the outbox for one exchange and routing key; `failing` of them wait because it takes none."""

    exchange: str
    routing_key: str
    waiting: int
    failing: int
    oldest_at: datetime
    error: str | None


class OutboxReport(BaseModel):
    """Messages in the outbox for one broker, a few seconds old; `reason` is why this process does not send them."""

    broker: str
    connected: bool
    reason: str | None
    waiting: int
    oldest_at: datetime | None
    destinations: list[DestinationReport]


class PoolReport(BaseModel):
    """The pool of database connections: `size` of at most `max_size` are open, `available` of them are idle."""

    size: int
    max_size: int
    available: int
    waiting: int
    requests: int
    requests_failed: int
    connections_failed: int
    connections_lost: int


class Status(BaseModel):
    """`GET /status`."""

    version: str
    pid: int
    host: str
    now: datetime
    started_at: datetime
    uptime: float
    draining: bool
    roles: list[RoleReport]
    consumers: list[ConsumerReport]
    jobs: list[JobReport]
    outbox: list[OutboxReport] = []
    pool: PoolReport


class Check(BaseModel):
    """One condition of readiness: a `role:<name>`, `consumer:<queue>`, `database`, `schema` or `draining`."""

    name: str
    ok: bool
    reason: str | None = None


class Readiness(BaseModel):
    """`GET /health/ready`."""

    ready: bool
    checks: list[Check]


class Liveness(BaseModel):
    """`GET /health/live`."""

    live: Literal[True] = True
