"""What becomes of ticks that could not be run when they were due, on a real database."""

from __future__ import annotations

from datetime import datetime, timedelta

import anyio
import pytest

from db import cron_gaps, cron_runs
from db.pool import Work, connection, create_pool, current_pool, unit_of_work
from roles.schedule.attempts import JobTimeout
from schema.settings import Database
from tests.fakes import FakeClock
from tests.schedule.support import (
    SECOND,
    START,
    FailingAtFirst,
    Gated,
    Witness,
    a_job,
    allow_connections,
    leave_a_trace,
    nudge,
    pass_time,
    replicas,
    until,
)

pytestmark = pytest.mark.anyio

BEFORE = START + timedelta(seconds=59)


def minutes(*numbers: float) -> list[datetime]:
    return [START + timedelta(minutes=number) for number in numbers]


@pytest.mark.parametrize(("missed", "run"), [("skip", (1, 7)), ("latest", (1, 6, 7)), ("all", (1, 2, 3, 4, 5, 6, 7))])
async def test_a_database_that_is_away_over_five_ticks(
    database_url: str, witness: Witness, missed: str, run: tuple[int, ...]
) -> None:
    clock = FakeClock(BEFORE)
    async with replicas(database_url, [a_job(leave_a_trace, missed=missed)], clock) as [replica]:
        await pass_time(1, replica)
        await witness.book_has("finished")
        await allow_connections(database_url, allow=False)
        await witness.terminate()
        for _ in range(5):
            await clock.advance(60)
        await clock.advance(35)  # the last one is later than its grace, too
        await allow_connections(database_url, allow=True)

        async def decided() -> bool:
            await nudge(1, replica)
            return len(await witness.book()) == 6

        await until(decided, within=60)
        await witness.book_has(*("finished" if number in run else "missed" for number in range(1, 7)))
        assert clock.now() < START + timedelta(minutes=7)
        await pass_time((START + timedelta(minutes=7) - clock.now()).total_seconds(), replica)
        await witness.book_has(*("finished" if number in run else "missed" for number in range(1, 8)))
    assert [at for _, at in await witness.effects()] == minutes(*run)


async def test_a_short_outage_costs_no_tick_whatever_the_policy(database_url: str, witness: Witness) -> None:
    clock = FakeClock(START + timedelta(seconds=0.5))
    async with replicas(database_url, [a_job(leave_a_trace, SECOND, missed="skip", overlap="queue")], clock) as [
        replica
    ]:
        await witness.book_has("finished")
        await allow_connections(database_url, allow=False)
        await witness.terminate()
        for _ in range(5):
            await clock.advance(1)
        await allow_connections(database_url, allow=True)

        async def caught_up() -> bool:
            await nudge(0.25, replica)
            ran = [at for _, at in await witness.finished()]
            return ran[:6] == [START + timedelta(seconds=number) for number in range(6)]

        await until(caught_up, within=60)
    assert "missed" not in await witness.statuses()
    assert await witness.effects() == await witness.finished()


async def test_a_claimant_that_dies_in_the_middle_hands_over_although_missed_ticks_are_skipped(
    database_url: str, witness: Witness
) -> None:
    held, free = Gated(), Gated()
    free.gate.set()
    clocks = FakeClock(BEFORE), FakeClock(START + timedelta(seconds=58))
    async with (
        replicas(database_url, [held.job(missed="skip")], clocks[0]) as [left],
        replicas(database_url, [free.job(missed="skip")], clocks[1]) as [right],
    ):
        await pass_time(50, left, right, gated=held)  # longer than its grace
        assert free.calls == 0
        await left.cut_off()
        await pass_time(3, right)
        await witness.book_has("finished")
        assert (free.calls, right.tally.finished) == (1, 1)
    assert await witness.effects() == await witness.finished() == [("example", minutes(1)[0])]


async def test_all_that_was_missed_is_run_in_order_up_to_the_backlog(database_url: str, witness: Witness) -> None:
    job = a_job(leave_a_trace, missed="all", backlog=3)
    async with replicas(database_url, [job], FakeClock(BEFORE)) as [replica]:
        await pass_time(1, replica)
        await witness.book_has("finished")
    later = FakeClock(START + timedelta(minutes=8, seconds=30))
    async with replicas(database_url, [job], later, FakeClock(START + timedelta(minutes=8, seconds=31))):
        await witness.book_has("finished", *["missed"] * 4, *["finished"] * 3)
    ran = await witness.query("SELECT scheduled_at FROM cron_run WHERE status = 'finished' ORDER BY id")
    assert [row["scheduled_at"] for row in ran] == minutes(1, 6, 7, 8)


async def test_what_somebody_is_at_is_not_missed(database_url: str, witness: Witness) -> None:
    gated = Gated()
    async with replicas(database_url, [gated.job(missed="skip")], FakeClock(BEFORE)) as [left]:
        await pass_time(61, left, gated=gated)  # the second tick is skipped, and in the book
        await witness.book_has("skipped")
        late = FakeClock(START + timedelta(minutes=2, seconds=40))
        async with replicas(database_url, [a_job(leave_a_trace, missed="skip", timeout="10m")], late) as [right]:
            await until(lambda: right.status.next_at == minutes(3)[0])
            await pass_time(3, right)
            await witness.book_has("skipped")
            gated.gate.set()
            await witness.book_has("finished", "skipped")
    assert await witness.effects() == await witness.finished() == [("example", minutes(1)[0])]


async def test_a_row_is_not_taken_for_missed_and_a_tick_that_is_locked_is_not_entered(
    database_url: str, witness: Witness
) -> None:
    async with create_pool(database_url, Database(pool_min_size=1)) as pool:
        current_pool.set(pool)
        async with connection() as conn:
            await cron_runs.claim(conn, "job", START, started_at=START, host="here")
        ticks = {START + timedelta(seconds=number): None for number in range(4)}
        async with unit_of_work() as work, unit_of_work() as other:
            assert await cron_runs.lock_tick(work.connection, "job", START + timedelta(seconds=2))
            entered = await cron_gaps.miss(other.connection, "job", ticks, decided_at=START, error="why", host="here")
        assert entered == {START + timedelta(seconds=1), START + timedelta(seconds=3)}
        async with connection() as conn:
            book = await cron_gaps.since(conn, {"job": START + timedelta(seconds=3), "other": START})
        assert [tick.scheduled_at - START for tick in book["job"]] == [timedelta(seconds=1), timedelta(seconds=3)]
        assert "other" not in book


async def test_ticks_of_a_queue_wait_for_each_other_in_order_and_not_without_end(
    database_url: str, witness: Witness
) -> None:
    gated = Gated()
    clocks = FakeClock(BEFORE), FakeClock(BEFORE)
    async with replicas(database_url, [gated.job(overlap="queue", backlog=2)], *clocks) as (left, right):
        await pass_time(1, left, right, gated=gated)
        for _ in range(3):
            for replica in (left, right):
                assert isinstance(replica.clock, FakeClock)
                await replica.clock.advance(60)
        await witness.book_has("skipped")
        [skipped] = await witness.book()
        assert (skipped["scheduled_at"], skipped["error"]) == (
            minutes(4)[0],
            "2 earlier ticks of the job waited already",
        )
        gated.gate.set()

        async def all_ran() -> bool:
            await nudge(1, left, right)
            return len(await witness.book()) >= 4

        await until(all_ran, within=60)
        ran = await witness.query("SELECT scheduled_at FROM cron_run WHERE status = 'finished' ORDER BY finished_at")
        assert [row["scheduled_at"] for row in ran] == minutes(1, 2, 3)
    assert await witness.effects() == await witness.finished()


async def test_what_a_failed_attempt_still_held_is_not_sent_before_it_is_undone(
    database_url: str, witness: Witness
) -> None:
    async def hold_and_fail(work: Work) -> None:
        await work.connection.hold(b"INSERT INTO student (name) VALUES (NULL)", {}, then=lambda: None)
        raise ValueError("not yet")

    clock, failing = FakeClock(BEFORE), FailingAtFirst(hold_and_fail)
    async with replicas(database_url, [failing.job(retries=1, backoff="4s")], clock):
        await clock.advance(1)
        await until(lambda: 4 in clock.sleeps)
        await clock.advance(4)
        await witness.book_has("finished")
    [row] = await witness.book()
    assert (row["attempts"], row["error"]) == (2, None)
    assert len(await witness.effects()) == 1


async def test_retries_are_counted_and_undo_what_the_attempts_before_did(database_url: str, witness: Witness) -> None:
    async def fail(_work: Work) -> None:
        raise ValueError("not yet")

    clock, failing = FakeClock(BEFORE), FailingAtFirst(fail, times=2)
    async with replicas(database_url, [failing.job(retries=2, backoff="4s")], clock) as [replica]:
        await clock.advance(1)
        await until(lambda: failing.calls == 1)
        await until(lambda: 4 in clock.sleeps)
        await clock.advance(3.9)
        assert failing.calls == 1
        await clock.advance(0.1)
        await until(lambda: failing.calls == 2)
        await until(lambda: 8 in clock.sleeps)
        await clock.advance(8)
        await witness.book_has("finished")
        assert (replica.tally.finished, replica.tally.failed) == (1, 0)
    [row] = await witness.book()
    assert (row["attempts"], row["error"]) == (3, None)
    assert len(await witness.effects()) == 1


async def test_retries_that_are_used_up_leave_a_failure(database_url: str, witness: Witness) -> None:
    async def hangs(work: Work) -> None:
        await leave_a_trace(work)
        await anyio.sleep(60)

    clock = FakeClock(BEFORE)
    async with replicas(database_url, [a_job(hangs, retries=1, backoff="0s", timeout="50ms")], clock):
        await clock.advance(1)
        await witness.book_has("failed")
    [row] = await witness.book()
    assert row["attempts"] == 2
    assert row["error"].startswith(f"{JobTimeout.__name__}: took longer than 50ms\n")
    assert await witness.effects() == []


async def test_a_job_that_ruins_its_own_connection_has_failed_and_is_not_run_for_ever(
    database_url: str, witness: Witness
) -> None:
    calls = 0

    async def cancels_its_statement(work: Work) -> None:
        nonlocal calls
        calls += 1
        with anyio.move_on_after(0.05):
            await work.connection.execute("SELECT pg_sleep(0.3)")
        raise ValueError("gave up")

    clock = FakeClock(BEFORE)
    async with replicas(database_url, [a_job(cancels_its_statement)], clock) as [replica]:
        await clock.advance(1)

        async def failed() -> bool:
            await nudge(0.2, replica)
            return await witness.statuses() == ["failed"]

        await until(failed, within=60)
        assert replica.tally.failed == 1
    assert calls == 1


async def test_a_paused_job_is_skipped_on_all_replicas_and_a_resumed_one_does_not_burst(
    database_url: str, witness: Witness
) -> None:
    clocks = FakeClock(BEFORE), FakeClock(BEFORE)
    jobs = [a_job(leave_a_trace, missed="all")]
    await witness.query(
        "INSERT INTO cron_pause (job, paused_by, reason) VALUES ('example', 'ada', 'audit') RETURNING 1"
    )
    async with replicas(database_url, jobs, *clocks) as both:
        await pass_time(121, *both)
        await witness.book_has("skipped", "skipped", "skipped")
        [row, *_] = await witness.book()
        assert row["error"].startswith("the job is paused by ada since ")
        assert row["error"].endswith(": audit")
        await until(lambda: all("by ada since" in (replica.status.paused or "") for replica in both))
        await witness.query("DELETE FROM cron_pause RETURNING 1")
        await pass_time(60, *both)
        await witness.book_has("skipped", "skipped", "skipped", "finished")
        await until(lambda: all(replica.status.paused is None for replica in both))
    assert len(await witness.effects()) == 1


async def test_jitter_delays_the_start_and_not_the_tick(database_url: str, witness: Witness) -> None:
    clocks = FakeClock(BEFORE), FakeClock(BEFORE)
    jobs = [a_job(leave_a_trace, name=f"job {number}", jitter="20s") for number in range(8)]
    async with replicas(database_url, jobs, *clocks) as both:
        await pass_time(1, *both)
        early = len(await witness.book())
        await pass_time(20, *both)
        await witness.book_has(*["finished"] * 8)
    book = await witness.book()
    assert early < 8
    assert {row["scheduled_at"] for row in book} == {minutes(1)[0]}
    delays = {row["job"]: row["started_at"] - row["scheduled_at"] for row in book}
    assert all(timedelta(0) <= delay <= timedelta(seconds=20) for delay in delays.values())
    assert len(set(delays.values())) > 4
