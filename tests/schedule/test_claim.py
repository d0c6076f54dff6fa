"""The SQL of a tick: two claimants, stepped through every order in which their statements can reach the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import combinations
from typing import Any

import anyio
import psycopg
import pytest
from anyio.abc import TaskGroup
from psycopg.rows import TupleRow
from structlog.contextvars import bound_contextvars

from db import cron_pauses, cron_runs
from db.cron_runs import RunStatus, Trigger
from db.pool import DatabaseUnavailable, Pool, current_pool
from db.pooled_connection import PooledConnection
from db.query import Connection
from roles.clock import SystemClock
from roles.schedule.policy import Timetable
from roles.schedule.tick import Runner, Tick
from roles.tally import Tally
from schema.settings import Schedule
from tests.schedule.support import START, Witness, a_job, leave_a_trace

pytestmark = pytest.mark.anyio

NEXT = START + timedelta(seconds=1)
STEPS = 5
GATED = (b"pg_try_advisory", b"INSERT INTO cron_run", b"UPDATE cron_run", b"COMMIT")
"""The statements of a tick that others could be affected by; five in a tick that is run."""


class Claimant:
    """A replica's attempt at a tick, that goes on by one statement at a time."""

    def __init__(self, url: str) -> None:
        claimant = self

        class Cursor(psycopg.AsyncCursor[TupleRow]):
            async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                if isinstance(query, bytes) and any(statement in query for statement in GATED):
                    await claimant._wait_for_its_turn()
                    if claimant.dies_at_commit and query == b"COMMIT":
                        self.connection.pgconn.finish()
                return await super().execute(query, *args, **kwargs)

        async def configure(connection: Connection) -> None:
            connection.cursor_factory = Cursor

        self.pool = Pool(
            url,
            connection_class=PooledConnection,
            kwargs={"autocommit": True, "options": "-c statement_timeout=2s"},  # for nobody ever waits for the other
            min_size=1,
            max_size=1,
            open=False,
            configure=configure,
        )
        self.dies_at_commit = False
        self.outcome: str | None = None
        self._at_gate = anyio.Event()
        self._go = anyio.Event()

    async def _wait_for_its_turn(self) -> None:
        self._at_gate.set()
        await self._go.wait()
        self._go = anyio.Event()

    async def attempt(self) -> None:
        current_pool.set(self.pool)
        runner = Runner(clock=SystemClock(), settings=Schedule(), tally=Tally())
        job = a_job(leave_a_trace)
        tick = Tick(Timetable(job, job.terms(Schedule())), START, chosen=True)
        try:
            with bound_contextvars(job=tick.job.name, scheduled_at=START.isoformat()):
                outcome = await runner.attempt(tick)
            self.outcome = tick.run.status.value if tick.run else outcome.name.lower()
        except DatabaseUnavailable:
            self.outcome = "died"
        self._at_gate.set()

    async def start(self, group: TaskGroup) -> None:
        self.outcome = None
        self._at_gate = anyio.Event()
        group.start_soon(self.attempt)
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


@pytest.mark.parametrize("dies", [False, True])
async def test_no_order_of_two_claimants_runs_a_tick_twice(
    claimants: tuple[Claimant, Claimant], witness: Witness, dies: bool
) -> None:
    one, two = claimants
    one.dies_at_commit = dies
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
        assert {one.outcome, two.outcome} <= {"finished", "busy", "died"}
        await witness.query("WITH gone AS (DELETE FROM cron_run RETURNING 1), went AS (DELETE FROM effect) SELECT 1")


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
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
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
