"""Replicas of the scheduler on one database, a job that leaves a trace, and conditions to wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
from anyio.abc import TaskStatus
from psycopg import sql
from structlog.contextvars import get_contextvars

from db.pool import Work, create_pool, current_pool
from roles.board import JobStatus
from roles.clock import Clock
from roles.resources import Resources
from roles.schedule.cron import IntervalSchedule, Schedule
from roles.schedule.declarations import Job
from roles.schedule.role import ScheduleRole
from roles.schedule.run import Run
from roles.tally import Tally
from schema.settings import Database, Settings
from schema.settings import Schedule as ScheduleSettings
from tests.fakes import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = IntervalSchedule(timedelta(seconds=1))
MINUTE = IntervalSchedule(timedelta(minutes=1))

GRACE = timedelta(seconds=30)
LEASE = timedelta(seconds=30)

Row = dict[str, Any]


def a_job(
    handler: Callable[[Work], Awaitable[None]],
    schedule: Schedule = MINUTE,
    *,
    name: str = "example",
    timeout: str = "30s",
    **options: Any,
) -> Job:
    return Job(name=name, handler=handler, schedule=schedule, timeout=timeout, **options)


def a_long_job(
    handler: Callable[[Run], Awaitable[None]], schedule: Schedule = MINUTE, *, name: str = "example", **options: Any
) -> Job:
    return Job(name=name, handler=handler, schedule=schedule, transaction=False, **options)


async def leave_a_trace(work: Work) -> None:
    bound = get_contextvars()
    await work.connection.execute("INSERT INTO effect VALUES (%s, %s)", (bound["job"], bound["scheduled_at"]))


class Gated:
    """A job that leaves a trace, then waits until its gate is open."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.calls = 0
        self.waiting = 0

    def job(self, schedule: Schedule = MINUTE, *, name: str = "example", **options: Any) -> Job:
        async def handler(work: Work) -> None:
            self.calls += 1
            await leave_a_trace(work)
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1

        return a_job(handler, schedule, name=name, **options)


class FailingAtFirst:
    """A job that leaves a trace each time, and the first times does something after that which raises."""

    def __init__(self, fail: Callable[[Work], Awaitable[None]], *, times: int = 1) -> None:
        self._fail, self._times = fail, times
        self.calls = 0

    def job(self, **options: Any) -> Job:
        async def handler(work: Work) -> None:
            self.calls += 1
            await leave_a_trace(work)
            if self.calls <= self._times:
                await self._fail(work)

        return a_job(handler, **options)


@dataclass
class Replica:
    """A scheduler with a pool and a clock of its own."""

    resources: Resources
    role: ScheduleRole
    clock: Clock
    stop: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def status(self) -> JobStatus:
        return self.resources.board.jobs["example"]

    @property
    def tally(self) -> Tally:
        return self.resources.board.tally("schedule")

    @property
    def busy(self) -> int:
        """How many ticks it deals with, or is about to."""
        turns = self.role._turns.statistics()
        return turns.borrowed_tokens + turns.tasks_waiting

    @property
    def has_nothing_to_ask(self) -> bool:
        """Whether no connection is in use, nor waited for."""
        stats = self.resources.pool.get_stats()
        return not stats.get("requests_waiting", 0) and stats["pool_available"] == stats["pool_size"]

    async def cut_off(self) -> None:
        self.scope.cancel()
        await self.ended.wait()

    async def drained(self) -> None:
        self.stop.set()
        await self.ended.wait()


@asynccontextmanager
async def replicas(
    url: str,
    jobs: Sequence[Job],
    *clocks: Clock,
    concurrency: int = 5,
    pool_size: int = 6,
    built_in: Sequence[Job] = (),
    lease: timedelta = LEASE,
) -> AsyncIterator[list[Replica]]:
    """Replicas that run until the end of the block, one per clock."""
    database = Database(pool_min_size=1, pool_max_size=pool_size, pool_timeout=timedelta(seconds=1))
    settings = Settings(schedule=ScheduleSettings(concurrency=concurrency, grace=GRACE, lease=lease))

    async def run(clock: Clock, *, task_status: TaskStatus[Replica]) -> None:
        async with create_pool(url, database) as pool:
            current_pool.set(pool)
            resources = Resources(settings=settings, pool=pool, amqp_urls={}, clock=clock)
            replica = Replica(resources, ScheduleRole(resources, jobs=jobs, built_in=built_in), clock)

            class Started(TaskStatus[None]):
                def started(self, value: None = None) -> None:
                    task_status.started(replica)

            with replica.scope:
                await replica.role.run(task_status=Started(), stop=replica.stop)
            replica.ended.set()

    async with anyio.create_task_group() as group:
        running = [await group.start(run, clock) for clock in clocks]
        yield running
        group.cancel_scope.cancel()


async def pass_time(seconds: float, *replicas: Replica, gated: Gated | None = None) -> None:
    """Advances the clocks of all replicas, not faster than the database can follow."""

    def quiet() -> bool:
        return sum(replica.busy for replica in replicas) == (gated.waiting if gated else 0)

    while seconds > 0:
        async with anyio.create_task_group() as group:
            for replica in replicas:
                assert isinstance(replica.clock, FakeClock)
                group.start_soon(replica.clock.advance, min(seconds, 1))
        await until(quiet)
        seconds -= 1


async def nudge(seconds: float, *replicas: Replica) -> None:
    """Advances the clocks a little, once all that the replicas wait for is their clocks."""
    await until(lambda: all(replica.has_nothing_to_ask for replica in replicas), within=60)
    for replica in replicas:
        assert isinstance(replica.clock, FakeClock)
        await replica.clock.advance(seconds)


async def allow_connections(url: str, *, allow: bool) -> None:
    """Takes the database away, or gives it back."""
    async with await psycopg.AsyncConnection.connect(url, dbname="postgres", autocommit=True) as admin:
        name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))
        await admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(name, allow))


async def until(condition: Callable[[], Awaitable[bool] | bool], *, within: float = 60.0) -> None:
    """Waits for a condition, with a deadline. One that is awaited costs the database's time with each look."""
    with anyio.fail_after(within):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await anyio.sleep(0.005 if isinstance(met, bool) else 0.05)


class Witness:
    """A connection of the test's own, that sees what is committed."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection

    async def query(self, sql: str, *parameters: object) -> list[Row]:
        return await (await self._connection.execute(sql.encode(), parameters)).fetchall()

    async def book(self) -> list[Row]:
        return await self.query("SELECT * FROM cron_run ORDER BY job, scheduled_at")

    async def statuses(self) -> list[str]:
        return [row["status"] for row in await self.book()]

    async def effects(self) -> list[tuple[str, datetime]]:
        rows = await self.query("SELECT * FROM effect ORDER BY job, scheduled_at")
        return [(row["job"], row["scheduled_at"]) for row in rows]

    async def finished(self) -> list[tuple[str, datetime]]:
        return [(row["job"], row["scheduled_at"]) for row in await self.book() if row["status"] == "finished"]

    async def book_has(self, *statuses: str) -> None:
        """Waits until these are the statuses of all ticks in the book."""

        async def has() -> bool:
            return await self.statuses() == list(statuses)

        try:
            await until(has)
        except TimeoutError:
            raise AssertionError(f"{await self.statuses()} and not {statuses}") from None

    async def terminate(self, *, idle: bool = True) -> int:
        """Ends the server's side of all other connections, or of those in a transaction; how many there were."""
        which = "" if idle else "AND xact_start IS NOT NULL"
        rows = await self.query(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() {which}"
        )
        return len(rows)
