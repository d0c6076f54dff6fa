"""The state of the process as one value, for `/status` and the console."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from roles.board import ConsumerStatus, JobStatus, OutboxStatus
from roles.resources import Resources
from roles.role import RoleStatus
from roles.tally import Tally
from schema.status import (
    VERSION,
    ConsumerReport,
    Counts,
    DestinationReport,
    JobReport,
    OutboxReport,
    ParkingLotReport,
    PoolReport,
    RoleReport,
    Status,
)

STARTED_AT = datetime.now(UTC)
"""When this process began; this module is imported with it."""


def status(resources: Resources, roles: Sequence[RoleStatus], *, draining: bool) -> Status:
    """Everything there is to tell, without asking anybody outside.

    Params:
        roles: the supervisor's snapshot.
    """
    now = resources.clock.now()
    board = resources.board
    return Status(
        version=VERSION,
        pid=os.getpid(),
        host=socket.gethostname(),
        now=now,
        started_at=STARTED_AT,
        uptime=max(0.0, (now - STARTED_AT).total_seconds()),
        draining=draining,
        roles=[_role(role) for role in roles],
        consumers=[_consumer(consumer) for consumer in board.consumers.values()],
        jobs=[_job(job) for job in board.jobs.values()],
        outbox=[_outbox(outbox) for outbox in board.outbox.values()],
        pool=_pool(resources.pool.get_stats()),
    )


def _role(role: RoleStatus) -> RoleReport:
    return RoleReport(
        name=role.name,
        state=role.state.value,
        since=role.since,
        restarts=role.restarts,
        failure=role.failure.value if role.failure else None,
        last_error=role.last_error,
        counts=_counts(role.tally),
    )


def _consumer(consumer: ConsumerStatus) -> ConsumerReport:
    return ConsumerReport(
        queue=consumer.queue,
        broker=consumer.broker,
        subscribed=consumer.subscribed,
        since=consumer.since,
        reason=consumer.reason,
        counts=_counts(consumer.tally),
        retried=consumer.retried,
        parked=consumer.parked,
        unidentified=consumer.unidentified,
        duplicates=consumer.duplicates,
        parking_lot=ParkingLotReport(**asdict(consumer.parking_lot)),
    )


def _job(job: JobStatus) -> JobReport:
    return JobReport(
        name=job.job,
        schedule=job.schedule,
        next_at=job.next_at,
        last_at=job.last_at,
        last_status=job.last_status,
        last_error=job.last_error,
        last_seconds=job.last_seconds,
        paused=job.paused,
        running_on=job.running_on,
        progress=job.progress,
    )


def _outbox(outbox: OutboxStatus) -> OutboxReport:
    return OutboxReport(
        broker=outbox.broker,
        connected=outbox.connected,
        reason=outbox.reason,
        waiting=outbox.waiting,
        oldest_at=outbox.oldest_at,
        destinations=[DestinationReport(**asdict(each)) for each in outbox.destinations],
    )


def _counts(tally: Tally) -> Counts:
    return Counts(
        taken=tally.taken,
        in_flight=tally.in_flight,
        finished=tally.finished,
        failed=tally.failed,
        given_back=tally.given_back,
    )


def _pool(stats: dict[str, int]) -> PoolReport:
    return PoolReport(
        size=stats["pool_size"],
        max_size=stats["pool_max"],
        available=stats["pool_available"],
        waiting=stats["requests_waiting"],
        requests=stats.get("requests_num", 0),  # the pool leaves out the counts that are still zero
        requests_failed=stats.get("requests_errors", 0),
        connections_failed=stats.get("connections_errors", 0),
        connections_lost=stats.get("connections_lost", 0),
    )
