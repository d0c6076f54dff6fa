"""Corners in which a tick could get lost, have two rows that contradict each other, or take a process with it."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from db.cron_gaps import BookedTick
from db.pool import Work
from roles.schedule.attempts import LONGEST_LINE
from roles.schedule.policy import ROWS, Timetable, decide
from schema.settings import Schedule as Defaults
from tests.fakes import FakeClock
from tests.schedule.support import SECOND, START, Witness, a_job, leave_a_trace, replicas, until

MINUTE = timedelta(minutes=1)


def a_tick(minute: int) -> BookedTick:
    return BookedTick(job="example", scheduled_at=START + minute * MINUTE, through=None)


@pytest.mark.parametrize(
    ("options", "gone_on"),
    [({"timeout": "1s", "retries": 5, "backoff": "1m"}, 4), ({"timeout": "3h"}, 100)],
    ids=["in the pauses between its retries", "for longer than an hour"],
)
def test_a_run_that_went_on_and_died_with_all_replicas_is_not_forgotten(
    options: dict[str, str | int], gone_on: int
) -> None:
    job = a_job(leave_a_trace, missed="skip", **options)  # type: ignore[arg-type]
    table = Timetable(job, job.terms(Defaults()))
    now = START + gone_on * MINUTE + timedelta(seconds=30)
    book = [a_tick(minute) for minute in range(-1, gone_on + 1) if minute != 0]  # what overlapped it was skipped
    decision = decide(table, book, now, floor=table.floor(now))
    assert (*decision.run, *decision.missed) == (START,)


@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
@pytest.mark.parametrize("backlog", [1, 50, 100, 300])
def test_what_one_replica_runs_shares_no_row_that_another_with_a_faster_clock_enters(
    missed: str, backlog: int
) -> None:
    job = a_job(leave_a_trace, SECOND, missed=missed, backlog=backlog)
    table = Timetable(job, job.terms(Defaults()))
    book = [BookedTick(job="example", scheduled_at=START, through=None)]
    now = START + timedelta(hours=1)
    floor = table.floor(now)
    slow = decide(table, book, now, floor=floor)
    for seconds in (0, 1, 5, 60):
        fast = decide(table, book, now + timedelta(seconds=seconds), floor=floor)
        assert len(fast.missed) <= ROWS
        assert fast.missed_before is not None
        assert not [tick for tick in slow.run if tick <= fast.missed_before[1]]


@pytest.mark.anyio
async def test_a_job_that_calls_exit_has_failed_and_ends_no_process(database_url: str, witness: Witness) -> None:
    async def script(work: Work) -> None:
        await leave_a_trace(work)
        sys.exit(3)

    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [a_job(script)], clock) as [_]:
        await clock.advance(2)
        await witness.book_has("failed")
    [row] = await witness.book()
    assert row["error"].startswith("Exited: sys.exit(3) was called")
    assert "in script" in row["error"]
    assert await witness.effects() == []


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Panic(BaseException):
    """Such as pyo3's."""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (Mute(), "Mute: (its text cannot be had: ZeroDivisionError)"),
        (Panic("index 7"), "Broken: Panic: index 7"),
        (BaseExceptionGroup("both", [Panic("a"), ValueError("b")]), "Broken: Panic: a; ValueError: b"),
        (ValueError("x" * 5_000_000), f"ValueError: {'x' * (LONGEST_LINE - 12)}"),
    ],
    ids=["without a text", "no exception", "a group of such", "of megabytes"],
)
async def test_whatever_a_job_raises_is_in_the_book_and_ends_no_role(
    database_url: str, witness: Witness, failure: BaseException, says: str
) -> None:
    async def broken(work: Work) -> None:
        await leave_a_trace(work)
        raise failure

    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [a_job(broken)], clock) as [_]:
        await clock.advance(2)
        await witness.book_has("failed")
    [row] = await witness.book()
    assert row["error"].partition("\n")[0] == says
    assert "in broken" in row["error"] or len(str(row["error"])) > LONGEST_LINE
    assert await witness.effects() == []


@pytest.mark.anyio
async def test_a_timeout_that_is_longer_than_any_of_postgresql_does_no_harm(
    database_url: str, witness: Witness
) -> None:
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [a_job(leave_a_trace, timeout="30d")], clock) as [_]:
        await clock.advance(2)
        await witness.book_has("finished")
    assert await witness.effects() == [("example", START + MINUTE)]


@pytest.mark.anyio
async def test_a_tick_that_waits_for_a_connection_when_the_drain_begins_is_left_to_others(
    database_url: str, witness: Witness
) -> None:
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [a_job(leave_a_trace)], clock, pool_size=1) as [replica]:
        async with replica.resources.pool.connection(30):
            await clock.advance(2)
            await until(lambda: replica.busy > 0)
            await until(lambda: replica.resources.pool.get_stats().get("requests_waiting", 0) > 0)
            replica.stop.set()
        await replica.ended.wait()
    assert await witness.statuses() == []
