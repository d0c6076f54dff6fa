"""A message that kills the process is found out and parked, and nothing else is: with the real process, for real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from pydantic import BaseModel

from tests.e2e.support import channel, running
from tests.quarantine.support import DELAY, publish

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

APP = Path(__file__).parent / "deadly_app.py"
QUEUES = ("first", "second")
INNOCENT = [f"innocent {number:03}" for number in range(200)]
MOST_LIVES = 15


@pytest.fixture
def environ(database_url: str, amqp_url: str) -> dict[str, str]:
    return {
        "APP_DATABASE__URL": database_url,
        "APP_AMQP__EXAMPLE__URL": amqp_url,
        "APP_CONSUME__QUARANTINE": "1s",
    }


class Order(BaseModel):
    """As in the application, which cannot be imported without its consequences."""

    name: str
    deadly: bool = False


class Outcome:
    """What the messages have led to, as the database has it."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def stored(self) -> Counter[str]:
        return Counter(name for (name,) in await self._rows("SELECT name FROM student"))

    async def parked(self) -> dict[str, str]:
        """The error of each parked message, by id."""
        return dict(await self._rows("SELECT message_id, error FROM parked_message"))

    async def suspects(self) -> int:
        return len(await self._rows("SELECT FROM suspect"))

    async def _rows(self, query: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(self._database_url) as connection:
            return await (await connection.execute(query)).fetchall()


async def live(here: Path, environ: dict[str, str], done: Callable[[], Awaitable[bool]]) -> list[int]:
    """Starts the application again and again until `done`; returns the exit codes of those that died."""
    codes: list[int] = []
    while len(codes) < MOST_LIVES:
        async with running(here, "--roles", "consume", environ=environ, script=APP, wait=False) as app:
            while app.process.returncode is None:
                listens = any(record["event"] == "ops listening" for record in app.records)  # and heeds signals
                if listens and await done():
                    assert await app.stop() == 0, app.text()
                    return codes
                await anyio.sleep(0.1)
            codes.append(app.process.returncode)
            assert codes[-1] == 66, app.text()
    raise AssertionError(f"not done after {codes}")


async def test_a_message_that_kills_the_process_is_parked_after_at_most_three_deaths_and_no_other_is(
    here: Path, environ: dict[str, str], database_url: str, amqp_url: str
) -> None:
    outcome = Outcome(database_url)
    names = [*INNOCENT[:60], "poison", *INNOCENT[60:]]
    await publish(amqp_url, QUEUES, ((name, Order(name=name, deadly=name == "poison")) for name in names))

    async def done() -> bool:
        return bool(await outcome.parked()) and len(await outcome.stored()) == len(INNOCENT)

    codes = await live(here, environ, done)

    deaths = await anyio.Path("deaths").read_text()
    assert len(codes) == len(deaths.splitlines()) <= 3
    assert await outcome.stored() == Counter(INNOCENT)
    parked = await outcome.parked()
    assert parked.keys() == {"poison"}
    assert "killed the process" in parked["poison"]
    assert await outcome.suspects() == 0
    async with channel(amqp_url) as other:
        for queue in QUEUES:
            for name in (queue, f"{queue}.parked", f"{queue}.retry.{DELAY}"):
                assert (await other.queue_declare(name, passive=True)).message_count == 0


async def test_a_crash_loop_that_no_message_is_to_blame_for_parks_nothing(
    here: Path, environ: dict[str, str], database_url: str, amqp_url: str
) -> None:
    outcome = Outcome(database_url)
    await publish(amqp_url, QUEUES, ((name, Order(name=name)) for name in INNOCENT))

    async def done() -> bool:
        return len(await outcome.stored()) == len(INNOCENT) and await outcome.suspects() == 0

    leaking = {**environ, "HANDLES": "40"}
    for _ in range(3):
        async with running(here, "--roles", "consume", environ=leaking, script=APP, wait=False) as app:
            assert await app.exited(within=60) == 67, app.text()
    assert 0 < len(await outcome.stored()) < len(INNOCENT)
    assert await live(here, environ, done) == []

    assert await outcome.stored() == Counter(INNOCENT)
    assert await outcome.parked() == {}
    async with channel(amqp_url) as other:
        for queue in QUEUES:
            assert (await other.queue_declare(f"{queue}.parked", passive=True)).message_count == 0
