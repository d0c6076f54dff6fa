"""The crash matrix: the process dies by SIGKILL after each step of each path, and every promise is kept.

One process after the other, on the same servers: the one that takes up what the last one left dies next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schema.steps import Step
from tests.crash.dying_app import CONSUMERS
from tests.crash.scenarios import SCENARIOS
from tests.crash.support import Process, World
from tests.services import PostgresServer, RabbitServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).parent / "dying_app.py"
FAST = {
    "APP_SUPERVISOR__BACKOFF_INITIAL": "50ms",
    "APP_SUPERVISOR__BACKOFF_MAX": "1s",
    "APP_SCHEDULE__LEASE": "2s",
}


@pytest.fixture(scope="module")
async def world(
    postgres: PostgresServer, rabbitmq: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """One for all deaths. In the end everything has come to rest, and nothing has had an effect twice meanwhile."""
    with postgres.database() as database_url, rabbitmq.vhost() as amqp_url:
        environ = {"APP_DATABASE__URL": database_url, "APP_AMQP__EXAMPLE__URL": amqp_url, **FAST}
        process = Process(SCRIPT, tmp_path_factory.mktemp("crash"), environ, roles="consume,schedule")
        world = World(process, database_url, amqp_url, CONSUMERS)
        yield world
        try:
            if process.is_running:
                await process.drain()
                assert await world.left_in_queues() == {}
                assert world.count("SELECT count(*) FROM outbox") == 0
                twice = "SELECT name, count(*) FROM student WHERE name <> 'short' GROUP BY name HAVING count(*) > 1"
                assert world.rows(twice) == []
        finally:
            process.close()
            world.close()


@pytest.mark.parametrize(
    ("step", "name"),
    [
        pytest.param(step, name, id=f"{step}-{name}")
        for step in Step
        for name in SCENARIOS.get(step, {"missing": None})
    ],
)
async def test_a_process_that_dies_there_breaks_no_promise(world: World, step: Step, name: str) -> None:
    assert step in SCENARIOS, f"a new step: add what brings a process to {step} to tests/crash/scenarios.py"
    process = world.process
    if not process.is_running:
        process.start()
        await process.ready()
    process.arm(step)
    check = await SCENARIOS[step][name](world)
    await process.dies(step)
    process.start()
    await check()
