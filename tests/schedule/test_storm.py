"""Real processes: replicas whose clocks differ, killed at random and at each step of a tick."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from schema.steps import Step
from tests.crash.support import Process
from tests.e2e.support import App, running
from tests.schedule.support import Row, Witness, until

pytestmark = [pytest.mark.anyio, pytest.mark.early, pytest.mark.timeout(300)]

STORM_APP = Path(__file__).parent / "storm_app.py"
RUSH_APP = Path(__file__).parent / "rush_app.py"
SECONDS = float(os.environ.get("STORM_SECONDS", "5"))
"""How long replicas are killed and started; more by hand, such as `STORM_SECONDS=60`."""
SHORT_STEPS = (Step.SCHEDULE_CLAIMED, Step.SCHEDULE_HANDLED, Step.SCHEDULE_MARKED, Step.SCHEDULE_COMMITTED)
LONG_STEPS = (
    Step.SCHEDULE_LONG_CLAIMED,
    Step.SCHEDULE_LONG_COMMITTED,
    Step.SCHEDULE_LONG_HANDLED,
    Step.SCHEDULE_LONG_MARKED,
)

LIVES_ON = ""
"""What a life is told that dies at no step."""
NO_BROKER = "amqp://127.0.0.1:1/"
"""There is nothing for one to do here; an embedded one would have to be unpacked and started by each process."""


def environ(url: str, **more: str) -> dict[str, str]:
    return {
        "APP_DATABASE__URL": url,
        "APP_AMQP__EXAMPLE__URL": NO_BROKER,
        "APP_LOG__LEVEL": "warning",
        "APP_SCHEDULE__LEASE": "1s",
        **more,
    }


async def ticks(witness: Witness, status: str = "finished") -> list[tuple[str, datetime]]:
    rows: list[Row] = await witness.query(
        "SELECT job, scheduled_at FROM cron_run WHERE status = %s AND job NOT LIKE 'prune%%' ORDER BY 1, 2", status
    )
    return [(row["job"], row["scheduled_at"]) for row in rows]


async def test_replicas_that_are_killed_at_random_run_each_tick_of_each_job_once(
    database_url: str, witness: Witness, here: Path
) -> None:
    chance = random.Random(7)
    with ExitStack() as stack:

        def replica(number: int) -> Process:
            directory = here / str(number)
            directory.mkdir()
            settings = environ(database_url, CLOCK_SHIFT=str(number), APP_LOG__LEVEL="info")
            return stack.enter_context(closing(Process(STORM_APP, directory, settings, roles="schedule")))

        replicas = [replica(number) for number in range(3)]
        for each in replicas:
            each.start(LIVES_ON)

        async def under_way() -> bool:
            return len(await ticks(witness)) >= 10

        await until(under_way, within=80)
        end = anyio.current_time() + SECONDS
        kills = 0
        while anyio.current_time() < end:
            await anyio.sleep(chance.uniform(0.2, 1.0))
            victim = chance.choice(replicas)
            assert victim.is_running, victim.text()
            victim.kill()
            kills += 1
            victim.start(LIVES_ON)
        settled = await ticks(witness)

        async def goes_on() -> bool:
            return len(await ticks(witness)) >= len(settled) + 40

        await until(goes_on, within=80)
        for each in replicas:
            await each.ready()
            await each.drain()
    assert kills >= 3
    book = await ticks(witness)
    assert await witness.effects() == book, "the book and the effects agree row by row"
    assert set(Counter(book).values()) == {1}
    for number in range(10):
        times = [at for job, at in book if job == f"job {number}"]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert set(gaps) == {timedelta(seconds=1)}, "a tick is missing"
    everything = await witness.query("SELECT DISTINCT status FROM cron_run WHERE job LIKE 'job %%'")
    assert everything == [{"status": "finished"}]


@pytest.mark.parametrize("kind", ["short", "long"])
async def test_processes_that_are_killed_at_each_step_leave_their_tick_to_the_next(
    database_url: str, witness: Witness, here: Path, kind: str
) -> None:
    left_behind: list[datetime] = []
    with closing(Process(STORM_APP, here, environ(database_url, JOBS=kind), roles="schedule")) as process:
        for step in SHORT_STEPS if kind == "short" else LONG_STEPS:
            process.start(step)
            assert await process.ended() == -signal.SIGKILL, step
            rows = await witness.query("SELECT * FROM cron_run WHERE job = %s ORDER BY scheduled_at", kind)
            if step in (Step.SCHEDULE_COMMITTED, Step.SCHEDULE_LONG_MARKED):
                assert rows[-1]["status"] == "finished", step
            elif kind == "short":
                assert {row["status"] for row in rows} <= {"finished"}, step
            else:
                assert "claimed" in {row["status"] for row in rows}, step
            left_behind += [row["scheduled_at"] for row in rows if row["status"] == "claimed"]
        before = len(await ticks(witness))
        process.start(LIVES_ON)

        async def three_more() -> bool:
            return len(await ticks(witness)) >= before + 3

        await until(three_more, within=80)
        await process.drain()
    rows = await witness.query("SELECT * FROM cron_run WHERE job = %s ORDER BY scheduled_at", kind)
    assert {row["status"] for row in rows} <= {"finished", "missed"}
    done = Counter(at for _, at in await witness.effects())
    assert done.keys() == {row["scheduled_at"] for row in rows if row["status"] == "finished"}
    if kind == "short":
        assert set(done.values()) == {1}
    else:  # what a long run has committed stays, and it is run again, for its job declares that it may be
        assert {at for at, times in done.items() if times > 1} <= set(left_behind)
        assert all(row["attempts"] == row["fence"] + 1 for row in rows if row["status"] == "finished")
        assert any(row["fence"] for row in rows)


async def test_a_thousand_jobs_of_the_same_second_leave_the_api_its_connections(
    database_url: str, witness: Witness, here: Path
) -> None:
    settings = environ(database_url, APP_LOG__LEVEL="info", APP_API__RATE_LIMIT="")
    settings |= {"APP_DATABASE__POOL_MAX_SIZE": "13", "APP_DATABASE__POOL_TIMEOUT": "1s"}
    answered: Counter[tuple[int, bool]] = Counter()
    """By status, and whether the rush was on."""
    done = 0

    async def all_done() -> bool:
        nonlocal done
        done = max(Counter(at for _, at in await ticks(witness)).values(), default=0)
        return done == 1000

    async def ask(app: App) -> None:
        while True:
            before = done
            reply = await app.api.get("/api/v1/students")
            answered[reply.status_code, 0 < before <= done < 1000] += 1

    async with running(here, "--roles", "api,schedule", environ=settings, script=RUSH_APP) as app:
        async with anyio.create_task_group() as clients:
            for _ in range(3):
                clients.start_soon(ask, app)
            await until(all_done, within=150)
            clients.cancel_scope.cancel()
        assert await app.stop() == 0
    assert answered.keys() <= {(200, True), (200, False)}
    assert answered[200, True] > 50, "the API was hardly asked"
    assert await witness.effects() == await ticks(witness)
    assert set(Counter(await witness.effects()).values()) == {1}
