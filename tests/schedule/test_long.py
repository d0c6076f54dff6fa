"""Long runs on a real database: the lease, the fence, and what becomes of a run whose replica is gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from db.cron_runs import RunStatus
from db.pool import DatabaseUnavailable
from roles.clock import SystemClock
from roles.schedule.declarations import Job
from roles.schedule.long import RERUNS
from roles.schedule.run import LONGEST_PROGRESS, LeaseLost, Run
from tests.fakes import FakeClock
from tests.schedule.support import (
    SECOND,
    START,
    Replica,
    Witness,
    a_long_job,
    leave_a_trace,
    nudge,
    pass_time,
    replicas,
    until,
)

pytestmark = pytest.mark.anyio

DUE = START + timedelta(minutes=1)
BEFORE = START + timedelta(seconds=59)


class Held:
    """A long job that leaves a trace in a unit of work of its own each time its gate is opened a little."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.lost: list[Run] = []
        self.cancelled: list[Run] = []
        self.gates: list[anyio.Event] = []

    def job(self, *, name: str = "example", **options: Any) -> Job:
        async def handler(run: Run) -> None:
            gate = anyio.Event()
            self.gates.append(gate)
            self.runs.append(run)
            try:
                await gate.wait()
                async with run.unit_of_work() as work:
                    await leave_a_trace(work)
            except LeaseLost:
                self.lost.append(run)
                raise
            except BaseException:
                self.cancelled.append(run)
                raise

        return a_long_job(handler, name=name, **options)

    async def called(self, times: int) -> None:
        await until(lambda: len(self.runs) == times)


async def reach(held: Held, times: int, *running: Replica) -> None:
    """Lets time pass until the job has been called so often."""
    with anyio.fail_after(60):
        while len(held.runs) < times:
            await nudge(1, *running)


async def expire(witness: Witness) -> None:
    """What the time does to the lease of a process that is dead, or stands still."""
    await witness.query(
        "UPDATE cron_run SET lease_expires_at = now() - interval '1 s' WHERE lease_expires_at IS NOT NULL RETURNING 1"
    )


def finished(times: int, *running: Replica) -> bool:
    return sum(replica.tally.finished for replica in running) == times


async def outcome(witness: Witness) -> Sequence[object]:
    [row] = await witness.book()
    return row["status"], row["attempts"], row["fence"], row["lease_expires_at"]


async def test_the_claim_is_there_for_all_to_see_while_the_job_goes_on(database_url: str, witness: Witness) -> None:
    held = Held()
    clocks = FakeClock(BEFORE), FakeClock(BEFORE)
    async with replicas(database_url, [held.job()], *clocks) as both:
        await reach(held, 1, *both)
        [row] = await witness.book()
        assert (row["status"], row["scheduled_at"], row["attempts"]) == ("claimed", DUE, 1)
        [lease] = await witness.query("SELECT lease_expires_at - now() AS left FROM cron_run")
        assert timedelta(0) < lease["left"] <= timedelta(seconds=30)
        held.runs[0].report("half of it")
        assert sum(replica.status.progress == "half of it" for replica in both) == 1

        async def seen_by_both() -> bool:
            await pass_time(1, *both)
            return all(replica.status.progress == "half of it" for replica in both)

        await until(seen_by_both, within=30)
        held.gates[0].set()
        await witness.book_has("finished")
        await until(lambda: sum(replica.tally.finished for replica in both) == 1)
    assert await outcome(witness) == ("finished", 1, 0, None)
    assert (await witness.book())[0]["progress"] == "half of it"
    assert await witness.effects() == [("example", DUE)]


@pytest.mark.parametrize(
    ("progress", "kept"),
    [(50, "50"), ("\x00half\ud800", "half?"), ("x" * 1_000_000, "x" * LONGEST_PROGRESS)],
    ids=["a number", "no text of PostgreSQL's", "a megabyte"],
)
async def test_whatever_a_run_reports_ends_no_role(
    database_url: str, witness: Witness, progress: object, kept: str
) -> None:
    held = Held()
    async with replicas(database_url, [held.job()], FakeClock(BEFORE), lease=timedelta(seconds=3)) as [replica]:
        await reach(held, 1, replica)
        held.runs[0].report(progress)

        async def written() -> bool:
            await pass_time(1, replica)
            return bool(await witness.query("SELECT 1 FROM cron_run WHERE progress = %s", kept))

        await until(written)
        assert replica.status.progress == kept
        held.gates[0].set()
        await witness.book_has("finished")


async def test_a_lease_is_renewed_while_the_run_goes_on(database_url: str, witness: Witness) -> None:
    held = Held()
    async with replicas(database_url, [held.job()], FakeClock(BEFORE), lease=timedelta(seconds=3)) as [replica]:
        await reach(held, 1, replica)
        await expire(witness)

        async def renewed() -> bool:
            await pass_time(1, replica)
            return bool(await witness.query("SELECT 1 FROM cron_run WHERE lease_expires_at > now()"))

        await until(renewed, within=30)
        assert len(held.runs) == 1, "nobody had taken it over, so it goes on"
        held.gates[0].set()
        await witness.book_has("finished")


@pytest.mark.parametrize("rerun", [True, False])
async def test_a_run_whose_lease_expired_is_taken_over_or_has_failed_and_the_old_one_commits_nothing_more(
    database_url: str, witness: Witness, rerun: bool
) -> None:
    frozen, awake = Held(), Held()
    clocks = FakeClock(BEFORE), FakeClock(START + timedelta(seconds=30))
    async with (
        replicas(database_url, [frozen.job(rerun=rerun)], clocks[0]) as [left],
        replicas(database_url, [awake.job(rerun=rerun)], clocks[1]) as [right],
    ):
        await reach(frozen, 1, left)  # and from now on its clock stands still: it renews nothing
        await expire(witness)
        if rerun:
            await reach(awake, 1, right)
            assert await outcome(witness) != ("claimed", 1, 0, None)
            assert (awake.runs[0].attempt, awake.runs[0].fence) == (2, 1)
        else:

            async def failed() -> bool:
                await pass_time(1, right)
                return await witness.statuses() == ["failed"]

            await until(failed, within=30)
        frozen.gates[0].set()
        await until(lambda: len(frozen.lost) == 1, within=30)
        await until(lambda: left.tally.given_back == 1)
        assert await witness.effects() == []
        if rerun:
            assert await witness.statuses() == ["claimed"]
            awake.gates[0].set()
            await witness.book_has("finished")
    if rerun:
        assert await outcome(witness) == ("finished", 2, 1, None)
        assert await witness.effects() == [("example", DUE)]
    else:
        [row] = await witness.book()
        assert row["error"].startswith("its lease expired: ")
        assert row["error"].endswith("; it is not run again")


async def test_a_fenced_run_is_cancelled_with_the_next_renewal(database_url: str, witness: Witness) -> None:
    held = Held()
    async with replicas(database_url, [held.job()], FakeClock(BEFORE), lease=timedelta(seconds=3)) as [replica]:
        await reach(held, 1, replica)
        await witness.query("UPDATE cron_run SET fence = fence + 1 RETURNING 1")

        async def cancelled() -> bool:
            await pass_time(1, replica)
            return len(held.cancelled) == 1

        await until(cancelled, within=30)
        await until(lambda: replica.tally.given_back == 1)
    assert await outcome(witness) != ("finished", 1, 1, None)


async def test_a_run_that_is_cut_off_by_a_drain_is_taken_over_at_once(database_url: str, witness: Witness) -> None:
    leaving, staying = Held(), Held()
    clocks = FakeClock(BEFORE), FakeClock(START + timedelta(seconds=30))
    async with (
        replicas(database_url, [leaving.job(rerun=True)], clocks[0]) as [left],
        replicas(database_url, [staying.job(rerun=True)], clocks[1]) as [right],
    ):
        await reach(leaving, 1, left)
        left.stop.set()
        await until(lambda: leaving.runs[0].stopping)
        await left.cut_off()
        assert left.tally.given_back == 1
        await reach(staying, 1, right)
        staying.gates[0].set()
        await witness.book_has("finished")
    assert await outcome(witness) == ("finished", 2, 1, None)


async def test_a_run_that_is_cut_off_and_may_not_be_run_again_has_failed(database_url: str, witness: Witness) -> None:
    held = Held()
    async with replicas(database_url, [held.job()], FakeClock(BEFORE)) as [replica]:
        await reach(held, 1, replica)
        await replica.cut_off()
    [row] = await witness.book()
    assert row["status"] == "failed"
    assert row["error"].startswith("cut off: ")


async def test_a_drain_waits_for_a_run_that_ends_in_time_and_a_job_may_hand_over(
    database_url: str, witness: Witness
) -> None:
    handing: list[Run] = []

    async def hands_over(run: Run) -> None:
        handing.append(run)
        while not run.stopping:  # noqa: ASYNC110 - as a job does that looks between two steps
            await anyio.sleep(0.01)
        run.hand_over()

    held = Held()
    jobs = [a_long_job(hands_over, name="hands over", rerun=True), held.job()]
    async with replicas(database_url, jobs, FakeClock(BEFORE)) as [replica]:
        await reach(held, 1, replica)
        await until(lambda: len(handing) == 1)
        replica.stop.set()
        await until(lambda: replica.tally.given_back == 1)
        assert not replica.ended.is_set()
        held.gates[0].set()
        with anyio.fail_after(60):
            await replica.ended.wait()
        assert (replica.tally.finished, replica.tally.in_flight) == (1, 0)
    book = {row["job"]: row for row in await witness.book()}
    assert book["example"]["status"] == "finished"
    assert (book["hands over"]["status"], book["hands over"]["error"]) == (
        "claimed",
        "HandedOver: hands over handed its run over",
    )
    again = Held()
    async with replicas(database_url, [again.job(name="hands over", rerun=True)], FakeClock(BEFORE)) as [replica]:
        await reach(again, 1, replica)
        again.gates[0].set()
        await until(lambda: replica.tally.finished == 1, within=30)


async def test_a_run_that_kills_every_process_comes_to_an_end(database_url: str, witness: Witness) -> None:
    held = Held()
    async with replicas(database_url, [held.job(rerun=True)], FakeClock(BEFORE)) as [replica]:
        await reach(held, 1, replica)
        await witness.query(f"UPDATE cron_run SET fence = {RERUNS}, attempts = {RERUNS + 1} RETURNING 1")
        replica.scope.cancel()
        await replica.ended.wait()
    await expire(witness)
    async with replicas(database_url, [held.job(rerun=True)], FakeClock(DUE + timedelta(seconds=1))):
        await witness.book_has("failed")
    assert len(held.runs) == 1
    assert "it is not run again" in (await witness.book())[0]["error"]


async def test_a_tick_that_comes_due_during_a_long_run_is_skipped_or_waits(
    database_url: str, witness: Witness
) -> None:
    for overlap in ("skip", "queue"):
        held = Held()
        jobs = [held.job(name=overlap, overlap=overlap)]
        clocks = FakeClock(BEFORE), FakeClock(BEFORE)
        async with replicas(database_url, jobs, *clocks) as both:
            await reach(held, 1, *both)
            await pass_time(63, *both)
            statuses = {row["scheduled_at"]: row["status"] for row in await witness.book() if row["job"] == overlap}
            assert statuses == (
                {DUE: "claimed", DUE + timedelta(minutes=1): "skipped"} if overlap == "skip" else {DUE: "claimed"}
            )
            held.gates[0].set()
            if overlap == "queue":
                await reach(held, 2, *both)
                held.gates[1].set()
                await until(partial(finished, 2, *both))
            else:
                await until(partial(finished, 1, *both))
    assert len(await witness.effects()) == 3


async def test_a_long_job_that_fails_is_tried_again_and_then_in_the_book_with_its_traceback(
    database_url: str, witness: Witness
) -> None:
    attempts: list[int] = []

    async def fails(run: Run) -> None:
        attempts.append(run.attempt)
        async with run.unit_of_work() as work:
            await leave_a_trace(work)
            raise ValueError("not today")

    async with replicas(database_url, [a_long_job(fails, retries=2)], FakeClock(BEFORE)) as [replica]:
        await pass_time(1, replica)
        await until(lambda: len(attempts) == 1)
        await pass_time(1, replica)
        await until(lambda: len(attempts) == 2)
        await pass_time(2, replica)
        await witness.book_has("failed")
    assert attempts == [1, 2, 3]
    [row] = await witness.book()
    assert row["attempts"] == 3
    assert row["error"].startswith("ValueError: not today\n\nTraceback ")
    assert await witness.effects() == []


async def test_a_long_job_that_takes_too_long_is_cancelled(database_url: str, witness: Witness) -> None:
    held = Held()
    async with replicas(database_url, [held.job(timeout="200ms")], FakeClock(BEFORE)) as [replica]:
        await reach(held, 1, replica)
        await witness.book_has("failed")
    assert (await witness.book())[0]["error"].startswith("JobTimeout: took longer than 200ms\n")
    assert len(held.cancelled) == 1


async def test_a_database_that_goes_away_during_a_run_is_no_failure_of_a_job_that_may_be_run_again(
    database_url: str, witness: Witness
) -> None:
    calls: list[tuple[datetime, str]] = []

    async def asks(run: Run) -> None:
        calls.append((run.scheduled_at, run.job))
        if [job for _, job in calls].count(run.job) == 1:
            raise DatabaseUnavailable("as if it were away")

    jobs = [a_long_job(asks, name="again", rerun=True), a_long_job(asks, name="once")]
    async with replicas(database_url, jobs, FakeClock(BEFORE)) as [replica]:
        await pass_time(1, replica)

        async def both_ended() -> bool:
            """In the first minute. On a busy machine the lease is not ended in time, and ends by itself, later."""
            await pass_time(1, replica)
            of_first = "SELECT status FROM cron_run WHERE scheduled_at = %s ORDER BY job"
            return [row["status"] for row in await witness.query(of_first, calls[0][0])] == ["finished", "failed"]

        await until(both_ended, within=120)
    first = min(calls)[0]
    assert sorted(job for at, job in calls if at == first) == ["again", "again", "once"]


async def test_units_of_work_of_long_runs_leave_connections_to_the_others(
    database_url: str, witness: Witness
) -> None:
    at_once = most = 0

    async def counted(run: Run) -> None:
        nonlocal at_once, most
        async with run.unit_of_work() as work:
            at_once += 1
            most = max(most, at_once)
            await work.connection.execute("SELECT pg_sleep(0.01)")
            at_once -= 1

    jobs = [a_long_job(counted, name=f"job {number:02}") for number in range(20)]
    async with replicas(database_url, jobs, FakeClock(BEFORE), concurrency=2) as [replica]:
        await pass_time(1, replica)
        await until(lambda: replica.tally.finished == 20, within=60)
    assert most == 2


async def test_a_run_that_was_cut_off_goes_before_the_ticks_that_came_due_meanwhile(
    database_url: str, witness: Witness
) -> None:
    held = Held()
    job = held.job(schedule=SECOND, rerun=True, missed="skip")
    async with replicas(database_url, [job], SystemClock(), SystemClock(), lease=timedelta(seconds=1)) as both:
        await held.called(1)
        first = held.runs[0]
        await anyio.sleep(2.5)  # more than two leases: they are renewed
        assert len(held.runs) == 1
        await witness.query("UPDATE cron_run SET fence = fence + 1 WHERE lease_expires_at IS NOT NULL RETURNING 1")
        await until(lambda: len(held.cancelled) == 1, within=60)
        await until(lambda: len(held.runs) == 2, within=60)
        assert held.runs[1].scheduled_at == first.scheduled_at
        held.gates[1].set()
        await until(lambda: sum(replica.tally.finished for replica in both) >= 1, within=60)
    row = next(row for row in await witness.book() if row["scheduled_at"] == first.scheduled_at)
    assert (row["status"], row["attempts"]) == (RunStatus.FINISHED.value, 2)
