"""The storm: everything dies at random while messages come, and in the end each has taken effect once or is parked.

`make storm SEED=7 MESSAGES=50000` for a larger one. The seed decides which messages come, what becomes of them and
when what is killed; not how the processes interleave.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import psycopg
import pytest

from db.schema_version import upgrade
from roles.amqp import Broker, BrokerUnavailable, Channel, Properties, Unroutable
from roles.consume.names import parked_queue, wait_queue
from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ
from schema.settings import Amqp
from tests.crash.storm_app import EXCHANGE, LADDER
from tests.crash.support import Process
from tests.e2e.test_outages import AsyncServer
from tests.services import SOURCES

SEED = int(os.environ.get("SEED") or 1)
MESSAGES = int(os.environ.get("MESSAGES") or 5000)
SCRIPT = Path(__file__).parent / "storm_app.py"
KILLS = 10
PUBLISHERS = 10
FATES = {"open": 70, "echo": 25, "reject": 2, "fail": 2, "garbage": 1}
"""Out of a hundred messages."""
DEADLINE = 300 + MESSAGES / 20
"""Seconds in which all must be accounted for, on a busy machine."""
FAST = {
    "APP_SUPERVISOR__BACKOFF_INITIAL": "50ms",
    "APP_SUPERVISOR__BACKOFF_MAX": "1s",
    "APP_CONSUME__QUARANTINE": "4s",
    "APP_DATABASE__MIGRATE": "true",
}
NOTES, ECHOES = "storm.notes", "storm.echoes"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(DEADLINE + 120)]


@dataclass(frozen=True)
class Note:
    """A message of the storm."""

    id: str
    fate: str

    @property
    def body(self) -> bytes:
        return b"{" if self.fate == "garbage" else json.dumps({"id": self.id, "fate": self.fate}).encode()


def notes(chance: random.Random) -> list[Note]:
    """All messages in the order in which they are published, a fifth of them twice."""
    fates = chance.choices(list(FATES), weights=list(FATES.values()), k=MESSAGES)
    once = [Note(f"note {number}", fate) for number, fate in enumerate(fates)]
    twice = chance.sample(once, MESSAGES // 5)
    return chance.sample(once + twice, MESSAGES + len(twice))


async def publish(broker: Broker, messages: Sequence[Note]) -> None:
    """Publishes each until it is confirmed, over as many connections as that takes."""
    left = iter(messages)

    async def publish_some() -> None:
        channel: Channel | None = None
        for note in left:
            properties = Properties({"message_id": note.id.encode(), "content_type": b"application/json"})
            while True:
                try:
                    channel = channel or await broker.channel("publish")
                    await channel.publish(note.body, properties, exchange=EXCHANGE, routing_key=NOTES)
                except (BrokerUnavailable, Unroutable):
                    channel = None
                    await anyio.sleep(0.1)
                else:
                    break

    async with anyio.create_task_group() as group:
        for _ in range(PUBLISHERS):
            group.start_soon(publish_some)


async def kill_at_random(process: Process, chance: random.Random) -> None:
    """Lets it run for a moment, or not even start, and kills it."""
    process.start()
    if chance.random() < 0.8:
        await process.ready()
    await anyio.sleep(chance.uniform(0.1, 1.0))
    process.kill()


async def test_in_a_storm_each_message_takes_effect_once_or_is_parked_with_its_reason(
    here: Path, tmp_path: Path
) -> None:
    print(f"SEED={SEED} MESSAGES={MESSAGES}")  # noqa: T201 - shown when it fails
    chance = random.Random(SEED)
    database, node = Postgres(tmp_path / "services"), RabbitMQ(tmp_path / "services", source_directory=SOURCES)
    environ = {"APP_DATABASE__URL": database.url, "APP_AMQP__EXAMPLE__URL": node.url, "STORM_SEED": str(SEED), **FAST}
    messages = notes(chance)
    process = Process(SCRIPT, here, environ, roles="consume")
    broker = Broker("example", node.url, Amqp())
    async with AsyncServer(database) as postgresql, AsyncServer(node) as rabbitmq:
        await upgrade(database.url)
        try:
            with anyio.fail_after(DEADLINE):
                process.start()
                await process.ready()
                process.kill()
                began = anyio.current_time()
                await rage(process, partial(publish, broker), messages, (postgresql, rabbitmq), chance)
                raged = anyio.current_time()
                process.start()
                await process.ready()
                with psycopg.connect(database.url, autocommit=True) as connection:
                    await process.until(
                        partial(is_over, messages, connection, broker), "all accounted", within=DEADLINE
                    )
                    over_at = anyio.current_time()
                    print(f"{KILLS} deaths in {raged - began:.0f} s, calm {over_at - raged:.0f} s later")  # noqa: T201
                    await process.drain()
                    account_for(messages, connection)
                    assert await waiting(broker) == 0
        finally:
            process.close()
            await broker.aclose()


async def rage(
    process: Process,
    publish: Callable[[Sequence[Note]], Coroutine[None, None, None]],
    messages: Sequence[Note],
    servers: tuple[AsyncServer, AsyncServer],
    chance: random.Random,
) -> None:
    """Publishes everything meanwhile: a part in each life of the process."""
    postgresql, rabbitmq = servers
    weather = dict(zip(chance.sample(range(KILLS), 3), (rabbitmq, postgresql, rabbitmq), strict=True))
    changing = anyio.Lock()

    async def restart(server: AsyncServer) -> None:
        async with changing:
            await server.stop()
            await server.start()

    size = -(-len(messages) // KILLS)
    async with anyio.create_task_group() as group:
        for life in range(KILLS):
            group.start_soon(publish, messages[life * size : (life + 1) * size])
            if life in weather:
                group.start_soon(restart, weather[life])
            await kill_at_random(process, chance)


Traces = Counter[str]
Parked = dict[str, tuple[str, int, int]]
"""By message id: the error, the attempts, and how many rows there are."""


def found(connection: psycopg.Connection) -> tuple[Traces, Parked]:
    """What has taken effect how often, and what is parked."""
    effects = connection.execute("SELECT name, count(*) FROM student GROUP BY name").fetchall()
    parked = connection.execute(
        "SELECT message_id, max(error), max(attempts), count(*) FROM parked_message WHERE queue = %s GROUP BY 1",
        [NOTES],
    ).fetchall()
    return Counter(dict(effects)), {
        message_id: (error, attempts, rows) for message_id, error, attempts, rows in parked
    }


async def waiting(broker: Broker) -> int:
    """How many messages are in any of the queues."""
    total = 0
    for queue in (NOTES, ECHOES):
        for name in (queue, parked_queue(queue), *(wait_queue(queue, delay) for delay in LADDER.steps())):
            channel = await broker.channel("consume")
            count = await channel.count(name)
            await channel.aclose()
            assert count is not None, name
            total += count.messages
    return total


async def is_over(messages: Sequence[Note], connection: psycopg.Connection, broker: Broker) -> bool:
    """Whether nothing is on its way any more."""
    await anyio.sleep(0.2)
    effects, parked = found(connection)
    row = connection.execute("SELECT count(*) FROM outbox").fetchone()
    return (
        row == (0,)
        and all(effects[note.id] or note.id in parked for note in messages)
        and all(effects[f"{note.id} echo"] for note in messages if note.fate == "echo" and effects[note.id])
        and await waiting(broker) == 0
    )


EXPLAINED = {
    "open": ("RuntimeError: by chance", len(LADDER.delays) + 1),
    "echo": ("RuntimeError: by chance", len(LADDER.delays) + 1),
    "fail": ("RuntimeError: by chance", len(LADDER.delays) + 1),
    "reject": ("as its producer wished", 1),
}
"""Why a message may be parked, and after how many attempts."""


def account_for(messages: Sequence[Note], connection: psycopg.Connection) -> None:
    """Every message has taken effect once, or is parked and says why; and so has every echo."""
    effects, parked = found(connection)
    for note in messages:
        effect, lot = effects[note.id], parked.get(note.id)
        # A second copy may take effect after the first was parked: both are true then.
        assert effect == 1 or (effect == 0 and lot is not None), (note, effect, lot)
        assert effects[f"{note.id} echo"] == (effect if note.fate == "echo" else 0), (note, effect)
        if note.fate in ("reject", "fail", "garbage"):
            assert effect == 0, (note, effect)
        if lot is None:
            continue
        error, attempts, rows = lot
        assert rows == 1, (note, lot)
        if note.fate == "garbage":
            assert "JSON" in error, (note, lot)
            assert attempts == 1, (note, lot)
        else:
            assert (error, attempts) == EXPLAINED[note.fate], (note, lot)
    known = {note.id for note in messages} | {f"{note.id} echo" for note in messages}
    assert effects.keys() <= known
    assert parked.keys() <= known
