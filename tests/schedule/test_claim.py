"""The SQL of a tick: two claimants, stepped through every order in which their statements can reach the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from itertools import combinations
from typing import Any

import anyio
import psycopg
import pytest
from anyio.abc import TaskGroup
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from structlog.contextvars import bound_contextvars

from db import cron_pauses, cron_runs
from db.cron_runs import RunStatus, Trigger
from db.pool import DatabaseUnavailable, Pool, current_pool
from db.pooled_connection import PooledConnection
from db.query import Connection
from roles.clock import SystemClock
from roles.resources import Resources
from roles.schedule.declarations import Job
from roles.schedule.long import LongRuns
from roles.schedule.policy import Timetable
from roles.schedule.run import Run
from roles.schedule.tick import Outcome, Runner, Tick
from roles.tally import Tally
from schema.settings import Schedule, Settings
from tests.schedule.support import START, Witness, a_job, a_long_job, leave_a_trace

pytestmark = pytest.mark.anyio

NEXT = START + timedelta(seconds=1)
STEPS = 5
GATED = (b"pg_try_advisory", b"INSERT INTO cron_run", b"UPDATE cron_run", b"COMMIT", b"SKIP LOCKED")
"""The statements of a tick that others could be affected by; five in one that is run, or claimed for a long run."""
TAKEOVER_STEPS = 4


class Claimant:
    """A replica's attempt at a tick, that goes on by one statement at a time."""

    def __init__(self, url: str) -> None:
        claimant = self

        class Cursor(psycopg.AsyncCursor[TupleRow]):
            async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                await claimant._pass(query)
                return await super().execute(query, *args, **kwargs)

        class Gated(PooledConnection):
            async def command(self, sql: bytes) -> list[PGresult]:
                await claimant._pass(sql)
                if claimant.gated and claimant.dies_at_commit and sql == b"COMMIT":
                    self.pgconn.finish()
                return await super().command(sql)

        async def configure(connection: Connection) -> None:
            connection.cursor_factory = Cursor

        self.pool = Pool(
            url,
            connection_class=Gated,
            kwargs={"autocommit": True, "options": "-c statement_timeout=2s"},  # for nobody ever waits for the other
            min_size=1,
            max_size=1,
            open=False,
            configure=configure,
        )
        self.gated = True
        self.job = a_job(leave_a_trace)
        self.dies_at_commit = False
        self._resources = Resources(settings=Settings(), pool=self.pool, amqp_urls={})
        self.outcome: str | None = None
        self._at_gate = anyio.Event()
        self._go = anyio.Event()

    async def _pass(self, query: Any) -> None:
        """Waits for its turn, if it is a statement that others could be affected by."""
        if not (self.gated and isinstance(query, bytes) and any(statement in query for statement in GATED)):
            return
        self._at_gate.set()
        await self._go.wait()
        self._go = anyio.Event()

    async def attempt(self) -> None:
        current_pool.set(self.pool)
        runner = Runner(clock=SystemClock(), settings=Schedule(), tally=Tally())
        tick = Tick(self._table, START, chosen=True)
        self.gated = True
        try:
            with bound_contextvars(job=tick.job.name, scheduled_at=START.isoformat()):
                outcome = await runner.attempt(tick)
                if outcome is Outcome.CLAIMED and tick.run is not None:
                    self.gated = False  # nobody else is at it: what follows is up to the fence
                    tick.run = await self._long_runs().carry_out(tick.run)
            self.outcome = tick.run.status.value if tick.run else outcome.name.lower()
        except DatabaseUnavailable:
            self.outcome = "died"
        self._at_gate.set()

    async def take_over(self) -> None:
        current_pool.set(self.pool)
        self.gated = True
        self.outcome = "took over" if await self._long_runs().take_over() else "left alone"
        self._at_gate.set()

    @property
    def _table(self) -> Timetable:
        return Timetable(self.job, self.job.terms(Schedule()))

    def _long_runs(self) -> LongRuns:
        return LongRuns(self._resources, [self._table], anyio.CapacityLimiter(1))

    async def start(self, group: TaskGroup, do: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.outcome = None
        self._at_gate = anyio.Event()
        group.start_soon(do or self.attempt)
        await self._at_gate.wait()

    async def step(self) -> None:
        """Lets one statement through, and returns when the next one is about to be sent or the attempt has ended."""
        if self.outcome is None:
            self._at_gate = anyio.Event()
            self._go.set()
            await self._at_gate.wait()


@pytest.fixture
async def claimants(database_url: str) -> AsyncIterator[tuple[Claimant, Claimant]]:
    one, two = Claimant(database_url), Claimant(database_url)
    async with one.pool, two.pool:
        yield one, two


async def leave_a_trace_later(run: Run) -> None:
    async with run.unit_of_work() as work:
        await leave_a_trace(work)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("job", [a_job(leave_a_trace), a_long_job(leave_a_trace_later)], ids=["short", "long"])
async def test_no_order_of_two_claimants_runs_a_tick_twice(
    claimants: tuple[Claimant, Claimant], witness: Witness, job: Job, dies: bool
) -> None:
    one, two = claimants
    one.dies_at_commit = dies
    one.job = two.job = job
    for turns_of_one in combinations(range(2 * STEPS), STEPS):
        async with anyio.create_task_group() as group:
            await one.start(group)
            await two.start(group)
            for turn in range(2 * STEPS):
                await (one if turn in turns_of_one else two).step()
            while two.outcome in (None, "busy"):  # who found the tick taken looks again
                if two.outcome == "busy":
                    await two.start(group)
                await two.step()
            while one.outcome is None:
                await one.step()
        assert await witness.statuses() == ["finished"], (turns_of_one, one.outcome, two.outcome)
        assert len(await witness.effects()) == 1, (turns_of_one, one.outcome, two.outcome)
        assert {one.outcome, two.outcome} <= {"finished", "claimed", "busy", "died"}
        await witness.query("WITH gone AS (DELETE FROM cron_run RETURNING 1), went AS (DELETE FROM effect) SELECT 1")


async def test_no_order_of_two_replicas_takes_a_run_over_twice(
    claimants: tuple[Claimant, Claimant], witness: Witness
) -> None:
    one, two = claimants
    one.job = two.job = a_long_job(leave_a_trace_later, rerun=True)
    await witness.query(
        "INSERT INTO cron_run (job, scheduled_at, status, started_at, attempts, host, lease_expires_at) "
        "VALUES ('example', %s, 'claimed', %s, 1, 'dead', now() - interval '1 s') RETURNING 1",
        START,
        START,
    )
    for turns_of_one in combinations(range(2 * TAKEOVER_STEPS), TAKEOVER_STEPS):
        async with anyio.create_task_group() as group:
            await one.start(group, one.take_over)
            await two.start(group, two.take_over)
            for turn in range(2 * TAKEOVER_STEPS):
                await (one if turn in turns_of_one else two).step()
            while one.outcome is None or two.outcome is None:
                await one.step()
                await two.step()
        assert {one.outcome, two.outcome} == {"left alone", "took over"}, turns_of_one
        [row] = await witness.query(
            "UPDATE cron_run SET fence = 0, lease_expires_at = now() - interval '1 s' FROM cron_run AS before "
            "WHERE before.id = cron_run.id RETURNING before.fence, before.attempts"
        )
        assert row["fence"] == 1


async def test_a_late_look_at_a_tick_that_is_in_the_book_takes_no_lock_of_the_job(
    claimants: tuple[Claimant, Claimant], witness: Witness
) -> None:
    slow, punctual = claimants
    async with anyio.create_task_group() as group:
        await punctual.start(group)
        while punctual.outcome is None:
            await punctual.step()
        await slow.start(group)
        await slow.step()
        await slow.step()  # it has the lock of the tick and has found its row, and has not let go yet
        held = await witness.query("SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory'")
        assert held == [{"locks": 1}], "the next tick would believe in an overlap"
        while slow.outcome is None:
            await slow.step()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await PooledConnection.connect(database_url, autocommit=True) as connection:
        yield connection


async def test_the_last_row_of_each_job_is_found(connection: Connection) -> None:
    for job, seconds in (("a", 1), ("a", 3), ("a", 2), ("b", 1), ("c", 9)):
        await cron_runs.claim(connection, job, START + timedelta(seconds=seconds), started_at=START, host="here")
    last = await cron_runs.last(connection, ["a", "b", "never ran"])
    assert {job: run.scheduled_at for job, run in last.items()} == {"a": START + timedelta(seconds=3), "b": NEXT}
    assert last["a"].seconds is None


async def test_a_run_by_hand_takes_no_tick_away(connection: Connection) -> None:
    assert await cron_runs.claim(connection, "a", START, started_at=START, host="here") is not None
    assert await cron_runs.claim(connection, "a", START, started_at=START, host="there") is None
    later = START + timedelta(seconds=5)
    by_hand = await cron_runs.claim(
        connection, "a", later, started_at=later, host="here", trigger=Trigger.MANUAL, triggered_by="ada"
    )
    assert by_hand is not None
    assert (await cron_runs.last(connection, ["a"]))["a"].scheduled_at == START, "it is no tick"
    assert await cron_runs.of_tick(connection, "a", later) is None
    assert await cron_runs.claim(connection, "a", later, started_at=later, host="here") is not None
    run = await cron_runs.get(connection, by_hand)
    assert run is not None
    assert (run.trigger, run.triggered_by, run.scheduled_at) == (Trigger.MANUAL, "ada", later)


async def test_a_claim_that_has_left_the_book_is_an_error(connection: Connection) -> None:
    with pytest.raises(LookupError, match="cron_run"):
        await cron_runs.settle(connection, 7, status=RunStatus.FINISHED, started_at=START, finished_at=START)


async def test_a_pause_is_kept_until_it_is_resumed(connection: Connection) -> None:
    assert await cron_pauses.get(connection, "a") is None
    made = await cron_pauses.pause(connection, "a", paused_by="ada", reason="month end")
    assert made is not None
    assert await cron_pauses.pause(connection, "a", paused_by="grace") is None, "it was paused already"
    assert await cron_pauses.get(connection, "a") == made
    assert await cron_pauses.all_paused(connection) == {"a": made}
    assert (made.paused_by, made.reason) == ("ada", "month end")
    assert await cron_pauses.resume(connection, "a") == made
    assert await cron_pauses.resume(connection, "a") is None
    assert await cron_pauses.all_paused(connection) == {}
