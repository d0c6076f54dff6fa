"""The scheduler on a real database: replicas, crashes, failures, overlaps, outages."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import anyio
import pytest

from db.pool import Work, create_pool, current_pool
from roles.clock import SystemClock
from roles.resources import Resources
from roles.schedule.cron import CronSchedule
from roles.schedule.declarations import Job
from roles.schedule.role import ScheduleRole
from schema.errors import ConfigurationError, DependencyUnavailable
from schema.settings import Database, Settings
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
    pass_time,
    replicas,
    until,
)

pytestmark = pytest.mark.anyio


def minutes(*numbers: float) -> list[datetime]:
    return [START + timedelta(minutes=number) for number in numbers]


class Adjustable(FakeClock):
    """A clock whose hands can be moved, as by a suspended laptop or an administrator."""

    def move(self, by: timedelta) -> None:
        self._start += by


@pytest.mark.parametrize("skew", [0, 0.3, 1])
async def test_replicas_whose_clocks_differ_run_each_tick_once(
    database_url: str, witness: Witness, skew: float
) -> None:
    jobs = [a_job(leave_a_trace, SECOND, name=name) for name in ("one", "two", "three")]
    ahead = FakeClock(START + timedelta(seconds=0.5 + skew))
    behind = FakeClock(START + timedelta(seconds=0.5))
    async with replicas(database_url, jobs, ahead) as [left]:
        await witness.book_has(*["finished"] * 3)
        async with replicas(database_url, jobs, behind) as [right]:
            for seconds in range(1, 21):
                await pass_time(1, left, right)
                await witness.book_has(*["finished"] * 3 * (seconds + 1))
            await left.drained()
            await right.drained()
    effects = await witness.effects()
    assert effects == await witness.finished()
    assert len(effects) == len(set(effects)) == left.tally.finished + right.tally.finished
    for job in jobs:
        times = [at for name, at in effects if name == job.name]
        assert times == [times[0] + timedelta(seconds=n) for n in range(21)], "a tick is missing"
    for tally in (left.tally, right.tally):
        assert tally.taken == tally.finished


async def test_the_real_clock_fires_on_the_second(database_url: str, witness: Witness) -> None:
    job = a_job(leave_a_trace, CronSchedule("* * * * * *"), overlap="queue")  # no tick is skipped if one stalls
    async with replicas(database_url, [job], SystemClock(), SystemClock()):

        async def four_ticks() -> bool:
            return len(await witness.finished()) >= 4

        await until(four_ticks)
    started = [row for row in await witness.book() if row["started_at"] is not None]
    delays = sorted(row["started_at"] - row["scheduled_at"] for row in started)
    assert timedelta(0) <= delays[0] < delays[len(delays) // 2] < timedelta(seconds=1)
    assert await witness.effects() == await witness.finished()


async def test_a_claimant_whose_connection_dies_hands_its_tick_over(database_url: str, witness: Witness) -> None:
    held, free = Gated(), Gated()
    free.gate.set()
    clocks = FakeClock(START + timedelta(seconds=59)), FakeClock(START + timedelta(seconds=58))
    async with (
        replicas(database_url, [held.job()], clocks[0]) as [left],
        replicas(database_url, [free.job()], clocks[1]) as [right],
    ):
        await pass_time(5, left, right, gated=held)  # the second one finds the tick taken
        assert free.calls == 0
        assert await witness.terminate(idle=False) == 1
        await pass_time(3, left, right, gated=held)
        await witness.book_has("finished")
        assert free.calls == 1
        held.gate.set()  # the first one finds out, looks again, and sees the row
        await pass_time(3, left, right, gated=held)
        await witness.book_has("finished")
    assert await witness.effects() == await witness.finished() == [("example", START + timedelta(minutes=1))]


async def test_a_run_whose_connection_dies_is_run_again_by_the_same_process(
    database_url: str, witness: Witness
) -> None:
    gated = Gated()
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [gated.job()], clock) as [replica]:
        await pass_time(1, replica, gated=gated)
        await until(lambda: gated.calls == 1)
        await witness.terminate(idle=False)
        gated.gate.set()
        await until(lambda: replica.tally.given_back == 1)
        await pass_time(1, replica, gated=gated)
        await witness.book_has("finished")
    assert gated.calls == 2
    assert len(await witness.effects()) == 1


async def test_a_replica_that_is_cut_off_hands_its_tick_over(database_url: str, witness: Witness) -> None:
    gated = Gated()
    clocks = FakeClock(START + timedelta(seconds=59)), FakeClock(START + timedelta(seconds=58))
    async with replicas(database_url, [gated.job()], *clocks) as (left, right):
        await pass_time(4, left, right, gated=gated)
        await left.cut_off()
        assert left.tally.given_back == 1
        gated.gate.set()
        await pass_time(3, right)
        await witness.book_has("finished")
        assert right.tally.finished == 1
    assert await witness.effects() == await witness.finished()


async def test_a_tick_that_comes_due_during_an_earlier_run_is_overlap_and_not_handover(
    database_url: str, witness: Witness
) -> None:
    gated = Gated()
    clocks = FakeClock(START + timedelta(seconds=59)), FakeClock(START + timedelta(seconds=58))
    async with replicas(database_url, [gated.job()], *clocks) as (left, right):
        await pass_time(122, left, right, gated=gated)  # two more come due
        await witness.book_has("skipped", "skipped")  # the first one has no row that others could see
        assert gated.calls == 1
        await left.cut_off()  # and now the first is handed over, those that were skipped are not
        gated.gate.set()
        await pass_time(3, right)
        await witness.book_has("finished", "skipped", "skipped")
        await pass_time(60, right)
        await witness.book_has("finished", "skipped", "skipped", "finished")
    assert gated.calls == 3
    assert await witness.effects() == await witness.finished()
    skipped = (await witness.book())[1]
    assert skipped["error"] == "an earlier run of the job still went on"


async def test_a_failure_is_in_the_book_without_its_effects_and_is_not_repeated(
    database_url: str, witness: Witness
) -> None:
    async def fail(_work: Work) -> None:
        raise ValueError("half\x00 a \ud83c character")

    failing = FailingAtFirst(fail)
    clocks = FakeClock(START + timedelta(seconds=59)), FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [failing.job()], *clocks) as both:
        await pass_time(10, *both)
        await witness.book_has("failed")
        await pass_time(10, *both)
        assert failing.calls == 1
        assert await witness.effects() == []
        [row] = await witness.book()
        reason, _, trace = row["error"].partition("\n\n")
        assert reason == "ValueError: half a ? character"
        assert trace.startswith("Traceback (most recent call last):\n")
        assert 'raise ValueError("half' in trace
        assert row["attempts"] == 1
        assert row["finished_at"] >= row["started_at"]
        assert sum(replica.tally.failed for replica in both) == 1
        await pass_time(41, *both)
        await witness.book_has("failed", "finished")
    assert await witness.effects() == await witness.finished()


async def stray(work: Work) -> None:
    await leave_a_trace(work)
    raise asyncio.CancelledError


async def nested(work: Work) -> None:
    await leave_a_trace(work)
    raise ExceptionGroup("two at once", [KeyError("a"), OSError("b")])


async def bad_statement(work: Work) -> None:
    await leave_a_trace(work)
    await work.connection.execute("SELECT 1 / 0")


async def bad_statement_that_is_hidden(work: Work) -> None:
    await leave_a_trace(work)
    try:
        await work.connection.execute("SELECT 1 / 0")
    except Exception:
        return


async def late_constraint(work: Work) -> None:
    await leave_a_trace(work)
    await work.connection.execute("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    await work.connection.execute("INSERT INTO once VALUES (1), (1)")


async def other_connection(work: Work) -> None:
    await leave_a_trace(work)
    raise DependencyUnavailable("the other side is away")


async def slow_statement(work: Work) -> None:
    await leave_a_trace(work)
    await work.connection.execute("SELECT pg_sleep(20)")


async def slow_elsewhere(work: Work) -> None:
    await leave_a_trace(work)
    await anyio.sleep(20)


async def slow_and_deaf(work: Work) -> None:
    await leave_a_trace(work)
    try:
        await anyio.sleep(20)
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (stray, "StrayCancellation: "),
        (nested, "KeyError: 'a'; OSError: b"),
        (bad_statement, "DivisionByZero: division by zero"),
        (bad_statement_that_is_hidden, "InFailedSqlTransaction: "),
        (late_constraint, "UniqueViolation: "),
        (other_connection, "the other side is away"),
        (slow_statement, "JobTimeout: took longer than 200ms"),
        (slow_elsewhere, "JobTimeout: took longer than 200ms"),
        (slow_and_deaf, "JobTimeout: took longer than 200ms"),
    ],
)
async def test_whatever_a_job_does_its_tick_is_failed_and_the_role_goes_on(
    database_url: str, witness: Witness, handler: Job, error: str
) -> None:
    clock = FakeClock(START + timedelta(seconds=59))
    jobs = [a_job(handler, timeout="200ms"), a_job(leave_a_trace, name="other")]
    async with replicas(database_url, jobs, clock) as [replica]:
        await pass_time(1, replica)
        await witness.book_has("failed", "finished")
        pool = replica.resources.pool.get_stats()
        await pass_time(60, replica)
        await witness.book_has("failed", "failed", "finished", "finished")
    row = (await witness.book())[0]
    assert row["error"].startswith(error)
    assert pool.get("returns_bad", 0) == 0, "the connection was thrown away"
    assert await witness.effects() == await witness.finished()
    assert replica.status.last_status == "failed"
    assert replica.status.last_error == row["error"].partition("\n")[0]
    assert (replica.tally.failed, replica.tally.finished) == (2, 2)


async def test_of_what_was_missed_while_nothing_ran_the_latest_tick_is_run(
    database_url: str, witness: Witness
) -> None:
    jobs = [a_job(leave_a_trace)]
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, jobs, clock) as [replica]:
        await pass_time(1, replica)
        await witness.book_has("finished")
    later = FakeClock(START + timedelta(minutes=10, seconds=30))
    async with replicas(database_url, jobs, later) as [replica]:
        await witness.book_has("finished", *["missed"] * 8, "finished")
        assert replica.status.next_at == START + timedelta(minutes=11)
    assert [at for _, at in await witness.effects()] == minutes(1, 10)
    missed = (await witness.book())[1]
    assert missed["error"] == "nothing could start it within its grace of 30s (missed='latest')"
    assert (missed["started_at"], missed["attempts"], missed["through"]) == (None, 0, None)
    assert missed["finished_at"] == START + timedelta(minutes=10, seconds=30)


async def test_a_new_job_runs_a_tick_of_just_now_and_none_of_long_ago(database_url: str, witness: Witness) -> None:
    hourly = a_job(leave_a_trace, CronSchedule("@hourly"), name="hourly")
    clock = FakeClock(START + timedelta(minutes=30, seconds=20))
    async with replicas(database_url, [a_job(leave_a_trace), hourly], clock) as [replica]:
        await witness.book_has("finished")
        assert replica.resources.board.jobs["hourly"].next_at == START + timedelta(hours=1)
    assert await witness.effects() == [("example", START + timedelta(minutes=30))]


async def test_a_restart_runs_the_tick_that_a_crash_cut_off(database_url: str, witness: Witness) -> None:
    gated = Gated()
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [gated.job()], clock) as [replica]:
        await pass_time(1, replica, gated=gated)
        await until(lambda: gated.calls == 1)
        await replica.cut_off()
    gated.gate.set()
    async with replicas(database_url, [gated.job()], FakeClock(START + timedelta(seconds=70))):
        await witness.book_has("finished")
    assert await witness.effects() == await witness.finished() == [("example", START + timedelta(minutes=1))]


async def test_a_laptop_that_slept_runs_one_tick_and_not_a_burst(database_url: str, witness: Witness) -> None:
    clock = Adjustable(START + timedelta(seconds=0.5))
    async with replicas(database_url, [a_job(leave_a_trace, SECOND)], clock) as [replica]:
        await witness.book_has("finished")
        clock.move(timedelta(hours=5))
        await pass_time(0.6, replica)
        await witness.book_has("finished", *["missed"] * 101, "finished")
        await pass_time(1, replica)
        await witness.book_has("finished", *["missed"] * 101, "finished", "finished")
    hours = timedelta(hours=5)
    second = timedelta(seconds=1)
    assert [at - START for _, at in await witness.effects()] == [0 * second, hours + second, hours + 2 * second]
    missed = [row for row in await witness.book() if row["status"] == "missed"]
    assert missed[0]["scheduled_at"] - START == second
    assert missed[0]["through"] - START == hours - 100 * second, "one row for all but the last 100"
    assert [row["scheduled_at"] - START for row in missed[1:]] == [hours - n * second for n in range(99, -1, -1)]
    assert {row["through"] for row in missed[1:]} == {None}


async def test_a_clock_that_is_put_back_repeats_nothing_and_stops_nothing(
    database_url: str, witness: Witness
) -> None:
    clock = Adjustable(START + timedelta(seconds=59))
    async with replicas(database_url, [a_job(leave_a_trace)], clock) as [replica]:
        await pass_time(61, replica)
        await witness.book_has("finished", "finished")
        clock.move(-timedelta(minutes=1))
        await pass_time(1, replica)
        assert replica.status.next_at == START + timedelta(minutes=2)
        await pass_time(60, replica)
        await until(lambda: replica.status.next_at == START + timedelta(minutes=3))
        await pass_time(60, replica)
        await witness.book_has("finished", "finished", "finished")
    assert [at for _, at in await witness.effects()] == minutes(1, 2, 3)


async def test_ticks_wait_for_the_database_and_the_latest_is_run_when_it_is_back(
    database_url: str, witness: Witness
) -> None:
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [a_job(leave_a_trace)], clock) as [replica]:
        await pass_time(1, replica)
        await witness.book_has("finished")
        await allow_connections(database_url, allow=False)
        await witness.terminate()
        for tick in range(2, 7):
            await clock.advance(60)
            assert replica.status.next_at == START + timedelta(minutes=tick + 1)
        await allow_connections(database_url, allow=True)

        await until(lambda: replica.resources.pool.get_stats().get("requests_waiting", 0) == 0)
        await clock.advance(1)  # those that had lost their patience by then try again
        await witness.book_has("finished", *["missed"] * 4, "finished")
    assert [at for _, at in await witness.effects()] == minutes(1, 6)
    assert await witness.effects() == await witness.finished()


async def test_a_run_that_the_database_cut_off_is_not_given_up_for_ticks_that_were_skipped_for_it(
    database_url: str, witness: Witness
) -> None:
    gated = Gated()
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [gated.job()], clock) as [replica]:
        await pass_time(1, replica, gated=gated)
        await until(lambda: gated.calls == 1)
        await pass_time(60, replica, gated=gated)
        await witness.book_has("skipped")
        await witness.terminate(idle=False)
        gated.gate.set()
        await until(lambda: replica.tally.given_back == 1)
        await pass_time(1, replica, gated=gated)
        await witness.book_has("finished", "skipped")
    assert [at for _, at in await witness.effects()] == minutes(1)


async def test_without_a_database_the_role_does_not_start() -> None:
    nowhere = create_pool("postgresql://127.0.0.1:1/none", Database(pool_timeout=timedelta(seconds=0.2)))
    async with nowhere:
        current_pool.set(nowhere)
        role = ScheduleRole(Resources(settings=Settings(), pool=nowhere, amqp_urls={}), jobs=[])
        with pytest.raises(DependencyUnavailable):
            await role.run(task_status=anyio.TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_a_declaration_that_can_never_work_is_refused_at_once() -> None:
    resources = Resources(settings=Settings(), pool=create_pool("", Database()), amqp_urls={})
    with pytest.raises(ConfigurationError, match="job example: cron expression 'x'"):
        ScheduleRole(resources, jobs=[a_job(leave_a_trace, CronSchedule("x"))])


async def test_a_drain_fires_no_more_and_lets_the_runs_in_hand_finish(database_url: str, witness: Witness) -> None:
    gated = Gated()
    clock = FakeClock(START + timedelta(seconds=59))
    jobs = [
        gated.job(),
        a_job(leave_a_trace, name="waits for its turn"),
        a_job(leave_a_trace, CronSchedule("20 * * * * *"), name="comes due later"),
    ]
    async with replicas(database_url, jobs, clock, concurrency=1) as [replica]:
        await clock.advance(1)
        await until(lambda: gated.calls == 1)
        replica.stop.set()
        await clock.advance(40)
        assert not replica.ended.is_set()
        assert replica.resources.board.jobs["comes due later"].next_at == START + timedelta(seconds=80)
        assert replica.tally.in_flight == 1
        gated.gate.set()
        with anyio.fail_after(60):
            await replica.ended.wait()
        assert (replica.tally.finished, replica.tally.in_flight, replica.tally.given_back) == (1, 0, 0)
    assert await witness.effects() == await witness.finished() == [("example", START + timedelta(minutes=1))]


async def test_jobs_of_the_same_second_take_no_more_connections_than_the_limit(
    database_url: str, witness: Witness
) -> None:
    at_once = most = 0

    async def counted(work: Work) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await work.connection.execute("SELECT pg_sleep(0.01)")
        at_once -= 1

    clock = FakeClock(START + timedelta(seconds=59))
    jobs = [a_job(counted, name=f"job {number:02}") for number in range(30)]
    async with replicas(database_url, jobs, clock, concurrency=3) as [replica]:
        await pass_time(1, replica)
        await witness.book_has(*["finished"] * 30)
    assert most == 3


async def test_a_job_that_hangs_harms_no_other(database_url: str, witness: Witness) -> None:
    hangs = Gated()
    clock = FakeClock(START + timedelta(seconds=59))
    async with replicas(database_url, [hangs.job(name="hangs"), a_job(leave_a_trace)], clock, concurrency=2) as [
        replica
    ]:
        await pass_time(180, replica, gated=hangs)
        await witness.book_has("finished", "finished", "finished", "skipped", "skipped")
        assert hangs.calls == 1


async def test_a_thousand_jobs_cost_one_sleeper(database_url: str) -> None:
    clock = FakeClock(START + timedelta(minutes=30))
    daily = CronSchedule("0 0 * * *")
    jobs = [a_job(leave_a_trace, daily, name=str(number)) for number in range(1000)]
    async with replicas(database_url, jobs, clock) as [replica]:
        await pass_time(60, replica)
        assert len(clock.sleeps) <= 62 + 60 / 5 + 60 / 10 + 2  # with those for leases and runs that were cut off


async def test_the_board_tells_of_every_job(database_url: str, witness: Witness) -> None:
    clock = FakeClock(START + timedelta(seconds=59))
    jobs = [a_job(leave_a_trace, CronSchedule("* * * * *", "Europe/Berlin"))]
    async with replicas(database_url, jobs, clock) as [replica]:
        status = replica.status
        assert (status.schedule, status.next_at) == ("* * * * * (Europe/Berlin)", START + timedelta(minutes=1))
        assert status.last_at is None
        await pass_time(1, replica)
        await until(lambda: replica.status.last_status == "finished")
        last = replica.status
        assert (last.last_at, last.last_error, last.last_seconds) == (START + timedelta(minutes=1), None, 0)
        assert last.next_at == START + timedelta(minutes=2)
    async with replicas(database_url, jobs, FakeClock(START + timedelta(seconds=61))) as [replica]:
        assert replica.status.last_at == START + timedelta(minutes=1), "the book remembers"
        [row] = await witness.book()
    assert row["host"].rpartition(":")[0]


async def test_without_jobs_it_waits_to_be_stopped(database_url: str) -> None:
    async with replicas(database_url, [], FakeClock()) as [replica]:
        await replica.drained()
