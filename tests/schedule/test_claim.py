"""The SQL of a tick: two claimants, stepped through every order in which their statements can reach the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import combinations

import psycopg
import pytest
from psycopg.rows import tuple_row

from db import cron_runs
from db.cron_runs import RunStatus
from db.query import Connection
from tests.schedule.support import START, Witness

pytestmark = pytest.mark.anyio

NEXT = START + timedelta(seconds=1)
STEPS = 5


async def claimant(connection: Connection, host: str, *, dies: bool = False) -> AsyncIterator[str]:
    """A tick as `roles.schedule.tick` runs it; control comes back after every statement."""
    await connection.execute("BEGIN")
    outcome = "busy"
    if await cron_runs.lock_tick(connection, "job", START):
        yield "locked the tick"
        outcome = "taken"
        if await cron_runs.claim(connection, "job", START, started_at=START, host=host):
            yield "claimed"
            status = RunStatus.SKIPPED
            if await cron_runs.lock_job(connection, "job"):
                yield "locked the job"
                status = RunStatus.FINISHED
                await connection.execute("INSERT INTO effect VALUES ('job', %s)", (START,))
            await cron_runs.settle(connection, "job", START, status=status, finished_at=START)
            yield "settled"
            outcome = status.value
    await connection.execute("ROLLBACK" if dies else "COMMIT")
    yield outcome


@pytest.fixture
async def connections(database_url: str, witness: Witness) -> AsyncIterator[tuple[Connection, Connection]]:
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True, row_factory=tuple_row) as one,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True, row_factory=tuple_row) as two,
    ):
        for connection in (one, two):
            await connection.execute("SET statement_timeout = '2s'")  # nobody ever waits for the other
        yield one, two


@pytest.mark.parametrize("dies", [False, True])
async def test_no_order_of_two_claimants_runs_a_tick_twice(
    connections: tuple[Connection, Connection], witness: Witness, dies: bool
) -> None:
    one, two = connections
    for turns_of_one in combinations(range(2 * STEPS), STEPS):
        claimants = claimant(one, "one", dies=dies), claimant(two, "two")
        outcomes = ["", ""]
        for turn in range(2 * STEPS):
            which = 0 if turn in turns_of_one else 1
            outcomes[which] = await anext(claimants[which], outcomes[which])
        if dies:  # who found the tick taken looks again
            async for outcome in claimant(two, "two"):
                outcomes[1] = outcome
        assert "skipped" not in outcomes
        assert await witness.statuses() == ["finished"], (turns_of_one, outcomes)
        assert await witness.effects() == [("job", START)], (turns_of_one, outcomes)
        await witness.query("WITH gone AS (DELETE FROM cron_run RETURNING 1), went AS (DELETE FROM effect) SELECT 1")


async def test_who_looks_at_a_tick_of_the_past_does_not_make_the_next_one_believe_in_an_overlap(
    connections: tuple[Connection, Connection],
) -> None:
    slow, punctual = connections
    async for _ in claimant(punctual, "punctual"):
        pass
    late = claimant(slow, "slow")
    assert await anext(late) == "locked the tick"
    assert await cron_runs.claim(slow, "job", START, started_at=START, host="slow") is False
    await punctual.execute("BEGIN")
    assert await cron_runs.lock_tick(punctual, "job", NEXT)
    assert await cron_runs.lock_job(punctual, "job")


async def test_the_last_row_of_each_job_is_found(connections: tuple[Connection, Connection]) -> None:
    connection, _ = connections
    for job, seconds in (("a", 1), ("a", 3), ("a", 2), ("b", 1), ("c", 9)):
        await cron_runs.claim(connection, job, START + timedelta(seconds=seconds), started_at=START, host="here")
    last = await cron_runs.last(connection, ["a", "b", "never ran"])
    assert {job: run.scheduled_at for job, run in last.items()} == {"a": START + timedelta(seconds=3), "b": NEXT}
    assert last["a"].seconds is None


async def test_a_claim_that_has_left_the_book_is_an_error(connections: tuple[Connection, Connection]) -> None:
    with pytest.raises(LookupError, match="cron_run"):
        await cron_runs.settle(connections[0], "job", START, status=RunStatus.FINISHED, finished_at=START)
